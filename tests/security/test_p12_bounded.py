"""Whatever a client makes grow is refused at a bound; memory stays bounded and the server serves."""

import struct
import threading

import pytest

from raw import KEPT, code, receive, send, status, statuses

GROWTH_KIB_MAX = 96 << 10


@pytest.fixture
def bounded(victim):
    """Fails when the server's highest memory use rose by more than a test may cause."""
    victim.assert_whole()
    before = victim.resident_kib("VmHWM")
    yield victim
    victim.assert_whole()
    grown = victim.resident_kib("VmHWM") - before
    assert grown < GROWTH_KIB_MAX, f"{grown} KiB more"


def test_p12_oversized_heads_are_refused(bounded):
    for size in (17 << 10, 60 << 10, 100 << 10, 1 << 20, 8 << 20):
        answer, ended = bounded.talk(bounded.request("GET", "/demo/victim", [f"x-a: {'a' * size}"]), 3)
        assert status(answer) in (400, 431, None) and ended, (size, answer[:200])
        answer, ended = bounded.talk(bounded.request("GET", "/demo/" + "k" * size), 3)
        assert status(answer) in (400, 414, 431, None) and ended, (size, answer[:200])
        answer, _ = bounded.talk(bounded.request("GET", "/demo?prefix=" + "k" * size), 3)
        assert status(answer) in (400, 414, 431, None), (size, answer[:200])


def test_p12_header_bombs_are_refused(bounded):
    for count in (101, 1000, 10_000):
        lines = [f"x-amz-meta-{number}: 1" for number in range(count)]
        answer, _ = bounded.talk(bounded.request("PUT", "/demo/bomb", lines), 3)
        assert status(answer) in (400, 431, None), (count, answer[:200])
    for count in (101, 4000):
        answer, _ = bounded.talk(bounded.request("PUT", "/demo/bomb", ["a:"] * count), 3)
        assert status(answer) in (400, 431, None), (count, answer[:200])
    assert not (bounded.directory / "bomb").exists()


def test_p12_user_metadata_is_limited(bounded):
    answer = bounded.ask("PUT", "/demo/meta", [f"x-amz-meta-a: {'a' * 2048}"])
    assert (status(answer), code(answer)) == (400, "MetadataTooLarge")


XML_BOMBS = {
    "dtd": b'<!DOCTYPE a [<!ENTITY b "c">]><Delete><Object><Key>&b;</Key></Object></Delete>',
    "billion_laughs": b'<!DOCTYPE a [<!ENTITY a0 "lol">' + b"".join(
        b'<!ENTITY a%d "&a%d;&a%d;">' % (n + 1, n, n) for n in range(60)) + b"]><Delete>&a60;</Delete>",
    "external_entity": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete>&x;</Delete>',
    "unknown_entity": b"<Delete><Object><Key>&x;</Key></Object></Delete>",
    "instruction": b"<?php x ?><Delete><Object><Key>victim</Key></Object></Delete>",
    "deep": b"<Delete>" + b"<a>" * 20_000 + b"</a>" * 20_000 + b"</Delete>",
    "deep_open": b"<a>" * 100_000,
    "wide": b"<Delete>" + b"<Object><Key>a</Key></Object>" * 1001 + b"</Delete>",
    "wide_empty": b"<Delete>" + b"<a/>" * 500_000 + b"</Delete>",
    "attributes": b"<Delete " + b" ".join(b'a%d="b"' % n for n in range(100_000)) + b"/>",
    "long_attribute": b'<Delete a="' + b"x" * 4_000_000 + b'"/>',
    "long_name": b"<" + b"a" * 4_000_000 + b"/>",
    "long_key": b"<Delete><Object><Key>" + b"k" * 4_000_000 + b"</Key></Object></Delete>",
    "comment": b"<!--" + b"x" * 4_000_000 + b"--><Delete/>",
    "oversized": b"<Delete>" + b" " * (9 << 20) + b"</Delete>",
    "not_utf8": b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>",
    "utf16": "<Delete><Object><Key>victim</Key></Object></Delete>".encode("utf-16"),
    "two_roots": b"<Delete/><Delete/>",
    "unclosed": b"<Delete><Object><Key>victim</Key></Object>",
    "crossed": b"<Delete><Object><Key>victim</Object></Key></Delete>",
    "empty": b"<Delete></Delete>",
    "nothing": b"",
}


@pytest.mark.parametrize("name", XML_BOMBS)
def test_p12_xml_bombs_are_refused(bounded, name):
    body = XML_BOMBS[name]
    answer, _ = bounded.talk(bounded.request("POST", "/demo?delete", body=body), 20)
    refused = status(answer) in (400, 411, 413) or code(answer) == "KeyTooLongError"
    assert refused and b"<Deleted>" not in answer, answer[:300]
    opened = bounded.ask("POST", "/demo/big?uploads")
    upload = opened.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0].decode()
    body = body.replace(b"Delete", b"CompleteMultipartUpload")
    answer, _ = bounded.talk(bounded.request("POST", f"/demo/big?uploadId={upload}", body=body), 20)
    assert status(answer) in (400, 411, 413), answer[:300]
    assert not (bounded.directory / "big").exists()


def test_p12_too_many_parts_are_refused(bounded):
    opened = bounded.ask("POST", "/demo/big?uploads")
    upload = opened.partition(b"<UploadId>")[2].partition(b"</UploadId>")[0].decode()
    part = b"<Part><PartNumber>%d</PartNumber><ETag>a</ETag></Part>"
    body = b"".join(part % number for number in range(1, 10_002))
    body = b"<CompleteMultipartUpload>" + body + b"</CompleteMultipartUpload>"
    answer = bounded.ask("POST", f"/demo/big?uploadId={upload}", body=body)
    assert status(answer) == 400, answer
    for number in ("0", "10001", "-1", "x", "99999999999999999999", ""):
        answer = bounded.ask("PUT", f"/demo/big?uploadId={upload}&partNumber={number}", body=b"x")
        assert status(answer) == 400, (number, answer)


def test_p12_range_bombs_give_one_range_at_most(bounded):
    ranges = [
        "bytes=" + ",".join(f"{n}-{n}" for n in range(1500)), "bytes=0-,0-,0-,0-",
        "bytes=0-18446744073709551615", "bytes=-18446744073709551615", "bytes=18446744073709551616-",
        "bytes=" + "9" * 5000 + "-", "bytes=5-2", "bytes=--1", "bytes=a-b", "bytes", "bytes=",
    ]
    for value in ranges:
        answer = bounded.ask("GET", "/demo/victim", [f"Range: {value}"])
        assert status(answer) in (200, 206, 400, 416), (value[:40], answer[:200])
        body = answer.partition(b"\r\n\r\n")[2]
        assert status(answer) in (400, 416) or len(body) <= len(KEPT), value[:40]
        assert b"multipart/byteranges" not in answer


def test_p12_listing_limits_are_clamped(bounded):
    for value in ("1001", "2147483647", "2147483648", "-1", "99999999999999999999", "x", "0"):
        for query in (f"list-type=2&max-keys={value}", f"max-keys={value}", f"uploads&max-uploads={value}"):
            answer = bounded.ask("GET", f"/demo?{query}")
            assert status(answer) in (200, 400), (query, answer[:200])
    for token in ("x", "%00", "A" * 4000, "..%2f..", "bm9uZQ=="):
        answer = bounded.ask("GET", f"/demo?list-type=2&continuation-token={token}")
        assert status(answer) in (200, 400), (token, answer[:200])


@pytest.mark.parametrize("extension", [b"", b";a=b", b";" + b"x" * 200])
def test_p12_a_million_tiny_http_chunks(bounded, extension):
    count = 1_000_000 if not extension else 100_000
    head = bounded.request("PUT", "/demo/tiny", [
        "Transfer-Encoding: chunked", f"x-amz-decoded-content-length: {count}",
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER"])
    one = lambda data: b"%x%s\r\n%s\r\n" % (len(data), extension, data)
    with bounded.connect() as connection:
        send(connection, head + one(b"%x\r\n" % count))
        for _ in range(count // 1000):
            send(connection, one(b"x") * 1000)
        send(connection, one(b"\r\n0\r\n\r\n") + b"0\r\n\r\n")
        answer, _ = receive(connection, 60)
    assert status(answer) in (200, 400, None), answer[:300]
    if status(answer) == 200:
        assert (bounded.directory / "tiny").stat().st_size == count
    else:
        assert extension and not (bounded.directory / "tiny").exists()


@pytest.mark.parametrize("extension", [b"", b";chunk-signature=" + b"0" * 64, b";" + b"x" * 2000])
def test_p12_a_million_tiny_aws_chunks(bounded, extension):
    count = 1_000_000 if not extension else 100_000
    piece = b"1" + extension + b"\r\nx\r\n"
    trailer = b"0\r\n\r\n"
    head = bounded.request("PUT", "/demo/tiny", [
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Encoding: aws-chunked",
        f"x-amz-decoded-content-length: {count}",
        f"Content-Length: {count * len(piece) + len(trailer)}"])
    with bounded.connect() as connection:
        send(connection, head)
        for _ in range(count // 1000):
            send(connection, piece * 1000)
        send(connection, trailer)
        answer, _ = receive(connection, 60)
    assert status(answer) in (200, 400, None), answer[:300]
    if status(answer) == 200:
        assert (bounded.directory / "tiny").stat().st_size == count
    else:
        assert not (bounded.directory / "tiny").exists()


def test_p12_chunk_headers_and_trailers_without_end_are_refused(bounded):
    lines = ["x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
             "x-amz-decoded-content-length: 3", "x-amz-trailer: x-amz-checksum-crc32"]
    endless = [b"3;" + b"x" * 5_000_000, b"0" * 5_000_000, b"3\r\nabc\r\n0\r\n" + b"a:b\r\n" * 1_000_000,
               b"3\r\nabc\r\n0\r\n" + b"a" * 5_000_000, b"3\r\nabc\r\n0\r\n\r\n" + b"\r\n" * 2_000_000]
    for body in endless:
        answer, _ = bounded.talk(bounded.request("PUT", "/demo/endless", lines, body), 20)
        assert status(answer) in (400, None), answer[:300]
        assert not (bounded.directory / "endless").exists()
    body = b"d\r\n3\r\nabc\r\n0\r\n\r\n\r\n0\r\n" + b"x: y\r\n" * 500_000
    lines = [*lines[:2], "Transfer-Encoding: chunked"]
    answer, _ = bounded.talk(bounded.request("PUT", "/demo/endless", lines) + body, 10)
    assert status(answer) in (400, 431, None), answer[:300]


def test_p12_pipelined_requests_are_answered_in_order(bounded):
    count = 2000
    data = b"".join(bounded.request("GET", f"/demo/absent-{n}", close=False) for n in range(count - 1))
    data += bounded.request("GET", "/demo/victim")
    with bounded.connect() as connection:
        sender = threading.Thread(target=send, args=(connection, data))
        sender.start()
        answer, ended = receive(connection, 30)
        sender.join()
    assert ended and statuses(answer) == [404] * (count - 1) + [200]
    order = [int(n) for n in __import__("re").findall(rb"<Resource>/demo/absent-(\d+)", answer)]
    assert order == list(range(count - 1))


def test_p12_pipelining_without_reading_is_held_back(bounded):
    with bounded.connect(receive_bytes=4096) as connection:
        connection.settimeout(3)
        request = bounded.request("GET", "/demo/victim", close=False)
        send(connection, request * 200_000)
        bounded.assert_whole()


def test_p12_many_idle_connections_cost_little(bounded):
    connections = [bounded.connect() for _ in range(500)]
    for connection in connections:
        send(connection, b"GET /demo/victim HTTP/1.1\r\nHost: localhost\r\n")
    bounded.assert_whole()
    for connection in connections:
        connection.close()


def test_p12_a_body_larger_than_an_object_may_be_is_refused_at_its_head(bounded):
    for size in ((5 << 30) + 1, 1 << 62, (1 << 63) - 1):
        answer, _ = bounded.talk(bounded.request("PUT", "/demo/huge", [f"Content-Length: {size}"]), 5)
        assert status(answer) == 400 and code(answer) == "EntityTooLarge", (size, answer[:300])
    lines = ["x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Length: 10",
             f"x-amz-decoded-content-length: {(5 << 30) + 1}"]
    answer, _ = bounded.talk(bounded.request("PUT", "/demo/huge", lines), 5)
    assert status(answer) == 400, answer


# HTTP/2 by hand: nine bytes of frame head, indexed fields of the static table.

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, SETTINGS, PING, CONTINUATION = 1, 3, 4, 6, 9


def frame(kind, flags, stream, body=b""):
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def fields(host, path=b"/demo/victim"):
    literal = lambda index, value: bytes([index, len(value)]) + value
    return b"\x82\x86" + literal(0x04, path) + literal(0x01, host.encode())


def test_p12_http2_streams_that_are_reset_at_once_end_the_connection(bounded):
    data = PREFACE + frame(SETTINGS, 0, 0)
    for number in range(20_000):
        stream = 2 * number + 1
        data += frame(HEADERS, 5, stream, fields(bounded.host)) + frame(RESET, 0, stream, b"\0\0\0\x08")
    with bounded.connect() as connection:
        connection.settimeout(20)
        send(connection, data)
        receive(connection, 2)


def test_p12_http2_headers_without_end_are_refused(bounded):
    data = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 1, 1, fields(bounded.host))
    more = b"".join(b"\x00\x05x-%03d\x08" % (n % 1000) + b"y" * 8 for n in range(900))
    data += frame(CONTINUATION, 0, 1, more[:16_000]) * 2000
    answer, ended = bounded.talk(data, 5)
    assert ended, answer[:100]


def test_p12_http2_floods_of_small_frames_are_bounded(bounded):
    for kind, stream, body in ((PING, 0, b"\0" * 8), (SETTINGS, 0, b""), (0, 1, b"")):
        with bounded.connect(receive_bytes=4096) as connection:
            connection.settimeout(5)
            send(connection, PREFACE + frame(SETTINGS, 0, 0) + frame(kind, 0, stream, body) * 200_000)
        bounded.assert_whole()


def test_p12_http2_large_header_lists_are_refused(bounded):
    entry = b"\x40\x01a\x7f\x81\x1e" + b"v" * 4000
    block = fields(bounded.host) + entry + b"\xbe" * 3000
    data = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, block)
    answer, _ = bounded.talk(data, 2)
    assert KEPT not in answer
