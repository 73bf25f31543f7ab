"""kill -9 in the middle of everything."""

import random
import time

from model import Workload, leftovers, until

KILLS = 100


def test_p1_p2_p3_p10_what_was_acknowledged_survives_kill_9_and_nothing_else_is_left(
        serve, bucket, seed, factor, report):
    workload, rolls = Workload(seed), random.Random(seed)
    for _ in range(KILLS * factor):
        server = serve(bucket)
        workload.verify(server.client())

        def crash(server=server):
            time.sleep(rolls.uniform(0.01, 0.4))
            server.kill()

        workload.run([server], crash)
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
