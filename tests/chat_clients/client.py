"""A member by PyPI's websockets."""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main():
    async with connect(sys.argv[1]) as socket:
        assert socket.protocol.extensions == []
        await socket.send("NAME: client")
        assert await socket.recv() == "CLIENT: 127.0.0.1"
        assert await socket.recv() == "#line@127.0.0.1>>Grüße"
        await socket.send(["Grüße", " zurück", ""])
        await socket.send("/who")
        assert await socket.recv() == "(2 here: line@127.0.0.1, client@127.0.0.1)"
        await (await socket.ping("there?"))
        await socket.send("x" * 65536)
        await socket.send("/quit")
        assert await socket.recv() == "(Goodbye)"
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            print("closed", closed.rcvd.code)


asyncio.run(main())
