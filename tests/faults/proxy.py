"""A TCP proxy on 127.0.0.1 whose line can be cut, refuse, hang, or answer HTTP requests with an error."""

import contextlib
import re
import socket
import struct
import threading

CHUNK = 1 << 16
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset


class Proxy:
    def __init__(self, target: int):
        self.target = target
        self.flows = threading.Event()  # unset: what comes in is not passed on, and the line stays up
        self.flows.set()
        self.refuses = False
        self.answer = b""
        self.lines: set[socket.socket] = set()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self) -> None:
        self.refuses, self.answer = False, b""
        self.flows.set()

    def hang(self) -> None:
        self.flows.clear()

    def cut(self) -> None:
        """Ends every connection with a reset. New ones may come."""
        for line in list(self.lines):
            with contextlib.suppress(OSError):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                line.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        self.refuses = True
        self.cut()

    def fail(self, status: int) -> None:
        """Every HTTP request from now on is answered so, also on connections that are open."""
        code = {403: "AccessDenied", 503: "SlowDown"}[status]
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self.answer = (
            f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n{body}"
        ).encode()
        self.cut()

    def close(self) -> None:
        self.listener.close()
        self.refuse()
        self.flows.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            self.lines.add(client)
            self.flows.wait()
            if self.refuses:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            elif self.answer:
                self._reply(client)
            else:
                with socket.create_connection(("127.0.0.1", self.target)) as server:
                    self.lines.add(server)
                    back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                    back.start()
                    self._pump(client, server)
                    back.join()
                    self.lines.discard(server)
        self.lines.discard(client)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self.flows.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _reply(self, client: socket.socket) -> None:
        """Reads the head of one request, answers, and takes in the rest so that the answer arrives."""
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(CHUNK) or b"\r\n\r\n"
        client.sendall(self.answer)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        left = int(length[1]) if length else 0
        while left > 0 and (data := client.recv(CHUNK)):
            left -= len(data)
