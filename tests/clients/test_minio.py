"""The MinIO SDKs: minio-py itself, and what minio-go puts on the wire."""

import base64
import io
import urllib.request
from datetime import timedelta

import pytest
from awscrt import checksums
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

import wire

MIB = 1 << 20


@pytest.fixture
def client(rooted):
    return Minio(f"127.0.0.1:{rooted.server.port}", access_key=rooted.server.access_key,
                 secret_key=rooted.server.secret_key, secure=False)


def test_buckets_and_objects(rooted, client, payload, tmp_path):
    client.make_bucket("second")
    assert client.bucket_exists("second") and not client.bucket_exists("third")
    assert [bucket.name for bucket in client.list_buckets()] == rooted.buckets("second")
    large = payload(12 * MIB)
    client.put_object("second", "a/ü+ b", io.BytesIO(large), len(large), part_size=5 * MIB,
                      metadata={"one": "1"})
    client.put_object("second", "unknown", io.BytesIO(b"of no known length"), -1,
                      part_size=5 * MIB)
    assert (rooted.directory.parent / "second" / "a" / "ü+ b").read_bytes() == large
    client.fget_object("second", "a/ü+ b", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == large
    part = client.get_object("second", "a/ü+ b", offset=5 * MIB, length=100)
    assert part.read() == large[5 * MIB:5 * MIB + 100]
    part.close()
    part.release_conn()
    stat = client.stat_object("second", "a/ü+ b")
    assert stat.size == len(large) and stat.metadata["x-amz-meta-one"] == "1"
    client.copy_object("demo", "copy", CopySource("second", "a/ü+ b"))
    assert (rooted.directory / "copy").read_bytes() == large
    names = [entry.object_name for entry in client.list_objects("second", recursive=True)]
    assert names == ["a/ü+ b", "unknown"]
    assert list(client.remove_objects("second", [DeleteObject(name) for name in names])) == []
    client.remove_bucket("second")
    with pytest.raises(S3Error) as missing:
        client.stat_object("demo", "missing")
    assert missing.value.code == "NoSuchKey"


def test_presigned_urls(rooted, client):
    rooted.put("a b", b"signed")
    made = client.presigned_get_object("demo", "a b", expires=timedelta(minutes=1))
    with urllib.request.urlopen(made, timeout=20) as reply:
        assert reply.read() == b"signed"


def test_metadata_in_raw_utf_8_is_signed_and_kept(site):
    """minio-go sends and signs `x-amz-meta-*` as it was given, without any encoding."""
    sent = {"x-amz-meta-name": "grüße 文書"}
    assert wire.signed(site.server, "PUT", "/demo/k", headers=sent, body=b"x").status == 200
    got = wire.signed(site.server, "GET", "/demo/k")
    assert got.body == b"x"
    assert got.headers["x-amz-meta-name"].encode("latin-1").decode() == "grüße 文書"


def test_a_signed_crc32c_trailer(site, payload):
    """minio-go's default for uploads over plain HTTP."""
    chunks = [payload(65536), payload(100, seed=2)]
    value = checksums.crc32c(b"".join(chunks)).to_bytes(4)
    trailer = "x-amz-checksum-crc32c", base64.b64encode(value).decode()
    answer = wire.put_in_chunks(
        site.server, "/demo/k", chunks, wire.CHUNKS_SIGNED_TRAILER, trailer)
    assert answer.status == 200, answer.body
    assert site.read("k") == b"".join(chunks)
