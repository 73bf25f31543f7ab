"""Connections that go on after errors, and bodies that wait for `100 Continue`."""

import contextlib
import hashlib
import http.client
import socket

import pytest

import wire

MIB = 1 << 20


@pytest.fixture
def connection(site):
    with contextlib.closing(socket.create_connection(("127.0.0.1", site.server.port), 20)) as made:
        yield made


def head(server, method, path, body, headers=None, forged=False, size=None):
    """A request's head on the wire; `headers` are not signed. `forged`: with a wrong secret."""
    signer = wire.Signer(Forger(server) if forged else server)
    host = f"127.0.0.1:{server.port}"
    signed = signer.sign(method, path, "", {}, hashlib.sha256(body).hexdigest(), host)
    fields = signed | {"Host": host, "Content-Length": str(len(body) if size is None else size)}
    lines = [f"{name}: {value}\r\n" for name, value in (fields | (headers or {})).items()]
    return f"{method} {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def answer(connection, method):
    """The next reply on the connection."""
    reply = http.client.HTTPResponse(connection, method=method)
    reply.begin()
    return wire.Answer(reply.status, reply.headers, reply.read())


def interim(connection):
    """Reads exactly one `100 Continue`."""
    line = b""
    while not line.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        assert piece, f"closed after {line!r}"
        line += piece
    assert line.startswith(b"HTTP/1.1 100 "), line


class Forger:
    """The right key with a wrong secret."""

    def __init__(self, server):
        self.access_key, self.secret_key = server.access_key, "not the secret"


def test_one_connection_serves_on_after_every_kind_of_error(site, connection):
    site.put("k", b"0123456789")
    server = site.server
    missing, forged = ("/demo/missing", {}), ("/demo/k", {"forged": True})
    tried = [
        ("GET", *missing, b"", 404), ("HEAD", *missing, b"", 404),
        ("GET", "/nowhere/k", {}, b"", 404),
        ("GET", "/demo/k", {"headers": {"Range": "bytes=99-"}}, b"", 416),
        ("GET", *forged, b"", 403), ("PUT", *forged, b"refused, but read", 403),
        ("PUT", "/demo/k", {"headers": {"If-None-Match": "*"}}, b"exists", 412),
        ("PUT", "/demo/new", {"headers": {"x-amz-checksum-crc32": "AAAAAA=="}}, b"x", 403),
        ("PUT", "/demo/new", {"headers": {"Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}}, b"x", 400),
        ("PUT", "/nowhere/k", {}, b"x" * 200_000, 404), ("POST", "/demo/k", {}, b"no such verb", 501),
        ("GET", "/demo/k", {}, b"a body that GET has no use for", 200),
    ]
    for method, path, more, body, status in tried:
        connection.sendall(head(server, method, path, body, **more) + body)
        got = answer(connection, method)
        assert got.status == status, (method, path, got)
        assert "close" not in got.headers.get("Connection", ""), (method, path)
        connection.sendall(head(server, "GET", "/demo/k", b""))
        assert answer(connection, "GET").body == b"0123456789", f"after {method} {path}"


def test_a_large_body_that_is_not_wanted_ends_the_connection_and_the_reply_arrives(
        site, connection):
    body = bytes(8 * MIB)
    connection.sendall(head(site.server, "PUT", "/nowhere/k", body))
    with contextlib.suppress(ConnectionError):
        connection.sendall(body)
    got = answer(connection, "PUT")
    assert (got.status, got.code, got.headers["Connection"]) == (404, "NoSuchBucket", "close")


EXPECT = {"Expect": "100-continue"}


def test_a_body_is_asked_for_once_its_head_is_authenticated(site, connection):
    for size in (1, 3 * MIB):
        body = b"x" * size
        connection.sendall(head(site.server, "PUT", "/demo/k", body, EXPECT))
        interim(connection)
        connection.sendall(body)
        assert answer(connection, "PUT").status == 200
        assert site.read("k") == body


@pytest.mark.parametrize("more, path, status", [
    ({"forged": True}, "/demo/k", 403), ({"headers": {"If-None-Match": "*"}}, "/demo/k", 412),
    ({}, "/nowhere/k", 404), ({}, "/demo/" + "k" * 1025, 400),
])
def test_a_body_that_is_not_wanted_is_never_asked_for(site, connection, more, path, status):
    site.put("k", b"kept")
    headers = EXPECT | more.get("headers", {})
    connection.sendall(head(site.server, "PUT", path, b"x" * 1000, **more | {"headers": headers}))
    got = answer(connection, "PUT")
    assert (got.status, got.headers["Connection"]) == (status, "close")
    assert connection.recv(1) == b"", "closed, so that nobody takes the body for a request"
    assert site.read("k") == b"kept"


def test_botocore_goes_on_after_final_replies_to_bodies_it_announced(site, payload):
    """A final reply in place of `100 Continue` leaves botocore's connection confused."""
    s3 = site.server.client(max_pool_connections=1, read_timeout=20)
    data = payload(9 * MIB)
    for _ in range(2):
        s3.put_object(Bucket="demo", Key="empty", Body=b"")
        s3.put_object(Bucket="demo", Key="large", Body=data)
        with pytest.raises(s3.exceptions.ClientError):
            s3.put_object(Bucket="demo", Key="large", Body=b"again", IfNoneMatch="*")
        assert s3.get_object(Bucket="demo", Key="large")["Body"].read() == data


def test_a_refused_body_does_not_keep_the_server_from_stopping(site, connection):
    connection.sendall(head(site.server, "PUT", "/nowhere/k", b"", EXPECT, size=1000))
    assert answer(connection, "PUT").status == 404
    site.server.stop()
