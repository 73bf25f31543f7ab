"""The control plane for a client that has only reflection, and for one that means no good."""

import json
import os
import re

import grpc
import pytest

from controlled import Controlled
from generic import Generic, judged
from lobos import REPOSITORY


@pytest.fixture
def site(start, tmp_path):
    return Controlled(start, tmp_path)


@pytest.fixture
def control(site):
    with Generic(site.address) as control:
        yield control


def test_by_reflection_the_call_of_the_readme_answers_what_it_says(site, control):
    answer = control.call("AddUser", name="alram")
    assert answer.keys() == {"params"}
    params = answer["params"]
    assert params.keys() == {"name", "key", "secret", "backend"}
    assert params["name"] == "alram" and params["backend"] == "data"
    assert re.fullmatch("LB[A-Z0-9]{18}", params["key"])
    assert re.fullmatch("[A-Za-z0-9]{40}", params["secret"])
    s3 = site.client({"access_key": params["key"], "secret_key": params["secret"]})
    s3.put_object(Bucket="data", Key="k", Body=b"x")
    services = control.database.get_services()
    assert {"loboscontrol.ControlPlane", "grpc.health.v1.Health"} <= set(services)
    with Generic(site.address, "grpc.health.v1.Health") as health:
        assert health.call("Check") == {"status": "SERVING"}


def test_reflection_tells_every_method_of_the_proto(control):
    proto = (REPOSITORY / "proto" / "loboscontrol.proto").read_text()
    assert control.methods() == re.findall(r"^  rpc (\w+)\(", proto, re.M)


def test_errors_have_the_standard_codes_and_name_the_field(control):
    control.call("AddUser", name="ann")
    assert "ann" in control.refused("ALREADY_EXISTS", "AddUser", name="ann")
    for method in ["GetUser", "DeleteUser", "EnableUser", "DisableUser", "AddKey", "RotateKey"]:
        control.refused("NOT_FOUND", method, name="nobody")
    control.refused("NOT_FOUND", "DeleteKey", name="ann", key="LBNONE")
    control.refused("NOT_FOUND", "GetBucketInfo", name="nothing")
    control.refused("NOT_FOUND", "SetBucketSettings", name="nothing", quota_bytes=1)
    control.refused("NOT_FOUND", "StartCheck", bucket="nothing")
    control.refused("NOT_FOUND", "WatchCheck")
    control.refused("NOT_FOUND", "StopCheck")
    control.refused("FAILED_PRECONDITION", "Checkpoint")
    control.refused("FAILED_PRECONDITION", "DeleteUser", name="root")
    control.refused("ALREADY_EXISTS", "CreateBucket", name="data")
    for method, field, fields in [
        ("AddUser", "name", {}),
        ("CreateBucket", "name", {"name": "No_Good"}),
        ("SetLogLevel", "level", {"level": "noisy"}),
        ("WatchTrace", "status", {"status": 7}),
        ("WatchTrace", "latency", {"latency": "-1s"}),
        ("AddKey", "lifetime", {"name": "ann", "lifetime": "-5s"}),
        ("SetUserPolicy", "policy", {"name": "ann", "policy": {"name": "everything"}}),
        ("SetBucketSettings", "durability", {"name": "data", "durability": "never"}),
        ("SetBucketSettings", "etag", {"name": "data", "etag": "sha"}),
        ("SetBucketSettings", "owner", {"name": "data", "owner": ""}),
    ]:
        control.refused("INVALID_ARGUMENT", method, field, **fields)


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "\x1b[2J", "a\u202eb", "a b", "a/b", "x" * 65, "é"])
def test_a_name_with_other_characters_is_refused_and_names_its_field(site, control, name):
    control.refused("INVALID_ARGUMENT", "AddUser", "name", name=name)
    control.refused("INVALID_ARGUMENT", "CreateBucket", "name", name=name)
    assert [user["name"] for user in control.call("ListUsers")["users"]] == ["root"]
    # Nor does it write lines of its own into the log.
    log = site.server.log.read_text()
    assert "\x1b[2J" not in log and not re.search(r"^b", log, re.M)


def test_policies_that_are_too_large_or_too_deep_are_refused(control):
    control.call("AddUser", name="ann")
    statement = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::data/*"}
    large = {"Version": "2012-10-17", "Statement": [statement] * 400}
    deep = '{"Statement": ' + "[" * 8000 + "]" * 8000 + "}"
    for document in [json.dumps(large), deep, "{" * 10_000, '"' * 3, "\0", "null", ""]:
        control.refused("INVALID_ARGUMENT", "SetUserPolicy", "policy", name="ann",
                        policy={"document": document})
        control.refused("INVALID_ARGUMENT", "AddUser", "policy", name="bob",
                        policy={"document": document})
    assert control.call("GetUserPolicy", name="ann") == {"name": "readwrite"}


def test_messages_that_are_none_or_too_large_are_refused_and_end_nothing(control):
    for raw, code in [
        (b"\xff\xff\xff\xff", "INTERNAL"),
        # A field that says it is longer than the message.
        (b"\x0a\x7fshort", "INTERNAL"),
        # Text that is no UTF-8.
        (b"\x0a\x04\xff\xfe\xfd\xfc", "INTERNAL"),
        # Groups within groups.
        (b"\x0b" * 500_000, "INTERNAL"),
        (b"\x0a\x80\x80\x80\x01" + b"x" * (2 << 20), "OUT_OF_RANGE"),
    ]:
        with pytest.raises(grpc.RpcError) as error:
            control.send("AddUser", raw)
        judged(error.value, code)
    for _ in range(20):
        with pytest.raises(grpc.RpcError):
            control.send("AddUser", b"\xff" + os.urandom(200))
    assert [user["name"] for user in control.call("ListUsers")["users"]] == ["root"]


def test_every_method_is_answered(start, tmp_path, image):
    """On a server that has both engines."""
    store = f'[blob]\npath = "{image}"\nsize = "64 MiB"'
    site = Controlled(start, tmp_path, auth=store)
    with Generic(site.address) as control:
        called = {}

        def call(method, **fields):
            answer = control.call(method, **fields)
            called[method] = answer if isinstance(answer, dict) else list(answer)
            return called[method]

        call("AddUser", name="ann")
        assert call("GetUser", name="ann")["source"] == "USER_SOURCE_STORED"
        assert len(call("ListUsers")["users"]) == 2
        assert "enabled" not in call("DisableUser", name="ann")
        assert call("EnableUser", name="ann")["enabled"]
        key = call("AddKey", name="ann", lifetime="3600s")["key"]
        call("RotateKey", name="ann", key=key, grace="60s")
        call("DeleteKey", name="ann", key=key)
        call("SetUserPolicy", name="ann", policy={"name": "readonly"})
        assert call("GetUserPolicy", name="ann") == {"name": "readonly"}
        call("CreateBucket", name="fresh", owner="ann")
        call("SetBucketSettings", name="fresh", quota_bytes=7)
        assert call("GetBucketInfo", name="fresh")["quota_bytes"] == "7"
        assert [bucket["name"] for bucket in call("ListBuckets")["buckets"]] == [
            "data", "fresh", "lobos"]
        call("DeleteBucket", name="fresh")
        call("DeleteUser", name="ann")
        assert call("ServerInfo")["auth"]
        info = call("EngineInfo")
        assert info["store"]["size_bytes"] == str(64 << 20) and info["mounts"][0]["bucket"] == "data"
        assert "lobos_build_info" in call("Metrics")["text"]
        call("Checkpoint")
        call("StartCheck")
        assert call("WatchCheck")[-1]["state"] == "CHECK_STATE_DONE"
        control.refused("NOT_FOUND", "StopCheck")
        call("SetLogLevel", level="info")
        call("ReloadConfig")
        watched = control.call("WatchTrace", operation="ListObjectsV2")
        site.server.client().list_objects_v2(Bucket="data")
        called["WatchTrace"] = [traced(site, watched)]
        call("Drain")
        assert called.keys() | {"StopCheck"} == set(control.methods())
    assert site.server.process.wait(30) == 0


def traced(site, events):
    """The first event; requests go on until it is there, since watching begins a moment later."""
    import threading
    ended = threading.Event()

    def ask():
        while not ended.wait(0.05):
            site.server.client().list_objects_v2(Bucket="data")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        return next(events)
    finally:
        ended.set()
        asking.join()
