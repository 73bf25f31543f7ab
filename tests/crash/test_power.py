"""Loss of power on real file systems: whatever was not on the disk is gone."""

import random
import time

import pytest

from model import STEADY, State, Workload
from volume import KINDS, do

CYCLES = 3


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
@pytest.mark.parametrize("kind", KINDS)
def test_p1_what_was_acknowledged_survives_loss_of_power(
        serve, volume, seed, factor, report, kind, durability):
    disk = volume(*KINDS[kind])
    bucket = disk.mountpoint / "bucket"
    bucket.mkdir()
    workload, rolls = Workload(seed), random.Random(seed)
    steady = Steady(rolls)
    lossy = durability == "relaxed"
    for _ in range(CYCLES * factor):
        server = serve(bucket, durability=durability)
        client = server.client()
        workload.verify(client, lossy)
        steady.verify(client)
        steady.settle(client, disk)

        def crash(server=server):
            until = time.monotonic() + rolls.uniform(0.1, 0.6)
            steady.change_until(server.client(), until)
            workload.is_cut.set()
            disk.lose_power()
            server.kill()

        workload.run([server], crash)
        disk.unmount()
        disk.mount()
    server = serve(bucket, durability=durability)
    workload.verify(server.client(), lossy)
    steady.verify(server.client())
    server.stop()
    counts = workload.counts
    report(f"{CYCLES * factor} losses of power, {counts.acked} changes acknowledged, "
           f"{counts.checked} states verified, {steady.changes} changes of metadata alone")


class Steady:
    """Objects whose names are durable: a change of their metadata alone is so too, in both modes."""

    def __init__(self, rolls):
        self.rolls, self.changes, self.settled = rolls, 0, {}

    def settle(self, client, disk):
        for number in range(4):
            key = f"{STEADY}{number}"
            state = State(number, 2000 * number, "first")
            self.settled.setdefault(key, state)
            if client.get(key).status != 200:
                assert client.put(key, state.body, state.headers).status == 200
        do("sync", "-f", disk.mountpoint)

    def change_until(self, client, deadline):
        while time.monotonic() < deadline:
            key = self.rolls.choice(list(self.settled))
            old = self.settled[key]
            new = State(old.seed, old.size_bytes, f"t{self.changes}", self.rolls.random() < 0.5)
            answer = client.put(key, b"", new.headers | {
                "x-amz-copy-source": f"/data/{key}", "x-amz-metadata-directive": "REPLACE"})
            assert answer.status == 200, answer
            self.settled[key] = new
            self.changes += 1

    def verify(self, client):
        for key, state in self.settled.items():
            answer = client.get(key)
            assert state.is_shown_by(answer), f"{key}: {state} became {answer} {dict(answer.headers)}"
