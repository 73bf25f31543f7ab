"""Every checksum algorithm: in a header, in a trailer, over TLS, in multipart uploads."""

import base64
import hashlib
import shutil
import subprocess
import zlib

import pytest
from awscrt import checksums

import wire
from test_boto3_objects import refused

MIB = 1 << 20
ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]


def value(algorithm, data):
    """The checksum as S3 writes it: base64 of the big-endian digest."""
    raw = {
        "CRC32": lambda: zlib.crc32(data).to_bytes(4),
        "CRC32C": lambda: checksums.crc32c(data).to_bytes(4),
        "CRC64NVME": lambda: checksums.crc64nvme(data).to_bytes(8),
        "SHA1": lambda: hashlib.sha1(data).digest(),
        "SHA256": lambda: hashlib.sha256(data).digest(),
    }[algorithm]()
    return base64.b64encode(raw).decode()


def composite(algorithm, parts):
    """The checksum of the parts' checksums, and how many parts there were."""
    inner = b"".join(base64.b64decode(value(algorithm, part)) for part in parts)
    return f"{value(algorithm, inner)}-{len(parts)}"


def header(algorithm):
    return f"x-amz-checksum-{algorithm.lower()}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_a_header(site, payload, algorithm):
    data, field = payload(100_000), f"Checksum{algorithm}"
    put = site.put("k", data, ChecksumAlgorithm=algorithm)
    assert put[field] == value(algorithm, data)
    assert put["ChecksumType"] == "FULL_OBJECT"
    head = site.head("k", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (value(algorithm, data), "FULL_OBJECT")
    assert field not in site.server.client(
        response_checksum_validation="when_required").head_object(Bucket="demo", Key="k")
    got = site.get("k", ChecksumMode="ENABLED")
    assert got[field] == value(algorithm, data)
    assert got["Body"].read() == data, "botocore verifies what it reads"
    partial = site.get("k", ChecksumMode="ENABLED", Range="bytes=0-9")
    assert field not in partial, "a checksum of the whole would not fit the part"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_given_values_are_verified(site, algorithm):
    field = f"Checksum{algorithm}"
    site.put("k", b"right", **{field: value(algorithm, b"right")})
    assert refused(site.put, key="k", body=b"wrong",
                   **{field: value(algorithm, b"right")})[:2] == (400, "BadDigest")
    assert site.read("k") == b"right"
    status, code, _ = refused(site.put, key="k", body=b"x", **{field: "bm90IG9uZQ"})
    assert (status, code) == (400, "InvalidRequest")


def test_the_default_is_crc32_and_the_listing_names_it(site):
    assert site.put("k", b"data")["ChecksumCRC32"] == value("CRC32", b"data")
    entry = site.s3.list_objects_v2(Bucket="demo")["Contents"][0]
    assert entry["ChecksumAlgorithm"] == ["CRC32"] and entry["ChecksumType"] == "FULL_OBJECT"


def test_an_upload_without_any(site):
    quiet = site.server.client(request_checksum_calculation="when_required")
    quiet.put_object(Bucket="demo", Key="k", Body=b"data")
    assert site.read("k") == b"data"


@pytest.mark.parametrize("form", [wire.CHUNKS_UNSIGNED_TRAILER, wire.CHUNKS_SIGNED_TRAILER])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_a_trailer(site, payload, algorithm, form):
    chunks = [payload(100), payload(65536, seed=2), payload(1, seed=3)]
    data = b"".join(chunks)
    trailer = header(algorithm), value(algorithm, data)
    answer = wire.put_in_chunks(site.server, "/demo/k", chunks, form, trailer)
    assert answer.status == 200, answer.body
    assert answer.headers[header(algorithm)] == value(algorithm, data)
    head = site.head("k", ChecksumMode="ENABLED")
    assert head[f"Checksum{algorithm}"] == value(algorithm, data)
    assert "ContentEncoding" not in head, "aws-chunked is framing, not content"
    assert (site.directory / "k").read_bytes() == data

    wrong = header(algorithm), value(algorithm, b"something else")
    answer = wire.put_in_chunks(site.server, "/demo/other", chunks, form, wrong)
    assert (answer.status, answer.code) == (400, "BadDigest")
    assert site.keys() == ["k"]


def test_signed_chunks_without_a_trailer(site, payload):
    chunks = [payload(8192), payload(8192, seed=2), payload(17, seed=3)]
    answer = wire.put_in_chunks(
        site.server, "/demo/k", chunks, wire.CHUNKS_SIGNED, headers={"Content-Type": "text/x"})
    assert answer.status == 200, answer.body
    assert site.read("k") == b"".join(chunks) and site.head("k")["ContentType"] == "text/x"


@pytest.mark.parametrize("form, trailer", [
    (wire.CHUNKS_SIGNED, None),
    (wire.CHUNKS_SIGNED_TRAILER, ("x-amz-checksum-crc32", value("CRC32", b"a" * 64 + b"b" * 9))),
])
def test_a_changed_byte_in_signed_chunks_is_refused(site, form, trailer):
    def change(body):
        where = body.index(b"aaaa")
        return body[:where] + b"X" + body[where + 1:]

    answer = wire.put_in_chunks(
        site.server, "/demo/k", [b"a" * 64, b"b" * 9], form, trailer, change)
    assert (answer.status, answer.code) == (403, "SignatureDoesNotMatch")
    assert site.keys() == [] and not (site.directory / "k").exists()


@pytest.fixture
def tls(start, tmp_path):
    """(server, its certificate's file): HTTPS on a self-signed certificate for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, so there is no certificate for HTTPS")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=lobos", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-keyout", key, "-out", cert], check=True, capture_output=True)
    (tmp_path / "lobos.cfg").write_text(f"""
[server]
listen = "127.0.0.1:0"
[filesystem.buckets]
demo = "{tmp_path / 'demo'}"
[tls]
cert = "cert.pem"
key = "{key}"
""")
    return start("-c", tmp_path / "lobos.cfg"), cert


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_boto3_over_https_sends_trailers(tls, payload, algorithm):
    server, cert = tls
    s3 = server.client(f"https://127.0.0.1:{server.port}", verify=str(cert))
    sent = {}
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.update(
        (name.lower(), value) for name, value in request.headers.items()))
    data = payload(300_000)
    s3.put_object(Bucket="demo", Key="k", Body=data, ChecksumAlgorithm=algorithm)
    assert sent["x-amz-trailer"] in (header(algorithm), header(algorithm).encode())
    got = s3.get_object(Bucket="demo", Key="k", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] == value(algorithm, data)
    assert got["Body"].read() == data


@pytest.mark.parametrize("algorithm, kind", [
    ("CRC32", "COMPOSITE"), ("CRC32C", "COMPOSITE"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE"),
    ("CRC32", "FULL_OBJECT"), ("CRC32C", "FULL_OBJECT"), ("CRC64NVME", "FULL_OBJECT"),
])
@pytest.mark.parametrize("explicit", [True, False], ids=["type-named", "type-by-default"])
def test_multipart(site, payload, algorithm, kind, explicit):
    if not explicit and kind == "FULL_OBJECT" and algorithm != "CRC64NVME":
        kind = "COMPOSITE"
    named = {"ChecksumType": kind} if explicit else {}
    target, field = {"Bucket": "demo", "Key": "big"}, f"Checksum{algorithm}"
    parts = [payload(5 * MIB), payload(6 * MIB, seed=2), payload(1000, seed=3)]
    whole = b"".join(parts)
    upload = site.s3.create_multipart_upload(**target, ChecksumAlgorithm=algorithm, **named)
    assert upload["ChecksumAlgorithm"] == algorithm and upload["ChecksumType"] == kind
    listed = []
    for number, part in enumerate(parts, 1):
        done = site.s3.upload_part(**target, UploadId=upload["UploadId"], PartNumber=number,
                                   Body=part, ChecksumAlgorithm=algorithm)
        assert done[field] == value(algorithm, part)
        listed.append({"PartNumber": number, "ETag": done["ETag"], field: done[field]})
    page = site.s3.list_parts(**target, UploadId=upload["UploadId"])
    assert [part[field] for part in page["Parts"]] == [part[field] for part in listed]
    assert page["ChecksumAlgorithm"] == algorithm and page["ChecksumType"] == kind
    expected = value(algorithm, whole) if kind == "FULL_OBJECT" else composite(algorithm, parts)
    given = {field: expected, "ChecksumType": kind} if explicit else {}
    done = site.s3.complete_multipart_upload(
        **target, UploadId=upload["UploadId"], MultipartUpload={"Parts": listed}, **given)
    assert (done[field], done["ChecksumType"]) == (expected, kind)
    head = site.head("big", ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (expected, kind)
    assert site.read("big") == whole


def test_a_wrong_full_object_checksum_at_completion_is_refused(site):
    target = {"Bucket": "demo", "Key": "big"}
    upload = site.s3.create_multipart_upload(
        **target, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")["UploadId"]
    part = site.s3.upload_part(**target, UploadId=upload, PartNumber=1, Body=b"data",
                               ChecksumAlgorithm="CRC64NVME")
    done = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    wrong = value("CRC64NVME", b"other")
    assert refused(
        site.s3.complete_multipart_upload, **target, UploadId=upload, MultipartUpload=done,
        ChecksumCRC64NVME=wrong)[:2] == (400, "BadDigest")
    site.s3.complete_multipart_upload(**target, UploadId=upload, MultipartUpload=done,
                                      ChecksumCRC64NVME=value("CRC64NVME", b"data"))
    assert site.read("big") == b"data"


def test_full_object_needs_a_crc(site):
    for algorithm in ("SHA1", "SHA256"):
        assert refused(
            site.s3.create_multipart_upload, Bucket="demo", Key="k", ChecksumAlgorithm=algorithm,
            ChecksumType="FULL_OBJECT")[:2] == (400, "InvalidRequest")
    assert refused(
        site.s3.create_multipart_upload, Bucket="demo", Key="k", ChecksumAlgorithm="CRC64NVME",
        ChecksumType="COMPOSITE")[:2] == (400, "InvalidRequest")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_copy_keeps_or_makes_checksums(site, payload, algorithm):
    data, field = payload(10_000), f"Checksum{algorithm}"
    site.put("source", data, ChecksumAlgorithm=algorithm)
    site.s3.copy_object(Bucket="demo", Key="kept", CopySource="demo/source")
    assert site.head("kept", ChecksumMode="ENABLED")[field] == value(algorithm, data)
    (site.directory / "file").write_bytes(data)
    made = site.s3.copy_object(
        Bucket="demo", Key="made", CopySource="demo/file", ChecksumAlgorithm=algorithm)
    assert made["CopyObjectResult"][field] == value(algorithm, data)
    assert site.head("made", ChecksumMode="ENABLED")[field] == value(algorithm, data)


def test_delete_objects_with_each_algorithm(site):
    for algorithm in ALGORITHMS:
        site.put(algorithm, b"x")
        site.s3.delete_objects(Bucket="demo", ChecksumAlgorithm=algorithm,
                               Delete={"Objects": [{"Key": algorithm}]})
    assert site.keys() == []
