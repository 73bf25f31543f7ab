"""Bytes on a socket, and what came back."""

import re
import socket
import threading
import time

SENTINEL = b"outside of every bucket"
KEPT = b"the bytes that must stay"


class Victim:
    """`demo` with the object `victim`, and a secret file outside of it."""

    def __init__(self, start, tmp_path, *arguments):
        self.outside = tmp_path / "outside"
        self.outside.mkdir()
        (self.outside / "secret.txt").write_bytes(SENTINEL)
        self.directory = tmp_path / "demo"
        self.directory.mkdir()
        (self.directory / "victim").write_bytes(KEPT)
        self.server = start("serve", self.directory, "--no-auth", "--listen", "127.0.0.1:0",
                            *arguments)
        self.host = f"127.0.0.1:{self.server.port}"

    def connect(self, receive_bytes=None):
        connection = socket.socket()
        if receive_bytes:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.server.port))
        return connection

    def talk(self, data, patience=0.5):
        """Sends it all; what came back until the end or a silence, and whether the end came."""
        with self.connect() as connection:
            send(connection, data)
            return receive(connection, patience)

    def request(self, method, target, headers=(), body=b"", close=True, version="HTTP/1.1"):
        """The bytes of one request, with Host and Content-Length where they belong."""
        lines = [f"{method} {target} {version}".encode("latin-1"), f"Host: {self.host}".encode()]
        lines += [line.encode("latin-1") if isinstance(line, str) else line for line in headers]
        if body:
            lines.append(f"Content-Length: {len(body)}".encode())
        if close:
            lines.append(b"Connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def ask(self, method, target, headers=(), body=b""):
        return self.talk(self.request(method, target, headers, body), patience=15)[0]

    def resident_kib(self, which="VmRSS"):
        status = open(f"/proc/{self.server.process.pid}/status").read()
        return int(re.search(rf"{which}:\s+(\d+) kB", status).group(1))

    def assert_whole(self):
        """It serves, the victim is as it was, and nothing outside was touched."""
        answer = self.ask("GET", "/demo/victim")
        assert status(answer) == 200 and answer.endswith(KEPT), answer
        assert (self.directory / "victim").read_bytes() == KEPT
        assert [path.name for path in self.outside.iterdir()] == ["secret.txt"]
        assert (self.outside / "secret.txt").read_bytes() == SENTINEL


def send(connection, data):
    """A server that refuses need not take all of it."""
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError, TimeoutError):
        pass


def receive(connection, patience):
    connection.settimeout(patience)
    got = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            return got, False
        except ConnectionResetError:
            return got, True
        if not piece:
            return got, True
        got += piece


def statuses(answer):
    return [int(code) for code in re.findall(rb"(?:^|(?<=[^ ]))HTTP/1\.[01] (\d{3}) ", answer)]


def status(answer):
    return (statuses(answer) or [None])[0]


def code(answer):
    found = re.search(rb"<Code>([^<]*)</Code>", answer)
    return found.group(1).decode() if found else None


def drip(connection, data, every, pieces=1):
    """Sends `data` in slow pieces from another thread until it is refused."""
    def work():
        try:
            for at in range(0, len(data), pieces):
                connection.sendall(data[at:at + pieces])
                time.sleep(every)
        except OSError:
            pass
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def seconds_until_closed(connection, at_most):
    """How long the peer took to end the connection, and what it said; fails when it did not."""
    started, got = time.monotonic(), b""
    while (left := started + at_most - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            piece = b""
        except TimeoutError:
            break
        if not piece:
            return time.monotonic() - started, got
        got += piece
    raise AssertionError(f"still open after {at_most} s; got {got[:300]!r}")
