"""kill -9 in the middle of everything."""

import json
import random
import subprocess
import time

from model import Workload, leftovers, until
from server import BINARY

KILLS = 100


def test_p1_p2_p3_p10_what_was_acknowledged_survives_kill_9_and_nothing_else_is_left(
        serve, bucket, seed, factor, report):
    workload = killed(serve, bucket, seed, KILLS * factor)
    server = serve(bucket)
    client = server.client()
    workload.verify(client)
    workload.empty(client)
    assert client.keys() == []
    left = until(lambda: not leftovers(bucket)) or leftovers(bucket)
    assert left is True, f"leaked: {left}"
    entries = [path.name for path in bucket.iterdir()]
    assert entries == [".lobos"], f"directories that S3 made were not pruned: {entries}"
    server.stop()
    assert list((bucket / ".lobos" / "tmp").iterdir()) == []
    counts = workload.counts
    report(f"{KILLS * factor} kills, {counts.acked} changes acknowledged, {counts.lost} cut off, "
           f"{counts.checked} states verified")


def test_p1_p2_p3_a_blob_store_keeps_what_was_acknowledged_and_is_whole_after_kill_9(
        serve, tmp_path, seed, factor, report):
    image = tmp_path / "store.img"
    try:
        workload = killed(serve, image, seed, KILLS * factor)
        status, text = command("check", "--data", image)
        assert status == 0, text
        server = serve(image)
        client = server.client()
        workload.verify(client)
        workload.empty(client)
        assert client.keys() == []
        server.stop()
        status, text = command("check", "--data", image)
        assert status == 0, text
        info = json.loads(command("info", "--json", image)[1])
        assert (info["objects"], info["uploads"], info["parts"]) == (0, 0, 0)
        in_use = info["size_bytes"] - info["free_bytes"] - info["held_bytes"]
        fixed = info["journal"]["size_bytes"] + info["checkpoint"]["size_bytes"] + 2 * 4096
        assert in_use == fixed, f"{in_use - fixed} bytes leaked"
        counts = workload.counts
        report(f"{KILLS * factor} kills, {counts.acked} changes acknowledged, {counts.lost} cut "
               f"off, {counts.checked} states verified")
    finally:
        image.unlink(missing_ok=True)


def killed(serve, place, seed, kills):
    """A workload whose server was killed so often, and that found what it was promised each time."""
    workload, rolls = Workload(seed), random.Random(seed)
    for _ in range(kills):
        server = serve(place)
        workload.verify(server.client())

        def crash(server=server):
            time.sleep(rolls.uniform(0.01, 0.4))
            server.kill()

        workload.run([server], crash)
    return workload


def command(verb, *arguments):
    """`lobos blob VERB`: (status, what it printed)."""
    done = subprocess.run([BINARY, "blob", verb, *map(str, arguments)], capture_output=True,
                          text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr
