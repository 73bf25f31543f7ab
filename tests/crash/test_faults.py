"""One script of requests, and at each of its changes of the file system in turn: an error, a kill,
a loss of power."""

import shutil
import threading

import pytest

from launcher import Launcher, build
from model import Counts, Lost, PART_BYTES, Refused, Worker, leftovers, until
from volume import KINDS, do


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def watched(serve, program):
    """`watched(directory)`: a server and its launcher."""
    def watched(directory, **more):
        launcher = Launcher(program)
        return serve(directory, launcher=launcher, threads=1, **more), launcher
    return watched


def script(worker):
    """Requests, one after the other, that go through every way of writing."""
    plain, other, leaf, twig, file, below = worker.keys[:6]
    return [
        lambda c: worker.put(c, plain, 5000),
        lambda c: worker.put(c, plain, 7000),
        lambda c: worker.put(c, other, 1_300_000),
        lambda c: worker.put(c, leaf, 100),
        lambda c: worker.put(c, file, 10),
        lambda c: worker.put(c, below, 20, True),
        lambda c: worker.put(c, below, 30),
        lambda c: worker.describe(c, plain),
        lambda c: worker.describe(c, plain, True),
        lambda c: worker.describe(c, plain),
        lambda c: worker.copy(c, plain, twig),
        lambda c: worker.copy(c, other, plain),
        lambda c: worker.delete(c, leaf),
        lambda c: worker.delete(c, twig),
        lambda c: worker.delete(c, below),
        lambda c: worker.delete(c, below),
        lambda c: worker.create_upload(c, other),
        lambda c: worker.put_part(c, 1, 3000),
        lambda c: worker.put_part(c, 1, 4000),
        lambda c: worker.put_part(c, 2, 1000),
        lambda c: worker.abort(c),
        lambda c: worker.create_upload(c, twig, True),
        lambda c: worker.put_part(c, 1, 70_000),
        lambda c: worker.complete(c),
        lambda c: worker.create_upload(c, leaf),
        lambda c: worker.put_part(c, 1, PART_BYTES),
        lambda c: worker.put_part(c, 1, PART_BYTES),
        lambda c: worker.put_part(c, 2, 7),
        lambda c: worker.complete(c),
        lambda c: worker.delete(c, other),
    ]


# As many as the script opens.
UPLOADS = 3


def run(worker, client):
    """Asks all; a step that needs what an earlier one failed to make is left out.

    Gives the refusals.
    """
    refusals = []
    for step in script(worker):
        try:
            step(client)
        except Refused as refused:
            refusals.append(refused.args[0])
        except AttributeError:
            assert refusals, "a step failed before anything was refused"
    return refusals


def count(watched, directory, kind):
    server, launcher = watched(directory)
    launcher.count(kind)
    assert run(Worker(0, "script", Counts()), server.client()) == []
    seen = launcher.seen()
    server.stop()
    empty(directory)
    return seen


def empty(directory):
    """Durably: a loss of power must not bring an earlier round back."""
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    do("sync", "-f", directory)


def points(seen, factor, quick):
    """All of 1..seen, or with the factor of `make test` about `quick` of them."""
    step = max(1, seen // quick) if factor == 1 else 1
    return range(1, seen + 1, step)


def check_end(server, worker, directory):
    """What was acknowledged is there; nothing else is; and when that is deleted, nothing at all."""
    client = server.client()
    worker.verify(client)
    expected = {key for key, register in worker.registers.items() if register.acked is not None}
    assert set(client.keys()) == expected
    for key, id in client.uploads():
        client.ask("DELETE", key, f"uploadId={id}")
    worker.upload = None
    for key in worker.keys:
        worker.delete(client, key)
    assert client.keys() == []
    left = until(lambda: not leftovers(directory)) or leftovers(directory)
    assert left is True, f"leaked: {left}"
    assert [path.name for path in directory.iterdir()] == [".lobos"]


@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EDQUOT"])
def test_p9_a_failed_file_sync_fails_that_request_alone(watched, bucket, factor, report, error):
    seen = count(watched, bucket, "file-sync")
    server, launcher = watched(bucket)
    for nth in (chosen := points(seen, factor, 12)):
        worker = Worker(0, "script", Counts())
        launcher.fail("file-sync", nth, error)
        refusals = run(worker, server.client())
        assert refusals, f"file sync {nth} of {seen} failed and no request did"
        expected = (500, "InternalError") if error == "EIO" else (507, "InsufficientStorage")
        assert (refusals[0].status, refusals[0].code) == expected, (nth, refusals)
        check_end(server, worker, bucket)
    report(f"{len(chosen)} of {seen} file syncs failed")
    server.stop()


def test_p9_a_failed_directory_sync_makes_the_bucket_read_only(watched, bucket, factor, report):
    seen, unseen = count(watched, bucket, "dir-sync"), 0
    for nth in (chosen := points(seen, factor, 12)):
        worker = Worker(0, "script", Counts())
        server, launcher = watched(bucket)
        launcher.fail("dir-sync", nth, "EIO")
        refusals = run(worker, server.client())
        if not refusals:
            # The directory above the bucket is not ours, and its sync a courtesy.
            assert nth <= 2, f"directory sync {nth} of {seen} failed and no request did"
            server.kill()
            empty(bucket)
            continue
        statuses = [(answer.status, answer.code) for answer in refusals]
        client = server.client()
        if client.put("new", b"1").status == 200:
            # That of an upload's directory before anybody could see it: it is dropped.
            unseen += 1
            assert client.delete("new").status == 204
            check_end(server, worker, bucket)
            server.stop()
            empty(bucket)
            continue
        for answer in [client.put("new", b"1"), client.delete(worker.keys[0]),
                       client.ask("POST", "new", "uploads")]:
            assert (answer.status, answer.code) == (503, "ServiceUnavailable"), (nth, answer)
        assert set(statuses[1:]) <= {(503, "ServiceUnavailable")}, (nth, statuses)
        # The first is 503, too, where the sync failed after what it answered for was durable.
        assert statuses[0] in {(500, "InternalError"), (503, "ServiceUnavailable")}, (nth, statuses)
        client.keys()
        server.stop()
        again, _ = watched(bucket)
        check_end(again, worker, bucket)
        again.stop()
        empty(bucket)
    assert unseen <= UPLOADS
    report(f"{len(chosen)} of {seen} directory syncs failed")


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("kind", ["write", "attribute", "link", "rename", "mkdir", "copy"])
def test_p8_p9_a_failed_change_leaves_the_old_state_or_the_new(
        watched, bucket, factor, report, kind, error):
    seen = count(watched, bucket, kind)
    assert seen > 0
    refused = 0
    server, launcher = watched(bucket)
    for nth in (chosen := points(seen, factor, 6)):
        worker = Worker(0, "script", Counts())
        launcher.fail(kind, nth, error)
        refusals = run(worker, server.client())
        refused += len(refusals)
        allowed = {(507, "InsufficientStorage"), (500, "InternalError")}
        assert {(answer.status, answer.code) for answer in refusals} <= allowed, refusals
        check_end(server, worker, bucket)
    report(f"{len(chosen)} of {seen} calls failed, {refused} requests refused")
    server.stop()


def test_p1_p3_a_kill_at_each_change_of_the_file_system(watched, bucket, factor, report):
    seen = count(watched, bucket, "any")
    for nth in (chosen := points(seen, factor, 40)):
        worker = Worker(0, "script", Counts())
        server, launcher = watched(bucket)
        stop_at(server, launcher, worker, nth, server.kill)
        again, _ = watched(bucket)
        check_end(again, worker, bucket)
        again.kill()
        empty(bucket)
    report(f"killed at {len(chosen)} of {seen} changes")


@pytest.mark.parametrize("kind", KINDS)
def test_p1_p3_a_loss_of_power_at_each_change_of_the_file_system(
        watched, volume, factor, report, kind):
    disk = volume(*KINDS[kind])
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    seen = count(watched, bucket, "any")
    for nth in (chosen := points(seen, factor, 14)):
        worker = Worker(0, "script", Counts())
        server, launcher = watched(bucket)

        def cut(server=server):
            disk.lose_power()
            server.kill()

        stop_at(server, launcher, worker, nth, cut)
        disk.unmount()
        disk.mount()
        again, _ = watched(bucket)
        check_end(again, worker, bucket)
        again.kill()
        empty(bucket)
    report(f"power lost at {len(chosen)} of {seen} changes")


def stop_at(server, launcher, worker, nth, crash):
    launcher.hold("any", nth)

    def ask():
        try:
            run(worker, server.client())
        except Lost:
            pass

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        assert launcher.wait_until_held()
    finally:
        crash()
        asking.join(30)


def test_p1_a_repeated_delete_is_durable_although_its_first_attempt_was_killed(
        watched, volume):
    """The file was gone already when the second attempt came, but not durably."""
    survives_a_repeat(
        watched, volume(*KINDS["xfs"]),
        lambda client: client.put("dir/key", b"1").status == 200,
        lambda client: client.delete("dir/key").status == 204,
        lambda client: client.get("dir/key").status == 404)


def test_p1_a_repeated_completion_is_durable_although_its_first_attempt_was_killed(
        watched, volume):
    made = {}

    def prepare(client):
        made["id"] = client.ask("POST", "dir/key", "uploads").field("UploadId")
        part = client.ask("PUT", "dir/key", f"partNumber=1&uploadId={made['id']}", {}, b"12345")
        made["etag"] = part.headers["ETag"]
        # The directory is there durably: only the sync of the new name is missing.
        return client.put("dir/neighbour", b"1").status == 200

    def complete(client):
        document = (f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{made['etag']}"
                    f"</ETag></Part></CompleteMultipartUpload>").encode()
        return client.ask("POST", "dir/key", f"uploadId={made['id']}", {}, document).status == 200

    survives_a_repeat(watched, volume(*KINDS["xfs"]), prepare, complete,
                      lambda client: client.get("dir/key").body == b"12345")


def survives_a_repeat(watched, disk, prepare, change, holds):
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    server, launcher = watched(bucket)
    assert prepare(server.client())
    do("sync", "-f", disk.mountpoint)
    launcher.hold("dir-sync", 1)

    def attempt():
        with pytest.raises(Lost):
            change(server.client())

    first = threading.Thread(target=attempt)
    first.start()
    assert launcher.wait_until_held()
    server.kill()
    first.join(30)
    server, _ = watched(bucket)
    assert change(server.client())
    disk.lose_power()
    server.kill()
    disk.unmount()
    disk.mount()
    assert holds(watched(bucket)[0].client())
