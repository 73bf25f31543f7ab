"""Peers that are too slow are cut, others are served meanwhile. The time-outs are two seconds here."""

import socket
import threading
import time

from raw import Victim, drip, receive, seconds_until_closed, send, status

# Two seconds, a tick or two of one second, and a busy machine.
AT_MOST = 25


def test_p13_a_slow_head_is_cut(hasty):
    with hasty.connect() as connection:
        drip(connection, hasty.request("GET", "/demo/victim") + b"x" * 1000, every=0.3)
        hasty.assert_whole()
        seconds_until_closed(connection, AT_MOST)


def test_p13_a_head_that_stops_is_cut(hasty):
    with hasty.connect() as first, hasty.connect() as second, hasty.connect() as third:
        send(first, b"GET /demo/victim HTTP/1.1\r\nHost: a")
        send(second, b"PRI * HTTP/2.0\r\n")
        send(third, b"\r\n")
        for connection in (first, second, third):
            seconds_until_closed(connection, AT_MOST)
    hasty.assert_whole()


def test_p13_a_slow_body_is_refused_and_leaves_nothing(hasty):
    head = hasty.request("PUT", "/demo/slow", ["Content-Length: 100000"], close=False)
    with hasty.connect() as connection:
        send(connection, head)
        drip(connection, b"x" * 100000, every=0.3, pieces=10)
        hasty.assert_whole()
        _, answer = seconds_until_closed(connection, AT_MOST + 5)
        assert status(answer) in (400, 408, None), answer
    assert not (hasty.directory / "slow").exists()
    hasty.assert_whole()


def test_p13_a_body_that_stops_is_refused_in_every_framing(hasty):
    heads = [
        ["Content-Length: 100000"], ["Transfer-Encoding: chunked"],
        ["Content-Length: 100000", "Expect: 100-continue"],
        ["Content-Length: 100000", "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
         "x-amz-decoded-content-length: 90000", "x-amz-trailer: x-amz-checksum-crc32"],
    ]
    stopped = []
    for path in ("/demo/slow", "/demo?delete"):
        method = "POST" if "delete" in path else "PUT"
        for lines in heads:
            stopped.append((hasty.connect(), lines))
            send(stopped[-1][0], hasty.request(method, path, lines, close=False))
    for connection, lines in stopped:
        with connection:
            _, answer = seconds_until_closed(connection, AT_MOST + 5)
            assert b" 200 " not in answer, (lines, answer)
    assert not (hasty.directory / "slow").exists()
    hasty.assert_whole()


def test_p13_a_steady_body_is_not_cut(hasty):
    size, pieces = 4096, 16
    head = hasty.request("PUT", "/demo/steady", [f"Content-Length: {size * pieces}"])
    with hasty.connect() as connection:
        send(connection, head)
        for _ in range(pieces):
            send(connection, b"y" * size)
            time.sleep(0.4)
        assert status(receive(connection, 10)[0]) == 200
    assert (hasty.directory / "steady").read_bytes() == b"y" * size * pieces


def test_p13_a_reader_that_stops_is_cut_and_holds_no_memory(hasty):
    (hasty.directory / "large").write_bytes(b"z" * (64 << 20))
    hasty.assert_whole()
    before = hasty.resident_kib()
    readers = [hasty.connect(receive_bytes=4096) for _ in range(12)]
    for reader in readers:
        send(reader, hasty.request("GET", "/demo/large"))
    time.sleep(1)
    assert hasty.resident_kib() - before < 64 << 10, "replies pile up in memory"
    # A PUT and a DELETE of what is being read do not wait for the reader.
    assert status(hasty.ask("DELETE", "/demo/large")) == 204
    hasty.assert_whole()
    time.sleep(8)
    for reader in readers:
        with reader:
            got = 0
            reader.settimeout(AT_MOST)
            try:
                while piece := reader.recv(1 << 20):
                    got += len(piece)
            except ConnectionResetError:
                pass
            assert got < 64 << 20, "the reader was never cut"
    hasty.assert_whole()


def test_p13_an_idle_connection_is_closed(hasty):
    with hasty.connect() as fresh, hasty.connect() as used:
        send(used, hasty.request("GET", "/demo/victim", close=False))
        for connection in (fresh, used):
            seconds_until_closed(connection, AT_MOST)
    hasty.assert_whole()


def test_p13_a_half_closed_connection_is_answered_or_closed(hasty):
    cases = [b"", b"GET /demo/vic", hasty.request("GET", "/demo/victim", close=False),
             hasty.request("PUT", "/demo/half", ["Content-Length: 100"], close=False) + b"abc",
             hasty.request("PUT", "/demo/half", ["Transfer-Encoding: chunked"], close=False) + b"3\r\nabc"]
    for data in cases:
        with hasty.connect() as connection:
            send(connection, data)
            connection.shutdown(socket.SHUT_WR)
            seconds_until_closed(connection, AT_MOST)
    assert not (hasty.directory / "half").exists()
    hasty.assert_whole()


def test_p13_slow_peers_that_take_every_connection_are_cleared_away(hasty):
    """24 connections are allowed: the 25th waits until slow ones are cut, then it is served."""
    slow = [hasty.connect() for _ in range(40)]
    for connection in slow:
        send(connection, b"GET /demo/victim HTTP/1.1\r\nX: ")
    answer = hasty.ask("GET", "/demo/victim")
    assert status(answer) == 200, answer
    for connection in slow:
        connection.close()
    hasty.assert_whole()


def test_p13_many_aborted_bodies_leave_nothing(hasty):
    head = hasty.request("PUT", "/demo/cut", ["Content-Length: 300000"], close=False)

    def abort(size):
        with hasty.connect() as connection:
            send(connection, head + b"x" * size)

    threads = [threading.Thread(target=abort, args=(size * 1000,)) for size in range(1, 200, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hasty.assert_whole()
    assert not (hasty.directory / "cut").exists()
    temporary = [path for path in (hasty.directory / ".lobos").rglob("*") if path.is_file()
                 and path.stat().st_size >= 1000]
    assert not temporary, temporary


def test_p12_slow_transfers_leave_memory_for_quick_ones(start, tmp_path):
    """Of 16 MiB for bodies, 48 slow readers and writers of large objects take what they need at least."""
    config = tmp_path / "lobos.cfg"
    config.write_text('[server.limits]\nin_flight = "16 MiB"\nin_flight_wait = "1s"\n')
    server = Victim(start, tmp_path, "-c", config)
    size = 4 << 20
    (server.directory / "large").write_bytes(b"z" * size)
    slow = [server.connect(receive_bytes=4096) for _ in range(48)]
    for number, connection in enumerate(slow):
        if number % 2:
            send(connection, server.request("GET", "/demo/large", close=False))
        else:
            head = server.request("PUT", f"/demo/slow{number}", [f"Content-Length: {size}"], close=False)
            send(connection, head + b"x" * 1000)
    for connection in slow[1::2]:
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert status(server.ask("PUT", "/demo/quick", body=b"q" * size)) == 200
    assert server.ask("GET", "/demo/quick").endswith(b"\r\n\r\n" + b"q" * size)
    # The slow ones go on where they are.
    for number, connection in enumerate(slow):
        with connection:
            if number % 2:
                continue
            send(connection, b"x" * (size - 1000))
            assert connection.recv(12) == b"HTTP/1.1 200"
    server.assert_whole()
