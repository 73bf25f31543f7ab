"""The control plane stands still, or is flooded: requests for objects do not notice."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from controlled import Controlled, eventually_works, grpc_call
from generic import Generic
from lobos import BINARY, clean_environment

WATCHERS = 1000
# More than wait for a watcher, and than HTTP/2 lets it be sent.
REQUESTS = 3000


@pytest.fixture
def site(start, tmp_path):
    return Controlled(start, tmp_path)


@contextlib.contextmanager
def stopped(process, name):
    """One thread of a process stands still, as a debugger makes it: SIGSTOP would stop them all."""
    seize, interrupt, detach, any_thread = 0x4206, 0x4207, 17, 0x40000000
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    tasks = Path(f"/proc/{process.pid}/task")
    thread = next(int(t.name) for t in tasks.iterdir() if (t / "comm").read_text().strip() == name)
    if libc.ptrace(seize, thread, None, None) != 0:
        pytest.skip(f"no thread may be stopped here: {os.strerror(ctypes.get_errno())}")
    assert libc.ptrace(interrupt, thread, None, None) == 0
    os.waitpid(thread, any_thread)
    assert (tasks / str(thread) / "stat").read_text().rsplit(")", 1)[1].split()[0] == "t"
    try:
        yield
    finally:
        assert libc.ptrace(detach, thread, None, None) == 0


def test_requests_are_answered_while_the_control_plane_stands_still(site):
    s3 = site.server.client()
    s3.put_object(Bucket="data", Key="k", Body=b"x" * 100_000)
    watcher = subprocess.Popen(
        [BINARY, "ctl", "--address", site.address, "trace"], env=clean_environment(site.home),
        stdout=subprocess.DEVNULL)
    eventually_works(lambda: is_watched(site, s3))
    with stopped(site.server.process, "lobos-control"):
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run([BINARY, "ctl", "--address", site.address, "info"],
                           env=clean_environment(site.home), capture_output=True, timeout=0.5)
        for number in range(30):
            assert s3.get_object(Bucket="data", Key="k")["Body"].read() == b"x" * 100_000
            s3.put_object(Bucket="data", Key=f"k{number % 5}", Body=b"y")
        fresh = site.server.client()  # a new connection, too
        assert len(fresh.list_objects_v2(Bucket="data")["Contents"]) == 6
        # More than the queue of the trace holds: events are lost, and nobody waits.
        ask(site, 4200)
    assert site.json("info")["requests"] >= 4200
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(10)


def is_watched(site, s3):
    """Whether somebody's watching has begun: the trace has a subscriber when `lost` can grow."""
    s3.head_object(Bucket="data", Key="k")
    sockets = Path(f"/proc/{site.server.process.pid}/net/tcp").read_text()
    return sockets.count(f":{int(site.address.rsplit(':')[1]):04X} ") >= 2


def ask(site, count):
    """So many requests that are refused, a few hundred on their way at a time."""
    with socket.create_connection(("127.0.0.1", site.server.port), 60) as connection:
        for batch in [300] * (count // 300) + [count % 300]:
            connection.sendall(b"GET /data/k HTTP/1.1\r\nhost: localhost\r\n\r\n" * batch)
            got, answered = b"", 0
            while answered < batch:
                piece = connection.recv(1 << 20)
                assert piece, "the connection was closed"
                got += piece
                answered += got.count(b"</Error>")
                got = got[-7:] if not got.endswith(b"</Error>") else b""


def test_a_thousand_watchers_who_do_not_read_delay_no_request(site):
    with Generic(site.address) as control:
        event = control.message("WatchTrace")
    s3 = site.server.client()
    s3.put_object(Bucket="data", Key="k", Body=b"x" * 1000)
    head = lambda: s3.head_object(Bucket="data", Key="k")  # noqa: E731
    with SlowWatcher(site.address, event) as slow:
        eventually_works(lambda: head() and slow.events())
        before = resident_bytes(site.server.process.pid)
        flood = [SlowWatcher(site.address, event, calls=50) for _ in range(WATCHERS // 50)]
        for _ in range(30):
            assert len(s3.get_object(Bucket="data", Key="k")["Body"].read()) == 1000
        ask(site, REQUESTS)
        assert len(s3.list_objects_v2(Bucket="data")["Contents"]) == 1
        grown = resident_bytes(site.server.process.pid) - before
        assert grown < 128 << 20, f"{grown >> 20} MiB more for those who do not read"
        for watcher in flood:
            watcher.close()
        # Whoever read too slowly is told what it missed: each request is an event or a lost one.
        slow.welcome()
        eventually_works(lambda: head() and slow.events()[-1].operation == "HeadObject")
        events = slow.events()
    lost = sum(event.lost for event in events)
    refused = sum(event.status == 403 for event in events)
    assert lost > 0 and refused < REQUESTS <= refused + lost
    eventually_works(lambda: site.json("info")["requests"] >= REQUESTS)


def resident_bytes(pid):
    return int(re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)[1]) << 10


class SlowWatcher:
    """WatchTrace, so many times over one connection, by a peer that lives and answers pings, but
    takes no more than HTTP/2 lets it be sent unasked."""

    def __init__(self, address, event, calls=1):
        host, port = address.split(":")
        self.event, self.told = event, b""
        self.socket = socket.create_connection((host, int(port)), 10)
        self.socket.settimeout(None)
        with contextlib.suppress(OSError):
            self.socket.sendall(grpc_call("/loboscontrol.ControlPlane/WatchTrace", calls=calls))
        self.thread = threading.Thread(target=self.live)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()

    def live(self):
        got = b""
        with contextlib.suppress(OSError):
            while piece := self.socket.recv(1 << 20):
                got += piece
                while len(got) >= 9 and len(got) >= 9 + (size := int.from_bytes(got[:3], "big")):
                    kind, flags, stream = got[3], got[4], int.from_bytes(got[5:9], "big")
                    payload, got = got[9:9 + size], got[9 + size:]
                    if kind == DATA and stream == 1:
                        self.told += payload
                    elif kind == PING and not flags:
                        self.socket.sendall(b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + payload)

    def welcome(self):
        """As many bytes as there are may come now."""
        for stream in (0, 1):
            self.socket.sendall(b"\x00\x00\x04\x08\x00" + struct.pack(">II", stream, 1 << 30))

    def events(self):
        """The messages that came to the first call."""
        rest, events = self.told, []
        while len(rest) >= 5 and len(rest) >= 5 + (size := int.from_bytes(rest[1:5], "big")):
            events.append(self.event.FromString(rest[5:5 + size]))
            rest = rest[5 + size:]
        return events


DATA, PING = 0, 6
