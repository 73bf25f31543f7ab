"""A cache of models as Hugging Face lays it out: snapshots are links into a store of blobs."""

import os

import pytest

from model import bytes_of, etag_of

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(bucket):
    model = bucket / "models--x--y"
    (model / "blobs").mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(REVISION)
    snapshot = model / "snapshots" / REVISION
    (snapshot / "nested").mkdir(parents=True)
    for number, name in enumerate(["config.json", "model.safetensors", "nested/vocab.txt"]):
        blob = f"{number:064x}"
        (model / "blobs" / blob).write_bytes(bytes_of(number, 200_000 * number + 17))
        up = "../../../" if "/" in name else "../../"
        (snapshot / name).symlink_to(f"{up}blobs/{blob}")
    return bucket


def at(name):
    return f"models--x--y/snapshots/{REVISION}/{name}"


def test_p18_a_model_cache_is_read_and_listed(serve, cache):
    client = serve(cache).client()
    for number, name in enumerate(["config.json", "model.safetensors", "nested/vocab.txt"]):
        body = bytes_of(number, 200_000 * number + 17)
        assert client.get(at(name)).body == body
        part = client.ask("GET", at(name), "", {"Range": "bytes=5-9"})
        assert (part.status, part.body) == (206, body[5:10])
        head = client.ask("HEAD", at(name))
        assert (head.status, int(head.headers["Content-Length"])) == (200, len(body))
        assert client.get(f"models--x--y/blobs/{number:064x}").body == body
    assert client.get(at("config.json")).headers["Content-Type"] == "application/json"
    assert client.keys() == sorted(
        [f"models--x--y/blobs/{number:064x}" for number in range(3)] + ["models--x--y/refs/main"]
        + [at(name) for name in ["config.json", "model.safetensors", "nested/vocab.txt"]])
    assert not (cache / ".lobos").exists(), "reading created something"


def test_p18_links_that_leave_the_bucket_do_not_exist(serve, cache, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"secret")
    client = serve(cache).client()
    assert client.put("made", b"1").status == 200
    before = client.keys()
    names = {"absolute": secret, "upwards": "../../../../../secret", "into-ours": "../../../.lobos/lock",
             "absolute-inside": cache / "models--x--y" / "refs" / "main", "dangling": "nowhere",
             "loop": "loop", "directory": "../../blobs", "proc": "/proc/self/environ",
             "linked-directory": tmp_path / "outside"}
    for name, target in names.items():
        (cache / at(name)).symlink_to(target)
    reachable = {"absolute-inside"}
    for name in set(names) - reachable:
        for method in ["GET", "HEAD"]:
            assert client.ask(method, at(name)).status == 404, name
    for key in ["linked-directory/file", f"directory/{0:064x}"]:
        assert client.get(at(key)).status == 404, key
    assert set(client.keys()) - set(before) <= {at(name) for name in reachable}
    assert b"secret" not in client.ask("GET", "", "list-type=2").body


def test_p18_put_and_delete_replace_the_link_and_never_its_target(serve, cache, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (cache / at("escape")).symlink_to(outside)
    client = serve(cache).client()
    blobs = cache / "models--x--y" / "blobs"
    before = {blob.name: blob.read_bytes() for blob in blobs.iterdir()}
    assert client.put(at("config.json"), b"new").status == 200
    assert client.put(at("escape"), b"mine").status == 200
    assert client.delete(at("model.safetensors")).status == 204
    described = client.put(at("nested/vocab.txt"), b"", {
        "x-amz-copy-source": f"/data/{at('nested/vocab.txt')}",
        "x-amz-metadata-directive": "REPLACE", "x-amz-meta-tag": "t"})
    assert described.status == 200, described
    assert {blob.name: blob.read_bytes() for blob in blobs.iterdir()} == before
    assert outside.read_bytes() == b"theirs"
    snapshot = cache / "models--x--y" / "snapshots" / REVISION
    assert not (snapshot / "config.json").is_symlink()
    assert client.get(at("config.json")).body == b"new"
    assert client.get(at("escape")).body == b"mine"
    assert not os.path.lexists(snapshot / "model.safetensors")
    answer = client.get(at("nested/vocab.txt"))
    assert (answer.body, answer.headers["x-amz-meta-tag"]) == (bytes_of(2, 400_017), "t")
    # The blob itself has no new metadata: other snapshots use it.
    assert client.get(f"models--x--y/blobs/{2:064x}").headers.get("x-amz-meta-tag") is None
    assert etag_of(b"new") == client.get(at("config.json")).headers["ETag"]


def test_p18_a_dangling_link_can_be_overwritten_and_deleted(serve, cache):
    client = serve(cache).client()
    for name in ["one", "two"]:
        (cache / at(name)).symlink_to("nowhere")
    assert client.put(at("one"), b"1").status == 200
    assert client.get(at("one")).body == b"1"
    assert client.delete(at("two")).status == 204
    assert not os.path.lexists(cache / at("two"))
