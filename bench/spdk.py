#!/usr/bin/env python3
"""The blob store on SPDK's malloc and aio bdevs beside the same store on files through io_uring.

    bench/spdk.py [SECONDS [ROUNDS]]

Each round runs all of them after each other, so that a noisy minute hits them alike. One thread
serves requests (core 1, or the last one); the reactor and the load share core 0. `etag = "fast"`,
no authentication. Prints operations/s, and microseconds of CPU an operation: of the thread that
serves, and of the whole process without the polling. Needs target/release/lobos built with the
feature `spdk`, target/release/examples/load, 6 GiB of memory and of disk, and /dev/shm.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOBOS = os.environ.get("LOBOS_BINARY", REPOSITORY / "target/release/lobos")
LOAD = os.environ.get("LOAD_BINARY", REPOSITORY / "target/release/examples/load")
SIZES = [(32 << 10, 200, 2000), (1 << 20, 50, 200)]
TICKS = os.sysconf("SC_CLK_TCK")
DEVICES = {
    "io_uring, file on disk": '[blob]\npath = "{disk}/uring.img"\nsize = "1 GiB"',
    "io_uring, file on tmpfs": '[blob]\npath = "{shm}/uring.img"\nsize = "1 GiB"',
    "SPDK malloc": '[spdk_blobstore]\nmalloc = "1 GiB"\nno_huge = true',
    "SPDK aio, file on disk": '[spdk_blobstore]\naio = "{disk}/aio.img"\nsize = "1 GiB"\nno_huge = true',
}


def main(seconds=4, rounds=2):
    seconds, rounds, found = int(seconds), int(rounds), {}
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir="/dev/shm") as shm:
        for _ in range(rounds):
            for name, device in DEVICES.items():
                for what, figures in measured(device.format(disk=disk, shm=shm), Path(disk), seconds):
                    found.setdefault((what, name), []).append(figures)
    print("| what | device | operations/s | us of the serving thread | us of the process | p50 / p99 us |")
    print("|---|---|---|---|---|---|")
    for (what, name), all_figures in sorted(found.items()):
        rate, thread, process, p50, p99 = map(statistics.median, zip(*all_figures))
        print(f"| {what} | {name} | {rate:,.0f} | {thread:.1f} | {process:.1f} | {p50:.0f} / {p99:.0f} |")


def measured(device, home, seconds):
    """(what, (operations/s, us of the serving thread, us of the process, p50, p99)) of one server."""
    config = home / "bench.cfg"
    config.write_text(f'[server]\nlisten = "127.0.0.1:0"\nauth = false\nthreads = 1\npin = true\n'
                      f'etag = "fast"\n[metrics]\nenabled = false\n[control]\nenabled = false\n{device}\n')
    core = (os.cpu_count() or 2) - 1
    command = [LOBOS, "-c", config, "--state-dir", home / "state"]
    if "[blob]" in device:
        command = ["taskset", "-c", str(core), *command]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
    try:
        address = next(found[1] for line in server.stdout
                       if (found := re.search(r"Starting S3 .* at (127\.0\.0\.1:\d+)", line)))
        for size, connections, keys in SIZES:
            names = [f"/lobos/{size}/{number}" for number in range(keys)]
            once, often = home / "once.txt", home / "often.txt"
            once.write_text("\n".join(names))
            often.write_text("\n".join(names * (4_000_000 // keys if size < 1 << 20 else 400)))
            # All are there before they are asked for.
            loaded("PUT", address, once, size, connections, 60)
            for method in ("PUT", "GET"):
                before = cpu(server.pid)
                load = loaded(method, address, often, size, connections, seconds)
                after = cpu(server.pid)
                count = load["operations"]
                thread, process = ((b - a) / TICKS * 1e6 / count for a, b in zip(before, after))
                yield (f"{method} {size >> 10} KiB x {connections}",
                       (count / load["seconds"], thread, process, load["p50_us"], load["p99_us"]))
    finally:
        server.terminate()
        server.wait(30)


def loaded(method, address, targets, size, connections, seconds):
    words = ["taskset", "-c", "0", LOAD, "http", method, address, targets, size, connections, seconds]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def cpu(pid):
    """Ticks of the thread that serves, and of all threads but SPDK's."""
    serving = rest = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        serving += ticks if name == "lobos-shard-0" else 0
        rest += 0 if name.startswith(("reactor", "lobos-spdk")) else ticks
    return serving, rest


if __name__ == "__main__":
    main(*sys.argv[1:])
