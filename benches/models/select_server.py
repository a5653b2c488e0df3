"""All connections in one loop over select(2), which looks at every descriptor in each call, and takes none from 1,024 on.

Usage: select_server.py --port PORT
"""
import select
import socket
import sys


def serve(listener):
    reading, owed = {listener}, {}
    while True:
        readable, writable, _ = select.select(reading, owed, [])
        for peer in readable:
            if peer is listener:
                connection, _ = listener.accept()
                connection.setblocking(False)
                reading.add(connection)
                continue
            try:
                data = peer.recv(4096)
            except ConnectionError:
                data = b""
            if not data:
                reading.remove(peer)
                peer.close()
            elif left := data[send(peer, data):]:
                # Reading from a peer pauses while the peer does not take its answers.
                reading.remove(peer)
                owed[peer] = left
        for peer in writable:
            owed[peer] = owed[peer][send(peer, owed[peer]):]
            if not owed[peer]:
                del owed[peer]
                reading.add(peer)


def send(peer, data):
    try:
        return peer.send(data)
    except BlockingIOError:
        return 0
    except ConnectionError:
        return len(data)  # Reading will tell.


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[-1])), backlog=4096) as listener:
        listener.setblocking(False)
        print("listening echo tcp://{}:{}".format(*listener.getsockname()), flush=True)
        serve(listener)
