"""A thread for each connection, by socketserver's ThreadingMixIn. The interpreter lets one of them run at a time.

Usage: thread_server.py --port PORT
"""
import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(4096):
            self.request.sendall(data)


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 4096
    # At exit the server does not wait for threads.
    daemon_threads = True


if __name__ == "__main__":
    with Server(("127.0.0.1", int(sys.argv[-1])), Echo) as server:
        print("listening echo tcp://{}:{}".format(*server.server_address), flush=True)
        server.serve_forever()
