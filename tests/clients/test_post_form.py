"""Forms that browsers post: fields, policies, signatures, and what the browser gets back."""

import base64
import datetime
import hashlib
import hmac
import json

import pytest

import wire

BOUNDARY = "----formboundary7MA4YWxk"


def form(fields, data=b"data", filename="local.txt", tail=()):
    """The body of a form; `tail`: fields behind the file."""
    lines = []
    for name, value in fields:
        value = value if isinstance(value, bytes) else value.encode()
        lines += [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode(),
                  value, b"\r\n"]
    if data is not None:
        lines += [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
                  f'filename="{filename}"\r\nContent-Type: text/x-of-the-part\r\n\r\n'.encode(),
                  data, b"\r\n"]
    for name, value in tail:
        lines += [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
                  f'{value}\r\n'.encode()]
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


def post(server, fields, data=b"data", target="/demo", headers=None, **more):
    fields = list(fields.items()) if isinstance(fields, dict) else fields
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return wire.plain(server, "POST", target, kind | (headers or {}), form(fields, data, **more))


def policy_of(conditions, seconds=600):
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    text = {"expiration": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "conditions": conditions}
    return base64.b64encode(json.dumps(text).encode()).decode()


def signed(server, fields, conditions=None, policy=None, **more):
    """The fields with a policy and its signature of version 4."""
    signer = wire.Signer(server)
    given = fields | {
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{server.access_key}/{signer.scope}",
        "x-amz-date": signer.time,
    }
    if policy is None:
        if conditions is None:
            conditions = [{"bucket": "demo"}, *({name: value} for name, value in fields.items())]
        conditions += [{name: given[name]} for name in given if name not in fields]
        policy = policy_of(conditions, **more)
    signature = hmac.new(signer.key, policy.encode(), hashlib.sha256).hexdigest()
    return given | {"policy": policy, "x-amz-signature": signature}


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_what_boto3_presigns_is_taken(site, version):
    s3 = site.server.client(signature_version=version)
    given = s3.generate_presigned_post(
        site.bucket, "dir/${filename}", Fields={"acl": "private", "Content-Type": "text/x"},
        Conditions=[{"acl": "private"}, ["starts-with", "$Content-Type", "text/"],
                    ["content-length-range", 1, 10]])
    answer = post(site.server, given["fields"], b"0123456789")
    assert (answer.status, answer.body) == (204, b"")
    assert site.read("dir/local.txt") == b"0123456789"
    assert site.head("dir/local.txt")["ContentType"] == "text/x"
    assert answer.headers["ETag"] == site.head("dir/local.txt")["ETag"]
    assert post(site.server, given["fields"], b"01234567890").code == "EntityTooLarge"
    assert post(site.server, given["fields"], b"").code == "EntityTooSmall"
    wrong = given["fields"] | {"acl": "public-read"}
    assert post(site.server, wrong).code == "AccessDenied"
    assert site.keys() == ["dir/local.txt"]


def test_a_file_is_streamed_whole_and_in_any_shape(site, payload):
    for size in (0, 1, 70_000, 9 << 20):
        data = payload(size).replace(b"\n", b"\r\n--" + BOUNDARY[:-1].encode() + b"!")
        answer = post(site.server, signed(site.server, {"key": "k"}), data)
        assert answer.status == 204, answer.body
        assert site.read("k") == data


def test_fields_become_what_headers_would_be(site):
    fields = {
        "key": "k", "Content-Type": "text/x", "Cache-Control": "no-cache", "Expires": "soon",
        "Content-Disposition": "inline", "Content-Encoding": "br", "x-amz-meta-a": "é",
        "x-amz-storage-class": "STANDARD", "x-amz-website-redirect-location": "/x",
        "tagging": "<Tagging><TagSet><Tag><Key>a</Key><Value>1</Value></Tag></TagSet></Tagging>",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(b"data").digest()).decode(),
    }
    answer = post(site.server, signed(site.server, fields))
    assert answer.status == 204, answer.body
    got = site.head("k", ChecksumMode="ENABLED")
    assert got["ContentType"] == "text/x" and got["CacheControl"] == "no-cache"
    assert got["ContentDisposition"] == "inline" and got["ContentEncoding"] == "br"
    assert got["WebsiteRedirectLocation"] == "/x"
    assert got["ChecksumSHA256"] == fields["x-amz-checksum-sha256"]
    assert "a" in got["Metadata"]
    tags = site.s3.get_object_tagging(Bucket="demo", Key="k")["TagSet"]
    assert tags == [{"Key": "a", "Value": "1"}]
    # The type is the field's, never the part's.
    post(site.server, signed(site.server, {"key": "plain"}))
    assert site.head("plain")["ContentType"] == "binary/octet-stream"


def test_what_the_fields_cannot_mean_stores_nothing(site):
    for more, code in [
        ({"x-amz-checksum-sha256": "wrong"}, "InvalidRequest"),
        ({"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
        ({"x-amz-server-side-encryption": "AES256"}, "NotImplemented"),
        ({"tagging": "<Tagging/>"}, "MalformedXML"),
        ({"x-amz-storage-class": "GLACIER"}, "InvalidStorageClass"),
        ({"x-amz-meta-a": "x" * 3000}, "MetadataTooLarge"),
        ({"x-amz-meta-a": "x" * 21_000}, "MaxPostPreDataLengthExceededError"),
    ]:
        answer = post(site.server, signed(site.server, {"key": "k"} | more))
        assert (answer.status, answer.code) == (answer.status, code), more
        assert 400 <= answer.status < 600
    assert post(site.server, signed(site.server, {"key": ""})).code == "InvalidArgument"
    assert post(site.server, signed(site.server, {})).code == "InvalidArgument"
    assert post(site.server, signed(site.server, {"key": "k"}), None).code == "InvalidArgument"
    assert site.keys() == []


def test_the_browser_is_sent_on_or_gets_the_status_asked_for(site):
    page = "http://page.example/done"
    to = {"key": "dir/a b", "success_action_redirect": page}
    answer = post(site.server, signed(site.server, to))
    etag = site.head("dir/a b")["ETag"].strip('"')
    assert answer.status == 303
    assert answer.headers["Location"] == f"{page}?bucket=demo&key=dir%2Fa%20b&etag=%22{etag}%22"
    to = {"key": "k", "success_action_redirect": "javascript:alert(1)"}
    assert post(site.server, signed(site.server, to)).status == 204
    for asked, status in [("200", 200), ("201", 201), ("204", 204), ("404", 204)]:
        fields = {"key": "k", "success_action_status": asked}
        answer = post(site.server, signed(site.server, fields))
        assert answer.status == status
        assert answer.headers["Location"].endswith("/demo/k")
        assert (b"<PostResponse>" in answer.body) == (status == 201)


@pytest.mark.parametrize("conditions, seconds, code", [
    ([{"bucket": "other"}, {"key": "k"}], 600, "AccessDenied"),
    ([{"bucket": "demo"}, {"key": "other"}], 600, "AccessDenied"),
    ([{"bucket": "demo"}], 600, "AccessDenied"),
    ([{"bucket": "demo"}, {"key": "k"}, {"acl": "private"}], 600, "AccessDenied"),
    ([{"bucket": "demo"}, {"key": "k"}], -1, "AccessDenied"),
    ([{"bucket": "demo"}, {"key": "k"}, {}], 600, "InvalidPolicyDocument"),
    ([{"bucket": "demo"}, {"key": "k"}, ["content-length-range", 0]], 600, "InvalidPolicyDocument"),
])
def test_a_policy_that_does_not_allow_the_form(site, conditions, seconds, code):
    answer = post(site.server, signed(site.server, {"key": "k"}, conditions, seconds=seconds))
    assert answer.code == code
    assert site.keys() == []


def test_sec_a_form_without_a_good_signature_is_refused(site):
    good = signed(site.server, {"key": "k"})
    for change, code in [
        ({"x-amz-signature": "0" * 64}, "SignatureDoesNotMatch"),
        ({"x-amz-signature": ""}, "SignatureDoesNotMatch"),
        ({"policy": policy_of([{"key": "k"}])}, "SignatureDoesNotMatch"),
        ({"x-amz-credential": good["x-amz-credential"].replace("clienttests", "nobody")},
         "InvalidAccessKeyId"),
        ({"x-amz-credential": "clienttests/s3/aws4_request"}, "InvalidArgument"),
        ({"x-amz-algorithm": "AWS4-ECDSA-P256-SHA256"}, "InvalidArgument"),
        ({"AWSAccessKeyId": "clienttests"}, "InvalidRequest"),
        ({"x-amz-security-token": "token"}, "InvalidToken"),
    ]:
        assert post(site.server, good | change).code == code, change
    for missing in ("x-amz-signature", "x-amz-credential", "x-amz-date", "policy"):
        fields = {name: value for name, value in good.items() if name != missing}
        assert post(site.server, fields).code == "InvalidArgument", missing
    assert post(site.server, {"key": "k"}).code == "AccessDenied"
    assert post(site.server, {"key": "k", "policy": good["policy"]}).code == "InvalidArgument"
    # The fields that count stand before the file.
    late = [("policy", good["policy"]), ("x-amz-signature", good["x-amz-signature"])]
    assert post(site.server, {"key": "k"}, tail=late).code == "AccessDenied"
    assert site.keys() == []


def test_sec_a_field_that_comes_twice_is_refused(site):
    good = list(signed(site.server, {"key": "k"}).items())
    assert post(site.server, [*good, ("KEY", "other")]).code == "InvalidArgument"
    assert site.keys() == []


def test_bodies_that_are_no_form_are_refused(site):
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    whole = form(list(signed(site.server, {"key": "k"}).items()))
    for headers, body, code in [
        ({"Content-Type": "text/plain"}, whole, "PreconditionFailed"),
        ({"Content-Type": kind}, whole[:-60], "MalformedPOSTRequest"),
        ({"Content-Type": kind}, b"x", "MalformedPOSTRequest"),
    ]:
        assert wire.plain(site.server, "POST", "/demo", headers, body).code == code
    assert post(site.server, signed(site.server, {"key": "k"}), target="/demo/k").status == 501
    assert site.keys() == []


def test_without_authentication_a_form_needs_no_signature(start, tmp_path):
    (tmp_path / "demo").mkdir()
    server = start("serve", tmp_path / "demo", "--no-auth", "--listen", "127.0.0.1:0")
    assert post(server, {"key": "k"}).status == 204
    assert (tmp_path / "demo" / "k").read_bytes() == b"data"
    page = {"Origin": "https://page.example"}
    assert post(server, {"key": "other"}, headers=page).status == 403
    assert post(server, {"key": "other"}, headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert post(server, {"key": "k"}, headers={"Sec-Fetch-Site": "same-origin"}).status == 204
    # A policy holds also where nobody looks at its signature.
    expired = {"key": "other", "policy": policy_of([{"key": "other"}], -1)}
    assert post(server, expired).code == "AccessDenied"
    assert not (tmp_path / "demo" / "other").exists()
