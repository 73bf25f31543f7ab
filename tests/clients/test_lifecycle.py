"""Lifecycle rules through boto3: what is taken, what is told, and what is removed, with short days."""

import datetime
import email.utils
import re
import time
import urllib.request

import pytest

import test_boto3_objects
import test_sse_c

# One case waits for several short days; nothing here depends on how short they are.
WAIT_SECONDS_MAX = 30
STAY_SECONDS = 1.5


def refused(call, **arguments):
    """(status, code) of a call that must fail."""
    return test_boto3_objects.refused(call, **arguments)[:2]


def rule(name="rule", prefix=None, status="Enabled", filter=None, **actions):
    filter = {"Prefix": prefix or ""} if filter is None else filter
    return {"ID": name, "Status": status, "Filter": filter} | actions


def put(s3, *rules, bucket="demo"):
    s3.put_bucket_lifecycle_configuration(
        Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def get(s3, bucket="demo"):
    return s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]


def until(holds, what):
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_rules_are_what_was_put_until_they_are_deleted(rooted):
    s3 = rooted.s3
    missing = (404, "NoSuchLifecycleConfiguration")
    assert refused(get, s3=s3) == missing
    s3.delete_bucket_lifecycle(Bucket="demo")
    rules = [
        {"ID": "old", "Status": "Enabled", "Prefix": "old/", "Expiration": {"Days": 31}},
        rule("all", filter={}, Expiration={"ExpiredObjectDeleteMarker": True},
             AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7}),
        rule("both", status="Disabled", filter={"And": {
            "Prefix": "é&/", "Tags": [{"Key": "k", "Value": "v"}, {"Key": "a", "Value": ""}],
            "ObjectSizeGreaterThan": 10, "ObjectSizeLessThan": 1000}},
            NoncurrentVersionExpiration={"NoncurrentDays": 3, "NewerNoncurrentVersions": 2}),
        rule("date", filter={"Tag": {"Key": "k", "Value": "v"}}, Expiration={
            "Date": datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)}),
    ]
    put(s3, *rules)
    assert get(s3) == rules
    put(s3, {"Status": "Enabled", "Filter": {}, "Expiration": {"Days": 1}})
    assert len(get(s3)) == 1 and get(s3)[0]["ID"]
    s3.delete_bucket_lifecycle(Bucket="demo")
    assert refused(get, s3=s3) == missing


@pytest.mark.parametrize("rules, code", [
    ([rule(Expiration={"Days": 0})], "InvalidArgument"),
    ([rule(Expiration={"Date": datetime.datetime(2030, 1, 1, 5)})], "InvalidArgument"),
    ([rule("i" * 256, Expiration={"Days": 1})], "InvalidArgument"),
    ([rule(Expiration={"Days": 1}), rule(Expiration={"Days": 2})], "InvalidArgument"),
    ([rule(status="enabled", Expiration={"Days": 1})], "MalformedXML"),
    ([rule()], "InvalidRequest"),
    ([rule(filter={"Tag": {"Key": "k", "Value": "v"}},
           AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1})], "InvalidRequest"),
    ([rule(Transitions=[{"Days": 1, "StorageClass": "GLACIER"}])], "InvalidStorageClass"),
    ([rule(NoncurrentVersionTransitions=[{"NoncurrentDays": 1, "StorageClass": "GLACIER"}])],
     "InvalidStorageClass"),
    ([rule(str(n), Expiration={"Days": 1}) for n in range(1001)], "MalformedXML"),
])
def test_rules_that_make_no_sense_are_refused(rooted, rules, code):
    put(rooted.s3, rule("before", Expiration={"Days": 1}))
    answer = refused(rooted.s3.put_bucket_lifecycle_configuration, Bucket="demo",
                     LifecycleConfiguration={"Rules": rules})
    assert answer == (400, code)
    assert [each["ID"] for each in get(rooted.s3)] == ["before"]


def test_replies_tell_when_an_object_ends(rooted):
    s3 = rooted.s3
    s3.put_bucket_versioning(Bucket="demo", VersioningConfiguration={"Status": "Enabled"})
    assert "Expiration" not in rooted.put("dir/k", b"one")
    put(s3, rule("in three", "dir/", Expiration={"Days": 3}),
        rule("later", Expiration={"Days": 300}),
        rule("ups", "dir/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 2}))
    first = rooted.put("dir/k", b"two")["VersionId"]

    def ends(answer):
        date, name = re.fullmatch(r'expiry-date="(.*)", rule-id="(.*)"', answer["Expiration"]).groups()
        return email.utils.parsedate_to_datetime(date), name

    now = datetime.datetime.now(datetime.UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(days=4)
    upload = {"Bucket": "demo", "Key": "dir/up"}
    opened = s3.create_multipart_upload(**upload)
    assert (opened["AbortDate"], opened["AbortRuleId"]) == (
        midnight - datetime.timedelta(days=1), "ups")
    part = s3.upload_part(**upload, UploadId=opened["UploadId"], PartNumber=1, Body=b"x")
    answers = [
        rooted.put("dir/k", b"three"), rooted.head("dir/k"), rooted.get("dir/k"),
        s3.copy_object(Bucket="demo", Key="dir/copy", CopySource="demo/dir/k"),
        s3.complete_multipart_upload(**upload, UploadId=opened["UploadId"], MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}),
    ]
    for answer in answers:
        assert ends(answer) == (midnight, "in%20three")
    assert ends(rooted.put("other", b"x"))[1] == "later"
    # A version that is not current ends by other rules.
    assert "Expiration" not in rooted.head("dir/k", VersionId=first)


@pytest.fixture
def short(start, tmp_path):
    """`short()`: a server whose lifecycle days are a second, on one directory; again and again."""
    config = ('[server]\nlisten = "127.0.0.1:0"\n[filesystem]\nroot = "buckets"\n'
              '[control]\nenabled = false\n[metrics]\nlisten = "127.0.0.1:0"\n'
              '[lifecycle]\nday = "1s"\n')
    (tmp_path / "lobos.cfg").write_text(config)
    state = ["--state-dir", tmp_path / "state"]

    def short():
        server = start("-c", tmp_path / "lobos.cfg", *state)
        return server, server.client()

    return short


def versions(s3, bucket="demo"):
    """Keys of versions and of markers, in order."""
    answer = s3.list_object_versions(Bucket=bucket)
    return ([each["Key"] for each in answer.get("Versions", [])],
            [each["Key"] for each in answer.get("DeleteMarkers", [])])


def keys(s3, bucket="demo"):
    return [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]


def removed(server):
    """What the metrics say was removed, by kind."""
    url = re.search(r"^metrics: (http://\S+/metrics)$", server.printed(), re.MULTILINE)[1]
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r'^lobos_lifecycle_removed_total\{kind="(\w+)"\} (\d+)$', text, re.MULTILINE)
    return {kind: int(count) for kind, count in found}


def test_what_rules_end_is_removed_and_nothing_else(short):
    server, s3 = short()
    s3.create_bucket(Bucket="demo")
    for key in ("log/a", "log/deep/b", "keep/a", "big", "tagged", "up/other"):
        tags = "k=v" if key == "tagged" else ""
        body = b"x" * (5000 if key == "big" else 5)
        s3.put_object(Bucket="demo", Key=key, Body=body, Tagging=tags)
    s3.put_object(Bucket="demo", Key="log/sealed", Body=b"s", **test_sse_c.sse())
    uploads = {key: s3.create_multipart_upload(Bucket="demo", Key=key)["UploadId"]
               for key in ("up/a", "keep/b")}
    put(s3, rule("logs", "log/", Expiration={"Days": 1}),
        rule("off", "keep/", status="Disabled", Expiration={"Days": 1}),
        rule("far", "keep/", Expiration={"Days": 1000000}),
        rule("big", filter={"ObjectSizeGreaterThan": 4000}, Expiration={"Days": 1}),
        rule("tag", filter={"Tag": {"Key": "k", "Value": "v"}}, Expiration={
            "Date": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}),
        rule("ups", "up/", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 1}))
    until(lambda: keys(s3) == ["keep/a", "up/other"], "what should expire stays")
    listed = lambda: s3.list_multipart_uploads(Bucket="demo").get("Uploads", [])
    until(lambda: [each["UploadId"] for each in listed()] == [uploads["keep/b"]], "the upload stays")
    # An object that is put again is a new one.
    s3.put_object(Bucket="demo", Key="log/a", Body=b"again")
    until(lambda: keys(s3) == ["keep/a", "up/other"], "what was put again stays")
    assert removed(server) == {"expired": 6, "noncurrent": 0, "marker": 0, "upload": 1}
    s3.delete_bucket_lifecycle(Bucket="demo")
    s3.put_object(Bucket="demo", Key="log/a", Body=b"stays")
    time.sleep(STAY_SECONDS)
    assert keys(s3) == ["keep/a", "log/a", "up/other"]


def test_versions_end_behind_newer_ones_and_markers_last(short):
    server, s3 = short()
    s3.create_bucket(Bucket="demo", ObjectLockEnabledForBucket=True)
    write = lambda key, **more: s3.put_object(Bucket="demo", Key=key, Body=b"x", **more)
    for _ in range(6):
        write("kept")
    ids = [write("locked", ObjectLockLegalHoldStatus="ON")["VersionId"] for _ in range(2)]
    write("gone")
    s3.delete_object(Bucket="demo", Key="gone")
    write("expires")
    put(s3, rule("old", NoncurrentVersionExpiration={
            "NoncurrentDays": 1, "NewerNoncurrentVersions": 2}, filter={"Prefix": "kept"}),
        rule("behind", "gone", NoncurrentVersionExpiration={"NoncurrentDays": 1},
             Expiration={"ExpiredObjectDeleteMarker": True}),
        rule("locks", "locked", NoncurrentVersionExpiration={"NoncurrentDays": 1}),
        rule("now", "expires", Expiration={"Days": 1}))
    expected = (["expires", "kept", "kept", "kept", "locked", "locked"], ["expires"])
    until(lambda: versions(s3) == expected, "versions do not end")
    counts = removed(server)
    assert counts == {"expired": 1, "noncurrent": 4, "marker": 1, "upload": 0}
    time.sleep(STAY_SECONDS)
    assert versions(s3) == expected and removed(server) == counts
    # What is locked goes when it is not any more.
    s3.put_object_legal_hold(Bucket="demo", Key="locked", VersionId=ids[0], LegalHold={"Status": "OFF"})
    until(lambda: versions(s3)[0].count("locked") == 1, "what was locked stays")


def test_rules_hold_after_a_restart_and_for_several_processes(short):
    server, s3 = short()
    s3.create_bucket(Bucket="demo")
    s3.put_bucket_versioning(Bucket="demo", VersioningConfiguration={"Status": "Enabled"})
    put(s3, rule(Expiration={"Days": 2}))
    server.stop()
    servers = [short() for _ in range(2)]
    for n in range(20):
        servers[n % 2][1].put_object(Bucket="demo", Key=f"{n:02}", Body=b"x")
    s3 = servers[0][1]
    until(lambda: not keys(s3), "what should expire stays")
    # Each was removed once: one marker before one version.
    names = [f"{n:02}" for n in range(20)]
    assert versions(s3) == (names, names)
    assert sum(removed(server)["expired"] for server, _ in servers) == 20
