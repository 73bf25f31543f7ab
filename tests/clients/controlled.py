"""A server whose control plane is at a free port, and ways to ask it."""

import json
import os
import pty
import re
import struct
import subprocess
import threading
import time

import pytest
from botocore.exceptions import ClientError

from lobos import BINARY, clean_environment, run


class Controlled:
    """A server whose control plane is at a free port, and `lobos ctl` for it."""

    def __init__(self, start, directory, address="127.0.0.1:0", more="", auth="", logging=""):
        directory.mkdir(exist_ok=True)
        config = directory / "lobos.cfg"
        config.write_text(f"""
            [server]
            listen = "127.0.0.1:0"
            state_dir = "{directory}/state"
            [filesystem]
            root = "{directory}/root"
            [filesystem.buckets]
            data = "{directory}/data"
            [control]
            listen = "{address}"
            {more}
            [log]
            level = "info"
            {logging}
            {auth}
        """)
        self.home = directory
        self.server = start("-c", config)
        self.address = re.search(r"^control: (\S+)$", self.server.printed(), re.M)[1]

    def ctl(self, *arguments, status=0):
        command = [BINARY, "ctl", "--address", self.address, *arguments]
        return run(command, clean_environment(self.home), status=status)

    def json(self, *arguments):
        return json.loads(self.ctl(*arguments, "--json"))

    def add(self, name, *arguments):
        """A user, and a client that signs with its keys."""
        user = self.json("user", "add", name, *arguments)
        return user, self.client(user)

    def client(self, pair):
        return self.server.client(access_key=pair["access_key"], secret_key=pair["secret_key"])


def refused(call, **arguments):
    with pytest.raises(ClientError) as error:
        call(**arguments)
    return error.value.response["Error"]["Code"]


def site_error(site, *arguments, status=1):
    command = [BINARY, "ctl", "--address", site.address, *arguments]
    done = subprocess.run(command, env=clean_environment(site.home), capture_output=True, text=True)
    assert done.returncode == status, done
    return done.stderr


def eventually_works(check):
    deadline = time.monotonic() + 20
    while True:
        try:
            assert check()
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def in_terminal(site, *arguments):
    """What a person sees: the program runs at a terminal."""
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        [BINARY, "ctl", "--address", site.address, *arguments], env=clean_environment(site.home),
        stdin=writer, stdout=writer, stderr=writer)
    os.close(writer)
    shown = b""
    try:
        while piece := os.read(reader, 65536):
            shown += piece
    except OSError:
        pass
    os.close(reader)
    assert process.wait(20) == 0, shown
    return shown.decode()


class traffic:
    """GETs from a thread, while it is entered."""

    def __init__(self, site):
        self.s3, self.stop, self.failures = site.server.client(), threading.Event(), []
        self.count = 0

    def __enter__(self):
        self.s3.put_object(Bucket="data", Key="k", Body=b"x" * 1000)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()
        return self

    def run(self):
        while not self.stop.is_set():
            try:
                assert self.s3.get_object(Bucket="data", Key="k")["Body"].read() == b"x" * 1000
                self.count += 1
            except Exception as failure:  # noqa: BLE001 -- told by the test's own thread
                self.failures.append(failure)

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        assert not self.failures, self.failures[0]


def grpc_call(path, message=b"", calls=1):
    """The bytes of a connection with so many equal calls: HTTP/2 with literal headers, and one
    gRPC message in each."""
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    def literal(name, value):
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    headers = b"".join(literal(*pair) for pair in [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers")])
    body = b"\x00" + struct.pack(">I", len(message)) + message
    streams = [frame(1, 4, 1 + 2 * at, headers) + frame(0, 1, 1 + 2 * at, body)
               for at in range(calls)]
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + b"".join(streams)
