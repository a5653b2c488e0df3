"""All connections in one loop over epoll(7), which tells of those alone that have something to say.

Usage: epoll_server.py --port PORT
"""
import select
import socket
import sys


def serve(listener):
    epoll, peers, owed = select.epoll(), {}, {}
    epoll.register(listener, select.EPOLLIN)
    while True:
        for number, event in epoll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connection.setblocking(False)
                peers[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
                continue
            peer = peers[number]
            if event & select.EPOLLOUT:
                data = owed.pop(number)
            else:
                try:
                    data = peer.recv(4096)
                except ConnectionError:
                    data = b""
                if not data:
                    del peers[number]
                    peer.close()
                    continue
            if left := data[send(peer, data):]:
                owed[number] = left
            # Reading from a peer pauses while the peer does not take its answers.
            if left or event & select.EPOLLOUT:
                epoll.modify(number, select.EPOLLOUT if left else select.EPOLLIN)


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
