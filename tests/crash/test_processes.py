"""Several Lobos processes in one directory."""

import http.client
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from model import PART_BYTES, Workload, bytes_of, etag_of, etag_of_parts, leftovers, until

WRITERS = 32
ROUNDS = 50


def test_p11_of_racing_writers_in_two_processes_exactly_one_wins(serve, bucket, factor, report):
    servers = [serve(bucket), serve(bucket)]
    clients = [servers[number % 2].client() for number in range(WRITERS)]
    won_by = [0, 0]
    with ThreadPoolExecutor(WRITERS) as pool:
        for turn in range(ROUNDS * factor):
            key, etag = f"dir{turn % 3}/key{turn}", None
            # First who creates it, then who replaces it.
            for condition in ["create", "replace"]:
                headers = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
                start = threading.Barrier(WRITERS)

                def write(number, headers=headers, key=key, start=start, condition=condition):
                    start.wait()
                    body = f"{condition} {number}".encode() * (1 + number * 400)
                    return clients[number].put(key, body, headers), body

                answers = list(pool.map(write, range(WRITERS)))
                winners = [number for number, (answer, _) in enumerate(answers)
                           if answer.status == 200]
                others = {answer.status for answer, _ in answers} - {200}
                assert len(winners) == 1, f"{len(winners)} winners of {condition} {turn}"
                assert others == {412}, others
                won_by[winners[0] % 2] += 1
                body = answers[winners[0]][1]
                etag = etag_of(body)
                for server in servers:
                    answer = server.client().get(key)
                    assert (answer.body, answer.headers["ETag"]) == (body, etag)
    report(f"{ROUNDS * factor} rounds of 2 races of {WRITERS} writers; won by process: {won_by}")
    assert all(won_by), "one process never won: was it a race?"


def test_p16_processes_that_start_and_are_killed_lose_nothing_of_the_others(
        serve, bucket, seed, factor, report):
    """Two serve all the time; others start, sweep, write and are killed meanwhile."""
    steady = [serve(bucket), serve(bucket)]
    workload, kills = Workload(seed, workers=4), []
    visitors = Workload(seed + "-visitors", workers=2)
    for number, worker in enumerate(visitors.workers):
        worker.registers = {f"v{number}{key}": register
                            for key, register in worker.registers.items()}
        worker.keys = list(worker.registers)

    def visit():
        for _ in range(20 * factor):
            server = serve(bucket)
            for worker in visitors.workers:
                worker.verify(server.client())
            visitors.run([server], lambda server=server: (time.sleep(0.15), server.kill()))
            kills.append(server)

    workload.run(steady, visit)
    for worker in visitors.workers:
        worker.verify(steady[1].client())
        worker.upload = None
        for key in worker.keys:
            worker.delete(steady[1].client(), key)
    workload.verify(steady[1].client())
    workload.verify(steady[0].client())
    for server in steady:
        server.stop()
    last = serve(bucket)
    workload.verify(last.client())
    workload.empty(last.client())
    left = until(lambda: not leftovers(bucket)) or leftovers(bucket)
    assert left is True, f"leaked: {left}"
    last.stop()
    counts = workload.counts
    report(f"{len(kills)} kills beside 2 processes that lost nothing of "
           f"{counts.acked} acknowledged changes")


def test_p10_an_upload_is_continued_and_completed_by_other_processes(serve, bucket):
    first, second = serve(bucket), serve(bucket)
    key, bodies = "dir/joined", [bytes_of(number, PART_BYTES) for number in range(4)]
    id = first.client().ask("POST", key, "uploads").field("UploadId")

    def part(server, number):
        target = f"partNumber={number}&uploadId={id}"
        answer = server.client().ask("PUT", key, target, {}, bodies[number - 1])
        assert (answer.status, answer.headers["ETag"]) == (200, etag_of(bodies[number - 1]))

    part(first, 1)
    part(second, 2)
    part(first, 3)
    first.kill()
    third = serve(bucket)
    assert third.client().put("other", b"its scratch directory is made and others swept").status == 200
    part(third, 4)
    part(second, 1)
    listed = second.client().ask("GET", key, f"uploadId={id}")
    assert [int(n) for n in re.findall(rb"<PartNumber>(\d+)<", listed.body)] == [1, 2, 3, 4]
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag_of(body)}</ETag></Part>"
                   for number, body in enumerate(bodies, 1))
    document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(
            lambda server: server.client().ask("POST", key, f"uploadId={id}", {}, document),
            [second, third, second, third]))
    assert [answer.status for answer in answers] == [200] * 4, answers
    for server in [second, third]:
        answer = server.client().get(key)
        assert answer.body == b"".join(bodies)
        assert answer.headers["ETag"] == etag_of_parts(bodies)
        assert server.client().uploads() == []


def test_a_long_put_survives_a_process_that_starts_and_one_that_is_killed(serve, bucket):
    """What is only half received lies in files that a sweep must not touch."""
    server = serve(bucket)
    body = bytes_of(7, 3 * PART_BYTES)
    key, half = "slow/object", len(body) // 2
    slow = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    slow.putrequest("PUT", f"/data/{key}")
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders()
    slow.send(body[:half])
    victim = serve(bucket)
    assert victim.client().put("slow/neighbour", b"1").status == 200
    assert victim.client().delete("slow/neighbour").status == 204
    victim.kill()
    another = serve(bucket)
    assert another.client().put("slow/neighbour", b"2").status == 200
    assert another.client().delete("slow/neighbour").status == 204
    assert another.client().get(key).status == 404
    slow.send(body[half:])
    reply = slow.getresponse()
    assert (reply.status, reply.read()) == (200, b"")
    assert another.client().get(key).body == body
    assert server.client().get(key).body == body


def test_a_client_that_gives_up_leaves_nothing(serve, bucket):
    server = serve(bucket)
    for sent in [0, 1, 70_000, 3_000_000]:
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            peer.sendall(b"PUT /data/half HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                         b"Content-Length: 8000000\r\n\r\n" + bytes(sent))
    client = server.client()
    assert client.put("probe", b"1").status == 200
    assert client.delete("probe").status == 204
    assert until(lambda: [path for path in bucket.rglob("*") if path.is_file()
                          and path.name != "lock"] == [])
    assert client.keys() == []
    unnamed = until(lambda: not [target for target in descriptors(server.pid)
                                 if str(bucket) in target and "(deleted)" in target])
    assert unnamed, "an unnamed file is still open"


def descriptors(pid):
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass
    return found
