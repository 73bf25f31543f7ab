"""Every operation of S3's public model is answered as itself or refused by its name.

The model is botocore's own. No operation may be taken for another one: a PutBucketTagging that
lands in PutObject or CreateBucket would store or make something that nobody asked for.
"""

import re

import pytest
from botocore.exceptions import ClientError

from lobos import REPOSITORY, SESSION
import wire

MODEL = SESSION._session.get_service_model("s3")
OPERATIONS = sorted(MODEL.operation_names)

# What docs/compatibility.md says of each operation: (yes | none set | no, note).
TABLE = {
    name.strip(): (answer.strip(), note.strip())
    for name, answer, note in re.findall(
        r"^\| ([A-Z]\w+) \| ([a-z ]+) \|(.*)\|$",
        (REPOSITORY / "docs" / "compatibility.md").read_text(), re.MULTILINE)
}
# The code where a bucket has none of what is asked for.
ABSENT = {
    "GetBucketCors": "NoSuchCORSConfiguration", "GetBucketTagging": "NoSuchTagSet",
} | {name: note.strip("`") for name, (answer, note) in TABLE.items()
     if answer == "none set" and note}
# What is answered with an error about what is asked here: a text that is no policy, ACLs that are
# off, locks of a bucket that has none.
ERRORS = {
    "GetBucketPolicy": "NoSuchBucketPolicy",
    "GetBucketLifecycle": "NoSuchLifecycleConfiguration",
    "GetBucketLifecycleConfiguration": "NoSuchLifecycleConfiguration",
    "GetObjectLegalHold": "InvalidRequest",
    "GetObjectLockConfiguration": "ObjectLockConfigurationNotFoundError",
    "GetObjectRetention": "InvalidRequest",
    "GetPublicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "PutBucketAcl": "AccessControlListNotSupported",
    "PutBucketLifecycle": "InvalidRequest",
    "PutBucketLifecycleConfiguration": "MalformedXML",
    "PutBucketPolicy": "MalformedPolicy",
    "PutObjectLegalHold": "InvalidRequest",
    "PutObjectLockConfiguration": "InvalidBucketState",
    "PutObjectRetention": "MalformedXML",
    "PutObjectAcl": "AccessControlListNotSupported",
}
# Operations that are the same request on the wire as their successor, or as another one.
SAME_REQUEST = {
    "GetBucketLifecycle": "GetBucketLifecycleConfiguration",
    "PutBucketLifecycle": "PutBucketLifecycleConfiguration",
    "GetBucketNotification": "GetBucketNotificationConfiguration",
    "PutBucketNotification": "PutBucketNotificationConfiguration",
}
# Operations of other services that share the model, and are signed for those.
ELSEWHERE = {"ListDirectoryBuckets", "WriteGetObjectResponse"}
GIVEN = {
    "Bucket": "demo", "Key": "dir/key", "CopySource": "demo/source", "RenameSource": "source",
    "PartNumber": 1, "Id": "id", "ContentMD5": None, "ExpectedBucketOwner": None,
    "SelectObjectContentRequest": None, "AllowedMethods": ["GET"],
}


@pytest.fixture
def prepared(rooted, loopback_names):
    """A site with objects, a second empty bucket and an upload with one part."""
    rooted.put("dir/key", b"kept")
    rooted.put("source", b"kept too")
    rooted.s3.create_bucket(Bucket="empty")
    target = {"Bucket": "demo", "Key": "dir/key"}
    rooted.upload = rooted.s3.create_multipart_upload(**target)["UploadId"]
    rooted.part = rooted.s3.upload_part(
        **target, UploadId=rooted.upload, PartNumber=1, Body=b"part")["ETag"]
    return rooted


def arguments(site, name):
    """The least that the model allows for this operation, naming things that exist."""
    shape = MODEL.operation_model(name).input_shape
    chosen = {"UploadId": site.upload}
    if shape:
        chosen |= {member: value(shape.members[member], member) for member in shape.required_members}
        if shape.serialization.get("payload") in shape.members:
            payload = shape.serialization["payload"]
            chosen.setdefault(payload, value(shape.members[payload], payload))
    chosen |= {member: given for member, given in GIVEN.items() if member in chosen}
    chosen["UploadId"] = site.upload
    if name in ("DeleteBucket", "CreateBucket"):
        chosen["Bucket"] = "empty"
    if name == "CreateBucket":
        chosen.pop("CreateBucketConfiguration", None)
    if name == "CompleteMultipartUpload":
        chosen["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": site.part}]}
    if name == "PutBucketVersioning":
        chosen["VersioningConfiguration"] = {"Status": "Enabled"}
    members = shape.members if shape else {}
    return {member: given for member, given in chosen.items()
            if member in members and given is not None}


def value(shape, member):
    """A legal value of a shape: required members only, one element a list."""
    if member in GIVEN:
        return GIVEN[member]
    if shape.type_name == "structure":
        names = shape.required_members or ([next(iter(shape.members))] if shape.members else [])
        return {name: value(shape.members[name], name) for name in names}
    if shape.type_name == "list":
        return [value(shape.member, member)]
    if shape.type_name == "map":
        return {"k": value(shape.value, member)}
    simple = {"integer": 1, "long": 1, "boolean": True, "timestamp": "2026-01-01T00:00:00Z",
              "blob": b"data", "float": 1.0, "double": 1.0}
    if shape.type_name in simple:
        return simple[shape.type_name]
    length = shape.metadata.get("min", 4)
    return shape.enum[0] if getattr(shape, "enum", None) else "text".ljust(length, "x")


def snapshot(site):
    """Every file below the root with its bytes, and the uploads; Lobos's own records left out."""
    root = site.directory.parent
    files = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
             for path in root.rglob("*") if ".lobos" not in path.parts}
    uploads = site.s3.list_multipart_uploads(Bucket="demo").get("Uploads", [])
    return files, site.keys(), [entry["UploadId"] for entry in uploads]


@pytest.mark.parametrize("name", OPERATIONS)
def test_answered_as_itself_or_refused_by_name(prepared, name):
    before = snapshot(prepared)
    try:
        answer = prepared.s3._make_api_call(name, arguments(prepared, name))
    except ClientError as error:
        answer = error.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    expected = SAME_REQUEST.get(name, name)
    error = answer.get("Error", {})
    said, _ = TABLE[name]
    if said != "no" and expected in ABSENT:
        assert (status, error.get("Code")) == (404, ABSENT[expected])
        return
    if said != "no" and expected in ERRORS:
        code = ERRORS.get(name, ERRORS[expected])
        assert error.get("Code") == code, f"{name}: {status} {error}"
        return
    if said != "no":
        assert status in (200, 204), f"{name}: {status} {error}"
        return
    if name in ELSEWHERE:
        assert (status, error.get("Code")) == (400, "AuthorizationHeaderMalformed")
        assert "service" in error["Message"]
        return
    assert (status, error.get("Code")) == (501, "NotImplemented"), f"{name}: {status} {error}"
    assert name in error["Message"] or expected in error["Message"], error["Message"]
    assert snapshot(prepared) == before, f"{name} changed something"


def test_the_table_names_every_operation_of_the_model():
    """A botocore without the operations that are answered would prove nothing."""
    assert sorted(TABLE) == OPERATIONS and len(OPERATIONS) > 100
    assert {answer for answer, _ in TABLE.values()} == {"yes", "none set", "no"}
    for name, successor in SAME_REQUEST.items():
        assert TABLE[name][0] == TABLE[successor][0]


SUB_RESOURCES = sorted({
    parameter.split("=")[0]
    for name in OPERATIONS
    for parameter in MODEL.operation_model(name).http["requestUri"].partition("?")[2].split("&")
    if parameter
} - {"list-type", "select-type"})


@pytest.mark.parametrize("parameter", SUB_RESOURCES)
@pytest.mark.parametrize("path", ["/demo", "/demo/dir/key"])
def test_methods_that_a_sub_resource_lacks_do_nothing(prepared, path, parameter):
    """PUT ?parameter with another method than the model's never falls through to the plain verb."""
    known = {
        MODEL.operation_model(name).http["method"]
        for name in OPERATIONS
        if parameter in MODEL.operation_model(name).http["requestUri"].partition("?")[2].split("&")
        and ("/{Key+}" in MODEL.operation_model(name).http["requestUri"]) == (path != "/demo")
    }
    before = snapshot(prepared)
    for method in sorted({"PUT", "POST", "DELETE"} - known):
        answer = wire.signed(prepared.server, method, path, f"{parameter}=", body=b"body")
        assert answer.status in (400, 405, 501), f"{method} {path}?{parameter}: {answer.status}"
        assert snapshot(prepared) == before


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "CONNECTION", "get", "PROPFIND"])
def test_methods_that_s3_lacks(prepared, method):
    answer = wire.signed(prepared.server, method, "/demo/dir/key")
    assert answer.status in (400, 405, 501)
    assert prepared.read("dir/key") == b"kept"
