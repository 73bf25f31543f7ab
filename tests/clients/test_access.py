"""Who may do what: policies of users and buckets, public access block, ownership, ACLs."""

import json
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from botocore import UNSIGNED
from botocore.exceptions import ClientError

from lobos import BINARY, clean_environment, run
from test_boto3_objects import refused

KEY = {"ann": "annaccesskey", "bob": "bobaccesskey", "rita": "ritaaccesskey", "eve": "eveaccesskey"}
DENIED = (403, "AccessDenied")
ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"


@pytest.fixture
def place(start, tmp_path):
    """`place(ownership)`: clients of ann and bob (own buckets), rita (readonly), eve (a file), the
    root user and nobody, and a bucket `box` of ann's."""

    def place(ownership="BucketOwnerEnforced"):
        (tmp_path / "eve.json").write_text(json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"],
             "Resource": "arn:aws:s3:::box/${aws:username}/*"},
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::box",
             "Condition": {"StringLike": {"s3:prefix": "${aws:username}/*"}}},
            {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::box/*/never"}]}))
        policies = {"rita": "readonly", "eve": "eve.json"}
        config = f'[server]\nlisten = "127.0.0.1:0"\nobject_ownership = "{ownership}"\n'
        config += '[filesystem]\nroot = "buckets"\n'
        for name, key in KEY.items():
            config += f'[[auth.user]]\nname = "{name}"\nid = "id-{name}"\naccess_key = "{key}"\n'
            config += f'secret_key = "secret-of-{name}"\n'
            config += f'policy = "{policies[name]}"\n' if name in policies else ""
        (tmp_path / "lobos.cfg").write_text(config)
        return Place(start("-c", tmp_path / "lobos.cfg"), tmp_path)

    return place


class Place:
    def __init__(self, server, directory):
        self.server, self.directory = server, directory
        self.root = server.client()
        self.nobody = server.client(signature_version=UNSIGNED)
        for name, key in KEY.items():
            client = server.client(access_key=key, secret_key=f"secret-of-{name}")
            setattr(self, name, client)
        self.ann.create_bucket(Bucket="box")
        self.ann.put_object(Bucket="box", Key="k", Body=b"ann's")

    def allow(self, *statements):
        """Puts a policy of `box`; a statement is what is said over Allow, everybody, the bucket."""
        usual = {"Effect": "Allow", "Principal": "*",
                 "Resource": ["arn:aws:s3:::box", "arn:aws:s3:::box/*"]}
        document = {"Version": "2012-10-17", "Statement": [usual | one for one in statements]}
        self.ann.put_bucket_policy(Bucket="box", Policy=json.dumps(document))


def status(call, **arguments):
    try:
        return call(**arguments)["ResponseMetadata"]["HTTPStatusCode"]
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]


def verbs(client, key="k", bucket="box"):
    """The statuses of get, put, list and delete."""
    return (status(client.get_object, Bucket=bucket, Key=key),
            status(client.put_object, Bucket=bucket, Key=key, Body=b"x"),
            status(client.list_objects_v2, Bucket=bucket),
            status(client.delete_object, Bucket=bucket, Key=f"{key}-not-there"))


def test_without_policies_a_bucket_is_its_owners(place):
    place = place()
    assert verbs(place.ann) == (200, 200, 200, 204)
    assert verbs(place.root) == (200, 200, 200, 204)
    assert verbs(place.bob) == verbs(place.nobody) == (403, 403, 403, 403)
    for client in (place.bob, place.nobody):
        assert refused(client.delete_bucket, Bucket="box")[:2] == DENIED
        assert refused(client.get_bucket_policy, Bucket="box")[:2] == DENIED
        assert refused(client.put_bucket_policy, Bucket="box", Policy="{}")[:2] == DENIED
        assert refused(client.list_objects_v2, Bucket="missing")[:2] == (404, "NoSuchBucket")


def test_policies_of_users(place):
    place = place()
    assert verbs(place.rita) == (200, 403, 200, 403)
    assert refused(place.rita.create_bucket, Bucket="ritas")[:2] == DENIED
    assert [b["Name"] for b in place.rita.list_buckets()["Buckets"]] == ["box"]
    assert place.bob.list_buckets()["Buckets"] == []
    assert verbs(place.eve) == (403, 403, 403, 403)
    assert status(place.eve.put_object, Bucket="box", Key="eve/k", Body=b"x") == 200
    assert status(place.eve.get_object, Bucket="box", Key="eve/k") == 200
    assert status(place.eve.put_object, Bucket="box", Key="eve/never", Body=b"x") == 403
    assert status(place.eve.put_object, Bucket="box", Key="eve2/k", Body=b"x") == 403
    assert status(place.eve.list_objects_v2, Bucket="box", Prefix="eve/") == 200
    assert status(place.eve.list_objects_v2, Bucket="box", Prefix="ev") == 403
    copy = {"Bucket": "box", "Key": "eve/copy"}
    source = {"CopySource": {"Bucket": "box", "Key": "k"}}
    assert refused(place.eve.copy_object, **copy, **source)[:2] == DENIED
    assert status(place.eve.copy_object, **copy, CopySource="box/eve/k") == 200
    answer = place.eve.delete_objects(Bucket="box", Delete={"Objects": [{"Key": "eve/k"}]})
    assert [error["Code"] for error in answer["Errors"]] == ["AccessDenied"]


def test_a_bucket_policy_is_put_as_it_is_and_goes_away(place):
    place = place()
    assert refused(place.ann.get_bucket_policy, Bucket="box")[:2] == (404, "NoSuchBucketPolicy")
    place.ann.delete_bucket_policy(Bucket="box")
    text = '{ "Version":"2012-10-17",\n"Statement":{"Effect":"Allow","Principal":"*",' \
           '"Action":"s3:GetObject","Resource":"arn:aws:s3:::box/*"}}'
    assert status(place.ann.put_bucket_policy, Bucket="box", Policy=text) == 204
    assert place.ann.get_bucket_policy(Bucket="box")["Policy"] == text
    assert place.nobody.get_object(Bucket="box", Key="k")["Body"].read() == b"ann's"
    place.ann.delete_bucket_policy(Bucket="box")
    assert refused(place.nobody.get_object, Bucket="box", Key="k")[:2] == DENIED
    for bad in ["", "x", "{}", text.replace("box/*", "other/*"), text.replace("s3:GetObject", "s3:X"),
                text.replace("Effect", "effect"), text + " " * 21_000]:
        call = refused(place.ann.put_bucket_policy, Bucket="box", Policy=bad)
        assert call[:2] == (400, "MalformedPolicy"), bad[:300]
    assert refused(place.ann.get_bucket_policy, Bucket="box")[:2] == (404, "NoSuchBucketPolicy")


def test_a_denial_binds_the_owner_but_not_the_root_user(place):
    place = place()
    place.allow({"Action": "s3:*"}, {"Effect": "Deny", "Action": "s3:*"})
    for client in (place.ann, place.bob, place.rita, place.nobody):
        assert verbs(client) == (403, 403, 403, 403)
    assert verbs(place.root) == (200, 200, 200, 204)
    assert refused(place.bob.delete_bucket_policy, Bucket="box")[:2] == DENIED
    place.ann.get_bucket_policy(Bucket="box")
    place.ann.delete_bucket_policy(Bucket="box")
    assert verbs(place.ann) == (200, 200, 200, 204)


def test_each_verb_needs_its_action(place):
    place = place()
    for action, expected in [("s3:GetObject", (200, 403, 403, 403)),
                             ("s3:PutObject", (403, 200, 403, 403)),
                             ("s3:ListBucket", (403, 403, 200, 403)),
                             ("s3:DeleteObject", (403, 403, 403, 204))]:
        place.allow({"Action": action, "Principal": {"AWS": "id-bob"}})
        assert verbs(place.bob) == expected, action
        assert verbs(place.nobody) == (403, 403, 403, 403), action


def test_missing_keys_are_told_to_those_who_may_list(place):
    place = place()
    place.allow({"Action": "s3:GetObject"})
    assert refused(place.nobody.get_object, Bucket="box", Key="missing")[:2] == DENIED
    assert status(place.nobody.head_object, Bucket="box", Key="missing") == 403
    place.allow({"Action": "s3:GetObject"}, {"Action": "s3:ListBucket", "Resource": "arn:aws:s3:::box",
                                             "Condition": {"StringLike": {"s3:prefix": "seen/*"}}})
    missing = refused(place.nobody.get_object, Bucket="box", Key="seen/missing")
    assert missing[:2] == (404, "NoSuchKey")
    assert status(place.nobody.head_object, Bucket="box", Key="unseen/missing") == 403


def test_multipart_uploads_by_policy(place, payload):
    place = place()
    place.allow({"Action": "s3:PutObject", "Principal": {"AWS": "arn:aws:iam::id-bob:root"}})
    upload = {"Bucket": "box", "Key": "big"}
    identity = {"UploadId": place.bob.create_multipart_upload(**upload)["UploadId"]}
    part = place.bob.upload_part(**upload, **identity, PartNumber=1, Body=payload(100))
    # S3's user guide: who opened an upload may list its parts and abort it, and nobody else.
    assert len(place.bob.list_parts(**upload, **identity)["Parts"]) == 1
    for other in (place.eve, place.nobody):
        assert refused(other.list_parts, **upload, **identity)[:2] == DENIED
        assert refused(other.abort_multipart_upload, **upload, **identity)[:2] == DENIED
    second = {"UploadId": place.bob.create_multipart_upload(**upload)["UploadId"]}
    place.bob.abort_multipart_upload(**upload, **second)
    bob = {"Principal": {"AWS": "arn:aws:iam::id-bob:root"}}
    place.allow({"Action": "s3:PutObject", **bob},
                {"Action": "s3:AbortMultipartUpload", "Effect": "Deny", **bob})
    assert refused(place.bob.abort_multipart_upload, **upload, **identity)[:2] == DENIED
    assert refused(place.bob.upload_part_copy, **upload, **identity, PartNumber=2,
                   CopySource="box/k")[:2] == DENIED
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    place.bob.complete_multipart_upload(**upload, **identity, MultipartUpload=parts)
    assert place.ann.get_object(**upload)["Body"].read() == payload(100)


def test_conditions_ask_about_the_request(place):
    place = place()
    place.allow({"Action": "s3:GetObject", "Condition": {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}}},
                {"Action": "s3:PutObject", "Condition": {"StringEquals": {"aws:username": "bob"}}},
                {"Action": "s3:ListBucket", "Condition": {"NumericLessThanEquals": {"s3:max-keys": "5"}}},
                {"Action": "s3:DeleteObject", "Condition": {"Bool": {"aws:SecureTransport": "true"}}})
    assert verbs(place.nobody) == (200, 403, 403, 403)
    assert verbs(place.bob) == (200, 200, 403, 403)
    assert status(place.nobody.list_objects_v2, Bucket="box", MaxKeys=5) == 200
    assert status(place.nobody.list_objects_v2, Bucket="box", MaxKeys=6) == 403


def test_sec_header_supplied_internals_an_address_in_a_header_is_not_the_callers(place):
    place = place()
    place.allow({"Action": "s3:GetObject", "Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.7"}}})

    def lie(request, **_):
        for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Amz-Source-Ip", "aws:SourceIp"):
            if ":" not in name:
                request.headers[name] = "10.0.0.7"

    place.nobody.meta.events.register("before-send.s3.GetObject", lie)
    assert refused(place.nobody.get_object, Bucket="box", Key="k")[:2] == DENIED


def test_sec_parse_twice_differ_a_copy_source_is_judged_as_it_is_read(place):
    place = place()
    place.allow({"Action": "s3:GetObject"},
                {"Action": "s3:PutObject", "Condition": {"StringLike": {"s3:x-amz-copy-source": "box/open/*"}}})
    place.ann.put_object(Bucket="box", Key="open/k", Body=b"x")

    def copy(source):
        def raw(params, **_):
            params["headers"]["x-amz-copy-source"] = source

        # boto3 escapes what it is given once more.
        place.bob.meta.events.register_last("before-call.s3.CopyObject", raw, unique_id="raw")
        answer = status(place.bob.copy_object, Bucket="box", Key="target", CopySource="x/y")
        place.bob.meta.events.unregister("before-call.s3.CopyObject", unique_id="raw")
        return answer

    for source in ("box/open/k", "/box/open/k", "box/%6fpen/k", "box%2Fopen%2Fk"):
        assert copy(source) == 200, source
    for source in ("box/k", "/box/k", "box/%6b", "box%2Fk", "box/open/../k"):
        assert copy(source) in (403, 404), source


def test_policy_status_and_public_access_block(place):
    place = place()
    assert not place.ann.get_bucket_policy_status(Bucket="box")["PolicyStatus"]["IsPublic"]
    missing = refused(place.ann.get_public_access_block, Bucket="box")
    assert missing[:2] == (404, "NoSuchPublicAccessBlockConfiguration")
    place.allow({"Action": "s3:GetObject"})
    assert place.ann.get_bucket_policy_status(Bucket="box")["PolicyStatus"]["IsPublic"]
    switches = {"BlockPublicAcls": False, "IgnorePublicAcls": False,
                "BlockPublicPolicy": True, "RestrictPublicBuckets": True}
    place.ann.put_public_access_block(Bucket="box", PublicAccessBlockConfiguration=switches)
    got = place.ann.get_public_access_block(Bucket="box")["PublicAccessBlockConfiguration"]
    assert got == switches
    assert refused(place.nobody.get_object, Bucket="box", Key="k")[:2] == DENIED
    assert status(place.ann.get_object, Bucket="box", Key="k") == 200
    with pytest.raises(ClientError, match="AccessDenied"):
        place.allow({"Action": "s3:GetObject"})
    place.allow({"Action": "s3:GetObject", "Principal": {"AWS": "id-bob"}})
    assert status(place.bob.get_object, Bucket="box", Key="k") == 200
    for call in (place.bob.put_public_access_block, place.nobody.put_public_access_block):
        denied = refused(call, Bucket="box", PublicAccessBlockConfiguration=switches)
        assert denied[:2] == DENIED
    assert status(place.ann.delete_public_access_block, Bucket="box") == 204
    place.allow({"Action": "s3:GetObject"})
    assert status(place.nobody.get_object, Bucket="box", Key="k") == 200


def test_acls_are_off_by_default(place):
    place = place()
    controls = place.ann.get_bucket_ownership_controls(Bucket="box")["OwnershipControls"]
    assert controls["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    off = (400, "AccessControlListNotSupported")
    put = {"Bucket": "box", "Key": "k", "Body": b"x"}
    assert status(place.ann.put_object, **put, ACL="bucket-owner-full-control") == 200
    assert status(place.ann.put_object, **put, ACL="private") == 200
    assert refused(place.ann.put_object, **put, ACL="public-read")[:2] == off
    assert status(place.ann.put_object_acl, Bucket="box", Key="k", ACL="private") == 200
    assert status(place.ann.put_bucket_acl, Bucket="box", ACL="private") == 200
    assert refused(place.ann.put_object_acl, Bucket="box", Key="k", ACL="public-read")[:2] == off
    assert refused(place.ann.put_bucket_acl, Bucket="box", ACL="public-read")[:2] == off
    assert refused(place.ann.put_object, **put, GrantRead="id=id-bob")[:2] == off
    public = refused(place.ann.create_bucket, Bucket="open", ACL="public-read")
    assert public[:2] == (400, "InvalidBucketAclWithObjectOwnership")
    rule = {"Rules": controls["Rules"]}
    place.ann.put_bucket_ownership_controls(Bucket="box", OwnershipControls=rule)
    assert refused(place.ann.put_object, **put, ACL="private")[:2] == off
    assert refused(place.ann.put_object_acl, Bucket="box", Key="k", ACL="private")[:2] == off
    assert refused(place.ann.put_bucket_acl, Bucket="box", ACL="private")[:2] == off
    for acl in (place.ann.get_bucket_acl(Bucket="box"), place.ann.get_object_acl(Bucket="box", Key="k")):
        assert acl["Owner"] == {"ID": "id-ann", "DisplayName": "ann"}
        assert [grant["Permission"] for grant in acl["Grants"]] == ["FULL_CONTROL"]


def test_acls_where_the_bucket_has_them(place):
    place = place()
    place.ann.create_bucket(Bucket="open", ObjectOwnership="ObjectWriter", ACL="public-read-write")
    place.ann.put_object(Bucket="open", Key="k", Body=b"private")
    place.ann.put_object(Bucket="open", Key="p", Body=b"public", ACL="public-read")
    assert verbs(place.nobody, bucket="open", key="other") == (404, 200, 200, 204)
    assert refused(place.bob.get_object, Bucket="open", Key="k")[:2] == DENIED
    assert place.nobody.get_object(Bucket="open", Key="p")["Body"].read() == b"public"
    assert place.nobody.head_object(Bucket="open", Key="p")["ContentLength"] == 6
    grants = place.ann.get_object_acl(Bucket="open", Key="p")["Grants"]
    assert grants[0] == {"Grantee": {"Type": "Group", "URI": ALL_USERS}, "Permission": "READ"}
    place.ann.put_object_acl(Bucket="open", Key="p", ACL="private")
    assert refused(place.nobody.get_object, Bucket="open", Key="p")[:2] == DENIED
    place.ann.put_object_acl(Bucket="open", Key="p", GrantRead='id="id-bob"')
    assert status(place.bob.get_object, Bucket="open", Key="p") == 200
    assert refused(place.bob.get_object_acl, Bucket="open", Key="p")[:2] == DENIED
    for call, code in [({"GrantRead": "id=nobody-there"}, "InvalidArgument"),
                       ({"GrantRead": "emailAddress=a@b.c"}, "UnresolvableGrantByEmailAddress"),
                       ({"GrantRead": "id=id-bob", "ACL": "private"}, "InvalidRequest"),
                       ({"ACL": "nonsense"}, "InvalidArgument"), ({}, "MissingSecurityHeader")]:
        answer = refused(place.ann.put_object_acl, Bucket="open", Key="p", **call)
        assert answer[:2] == (400, code), call


def test_who_wrote_an_object_owns_it_where_acls_are_on(place):
    place = place()
    place.ann.create_bucket(Bucket="open", ObjectOwnership="ObjectWriter")
    policy = {"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": {"AWS": "id-bob"}, "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::open/*"}}
    place.ann.put_bucket_policy(Bucket="open", Policy=json.dumps(policy))
    place.bob.put_object(Bucket="open", Key="bobs", Body=b"x")
    assert place.bob.get_object(Bucket="open", Key="bobs")["Body"].read() == b"x"
    assert place.bob.get_object_acl(Bucket="open", Key="bobs")["Owner"]["ID"] == "id-bob"
    assert refused(place.ann.get_object, Bucket="open", Key="bobs")[:2] == DENIED
    place.bob.put_object_acl(Bucket="open", Key="bobs", ACL="bucket-owner-full-control")
    assert status(place.ann.get_object, Bucket="open", Key="bobs") == 200
    assert place.ann.get_object_acl(Bucket="open", Key="bobs")["Owner"]["ID"] == "id-bob"
    rule = {"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]}
    place.ann.put_bucket_ownership_controls(Bucket="open", OwnershipControls=rule)
    place.bob.put_object(Bucket="open", Key="given", Body=b"x", ACL="bucket-owner-full-control")
    assert place.ann.get_object_acl(Bucket="open", Key="given")["Owner"]["ID"] == "id-ann"
    assert refused(place.bob.get_object, Bucket="open", Key="given")[:2] == DENIED
    place.ann.copy_object(Bucket="open", Key="copy", CopySource="open/bobs")
    assert place.ann.get_object_acl(Bucket="open", Key="copy")["Owner"]["ID"] == "id-ann"
    rule = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    place.ann.put_bucket_ownership_controls(Bucket="open", OwnershipControls=rule)
    assert refused(place.bob.get_object, Bucket="open", Key="bobs")[:2] == DENIED
    assert place.ann.get_object_acl(Bucket="open", Key="bobs")["Owner"]["ID"] == "id-ann"


def test_bucket_acls_and_the_switches_over_them(place):
    place = place("ObjectWriter")
    none = refused(place.ann.get_bucket_ownership_controls, Bucket="box")
    assert none[:2] == (404, "OwnershipControlsNotFoundError")
    owner = place.ann.get_bucket_acl(Bucket="box")
    grant = {"Grantee": {"Type": "CanonicalUser", "ID": "id-bob"}, "Permission": "READ"}
    asked = {"Owner": owner["Owner"], "Grants": owner["Grants"] + [grant]}
    place.ann.put_bucket_acl(Bucket="box", AccessControlPolicy=asked)
    assert verbs(place.bob) == (403, 403, 200, 403)
    stranger = asked | {"Owner": {"ID": "id-bob"}}
    assert refused(place.ann.put_bucket_acl, Bucket="box", AccessControlPolicy=stranger)[:2] == DENIED
    place.ann.put_bucket_acl(Bucket="box", ACL="public-read")
    place.ann.put_object(Bucket="box", Key="p", Body=b"x", ACL="public-read")
    assert status(place.nobody.list_objects_v2, Bucket="box") == 200
    assert place.ann.get_bucket_policy_status(Bucket="box")["PolicyStatus"]["IsPublic"]
    switches = {"BlockPublicAcls": True, "IgnorePublicAcls": True,
                "BlockPublicPolicy": False, "RestrictPublicBuckets": False}
    place.ann.put_public_access_block(Bucket="box", PublicAccessBlockConfiguration=switches)
    assert status(place.nobody.list_objects_v2, Bucket="box") == 403
    assert status(place.nobody.get_object, Bucket="box", Key="p") == 403
    put = {"Bucket": "box", "Key": "q", "Body": b"x"}
    assert refused(place.ann.put_object, **put, ACL="public-read")[:2] == DENIED
    assert refused(place.ann.put_bucket_acl, Bucket="box", ACL="authenticated-read")[:2] == DENIED
    rule = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    call = refused(place.ann.put_bucket_ownership_controls, Bucket="box", OwnershipControls=rule)
    assert call[:2] == (400, "InvalidBucketAclWithObjectOwnership")


def test_acls_survive_a_restart_and_stay_with_the_file(place, start):
    first = place("ObjectWriter")
    first.ann.put_object(Bucket="box", Key="p", Body=b"x", ACL="public-read")
    first.allow({"Action": "s3:ListBucket"})
    first.server.stop()
    server = start("-c", first.directory / "lobos.cfg",
                   environment={"XDG_STATE_HOME": str(first.server.home / "state")})
    nobody = server.client(signature_version=UNSIGNED)
    assert nobody.get_object(Bucket="box", Key="p")["Body"].read() == b"x"
    assert refused(nobody.get_object, Bucket="box", Key="k")[:2] == DENIED
    assert status(nobody.list_objects_v2, Bucket="box") == 200


def test_sec_policy_fail_open_a_stored_policy_that_cannot_be_read_denies(place):
    place = place()
    place.allow({"Action": "s3:*"})
    assert verbs(place.bob) == (200, 200, 200, 204)
    path = place.directory / "buckets" / "box" / ".lobos" / "config"
    text = path.read_text()
    assert "s3:*" in text
    path.write_text(text.replace("s3:*", "s3:Nonsense"))
    time.sleep(1.2)
    for client in (place.bob, place.rita, place.nobody, place.ann):
        assert verbs(client) == (403, 403, 403, 403)
    assert verbs(place.root) == (200, 200, 200, 204)
    place.ann.delete_bucket_policy(Bucket="box")
    assert verbs(place.ann) == (200, 200, 200, 204)


def test_making_a_bucket_again_changes_no_access(place):
    place = place("ObjectWriter")
    place.ann.create_bucket(Bucket="box")
    differs = (409, "BucketAlreadyExists")
    assert refused(place.ann.create_bucket, Bucket="box", ACL="public-read")[:2] == differs
    other = refused(place.ann.create_bucket, Bucket="box", ObjectOwnership="BucketOwnerPreferred")
    assert other[:2] == differs
    place.ann.put_bucket_acl(Bucket="box", ACL="public-read")
    assert refused(place.ann.create_bucket, Bucket="box")[:2] == differs
    place.ann.create_bucket(Bucket="box", ACL="public-read")
    assert status(place.nobody.list_objects_v2, Bucket="box") == 200


def test_a_policy_of_a_user_that_is_none_is_refused_at_start(tmp_path):
    (tmp_path / "bad.json").write_text('{"Statement": {"Effect": "Maybe"}}')
    user = '[[auth.user]]\nname = "ann"\naccess_key = "annkey"\nsecret_key = "secret-of-ann"\n'
    for lines, said in [(f'{user}policy = "reedonly"\n', "readonly"),
                        (f'{user}policy = "bad.json"\n', "Invalid effect"),
                        (user.replace("[[auth.user]]", "[auth.root]") + 'policy = "readonly"\n',
                         "may do everything")]:
        config = tmp_path / "lobos.cfg"
        config.write_text(f'[filesystem]\nroot = "r"\n{lines}')
        printed = run([BINARY, "check-config", "-c", config], clean_environment(tmp_path),
                      status=1, stderr=subprocess.STDOUT)
        assert said in printed, printed


def test_forms_are_judged_by_their_key_and_their_fields(place):
    place = place("ObjectWriter")
    place.allow({"Action": "s3:PutObject", "Resource": "arn:aws:s3:::box/in/*"},
                {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::box/*",
                 "Condition": {"StringLike": {"s3:x-amz-acl": "public*"}}})

    def post(**fields):
        parts = [f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                 for name, value in fields.items()]
        parts.append('--edge\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
                     'content\r\n--edge--\r\n')
        request = urllib.request.Request(
            f"{place.server.endpoint}/box", "".join(parts).encode(),
            {"Content-Type": "multipart/form-data; boundary=edge"})
        try:
            return urllib.request.urlopen(request).status
        except urllib.error.HTTPError as error:
            return error.code

    assert post(key="in/k") == 204
    assert place.ann.get_object(Bucket="box", Key="in/k")["Body"].read() == b"content"
    assert post(key="out/k") == 403
    assert post(key="in/p", acl="public-read") == 403
    tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>"
    assert post(key="in/t", tagging=tags) == 403
    assert [entry["Key"] for entry in place.ann.list_objects_v2(Bucket="box")["Contents"]] == [
        "in/k", "k"]
