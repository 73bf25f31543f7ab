"""A blob store on SPDK: what was acknowledged survives a kill, an error of the drive is never an
acknowledgement, and requests that are cut off leave nothing behind. `lobos` must be built with the
feature `spdk`."""

import json
import random
import re
import socket
import subprocess
import time
import urllib.request

import pytest

from model import Workload, until
from server import BINARY, BUCKET

KILLS = 15
CUT_REQUESTS = 500


@pytest.fixture(autouse=True)
def spdk(tmp_path):
    """Skips where the program has no SPDK."""
    config = tmp_path / "probe.cfg"
    config.write_text('[spdk_blobstore]\nmalloc = "64 MiB"\n')
    probe = subprocess.run([BINARY, "check-config", "-c", config], capture_output=True, text=True)
    if "built without" in probe.stderr:
        pytest.skip("lobos is built without the feature `spdk`")
    assert probe.returncode == 0, probe.stderr


@pytest.fixture
def configure(tmp_path):
    """`configure(device)`: a configuration of a store there; its image goes with the test."""

    def configure(device, more=""):
        config = tmp_path / "spdk.cfg"
        config.write_text(f"""
            [spdk_blobstore]
            {device}
            no_huge = true
            memory = "192 MiB"
            buffers = "32 MiB"
            {more}
            [metrics]
            listen = "127.0.0.1:0"
            [control]
            enabled = false
            [log]
            level = "info"
        """)
        return config

    yield configure
    (tmp_path / "store.img").unlink(missing_ok=True)


def devices(image):
    return {"aio": f'aio = "{image}"\nsize = "200 MiB"',
            "uring": f'uring = "{image}"\nsize = "200 MiB"\nvolatile_cache = "none"'}


def metrics(server):
    url = re.search(r"^metrics: (http://\S+)$", server.output.read_text(), re.M)[1]
    with urllib.request.urlopen(url, timeout=10) as reply:
        text = reply.read().decode()
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines()
            if not line.startswith("#")}, text


@pytest.mark.parametrize("bdev", ["aio", "uring"])
def test_p1_p2_p3_a_store_on_spdk_keeps_what_was_acknowledged_through_kill_9(
        serve, configure, tmp_path, bdev, seed, factor, report):
    config = configure(devices(tmp_path / "store.img")[bdev])
    workload, rolls = Workload(seed), random.Random(seed)
    for _ in range(KILLS * factor):
        server = serve(config)
        workload.verify(server.client())

        def crash(server=server):
            time.sleep(rolls.uniform(0.01, 0.4))
            server.kill()

        workload.run([server], crash)
        assert "Performing recovery" not in server.log.read_text(), "the blobstore was dirty"
    server = serve(config)
    assert "Existing blobstore loaded" in server.output.read_text()
    client = server.client()
    workload.verify(client)
    workload.empty(client)
    assert client.keys() == []
    server.stop()
    counts = workload.counts
    report(f"{KILLS * factor} kills, {counts.acked} changes acknowledged, {counts.lost} cut off, "
           f"{counts.checked} states verified")


def test_a_start_says_what_it_does_and_the_metrics_have_their_names(serve, configure):
    server = serve(configure('malloc = "128 MiB"'))
    said = server.output.read_text()
    for line in ("SPDK device Malloc0", "New blobstore created", "Blobstore io unit size: 4096",
                 "Index of 0 objects rebuilt in",
                 f"Starting S3 HTTP server for bucket lobos at 127.0.0.1:{server.port}"):
        assert line in said, said
    client = server.client()
    before, text = metrics(server)
    for name in ("spdk_bdev_read_ops_total", "spdk_bdev_write_ops_total",
                 "spdk_bdev_bytes_read_total", "spdk_bdev_bytes_written_total",
                 "spdk_bs_clusters_total", "spdk_bs_clusters_available"):
        assert f"# HELP {name} " in text and name in before
    body = random.Random(1).randbytes(8 << 20)
    assert client.put("large", body).status == 200
    assert client.get("large").body == body
    full, _ = metrics(server)
    for name in ("spdk_bdev_read_ops_total", "spdk_bdev_write_ops_total",
                 "spdk_bdev_bytes_read_total", "spdk_bdev_bytes_written_total"):
        assert full[name] > before[name], name
    available = "spdk_bs_clusters_available"
    assert before[available] - full[available] in (8, 9)
    assert client.delete("large").status == 204
    assert until(lambda: metrics(server)[0][available] >= before[available] - 1)
    server.stop()


def test_a_device_that_cannot_flush_is_refused_unless_the_operator_says_so(configure, tmp_path):
    image = tmp_path / "store.img"
    config = configure(f'uring = "{image}"\nsize = "64 MiB"')
    status, said = refused(config)
    assert status == 1 and "volatile_cache" in said, said


def test_what_is_no_store_is_refused_and_left_alone(serve, configure, tmp_path):
    image = tmp_path / "store.img"
    content = b"precious" * 1000
    with image.open("wb") as file:
        file.write(content)
        file.truncate(64 << 20)
    config = configure(f'aio = "{image}"')
    status, said = refused(config)
    assert status == 1 and "force" in said, said
    with image.open("rb") as file:
        assert file.read(len(content)) == content
    server = serve(configure(f'aio = "{image}"', "force = true"))
    assert server.client().put("a", b"a").status == 200
    server.stop()
    server = serve(configure(f'aio = "{image}"', "force = true"))
    assert server.client().get("a").body == b"a", "force destroyed a store of Lobos'"
    status, said = refused(configure(f'aio = "{image}"'))
    assert status == 1 and "another process has it open" in said, said


def refused(config):
    done = subprocess.run([BINARY, "-c", config], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("operation", ["write", "flush"])
def test_p9_an_error_of_the_drive_poisons_and_loses_nothing_acknowledged(
        serve, configure, tmp_path, operation):
    image, spdk_json, rpc = (tmp_path / name for name in ("store.img", "spdk.json", "rpc.sock"))
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(128 << 20)
    spdk_json.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_aio_create",
         "params": {"name": "Aio0", "filename": str(image), "block_size": 4096}},
        {"method": "bdev_error_create", "params": {"base_name": "Aio0"}}]}]}))
    config = configure(f'json = "{spdk_json}"\nbdev = "EE_Aio0"\nrpc = "{rpc}"')
    server = serve(config)
    client = server.client()
    bodies = {f"k{number}": random.Random(number).randbytes(40_000) for number in range(20)}
    for key, body in bodies.items():
        assert client.put(key, body).status == 200
    inject(rpc, operation, "failure")
    assert client.put("lost", b"x" * 40_000).status >= 500
    for number in range(5):
        assert client.put(f"later{number}", b"x" * 40_000).status >= 500
    for key, body in bodies.items():
        assert client.get(key).body == body
    server.kill()
    server = serve(config)
    client = server.client()
    for key, body in bodies.items():
        assert client.get(key).body == body
    assert client.put("again", b"again").status == 200
    server.stop()


def test_p5_corrupt_bytes_of_the_drive_are_never_an_answer(serve, configure, tmp_path):
    image, spdk_json, rpc = (tmp_path / name for name in ("store.img", "spdk.json", "rpc.sock"))
    with image.open("wb") as file:
        file.truncate(128 << 20)
    spdk_json.write_text(json.dumps({"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_aio_create",
         "params": {"name": "Aio0", "filename": str(image), "block_size": 4096}},
        {"method": "bdev_error_create", "params": {"base_name": "Aio0"}}]}]}))
    config = configure(f'json = "{spdk_json}"\nbdev = "EE_Aio0"\nrpc = "{rpc}"')
    server = serve(config)
    body = random.Random(5).randbytes(300_000)
    assert server.client().put("a", body).status == 200
    inject(rpc, "read", "corrupt_data", corrupt_offset=1000, corrupt_value=0x5a)
    try:
        answer = server.client().get("a")
        assert answer.status >= 500 or answer.body == body
    except Exception as error:  # The connection was cut: no wrong byte came as the whole.
        assert "Incomplete" in repr(error) or "reset" in repr(error).lower(), error


def inject(rpc, operation, error, **more):
    """Asks SPDK's control service to fail operations of the error bdev."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "bdev_error_inject_error", "params": {
        "name": "EE_Aio0", "io_type": operation, "error_type": error, "num": 1000, **more}}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(rpc))
        connection.sendall(json.dumps(call).encode())
        answer = json.loads(connection.recv(65536))
    assert answer.get("result") is True, answer


def test_requests_that_are_cut_off_leave_nothing_behind(
        serve, configure, tmp_path, factor, report):
    server = serve(configure(devices(tmp_path / "store.img")["aio"]))
    client = server.client()
    body = random.Random(2).randbytes(1 << 20)
    assert client.put("whole", body).status == 200
    # Pools fill and SPDK's memory is touched for the first time.
    cut(server.port, body, CUT_REQUESTS * factor // 2)
    before = settled(server)
    memory = resident(server.pid)
    cut(server.port, body, CUT_REQUESTS * factor)
    after = settled(server)
    for name in ("lobos_storage_free_bytes", "lobos_storage_objects"):
        assert after[name] == before[name], name
    assert after["lobos_spdk_in_flight"] == after["lobos_spdk_waiting"] == 0
    grown = resident(server.pid) - memory
    assert grown < 16 << 20, f"{grown} bytes of memory more"
    assert client.get("whole").body == body
    server.stop()
    report(f"{CUT_REQUESTS * factor} requests cut off, {grown >> 10} KiB of memory more")


def cut(port, body, count):
    """PUTs whose body ends early and GETs that are not read to their end."""
    rolls = random.Random(3)
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            if number % 2:
                connection.sendall(f"PUT /{BUCKET}/cut HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                                   f"Content-Length: {len(body)}\r\n\r\n".encode()
                                   + body[:rolls.randrange(len(body))])
            else:
                connection.sendall(f"GET /{BUCKET}/whole HTTP/1.1\r\n"
                                   f"Host: 127.0.0.1:{port}\r\n\r\n".encode())
                connection.recv(rolls.choice([1, 1000, 100_000]))


def settled(server):
    """The metrics once nothing is under way."""
    last = None
    for _ in range(100):
        now = metrics(server)[0]
        idle = now["lobos_spdk_in_flight"] == 0 and now["lobos_storage_held_bytes"] == 0
        if idle and last == now["lobos_storage_free_bytes"]:
            return now
        last = now["lobos_storage_free_bytes"]
        time.sleep(0.05)
    return now


def resident(pid):
    """Bytes of memory, without those that SPDK took at its start and fills as it needs them."""
    total = 0
    with open(f"/proc/{pid}/smaps") as areas:
        for line in areas:
            begin = re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line)
            if begin:
                is_spdk = 0x200000000000 <= int(begin[1], 16) < 0x210000000000
            elif line.startswith("Rss:") and not is_spdk:
                total += int(line.split()[1]) << 10
    return total
