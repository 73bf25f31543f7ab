"""A restart behind a socket that the service manager keeps: nobody is refused."""

import os
import socket
import subprocess
import threading
import time

import pytest

from lobos import BINARY, REPOSITORY, clean_environment

# Clients that each send one request after another.
CONNECTIONS = 32


class Manager:
    """What systemd does with lobos.socket and lobos.service, as far as the two can see it."""

    def __init__(self, home):
        self.home = home
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = self.socket.getsockname()[1]
        self.process = None

    def start(self):
        """The process finds the socket as descriptor 3, in LISTEN_FDS."""
        ready_at = self.home / "notify.sock"
        ready_at.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(ready_at))
        notify.settimeout(20)
        environment = clean_environment(self.home) | {
            "LISTEN_FDS": "1", "NOTIFY_SOCKET": str(ready_at),
            "LOBOS_ROOT_USER": "manager", "LOBOS_ROOT_PASSWORD": "manager/secret"}
        inherited = self.socket.fileno()

        # LISTEN_PID must be the pid of the process that is started, so a shell sets it.
        command = ["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', BINARY, "serve",
                   self.home / "data", "--threads", "2", "--no-auth"]
        with (self.home / "stderr.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, preexec_fn=lambda: os.dup2(inherited, 3),
                close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        while b"READY=1" not in notify.recv(4096):
            pass
        notify.close()

    def stop(self):
        self.process.terminate()
        status = self.process.wait(40)
        assert status == 0, (self.home / "stderr.txt").read_text()


def test_a_restart_under_load_refuses_no_connection_and_fails_no_request(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "k").write_bytes(b"x" * 10_000)
    manager = Manager(tmp_path)
    manager.start()
    stop, failures, counts = threading.Event(), [], []
    clients = [threading.Thread(target=client, args=(manager.port, stop, failures, counts))
               for _ in range(CONNECTIONS)]
    for one in clients:
        one.start()
    try:
        for _ in range(3):
            time.sleep(0.7)
            manager.stop()
            manager.start()
        time.sleep(0.7)
    finally:
        stop.set()
        for one in clients:
            one.join(60)
        manager.stop()
    assert not failures, (len(failures), failures[:5])
    assert len(counts) == CONNECTIONS and all(count > 3 for count in counts), counts


def test_what_was_sent_before_the_stop_is_answered_on_connections_that_were_kept(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "k").write_bytes(b"x" * 100)
    manager = Manager(tmp_path)
    manager.start()
    ask = b"GET /data/k HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
    kept = [socket.create_connection(("127.0.0.1", manager.port), 20) for _ in range(16)]
    streams = [connection.makefile("rb") for connection in kept]
    for connection, stream in zip(kept, streams):
        connection.sendall(ask)
        assert reply(stream) == (b"HTTP/1.1 200 OK", False)
    for connection in kept:
        connection.sendall(ask)
    manager.stop()
    for connection, stream in zip(kept, streams):
        # Told to send no more, unless it was answered before the stop; then closed.
        assert reply(stream)[0] == b"HTTP/1.1 200 OK" and stream.read() == b""
        connection.close()


def test_a_connection_that_says_nothing_delays_no_stop(tmp_path):
    (tmp_path / "data").mkdir()
    manager = Manager(tmp_path)
    manager.start()
    with socket.create_connection(("127.0.0.1", manager.port), 20) as silent:
        with socket.create_connection(("127.0.0.1", manager.port), 20) as other:
            # Accepted in order: the silent one is there when this is answered.
            other.sendall(b"GET /-/healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert other.recv(1000).startswith(b"HTTP/1.1 200")
        manager.process.terminate()
        # 30 s are the most that a stop may take; a silent connection gets a second or two.
        assert manager.process.wait(20) == 0
        assert silent.recv(1) == b""


def reply(stream):
    """The status line of a reply of 100 bytes, and whether it says that the connection ends."""
    status, closes = stream.readline().strip(), False
    while (line := stream.readline()) not in (b"\r\n", b""):
        closes |= line.lower().strip() == b"connection: close"
    assert len(stream.read(100)) == 100
    return status, closes


def client(port, stop, failures, counts):
    """GETs on one connection for as long as the server keeps it, then on the next."""
    count = 0
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as connection:
                count += requests(connection, stop)
        except OSError as failure:
            failures.append(repr(failure))
        except AssertionError as failure:
            failures.append(str(failure))
    counts.append(count)


def requests(connection, stop):
    """The number of whole replies. A keep-alive connection may be closed between two requests."""
    done, stream = 0, connection.makefile("rb")
    while not stop.is_set():
        try:
            connection.sendall(b"GET /data/k HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            status = stream.readline()
        except (ConnectionResetError, BrokenPipeError):
            status = b""
        if not status and done > 0:
            # The server closed an idle connection as the request was on its way, as HTTP/1.1
            # clients must expect; it did not begin an answer.
            return done
        assert status.startswith(b"HTTP/1.1 200"), status
        size, closes = 0, False
        while (line := stream.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().lower().partition(":")
            if name == "content-length":
                size = int(value)
            closes |= name == "connection" and "close" in value
        body = stream.read(size)
        assert len(body) == size == 10_000, (len(body), size)
        done += 1
        if closes:
            return done
    return done


def test_the_unit_files_name_what_is_there():
    unit = (REPOSITORY / "contrib" / "systemd" / "lobos.service").read_text()
    assert "Type=notify" in unit and "NoNewPrivileges=yes" in unit
    assert "ListenStream=" in (REPOSITORY / "contrib" / "systemd" / "lobos.socket").read_text()
    checker = "/usr/bin/systemd-analyze"
    if not os.path.exists(checker):
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run([checker, "verify", "--man=no",
                           REPOSITORY / "contrib" / "systemd" / "lobos.service"],
                          capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stderr.splitlines()
             if "lobos" in line and "not executable" not in line and "No such file" not in line]
    assert not lines, lines
