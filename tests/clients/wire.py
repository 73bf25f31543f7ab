"""Requests made by hand: what no SDK sends, or not in that form, signed here byte for byte."""

import datetime
import hashlib
import hmac
import http.client
import re
from dataclasses import dataclass
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
CHUNKS_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
CHUNKS_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
CHUNKS_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def code(self):
        """The error document's Code, or None."""
        found = re.search(rb"<Error>.*?<Code>([^<]*)</Code>", self.body, re.DOTALL)
        return found.group(1).decode() if found else None

    @property
    def message(self):
        found = re.search(rb"<Message>([^<]*)</Message>", self.body, re.DOTALL)
        return found.group(1).decode() if found else ""


def plain(server, method, target, headers=None, body=b"", host=None):
    """Sends exactly these headers, Host and Content-Length added, and reads the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or f"127.0.0.1:{server.port}")
        headers = dict(headers or {})
        if body and not any(name.lower() == "content-length" for name in headers):
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            connection.putheader(name, value.encode())
        connection.endheaders()
        if body:
            connection.send(body)
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


def signed(server, method, path, query="", headers=None, body=b"", payload=None, host=None,
           now=None):
    """A SigV4 request. `path` and `query` are sent as they are given, percent-encoding included.

    `payload`: the value of x-amz-content-sha256; by default the digest of the body.
    """
    host = host or f"127.0.0.1:{server.port}"
    signer = Signer(server, now)
    headers = signer.sign(
        method, path, query, dict(headers or {}), payload or hashlib.sha256(body).hexdigest(), host)
    target = path + ("?" + query if query else "")
    return plain(server, method, target, headers, body, host)


class Signer:
    """AWS Signature Version 4, as the API reference describes it."""

    def __init__(self, server, now=None, region="us-east-1"):
        self.server = server
        now = now or datetime.datetime.now(datetime.UTC)
        self.time = now.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{self.time[:8]}/{region}/s3/aws4_request"
        key = b"AWS4" + server.secret_key.encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        self.key = key
        self.seed = None

    def sign(self, method, path, query, headers, payload, host, unsigned=()):
        """The headers with those that authenticate them; `unsigned` names stay unsigned."""
        headers |= {"x-amz-date": self.time, "x-amz-content-sha256": payload}
        kept = {name.lower(): " ".join(value.split()) for name, value in headers.items()
                if name.lower() not in unsigned} | {"host": host}
        names = ";".join(sorted(kept))
        lines = [method, path, canonical_query(query)]
        lines += [f"{name}:{kept[name]}" for name in sorted(kept)]
        self.seed = self._seal("AWS4-HMAC-SHA256", digest("\n".join([*lines, "", names, payload])))
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.server.access_key}/{self.scope},"
            f"SignedHeaders={names},Signature={self.seed}")
        return headers

    def chunk(self, data):
        """One signed chunk, framing included; the last one has no data."""
        self.seed = self._seal(
            "AWS4-HMAC-SHA256-PAYLOAD", self.seed, EMPTY_SHA256, hashlib.sha256(data).hexdigest())
        head = f"{len(data):x};chunk-signature={self.seed}\r\n".encode()
        return head + data + b"\r\n" if data else head

    def trailer(self, name, value):
        """The signed trailer and the end of the body."""
        self.seed = self._seal("AWS4-HMAC-SHA256-TRAILER", self.seed, digest(f"{name}:{value}\n"))
        return f"{name}:{value}\r\nx-amz-trailer-signature:{self.seed}\r\n\r\n".encode()

    def _seal(self, kind, *lines):
        text = "\n".join([kind, self.time, self.scope, *lines])
        return hmac.new(self.key, text.encode(), hashlib.sha256).hexdigest()


def put_in_chunks(server, path, chunks, form, trailer=None, tamper=None, headers=None):
    """A PUT of `chunks` in one of the STREAMING forms, with a (name, value) trailer where it has one.

    `tamper` is given the framed body and returns the one to send.
    """
    signer = Signer(server)
    headers = dict(headers or {}) | {
        "x-amz-decoded-content-length": str(sum(map(len, chunks))),
        "Content-Encoding": "aws-chunked",
    }
    if trailer:
        headers["x-amz-trailer"] = trailer[0]
    host = f"127.0.0.1:{server.port}"
    headers = signer.sign("PUT", path, "", headers, form, host)
    body = b""
    for data in [*chunks, b""]:
        if form == CHUNKS_UNSIGNED_TRAILER:
            body += f"{len(data):x}\r\n".encode() + (data + b"\r\n" if data else b"")
        else:
            body += signer.chunk(data)
    if form == CHUNKS_SIGNED_TRAILER:
        body += signer.trailer(*trailer)
    elif trailer:
        body += f"{trailer[0]}:{trailer[1]}\r\n\r\n".encode()
    else:
        body += b"\r\n"
    return plain(server, "PUT", path, headers, tamper(body) if tamper else body, host)


def canonical_query(query):
    pairs = [part.partition("=") for part in query.split("&") if part]
    return "&".join(sorted(f"{name}={value}" for name, _, value in pairs))


def encode(text):
    """Percent-encoding as S3 wants it in a path: everything but unreserved characters and `/`."""
    return quote(text, safe="/-_.~")


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()
