"""The object_store crate (Delta Lake, DataFusion, Polars), through its Python binding."""

import obstore
import pytest
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

MIB = 1 << 20


@pytest.fixture
def store(site):
    return S3Store(
        "demo", endpoint=site.server.endpoint, access_key_id=site.server.access_key,
        secret_access_key=site.server.secret_key, region="us-east-1",
        client_options={"allow_http": True}, retry_config={"max_retries": 0})


def test_objects_come_back_whole_and_in_ranges(site, store, payload):
    large = payload(12 * MIB)
    for key, data in (("empty", b""), ("a/ü @+%41.txt", b"odd name"), ("large", large)):
        obstore.put(store, key, data)
        assert bytes(obstore.get(store, key).bytes()) == data
        assert obstore.head(store, key)["size"] == len(data)
    assert site.head("large")["ETag"].endswith('-3"'), "in parts of 5 MiB"
    starts = [0, 5 * MIB, 12 * MIB - 10]
    ranges = obstore.get_ranges(store, "large", starts=starts, lengths=[10] * 3)
    assert [bytes(piece) for piece in ranges] == [large[at:at + 10] for at in starts]
    names = [entry["path"] for page in obstore.list(store) for entry in page]
    assert sorted(names) == ["a/ü @+%41.txt", "empty", "large"]
    obstore.copy(store, "large", "copy")
    assert (site.directory / "copy").read_bytes() == large
    obstore.delete(store, names + ["copy"])
    assert site.keys() == []
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "large")


def test_a_commit_is_made_once(site, store):
    """Delta Lake writes each log entry with `If-None-Match: *` and takes 412 for a conflict."""
    entry = "_delta_log/00000000000000000001.json"
    obstore.put(store, entry, b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, entry, b"second", mode="create")
    assert site.read(entry) == b"first"


def test_an_update_names_the_version_it_replaces(site, store):
    first = obstore.put(store, "k", b"first")
    obstore.put(store, "k", b"second", mode={"e_tag": first["e_tag"]})
    with pytest.raises(PreconditionError):
        obstore.put(store, "k", b"third", mode={"e_tag": first["e_tag"]})
    assert site.read("k") == b"second"
