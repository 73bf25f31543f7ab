"""ListObjects in both versions: order, pages, delimiters, encodings."""

import pytest

import wire

TREE = ["a", "a/b", "a-b", "a/b/c", "b/1", "b/2", "b/deep/3", "c", "z/"]


@pytest.fixture
def tree(site):
    for key in TREE:
        site.put(key, key.encode())
    return site


def test_keys_come_in_byte_order(tree):
    assert tree.keys() == sorted(TREE, key=str.encode)


def test_order_is_by_utf8_bytes_not_by_utf16(site):
    keys = ["\U00010000", "\uffff", "ä", "z", "Z", "\u0800"]
    for key in keys:
        site.put(key)
    assert site.keys() == sorted(keys, key=str.encode)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("version", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("more", [{}, {"Delimiter": "/"}, {"Prefix": "b/"},
                                  {"Prefix": "a", "Delimiter": "/"}])
def test_pages_add_up(tree, version, size, more):
    found, prefixes = [], []
    pages = tree.s3.get_paginator(version).paginate(
        Bucket="demo", PaginationConfig={"PageSize": size}, **more)
    for page in pages:
        entries = page.get("Contents", []), page.get("CommonPrefixes", [])
        assert sum(map(len, entries)) <= size
        found += [entry["Key"] for entry in entries[0]]
        prefixes += [entry["Prefix"] for entry in entries[1]]
    expected, common = model(sorted(TREE, key=str.encode), more.get("Prefix", ""),
                             more.get("Delimiter"))
    assert (found, prefixes) == (expected, common)


def model(keys, prefix, delimiter):
    """What a listing is, by its definition."""
    found, common = [], []
    for key in keys:
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix):]
        if delimiter and delimiter in rest:
            group = prefix + rest.split(delimiter)[0] + delimiter
            if group not in common:
                common.append(group)
        else:
            found.append(key)
    return found, common


def test_fields_of_v2(tree):
    page = tree.s3.list_objects_v2(Bucket="demo", MaxKeys=2, Delimiter="/", FetchOwner=True)
    assert page["Name"] == "demo" and page["Prefix"] == "" and page["Delimiter"] == "/"
    assert page["MaxKeys"] == 2 and page["KeyCount"] == 2 and page["IsTruncated"]
    assert page["NextContinuationToken"]
    entry = page["Contents"][0]
    head = tree.head(entry["Key"])
    # A header has whole seconds only.
    modified = entry["LastModified"].replace(microsecond=0)
    assert (entry["ETag"], entry["Size"], modified, entry["StorageClass"]) == (
        head["ETag"], head["ContentLength"], head["LastModified"], "STANDARD")
    assert entry["Owner"]["ID"]
    without = tree.s3.list_objects_v2(Bucket="demo", MaxKeys=1)
    assert "Owner" not in without["Contents"][0]


def test_fields_of_v1(tree):
    page = tree.s3.list_objects(Bucket="demo", MaxKeys=2)
    assert page["IsTruncated"] and page["Marker"] == ""
    assert page["Contents"][0]["Owner"]["ID"]
    assert "NextMarker" not in page, "S3 sends NextMarker only with a delimiter"
    grouped = tree.s3.list_objects(Bucket="demo", MaxKeys=3, Delimiter="/")
    assert grouped["NextMarker"] == "a/"
    rest = tree.s3.list_objects(Bucket="demo", Delimiter="/", Marker=grouped["NextMarker"])
    assert [e["Key"] for e in rest["Contents"]] == ["c"]
    assert [e["Prefix"] for e in rest["CommonPrefixes"]] == ["b/", "z/"]


def test_start_after_and_marker_need_not_exist(tree):
    after = tree.s3.list_objects_v2(Bucket="demo", StartAfter="b/1x")
    assert [e["Key"] for e in after["Contents"]] == ["b/2", "b/deep/3", "c", "z/"]
    assert after["StartAfter"] == "b/1x"
    marker = tree.s3.list_objects(Bucket="demo", Marker="b/deep")
    assert [e["Key"] for e in marker["Contents"]] == ["b/deep/3", "c", "z/"]


def test_max_keys_zero_and_above_a_thousand(tree):
    nothing = tree.s3.list_objects_v2(Bucket="demo", MaxKeys=0)
    assert nothing["KeyCount"] == 0 and not nothing["IsTruncated"] and "Contents" not in nothing
    assert tree.s3.list_objects_v2(Bucket="demo", MaxKeys=5000)["MaxKeys"] == 1000


@pytest.mark.parametrize("wrong", ["-1", "x", "99999999999999999999"])
def test_max_keys_that_is_no_number(site, wrong):
    answer = wire.signed(site.server, "GET", "/demo", f"list-type=2&max-keys={wrong}")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_more_than_a_page(site):
    directory = site.directory / "many"
    directory.mkdir()
    names = [f"{n:05}" for n in range(2345)]
    for name in names:
        (directory / name).touch()
    page = site.s3.list_objects_v2(Bucket="demo", Prefix="many/")
    assert page["KeyCount"] == 1000 and page["IsTruncated"]
    assert site.keys(Prefix="many/") == [f"many/{name}" for name in names]


def test_other_delimiters(site):
    for key in ("x--1", "x--2", "x-3", "y"):
        site.put(key)
    page = site.s3.list_objects_v2(Bucket="demo", Delimiter="--")
    assert [e["Prefix"] for e in page["CommonPrefixes"]] == ["x--"]
    assert [e["Key"] for e in page["Contents"]] == ["x-3", "y"]


def test_empty_directories(site):
    (site.directory / "by-hand").mkdir()
    (site.directory / "by-hand" / "inner").mkdir()
    page = site.s3.list_objects_v2(Bucket="demo", Delimiter="/")
    assert [e["Prefix"] for e in page["CommonPrefixes"]] == ["by-hand/"]
    assert "Contents" not in page
    assert site.keys() == []


def test_encoding_type_url(site):
    for key in ("a b+c/ü", "a b+d", "plain"):
        site.put(key)
    answer = wire.signed(
        site.server, "GET", "/demo", "delimiter=%2F&encoding-type=url&list-type=2&prefix=a%20b")
    assert answer.status == 200
    assert b"<EncodingType>url</EncodingType>" in answer.body
    assert b"<Prefix>a%20b%2Bc/</Prefix>" in answer.body
    assert b"<Key>a%20b%2Bd</Key>" in answer.body
    assert b"<Prefix>a%20b</Prefix>" in answer.body
    raw = wire.signed(site.server, "GET", "/demo", "list-type=2")
    assert "<Key>a b+c/ü</Key>".encode() in raw.body and b"EncodingType" not in raw.body


def test_lobos_own_directory_is_hidden(site):
    site.plain_files()
    site.put("a", b"1")
    site.put("a/b", b"2")
    assert (site.directory / ".lobos").is_dir(), "the second key needs the overlay"
    assert site.keys() == ["a", "a/b"]
    site.put(".lobos/tmp/x", b"a legal key all the same")
    assert site.read(".lobos/tmp/x") == b"a legal key all the same"
    assert not (site.directory / ".lobos" / "tmp" / "x").exists()
    assert site.keys() == [".lobos/tmp/x", "a", "a/b"]


def test_an_empty_continuation_token_is_the_first_page(site):
    site.put("a")
    page = site.s3.list_objects_v2(Bucket="demo", ContinuationToken="")
    assert [entry["Key"] for entry in page["Contents"]] == ["a"]
    assert page["ContinuationToken"] == ""
