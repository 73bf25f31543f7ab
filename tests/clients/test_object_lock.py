"""Object lock through boto3: retention, legal holds, defaults, who may bypass, and what stays possible."""

import datetime
import json
import os

import pytest

import test_boto3_objects

DENIED = (403, "AccessDenied")
FAR = datetime.datetime(2035, 1, 1, tzinfo=datetime.UTC)
FARTHER = datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def locked(start, tmp_path):
    """A bucket `demo` that has locks, of ann's; bob may do everything there but bypass. And a bucket
    `plain` of ann's without locks."""
    config = '[server]\nlisten = "127.0.0.1:0"\n[filesystem]\nroot = "buckets"\n'
    for name in ("ann", "bob"):
        config += f'[[auth.user]]\nname = "{name}"\nid = "id-{name}"\n'
        config += f'access_key = "{name}accesskey"\nsecret_key = "secret-of-{name}"\n'
    (tmp_path / "lobos.cfg").write_text(config)
    server = start("-c", tmp_path / "lobos.cfg")
    return Place(server, tmp_path / "buckets")


class Place:
    def __init__(self, server, root):
        self.directory = root / "demo"
        clients = [server.client(access_key=f"{name}accesskey", secret_key=f"secret-of-{name}")
                   for name in ("ann", "bob")]
        self.ann, self.bob = clients
        self.ann.create_bucket(Bucket="demo", ObjectLockEnabledForBucket=True)
        self.ann.create_bucket(Bucket="plain")
        self.allow("s3:*")

    def allow(self, action):
        """What bob may do in `demo`: that, but never bypass."""
        statements = [
            {"Effect": "Allow", "Principal": {"AWS": "id-bob"}, "Action": action,
             "Resource": ["arn:aws:s3:::demo", "arn:aws:s3:::demo/*"]},
            {"Effect": "Deny", "Principal": {"AWS": "id-bob"},
             "Action": "s3:BypassGovernanceRetention", "Resource": "arn:aws:s3:::demo/*"}]
        self.ann.put_bucket_policy(Bucket="demo", Policy=json.dumps(
            {"Version": "2012-10-17", "Statement": statements}))

    def put(self, key, body=b"kept", **more):
        return self.ann.put_object(Bucket="demo", Key=key, Body=body, **more)["VersionId"]

    def head(self, key, **more):
        return self.ann.head_object(Bucket="demo", Key=key, **more)


def refused(call, **arguments):
    """(status, code) of a call that must fail."""
    return test_boto3_objects.refused(call, **arguments)[:2]


def retention(mode="GOVERNANCE", until=FAR):
    return {"Mode": mode, "RetainUntilDate": until}


def headers(mode="GOVERNANCE", until=FAR):
    return {"ObjectLockMode": mode, "ObjectLockRetainUntilDate": until}


def test_a_bucket_gets_locks_for_good(locked):
    s3 = locked.ann
    get, put = s3.get_object_lock_configuration, s3.put_object_lock_configuration
    assert get(Bucket="demo")["ObjectLockConfiguration"] == {"ObjectLockEnabled": "Enabled"}
    assert s3.get_bucket_versioning(Bucket="demo")["Status"] == "Enabled"
    assert refused(s3.put_bucket_versioning, Bucket="demo",
                   VersioningConfiguration={"Status": "Suspended"}) == (409, "InvalidBucketState")
    s3.put_bucket_versioning(Bucket="demo", VersioningConfiguration={"Status": "Enabled"})
    # A bucket that was made without them gets them where it keeps versions.
    assert refused(get, Bucket="plain") == (404, "ObjectLockConfigurationNotFoundError")
    config = {"ObjectLockEnabled": "Enabled",
              "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 1}}}
    ask = {"Bucket": "plain", "ObjectLockConfiguration": config}
    assert refused(put, **ask) == (409, "InvalidBucketState")
    s3.put_bucket_versioning(Bucket="plain", VersioningConfiguration={"Status": "Enabled"})
    put(**ask)
    assert get(Bucket="plain")["ObjectLockConfiguration"] == config
    put(Bucket="plain", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"})
    assert "Rule" not in get(Bucket="plain")["ObjectLockConfiguration"]
    # Made again by its owner it stays what it is.
    s3.create_bucket(Bucket="demo", ObjectLockEnabledForBucket=True)
    s3.create_bucket(Bucket="third")
    assert refused(s3.create_bucket, Bucket="third", ObjectLockEnabledForBucket=True) == (
        409, "BucketAlreadyExists")


def test_a_bucket_without_locks_refuses_them(locked):
    s3 = locked.ann
    s3.put_object(Bucket="plain", Key="k", Body=b"x")
    invalid = (400, "InvalidRequest")
    target = {"Bucket": "plain", "Key": "k"}
    assert refused(s3.put_object_retention, **target, Retention=retention()) == invalid
    assert refused(s3.get_object_retention, **target) == invalid
    assert refused(s3.put_object_legal_hold, **target, LegalHold={"Status": "ON"}) == invalid
    assert refused(s3.get_object_legal_hold, **target) == invalid
    assert refused(s3.put_object, **target, Body=b"y", **headers()) == invalid
    assert refused(s3.copy_object, **target, CopySource="plain/k", **headers()) == invalid
    assert refused(s3.create_multipart_upload, **target, **headers()) == invalid
    assert s3.get_object(**target)["Body"].read() == b"x"


def test_a_retained_version_stays_until_governance_is_bypassed(locked):
    version = locked.put("k", **headers(), ObjectLockLegalHoldStatus="ON")
    head = locked.head("k")
    assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"],
            head["ObjectLockLegalHoldStatus"]) == ("GOVERNANCE", FAR, "ON")
    target = {"Bucket": "demo", "Key": "k", "VersionId": version}
    s3 = locked.ann
    assert refused(s3.delete_object, **target) == DENIED
    assert refused(s3.delete_object, **target, BypassGovernanceRetention=True) == DENIED
    s3.put_object_legal_hold(Bucket="demo", Key="k", LegalHold={"Status": "OFF"})
    assert s3.get_object_legal_hold(**target)["LegalHold"] == {"Status": "OFF"}
    # Who may not bypass is refused, with the header and without.
    assert refused(locked.bob.delete_object, **target) == DENIED
    assert refused(locked.bob.delete_object, **target, BypassGovernanceRetention=True) == DENIED
    # A marker hides it, and goes again.
    marker = s3.delete_object(Bucket="demo", Key="k")["VersionId"]
    newer = locked.put("k", b"newer")
    for gone in (newer, marker):
        s3.delete_object(Bucket="demo", Key="k", VersionId=gone)
    assert s3.get_object(Bucket="demo", Key="k")["VersionId"] == version
    assert (locked.directory / "k").read_bytes() == b"kept"
    s3.delete_object(**target, BypassGovernanceRetention=True)
    assert not (locked.directory / "k").exists()


def test_many_are_deleted_but_those_that_are_locked(locked):
    locks = {"a": headers(), "b": {}, "c": {"ObjectLockLegalHoldStatus": "ON"}}
    wanted = [{"Key": key, "VersionId": locked.put(key, **more)} for key, more in locks.items()]
    ask = {"Bucket": "demo", "Delete": {"Objects": wanted}}
    answer = locked.ann.delete_objects(**ask)
    assert [each["Key"] for each in answer["Deleted"]] == ["b"]
    assert {each["Key"]: (each["Code"], each["VersionId"]) for each in answer["Errors"]} == {
        "a": ("AccessDenied", wanted[0]["VersionId"]), "c": ("AccessDenied", wanted[2]["VersionId"])}
    answer = locked.bob.delete_objects(**ask, BypassGovernanceRetention=True)
    assert len(answer["Errors"]) == 3
    answer = locked.ann.delete_objects(**ask, BypassGovernanceRetention=True)
    assert sorted(each["Key"] for each in answer["Deleted"]) == ["a", "b"]
    assert [each["Key"] for each in answer["Errors"]] == ["c"]


def test_a_retention_is_only_made_longer(locked):
    s3, bob = locked.ann, locked.bob
    locked.put("k")
    target = {"Bucket": "demo", "Key": "k"}
    assert refused(s3.get_object_retention, **target) == (404, "NoSuchObjectLockConfiguration")
    assert refused(s3.get_object_legal_hold, **target) == (404, "NoSuchObjectLockConfiguration")
    put = s3.put_object_retention
    put(**target, Retention=retention())
    assert s3.get_object_retention(**target)["Retention"] == retention()
    put(**target, Retention=retention(until=FARTHER))
    assert refused(put, **target, Retention=retention()) == DENIED
    assert refused(put, **target, Retention=retention("COMPLIANCE", FARTHER)) == DENIED
    bypass = {"BypassGovernanceRetention": True}
    assert refused(bob.put_object_retention, **target, Retention=retention(), **bypass) == DENIED
    put(**target, Retention=retention(), **bypass)
    put(**target, Retention={}, **bypass)
    assert refused(s3.get_object_retention, **target) == (404, "NoSuchObjectLockConfiguration")
    put(**target, Retention=retention("COMPLIANCE"))
    put(**target, Retention=retention("COMPLIANCE", FARTHER))
    for shorter in (retention("COMPLIANCE"), retention("GOVERNANCE", FARTHER), {}):
        assert refused(put, **target, Retention=shorter, **bypass) == DENIED
    version = locked.head("k")["VersionId"]
    assert refused(s3.delete_object, **target, VersionId=version, **bypass) == DENIED


@pytest.mark.parametrize("said, code", [
    ({"ObjectLockMode": "GOVERNANCE"}, "InvalidArgument"),
    ({"ObjectLockRetainUntilDate": FAR}, "InvalidArgument"),
    (headers(until=datetime.datetime(2020, 1, 1)), "InvalidArgument"),
    (headers("governance"), "InvalidArgument"),
    ({"ObjectLockLegalHoldStatus": "on"}, "InvalidArgument"),
])
def test_a_lock_that_makes_no_sense_is_refused(locked, said, code):
    target = {"Bucket": "demo", "Key": "k"}
    assert refused(locked.ann.put_object, **target, Body=b"x", **said) == (400, code)
    assert refused(locked.ann.create_multipart_upload, **target, **said) == (400, code)


def test_defaults_are_for_what_says_nothing(locked):
    s3 = locked.ann
    before = locked.put("before")
    s3.put_object_lock_configuration(Bucket="demo", ObjectLockConfiguration={
        "ObjectLockEnabled": "Enabled",
        "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 2}}})
    started = datetime.datetime.now(datetime.UTC)
    locked.put("put")
    s3.copy_object(Bucket="demo", Key="copy", CopySource="demo/before")
    upload = {"Bucket": "demo", "Key": "upload"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=b"part")
    s3.complete_multipart_upload(**upload, MultipartUpload={
        "Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    for key in ("put", "copy", "upload"):
        head = locked.head(key)
        assert head["ObjectLockMode"] == "GOVERNANCE"
        left = head["ObjectLockRetainUntilDate"] - started
        assert datetime.timedelta(days=2) <= left < datetime.timedelta(days=2, minutes=1), key
    locked.put("own", **headers("COMPLIANCE"))
    assert locked.head("own")["ObjectLockRetainUntilDate"] == FAR
    # A copy has the lock that it is given, not its source's.
    s3.copy_object(Bucket="demo", Key="copied", CopySource="demo/own", **headers(until=FARTHER))
    assert locked.head("copied")["ObjectLockMode"] == "GOVERNANCE"
    assert "ObjectLockMode" not in locked.head("before", VersionId=before)


def test_locks_are_shown_to_who_may_see_them(locked):
    locked.put("k", **headers(), ObjectLockLegalHoldStatus="ON")
    locked.allow(["s3:GetObject", "s3:GetObjectRetention"])
    head = locked.bob.head_object(Bucket="demo", Key="k")
    assert head["ObjectLockMode"] == "GOVERNANCE" and "ObjectLockLegalHoldStatus" not in head
    locked.allow("s3:GetObject")
    answer = locked.bob.get_object(Bucket="demo", Key="k")
    assert not {name for name in answer if name.startswith("ObjectLock")}
    target = {"Bucket": "demo", "Key": "k"}
    assert refused(locked.bob.get_object_retention, **target) == DENIED
    assert refused(locked.bob.put_object_legal_hold, **target, LegalHold={"Status": "OFF"}) == DENIED


def test_policies_can_ask_how_long(locked):
    locked.ann.put_bucket_policy(Bucket="demo", Policy=json.dumps({
        "Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "id-bob"}, "Action": "s3:*",
             "Resource": "arn:aws:s3:::demo/*"},
            {"Effect": "Deny", "Principal": "*", "Resource": "arn:aws:s3:::demo/*",
             "Action": ["s3:PutObjectRetention", "s3:PutObject"], "Condition": {
                 "NumericGreaterThan": {"s3:object-lock-remaining-retention-days": "10"}}}]}))
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=9)
    target = {"Bucket": "demo", "Key": "k"}
    locked.bob.put_object(**target, Body=b"x", **headers(until=soon))
    assert refused(locked.bob.put_object, **target, Body=b"x", **headers()) == DENIED
    assert refused(locked.bob.put_object_retention, **target, Retention=retention()) == DENIED
    soon += datetime.timedelta(hours=1)
    locked.bob.put_object_retention(**target, Retention=retention(until=soon))


def test_headers_of_a_request_do_not_pass_for_what_its_body_says(locked):
    version = locked.put("k", **headers())
    target = {"Bucket": "demo", "Key": "k", "VersionId": version}
    locked.ann.put_bucket_policy(Bucket="demo", Policy=json.dumps({
        "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Principal": {"AWS": "id-bob"}, "Resource": "arn:aws:s3:::demo/*",
            "Action": ["s3:PutObjectRetention", "s3:BypassGovernanceRetention"],
            "Condition": {"StringEquals": {"s3:object-lock-mode": "COMPLIANCE"}}}]}))

    def lie(request, **_):
        request.headers["x-amz-object-lock-mode"] = "COMPLIANCE"
        request.headers["x-amz-object-lock-retain-until-date"] = FARTHER.isoformat()

    events = locked.bob.meta.events
    events.register("before-sign.s3.PutObjectRetention", lie)
    assert refused(locked.bob.put_object_retention, **target, Retention={},
                   BypassGovernanceRetention=True) == DENIED
    assert locked.ann.get_object_retention(**target)["Retention"] == retention()


def test_sec_lock_fail_open_a_lock_that_cannot_be_read_lets_nothing_go(locked):
    versions = [locked.put("k", **headers("COMPLIANCE")) for _ in range(2)]
    old = next((locked.directory / ".lobos" / "versions").rglob("v" + versions[0]))
    for path in (old, locked.directory / "k"):
        try:
            os.setxattr(path, "user.lobos", os.getxattr(path, "user.lobos")[:-1])
        except OSError:
            pytest.skip("the file system of the temporary directory has no attributes")
    for version in versions:
        answer = refused(locked.ann.delete_object, Bucket="demo", Key="k", VersionId=version,
                         BypassGovernanceRetention=True)
        assert answer == (500, "InternalError")
    assert old.exists() and (locked.directory / "k").exists()
