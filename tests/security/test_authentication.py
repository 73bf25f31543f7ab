"""Every route with every kind of bad authentication is refused, and nothing changes."""

import datetime
import hashlib
import hmac
from base64 import b64encode
from types import SimpleNamespace
from urllib.parse import quote

import pytest

import wire

ROUTES = [
    ("GET", "/", "", b""),
    ("PUT", "/newbucket", "", b""),
    ("HEAD", "/demo", "", b""),
    ("GET", "/demo", "", b""),
    ("GET", "/demo", "list-type=2", b""),
    ("GET", "/demo", "location=", b""),
    ("GET", "/demo", "uploads=", b""),
    ("GET", "/demo", "versions=", b""),
    ("GET", "/demo", "acl=", b""),
    ("GET", "/demo", "policy=", b""),
    ("PUT", "/demo", "policy=", b"{}"),
    ("DELETE", "/demo", "", b""),
    ("POST", "/demo", "delete=", b"<Delete><Object><Key>k</Key></Object></Delete>"),
    ("POST", "/demo", "", b"a form"),
    ("GET", "/demo", "object-lock=", b""),
    ("PUT", "/demo", "object-lock=", b"<ObjectLockConfiguration/>"),
    ("GET", "/demo", "lifecycle=", b""),
    ("PUT", "/demo", "lifecycle=", b"<LifecycleConfiguration/>"),
    ("DELETE", "/demo", "lifecycle=", b""),
    ("GET", "/demo/k", "", b""),
    ("GET", "/demo/k", "retention=", b""),
    ("PUT", "/demo/k", "retention=", b"<Retention/>"),
    ("PUT", "/demo/k", "legal-hold=", b"<LegalHold/>"),
    ("HEAD", "/demo/k", "", b""),
    ("GET", "/demo/k", "acl=", b""),
    ("GET", "/demo/absent", "", b""),
    ("PUT", "/demo/k", "", b"overwritten"),
    ("PUT", "/demo/new", "", b"new"),
    ("PUT", "/demo/copy", "", b"copy"),
    ("DELETE", "/demo/k", "", b""),
    ("POST", "/demo/new", "uploads=", b""),
    ("PUT", "/demo/big", "partNumber=2&uploadId=UPLOAD", b"part"),
    ("GET", "/demo/big", "uploadId=UPLOAD", b""),
    ("POST", "/demo/big", "uploadId=UPLOAD", b"COMPLETE"),
    ("DELETE", "/demo/big", "uploadId=UPLOAD", b""),
    ("PUT", "/demo/k", "tagging=", b"<Tagging/>"),
    ("PUT", "/demo/renamed", "renameObject=", b""),
    ("PATCH", "/demo/k", "", b"x"),
]


# The routes that have a verb.
VERBS = [route for route in ROUTES if route[0] != "PATCH" and route[3] != b"a form"]


@pytest.fixture
def prepared(rooted):
    rooted.put("k", b"kept", Metadata={"m": "v"})
    upload = rooted.s3.create_multipart_upload(Bucket="demo", Key="big")["UploadId"]
    etag = rooted.s3.upload_part(Bucket="demo", Key="big", UploadId=upload, PartNumber=1,
                                 Body=b"one")["ETag"]
    rooted.upload = upload
    rooted.complete = (f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}"
                       "</ETag></Part></CompleteMultipartUpload>").encode()
    return rooted


def snapshot(site):
    root = site.directory.parent
    files = {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
             for path in root.rglob("*") if path.is_file() and ".lobos" not in path.parts}
    parts = site.s3.list_parts(Bucket="demo", Key="big", UploadId=site.upload)["Parts"]
    uploads = site.s3.list_multipart_uploads(Bucket="demo")["Uploads"]
    buckets = [bucket["Name"] for bucket in site.s3.list_buckets()["Buckets"]]
    return (files, site.keys(), [(part["PartNumber"], part["ETag"]) for part in parts],
            len(uploads), buckets, site.head("k")["Metadata"])


def now(**shift):
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(**shift)


def presigned(server, method, path, query, host, expires=60, at=None, algorithm="AWS4-HMAC-SHA256",
              more="", signed="host", region="us-east-1"):
    """The query of a presigned request; `more`: parameters that are signed too."""
    signer = wire.Signer(server, at, region)
    fields = {"X-Amz-Algorithm": algorithm,
              "X-Amz-Credential": f"{server.access_key}/{signer.scope}",
              "X-Amz-Date": signer.time, "X-Amz-Expires": str(expires),
              "X-Amz-SignedHeaders": signed}
    own = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
    whole = "&".join(part for part in (query, own, more) if part)
    lines = [method, path, wire.canonical_query(whole), f"host:{host}", "", signed, "UNSIGNED-PAYLOAD"]
    signature = signer._seal(algorithm, wire.digest("\n".join(lines)))
    return f"{whole}&X-Amz-Signature={signature}"


class Request:
    """One request that is right, before a kind of badness is done to it."""

    def __init__(self, site, method, path, query, body):
        self.server = site.server
        self.method, self.path, self.query = method, path, query.replace("UPLOAD", site.upload)
        self.body = site.complete if body == b"COMPLETE" else body
        self.host = f"127.0.0.1:{site.server.port}"
        self.headers = {}

    def sign(self, server=None, at=None, payload=None, unsigned=(), region="us-east-1"):
        signer = wire.Signer(server or self.server, at, region)
        payload = payload or hashlib.sha256(self.body).hexdigest()
        self.headers = signer.sign(self.method, self.path, self.query, dict(self.headers), payload,
                                   self.host, unsigned)
        return self

    def presign(self, **how):
        self.query = presigned(self.server, self.method, self.path, self.query, self.host, **how)
        return self

    def send(self):
        target = self.path + ("?" + self.query if self.query else "")
        return wire.plain(self.server, self.method, target, self.headers, self.body)


def other_keys(server, access_key=None, secret_key=None):
    return SimpleNamespace(access_key=access_key or server.access_key,
                           secret_key=server.secret_key if secret_key is None else secret_key)


def authorization(text):
    def kind(request):
        request.sign()
        request.headers["Authorization"] = text
    return kind


def edited(old, new, count=1):
    def kind(request):
        request.sign()
        text = request.headers["Authorization"]
        assert old in text
        request.headers["Authorization"] = text.replace(old, new, count)
    return kind


def bad_signature(request):
    request.sign()
    text = request.headers["Authorization"]
    request.headers["Authorization"] = text[:-1] + ("0" if text[-1] != "0" else "1")


def short_signature(request):
    request.sign()
    request.headers["Authorization"] = request.headers["Authorization"][:-32]


def unsigned_amz_header(request):
    request.sign()
    request.headers["x-amz-meta-added"] = "later"


def unsigned_copy_source(request):
    request.sign()
    request.headers["x-amz-copy-source"] = "/demo/k"


def unsigned_listed_header(request):
    request.headers["x-amz-meta-a"] = "b"
    request.sign(unsigned=("x-amz-meta-a",))


def changed_header(request):
    request.headers["x-amz-meta-a"] = "b"
    request.sign()
    request.headers["x-amz-meta-a"] = "c"


def other_host(request):
    host, request.host = request.host, "other.example"
    request.sign()
    request.host = host


def other_path(request):
    path, request.path = request.path, "/demo/elsewhere"
    request.sign()
    request.path = path


def other_method(request):
    method, request.method = request.method, "OPTIONS"
    request.sign()
    request.method = method


def other_query(request):
    query, request.query = request.query, "list-type=2&prefix=other"
    request.sign()
    request.query = query


def header_and_query(request):
    request.presign().sign()


def header_and_query_v2(request):
    request.query = request.query + ("&" if request.query else "") + (
        f"AWSAccessKeyId={request.server.access_key}&Signature=x&Expires=9999999999")
    request.sign()


def v2_header(at=None, secret=None, path=None, added=False):
    """Version 2 in the header, right but for what the arguments spoil."""
    def kind(request):
        date = (at() if at else now()).strftime("%a, %d %b %Y %H:%M:%S GMT")
        text = f"{request.method}\n\n\n{date}\n{path or request.path}"
        key = (secret or request.server.secret_key).encode()
        signature = b64encode(hmac.new(key, text.encode(), hashlib.sha1).digest()).decode()
        request.headers = {"Date": date,
                           "Authorization": f"AWS {request.server.access_key}:{signature}"}
        if added:
            request.headers["x-amz-meta-added"] = "later"
    return kind


def v2_query(expires, spoil=False):
    def kind(request):
        until = int(now().timestamp()) + expires
        text = f"{request.method}\n\n\n{until}\n{request.path}"
        digest = hmac.new(request.server.secret_key.encode(), text.encode(), hashlib.sha1).digest()
        if spoil:
            digest = digest[::-1]
        signature = quote(b64encode(digest).decode(), safe="")
        request.query = "&".join(part for part in (
            request.query, f"AWSAccessKeyId={request.server.access_key}", f"Expires={until}",
            f"Signature={signature}") if part)
    return kind


def tampered_presigned(old, new):
    def kind(request):
        request.presign()
        assert old in request.query
        request.query = request.query.replace(old, new)
    return kind


def removed_presigned(name):
    def kind(request):
        request.presign()
        request.query = "&".join(
            part for part in request.query.split("&") if not part.startswith(name + "="))
    return kind


def presigned_with_amz_header(request):
    request.presign()
    request.headers["x-amz-meta-added"] = "later"


def presigned_with_parameter(request):
    request.presign()
    request.query += "&response-content-type=text/html"


def streaming_without_signature(form):
    def kind(request):
        request.headers = {"x-amz-content-sha256": form,
                           "x-amz-decoded-content-length": str(len(request.body))}
    return kind


def session_token(request):
    request.headers["x-amz-security-token"] = "token"
    request.sign()


KINDS = {
    "none": lambda request: None,
    "anonymous_with_date": lambda request: request.headers.update({"x-amz-date": "20260101T000000Z"}),
    "anonymous_unsigned_payload": streaming_without_signature("UNSIGNED-PAYLOAD"),
    "anonymous_streaming_signed": streaming_without_signature(wire.CHUNKS_SIGNED),
    "anonymous_streaming_signed_trailer": streaming_without_signature(wire.CHUNKS_SIGNED_TRAILER),
    "anonymous_streaming_unsigned_trailer": streaming_without_signature(wire.CHUNKS_UNSIGNED_TRAILER),
    "bad_signature": bad_signature,
    "short_signature": short_signature,
    "wrong_secret": lambda r: r.sign(other_keys(r.server, secret_key="wrong")),
    "empty_secret": lambda r: r.sign(other_keys(r.server, secret_key="")),
    "unknown_key": lambda r: r.sign(other_keys(r.server, access_key="nobody")),
    "skewed_back": lambda r: r.sign(at=now(minutes=-16)),
    "skewed_forth": lambda r: r.sign(at=now(minutes=16)),
    "empty_region": lambda r: r.sign(region=""),
    "bearer": authorization("Bearer token"),
    "basic": authorization("Basic cm9vdDpyb290"),
    "empty_authorization": authorization(""),
    "only_the_scheme": authorization("AWS4-HMAC-SHA256"),
    "no_fields": authorization("AWS4-HMAC-SHA256 a=b"),
    "other_algorithm": edited("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
    "other_service": edited("/s3/", "/sts/"),
    "other_date": edited("/20", "/19"),
    "other_terminator": edited("aws4_request", "aws5_request"),
    "empty_signed_headers": edited("SignedHeaders=host;", "SignedHeaders=;"),
    "no_signed_headers": edited("SignedHeaders=host;x-amz-content-sha256;x-amz-date", "SignedHeaders="),
    "host_unsigned": edited("SignedHeaders=host;", "SignedHeaders="),
    "signed_headers_twice": edited("SignedHeaders=host;", "SignedHeaders=host;host;"),
    "unsigned_amz_header": unsigned_amz_header,
    "unsigned_listed_header": unsigned_listed_header,
    "unsigned_copy_source": unsigned_copy_source,
    "changed_header": changed_header,
    "other_host": other_host,
    "other_path": other_path,
    "other_method": other_method,
    "other_query": other_query,
    "header_and_query": header_and_query,
    "header_and_query_v2": header_and_query_v2,
    "session_token": session_token,
    "v2_header_bad_signature": v2_header(secret="wrong"),
    "v2_header_skewed_back": v2_header(at=lambda: now(minutes=-16)),
    "v2_header_skewed_forth": v2_header(at=lambda: now(minutes=16)),
    "v2_header_other_path": v2_header(path="/demo/elsewhere"),
    "v2_header_unsigned_amz_header": v2_header(added=True),
    "v2_header_malformed": authorization("AWS x"),
    "v2_query_expired": v2_query(-1),
    "v2_query_bad_signature": v2_query(60, spoil=True),
    "v2_query_longer_than_seven_days": v2_query(7 * 86400 + 1200),
    "presigned_expired": lambda r: r.presign(expires=1, at=now(seconds=-5)),
    "presigned_longer_than_seven_days": lambda r: r.presign(expires=604801),
    "presigned_no_time": lambda r: r.presign(expires=0, at=now(seconds=-2)),
    "presigned_negative": lambda r: r.presign(expires=-60),
    "presigned_not_yet": lambda r: r.presign(at=now(minutes=20)),
    "presigned_stretched": tampered_presigned("X-Amz-Expires=60", "X-Amz-Expires=600"),
    "presigned_no_signed_headers": lambda r: r.presign(signed=""),
    "presigned_without_expiry": removed_presigned("X-Amz-Expires"),
    "presigned_without_signature": removed_presigned("X-Amz-Signature"),
    "presigned_without_algorithm": removed_presigned("X-Amz-Algorithm"),
    "presigned_without_credential": removed_presigned("X-Amz-Credential"),
    "presigned_without_date": removed_presigned("X-Amz-Date"),
    "presigned_without_signed_headers": removed_presigned("X-Amz-SignedHeaders"),
    "presigned_other_algorithm": lambda r: r.presign(algorithm="AWS4-HMAC-SHA1"),
    "presigned_with_amz_header": presigned_with_amz_header,
    "presigned_with_parameter": presigned_with_parameter,
    "presigned_twice": lambda r: r.presign().presign(),
}


def refusals(method, path, query):
    """What a request may be answered that must have no effect."""
    # A POST to a bucket that is no form is 412 on S3, whoever sends it.
    no_form = (method, path, query) == ("POST", "/demo", "")
    return (400, 403, 405, 412, 501) if no_form else (400, 403, 405, 501)


@pytest.mark.parametrize("name", KINDS)
def test_sec_auth_dispatch_every_route_refuses(prepared, name):
    before, wrong = snapshot(prepared), []
    for route in ROUTES:
        request = Request(prepared, *route)
        KINDS[name](request)
        answer = request.send()
        # What no verb answers is told to be so, with or without a signature.
        verb = route in VERBS and name != "other_algorithm"
        refused = (400, 403) if verb else refusals(*route[:3])
        if answer.status not in refused or b"kept" in answer.body:
            wrong.append((route[:3], answer.status, answer.code))
    assert not wrong, wrong
    assert snapshot(prepared) == before, "a refused request changed something"


def test_sec_auth_dispatch_the_same_routes_answer_when_all_is_right(prepared):
    """Without this the table above could be refusing for a reason of its own."""
    right = []
    for route in ROUTES:
        for how in ("sign", "presign"):
            request = Request(prepared, *route)
            getattr(request, how)()
            right.append(request.send().status not in (401, 403))
    assert all(right)


def test_sec_auth_dispatch_another_user_is_refused(start, tmp_path):
    """A configured user owns what it made; the buckets of others are closed to it."""
    config = tmp_path / "lobos.cfg"
    config.write_text('[[auth.user]]\nname = "eve"\naccess_key = "eveskey"\n'
                      'secret_key = "evessecret123"\n')
    server = start("serve", "--root", tmp_path / "root", "-c", config, "--listen", "127.0.0.1:0")
    s3 = server.client()
    s3.create_bucket(Bucket="demo")
    s3.put_object(Bucket="demo", Key="k", Body=b"kept")
    eve = SimpleNamespace(access_key="eveskey", secret_key="evessecret123", port=server.port)
    upload = s3.create_multipart_upload(Bucket="demo", Key="big")["UploadId"]
    site = SimpleNamespace(server=server, upload=upload, complete=b"<CompleteMultipartUpload/>")
    for route in ROUTES:
        if route[1] in ("/", "/newbucket"):
            continue
        request = Request(site, *route)
        request.server = SimpleNamespace(**vars(eve))
        answer = request.sign().send()
        assert answer.status in refusals(*route[:3]), (route, answer.status)
        assert b"kept" not in answer.body
    assert s3.get_object(Bucket="demo", Key="k")["Body"].read() == b"kept"
    assert len(s3.list_multipart_uploads(Bucket="demo")["Uploads"]) == 1


def test_sec_signature_scope_duplicate_headers(prepared):
    """Two x-amz-* headers of one name: whatever is done, nobody reads one of them unsigned."""
    import socket
    signer = wire.Signer(prepared.server)
    host = f"127.0.0.1:{prepared.server.port}"
    headers = signer.sign("PUT", "/demo/dup", "", {"x-amz-meta-a": "b"}, wire.EMPTY_SHA256, host)
    for line in ("x-amz-meta-a: evil", "x-amz-date: 20200101T000000Z", "x-amz-content-sha256: x",
                 "x-amz-copy-source: /demo/k", "Authorization: AWS4-HMAC-SHA256 x"):
        for first in (True, False):
            lines = [f"{name}: {value}" for name, value in headers.items()]
            lines = [line, *lines] if first else [*lines, line]
            head = "\r\n".join(["PUT /demo/dup HTTP/1.1", f"Host: {host}", "Content-Length: 0",
                                *lines, "", ""])
            with socket.create_connection(("127.0.0.1", prepared.server.port), 10) as connection:
                connection.sendall(head.encode())
                answer = connection.recv(65536)
            assert answer.split(b" ")[1] in (b"400", b"403"), (line, answer)
    assert "dup" not in prepared.keys()


def test_sec_signature_scope_the_body_is_what_was_signed(prepared):
    before = snapshot(prepared)
    for method, path, query, body in ROUTES:
        if method in ("PUT", "POST") and body:
            request = Request(prepared, method, path, query, body)
            request.sign()
            request.body = request.body[:-1] + b"?"
            answer = request.send()
            refused = refusals(method, path, query)
            assert answer.status in refused, (method, path, query, answer.status)
    assert snapshot(prepared) == before
