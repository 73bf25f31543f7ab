"""Without authentication: everybody on this machine is the owner, a web page is not."""

import pytest
from botocore import UNSIGNED

import wire


@pytest.fixture
def public(start, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "k").write_bytes(b"data")
    return start("serve", tmp_path / "demo", "--no-auth", "--listen", "127.0.0.1:0",
                 "--domain", "s3.example.org")


def test_unsigned_and_wrongly_signed_requests_are_the_owners(public, tmp_path):
    assert wire.plain(public, "GET", "/demo/k").body == b"data"
    assert wire.plain(public, "PUT", "/demo/new", body=b"x").status == 200
    s3 = public.client(access_key="any", secret_key="thing")
    s3.put_object(Bucket="demo", Key="signed", Body=b"y")
    anonymous = public.client(signature_version=UNSIGNED)
    keys = [entry["Key"] for entry in anonymous.list_objects_v2(Bucket="demo")["Contents"]]
    assert keys == ["k", "new", "signed"]


def test_bodies_are_still_verified(public):
    wrong = {"x-amz-checksum-crc32": "AAAAAA=="}
    assert wire.plain(public, "PUT", "/demo/new", wrong, b"x").code == "BadDigest"
    answer = wire.signed(public, "PUT", "/demo/new", body=b"x", payload="0" * 64)
    assert answer.status == 400
    trailer = "x-amz-checksum-crc32", "AAAAAA=="
    answer = wire.put_in_chunks(
        public, "/demo/new", [b"abc"], wire.CHUNKS_UNSIGNED_TRAILER, trailer)
    assert answer.code == "BadDigest"
    assert wire.plain(public, "GET", "/demo/new").status == 404


def answer(server, host=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return wire.plain(server, "GET", "/demo/k", named, host=host)


@pytest.mark.parametrize("origin", [
    "http://evil.example", "https://evil.example", "null", "http://localhost.evil.example",
    "http://127.0.0.1.evil.example", "http://evil.example:8080", "file://", "",
])
def test_foreign_origins_are_refused(public, origin):
    got = answer(public, Origin=origin)
    assert got.status == 403 and b"data" not in got.body
    assert wire.plain(public, "DELETE", "/demo/k", {"Origin": origin}).status == 403
    assert wire.plain(public, "PUT", "/demo/k", {"Origin": origin}, b"x").status == 403
    assert answer(public).body == b"data"


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8888",
                                    "http://[::1]:80", "https://localhost"])
def test_loopback_origins_are_not_foreign(public, origin):
    assert answer(public, Origin=origin).body == b"data"


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example",
    "10.0.0.1", "demo.evil.example", "notlocalhost",
])
def test_foreign_hosts_are_refused(public, host):
    got = answer(public, host=host)
    assert got.status in (400, 403) and b"data" not in got.body


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:9999", "LOCALHOST:1",
                                  "[::1]", "[::1]:80", "127.1.2.3", "s3.example.org"])
def test_loopback_hosts_and_configured_domains_are_served(public, host):
    assert answer(public, host=host).body == b"data"


@pytest.mark.parametrize("host", ["demo.localhost", "demo.localhost:80", "demo.s3.example.org",
                                  "demo.127.0.0.1"])
def test_buckets_under_them_too(public, host):
    got = wire.plain(public, "GET", "/k", host=host)
    assert got.body == b"data"


def test_with_authentication_hosts_and_origins_are_free(site):
    site.put("k", b"data")
    assert wire.signed(site.server, "GET", "/demo/k", headers={"Origin": "http://any.example"},
                       host="any.example").body == b"data"
