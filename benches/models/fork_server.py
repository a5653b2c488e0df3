"""A process for each connection, by socketserver's ForkingMixIn: the parent accepts and forks, the child echoes.

Usage: fork_server.py --port PORT
"""
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)


class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 4096
    # By default the library serves 40 at once, and the next connection waits until a process ends.
    max_children = 20_000


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[-1])), Echo) as server:
        print("listening echo tcp://{}:{}".format(*server.server_address), flush=True)
        server.serve_forever()
