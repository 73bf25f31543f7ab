"""Presigned URLs: boto3's default (SigV2), SigV4, what they may carry and when they end."""

import http.client
import time
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

import wire
from lobos import Lobos

KEYS = ["plain", "a b+c/ü@.txt", "per%20cent", "q?x=1&y=2#z"]


def fetch(url, method="GET", headers=None, body=None):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.request(method, parts.path + "?" + parts.query, body, headers or {})
        reply = connection.getresponse()
        return wire.Answer(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


@pytest.fixture(params=["default", "s3v4"])
def signer(site, request):
    """A client that presigns with boto3's default for such an endpoint, and one with SigV4."""
    if request.param == "default":
        return site.server.client()
    return site.server.client(signature_version="s3v4")


def url(client, method, key="k", seconds=60, **more):
    return client.generate_presigned_url(
        method, Params={"Bucket": "demo", "Key": key} | more, ExpiresIn=seconds)


def test_boto3_still_makes_sigv2_by_default(site):
    made = parse_qs(urlsplit(url(site.server.client(), "get_object")).query)
    assert {"AWSAccessKeyId", "Signature", "Expires"} <= set(made)


@pytest.mark.parametrize("key", KEYS)
def test_get_head_put_delete(site, signer, key):
    put = fetch(url(signer, "put_object", key), "PUT", body=b"by URL")
    assert put.status == 200 and put.headers["ETag"]
    got = fetch(url(signer, "get_object", key))
    assert (got.status, got.body) == (200, b"by URL")
    head = fetch(url(signer, "head_object", key), "HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "6")
    part = fetch(url(signer, "get_object", key), headers={"Range": "bytes=3-"})
    assert (part.status, part.body) == (206, b"URL")
    assert fetch(url(signer, "delete_object", key), "DELETE").status == 204
    assert site.keys() == []


def test_sub_resources_are_signed(site, signer):
    listing = signer.generate_presigned_url(
        "list_objects_v2", Params={"Bucket": "demo", "Prefix": "a b"}, ExpiresIn=60)
    assert fetch(listing).status == 200
    upload = site.s3.create_multipart_upload(Bucket="demo", Key="k")["UploadId"]
    part = fetch(url(signer, "upload_part", UploadId=upload, PartNumber=1), "PUT", body=b"part")
    assert part.status == 200
    assert site.s3.list_parts(Bucket="demo", Key="k", UploadId=upload)["Parts"][0]["Size"] == 4


def test_response_overrides_are_signed(site, signer):
    site.put("k", b"data")
    made = url(signer, "get_object", ResponseContentType="text/x-signed",
               ResponseContentDisposition='attachment; filename="a b.txt"')
    got = fetch(made)
    assert got.status == 200, got.body
    assert got.headers["Content-Type"] == "text/x-signed"
    assert got.headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
    changed = fetch(made.replace("x-signed", "x-forged"))
    assert (changed.status, changed.code) == (403, "SignatureDoesNotMatch")


def test_a_url_is_for_one_method_key_and_bucket(site, signer):
    site.put("k", b"data")
    site.put("other", b"data")
    made = url(signer, "get_object")
    assert fetch(made, "PUT", body=b"x").code == "SignatureDoesNotMatch"
    assert fetch(made.replace("/k?", "/other?")).code == "SignatureDoesNotMatch"
    assert fetch(made + "&uploads").status in (400, 403)
    assert site.read("k") == b"data"


def test_expiry(site, signer):
    site.put("k", b"data")
    short = url(signer, "get_object", seconds=1)
    assert fetch(short).status == 200
    time.sleep(2.1)
    late = fetch(short)
    assert (late.status, late.code) == (403, "AccessDenied") and "expired" in late.message.lower()


def test_more_than_seven_days_is_refused(site, signer):
    site.put("k", b"data")
    assert fetch(url(signer, "get_object", seconds=7 * 86400)).status == 200
    # Version 2 carries a moment, not a lifetime: it has the 15 minutes of clock skew on top.
    assert fetch(url(signer, "get_object", seconds=7 * 86400 + 3600)).status in (400, 403)


def test_wrong_keys(site):
    for config in ({}, {"signature_version": "s3v4"}):
        forger = site.server.client(secret_key="not the secret", **config)
        assert fetch(url(forger, "get_object")).code == "SignatureDoesNotMatch"
        stranger = site.server.client(access_key="nobody", **config)
        assert fetch(url(stranger, "get_object")).code == "InvalidAccessKeyId"


def test_unsigned_amz_parameters_and_headers_are_refused(site, signer):
    site.put("source", b"data")
    made = url(signer, "put_object")
    for extra in ({"x-amz-copy-source": "/demo/source"}, {"x-amz-meta-a": "1"}):
        answer = fetch(made, "PUT", extra)
        assert answer.status in (400, 403), f"{extra}: {answer.status}"
        name, value = next(iter(extra.items()))
        answer = fetch(f"{made}&{name}={quote(value, safe='')}", "PUT")
        assert answer.status in (400, 403), f"{extra} as a parameter: {answer.status}"
    assert site.keys() == ["source"]


def test_metadata_and_checksums_in_the_url(site):
    signer = site.server.client(signature_version="s3v4")
    made = url(signer, "put_object", Metadata={"by": "url"}, ContentType="text/x-url")
    answer = fetch(made, "PUT", {"x-amz-meta-by": "url", "Content-Type": "text/x-url"}, b"data")
    assert answer.status == 200, answer.body
    head = site.head("k")
    assert head["Metadata"] == {"by": "url"} and head["ContentType"] == "text/x-url"


def test_both_ways_of_signing_at_once_are_refused(site):
    site.put("k", b"data")
    signer = site.server.client(signature_version="s3v4")
    made = urlsplit(url(signer, "get_object"))
    answer = wire.signed(site.server, "GET", made.path, made.query)
    assert answer.status == 400


def test_sigv2_can_be_turned_off(start, tmp_path):
    (tmp_path / "lobos.cfg").write_text(f"""
[server]
listen = "127.0.0.1:0"
[filesystem.buckets]
demo = "{tmp_path / 'demo'}"
[auth]
sigv2 = false
""")
    server = start("-c", tmp_path / "lobos.cfg")
    assert isinstance(server, Lobos)
    server.client().put_object(Bucket="demo", Key="k", Body=b"data")
    assert fetch(url(server.client(), "get_object")).status in (400, 403)
    assert fetch(url(server.client(signature_version="s3v4"), "get_object")).status == 200


def test_headers_that_the_signer_moved_into_the_query_hold(site):
    """Signers for browsers put x-amz-* headers into the query, where version 4 signs them."""
    credentials = Credentials(site.server.access_key, site.server.secret_key)
    hoisted = "x-amz-meta-by=browser&x-amz-storage-class=STANDARD"
    request = AWSRequest("PUT", f"{site.server.endpoint}/demo/k?{hoisted}")
    S3SigV4QueryAuth(credentials, "s3", "us-east-1", expires=60).add_auth(request)
    assert fetch(request.url, "PUT", body=b"data").status == 200
    assert site.head("k")["Metadata"] == {"by": "browser"}
    forged = request.url.replace("by=browser", "by=forger")
    assert fetch(forged, "PUT", body=b"data").code == "SignatureDoesNotMatch"
    differs = fetch(request.url, "PUT", {"x-amz-storage-class": "GLACIER"}, b"data")
    assert differs.status in (400, 403)


def test_sigv2_in_the_header(site):
    """boto3's `signature_version="s3"`, as old tools sign."""
    old = site.server.client(signature_version="s3")
    old.put_object(Bucket="demo", Key="a b+c", Body=b"data", Metadata={"by": "old"})
    assert old.get_object(Bucket="demo", Key="a b+c")["Metadata"] == {"by": "old"}
    listed = old.list_objects_v2(Bucket="demo", Prefix="a b")["Contents"]
    assert [entry["Key"] for entry in listed] == ["a b+c"]
    forger = site.server.client(signature_version="s3", secret_key="not the secret")
    with pytest.raises(ClientError) as caught:
        forger.head_bucket(Bucket="demo")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
