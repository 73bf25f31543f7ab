#!/usr/bin/env python3
"""The blob store beside the directory engine and beside bare writes and flushes.

    cargo build --release --bin lobos --example load
    python3 bench/compare/blob.py                    # everything, about half an hour
    python3 bench/compare/blob.py put --sizes 32KiB --connections 32 --directory /mnt/disk
    python3 bench/compare/blob.py churn --minutes 30

Measured as compare.py does it: server and client on a core each, A B A B, medians of the rounds.
The store's file is written once before it is formatted, so that no first touch is measured
(`--fresh` leaves that out). "Append" is a loop of writes in flight together, one behind the other,
and one flush for them all: what any store with group commit takes at least.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request

from compare import (Lobos, alone, alternate, arguments, free_port, load, median, parse, row,
                     run_parts, table, targets_file, walk, wrk)

PARTS = ("put", "get", "scale", "space", "churn")
SIZES = {"100B": 100, "4KiB": 4 << 10, "32KiB": 32 << 10, "33KiB": 33 << 10, "1MiB": 1 << 20}


def main():
    parser = arguments(__doc__, PARTS)
    parser.add_argument("--sizes", nargs="*", default=["4KiB", "32KiB", "1MiB"], choices=SIZES)
    parser.add_argument("--connections", nargs="*", type=int, default=[1, 32, 64])
    parser.add_argument("--etags", nargs="*", default=["fast", "md5"], choices=["fast", "md5"])
    parser.add_argument("--store-mib", type=int, default=4096, help="size of a store")
    parser.add_argument("--fresh", action="store_true", help="do not write the file beforehand")
    parser.add_argument("--keys", type=int, default=1_000_000, help="objects of `scale`")
    parser.add_argument("--minutes", type=float, default=2, help="how long `churn` runs")
    parser.add_argument("--share", type=int, default=85, help="how full `churn` is, in percent")
    parser.add_argument("--without", nargs="*", default=[], choices=["directory", "append"],
                        help="sides of `put` to leave out")
    run_parts(parse(parser, PARTS), globals())


# The parts.


def part_put(options, scratch):
    """Durable PUT over 2,000 keys, so that space returns as it does in use."""
    table("PUT, durable", [
        "ETag", "size", "connections", "append op/s", "append CPU us", "directory op/s",
        "directory CPU us", "blob op/s", "blob CPU us", "blob / append", "blob / directory",
        "blob p50 ms", "blob p99 ms"])
    appended = scratch / "appended"
    write_out(appended, 1024)
    for etag in options.etags:
        home = scratch / etag
        for part in (home, home / "a", home / "b", home / "lobos-files"):
            part.mkdir()
        environment = {"LOBOS_ETAG": etag}
        store = made_store(options, home / "store.img")
        with (Lobos(options, home / "a", home / "lobos-files", environment=environment) as files,
              Lobos(options, home / "b", store=store, environment=environment) as blob):
            for name in options.sizes:
                size = SIZES[name]
                for connections in options.connections:
                    sides = [lambda: put_over(options, home, blob, "lobos", size, connections)]
                    if "directory" not in options.without:
                        sides.append(lambda: put_over(options, home, files, "lobos-files", size,
                                                      connections))
                    if "append" not in options.without:
                        sides.append(lambda: alone(options, "append", appended, size, connections,
                                                   options.seconds))
                    runs = alternate(options, *sides)
                    show_put(options, etag, name, connections, runs)
        store.unlink()


def show_put(options, etag, name, connections, runs):
    runs = list(runs)
    blob = runs.pop(0)
    directory = None if "directory" in options.without else runs.pop(0)
    append = None if "append" in options.without else runs.pop(0)

    def two(run):
        return (f"{run.rate:,.0f}", f"{run.cpu_us:.1f}") if run else ("", "")

    def ratio(run):
        return f"{blob.rate / run.rate:.2f}" if run else ""

    row(etag, name, connections, *two(append), *two(directory), *two(blob), ratio(append),
        ratio(directory), f"{blob.p50_us / 1e3:.2f}", f"{blob.p99_us / 1e3:.2f}")


def part_get(options, scratch):
    """GET of one hot object over and over, presigned, beside the directory engine."""
    table("GET, hot, keep-alive", ["size", "connections", "directory op/s", "directory CPU us",
                                   "blob op/s", "blob CPU us", "op/s ratio", "CPU ratio"])
    for part in ("a", "b", "lobos-files"):
        (scratch / part).mkdir()
    store = made_store(options, scratch / "store.img")
    with (Lobos(options, scratch / "a", scratch / "lobos-files") as files,
          Lobos(options, scratch / "b", store=store) as blob):
        for name in options.sizes:
            for server, bucket in ((files, "lobos-files"), (blob, "lobos")):
                target = server.presign("PUT", f"/{bucket}/{name}")
                load(options, server, "PUT", targets_file(scratch, [target]), SIZES[name], 1)
            time.sleep(0.2)
            for connections in options.connections:
                ask = [server.presign("GET", f"/{bucket}/{name}")
                       for server, bucket in ((files, "lobos-files"), (blob, "lobos"))]
                a, b = alternate(options, lambda: wrk(options, files, ask[0], connections),
                                 lambda: wrk(options, blob, ask[1], connections))
                row(name, connections, f"{a.rate:,.0f}", f"{a.cpu_us:.1f}", f"{b.rate:,.0f}",
                    f"{b.cpu_us:.1f}", f"{b.rate / a.rate:.2f}", f"{a.cpu_us / b.cpu_us:.2f}")


def part_scale(options, scratch):
    """Many objects of 100 bytes: memory for each, the listing, and how long a start takes.

    Without signatures, which take Python longer to make than a server to store an object.
    """
    table("Many objects", ["objects", "RSS bytes an object", "index bytes an object",
                           "of these, key", "keys/s of server CPU", "CPU ms a page",
                           "s to start after a stop", "s to start after kill -9", "replayed MiB"])
    (scratch / "home").mkdir()
    store = made_store(options, scratch / "store.img")
    observed = Observed(scratch, {"LOBOS_DURABILITY": "relaxed", "LOBOS_ETAG": "fast",
                                  "LOBOS_AUTH": "false"})

    def serve():
        return Lobos(options, scratch / "home", store=store, environment=observed.environment)

    with serve() as lobos:
        before = lobos.resident_kib() * 1024
        targets = (f"/lobos/d{n // 1000:04}/key{n:08}" for n in range(options.keys))
        load(options, lobos, "PUT", targets_file(scratch, targets), 100, 32, seconds=3600)
        objects, index = observed.ask("objects"), observed.ask("index_bytes")
        resident = lobos.resident_kib() * 1024 - before
        walk(lobos, "lobos")
        runs = []
        for _ in range(options.rounds):
            cpu = lobos.cpu_us()
            keys, pages = walk(lobos, "lobos")
            cpu = lobos.cpu_us() - cpu
            runs.append((keys / cpu * 1e6, cpu / pages / 1e3))
        rate, page_ms = map(median, zip(*runs))
    began = time.monotonic()
    with serve() as lobos:
        stopped = time.monotonic() - began
        # A tail to replay.
        targets = (f"/lobos/d{n // 1000:04}/key{n:08}" for n in range(options.keys // 4))
        load(options, lobos, "PUT", targets_file(scratch, targets), 100, 32, seconds=3600)
        used = observed.ask("journal_used_bytes")
        lobos.process.send_signal(signal.SIGKILL)
        lobos.process.wait()
    began = time.monotonic()
    with serve():
        killed = time.monotonic() - began
    row(f"{objects:,.0f}", f"{resident / objects:.0f}", f"{index / objects:.0f}", 17,
        f"{rate:,.0f}", f"{page_ms:.2f}", f"{stopped:.2f}", f"{killed:.2f}", f"{used / 2**20:.0f}")


def part_space(options, scratch):
    """What objects of one size take of the device."""
    table("Space", ["size", "objects", "bytes on the device an object", "overhead %"])
    (scratch / "home").mkdir()
    store = made_store(options, scratch / "store.img")
    observed = Observed(scratch, {"LOBOS_DURABILITY": "relaxed"})
    with Lobos(options, scratch / "home", store=store, environment=observed.environment) as lobos:
        for name, count in (("100B", 20_000), ("4KiB", 20_000), ("33KiB", 5_000), ("1MiB", 500)):
            before = observed.ask("free_bytes") + observed.ask("held_bytes")
            targets = [lobos.presign("PUT", f"/lobos/{name}/{n}") for n in range(count)]
            load(options, lobos, "PUT", targets_file(scratch, targets), SIZES[name], 32,
                 seconds=600)
            taken = before - observed.ask("free_bytes") - observed.ask("held_bytes")
            row(name, f"{count:,}", f"{taken / count:,.0f}",
                f"{(taken / count / SIZES[name] - 1) * 100:.1f}")


def part_churn(options, scratch):
    """Objects of 1 KiB to 1 MiB replaced at random in a store that stays as full as asked.

    Without signatures, as `scale`.
    """
    table(f"Churn at {options.share} %", [
        "minute", "op/s", "MiB/s", "p50 ms", "p99 ms", "RSS MiB", "free %", "free runs",
        "mean free run KiB", "fragmentation"])
    (scratch / "home").mkdir()
    store = made_store(options, scratch / "store.img")
    observed = Observed(scratch, {"LOBOS_ETAG": "fast", "LOBOS_AUTH": "false"})
    choice = random.Random(1)
    with Lobos(options, scratch / "home", store=store, environment=observed.environment) as lobos:
        capacity = observed.ask("capacity_bytes")
        sizes, lines = [], []
        while sum(sizes) < capacity * options.share / 100:
            sizes.append(int(2 ** choice.uniform(10, 20)))
        for number, size in enumerate(sizes):
            lines.append(f"/lobos/key{number} {size}")
        load(options, lobos, "PUT", targets_file(scratch, lines), 0, 16, seconds=3600)
        end, minute = time.monotonic() + options.minutes * 60, 0
        while time.monotonic() < end:
            minute += 1
            lines = []
            for _ in range(300_000):
                number = choice.randrange(len(sizes))
                lines.append(f"/lobos/key{number} {shuffled(choice, sizes, number)}")
            span = min(60, max(1, int(end - time.monotonic())))
            run = load(options, lobos, "PUT", targets_file(scratch, lines), 0, 16, seconds=span)
            free, runs = observed.ask("free_bytes"), observed.ask("free_runs")
            mean = sum(sizes) / len(sizes)
            row(minute, f"{run.rate:,.0f}", f"{run.rate * mean / 2**20:,.0f}",
                f"{run.p50_us / 1e3:.2f}", f"{run.p99_us / 1e3:.2f}",
                f"{lobos.resident_kib() / 1024:.0f}", f"{free / capacity * 100:.1f}",
                f"{runs:,.0f}", f"{free / max(runs, 1) / 1024:.0f}",
                f"{observed.ask('fragmentation_ratio'):.3f}")


def shuffled(choice, sizes, number):
    """A new size for one key: another one's, which gets this one's when it is written next."""
    other = choice.randrange(len(sizes))
    sizes[number], sizes[other] = sizes[other], sizes[number]
    return sizes[number]


# Helpers.


class Observed:
    """A server's metrics, at a port of their own."""

    def __init__(self, scratch, environment):
        self.address = f"127.0.0.1:{free_port()}"
        config = scratch / "lobos.cfg"
        config.write_text(f'[metrics]\nlisten = "{self.address}"\n')
        self.environment = environment | {"LOBOS_CONFIG": str(config)}

    def ask(self, name):
        url = f"http://{self.address}/metrics"
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        found = re.search(rf"^lobos_storage_{name}(?:{{[^}}]*}})? ([0-9.e+-]+)", text, re.M)
        if not found:
            sys.exit(f"there is no metric lobos_storage_{name}")
        return float(found.group(1))


def made_store(options, path):
    """A formatted store whose file holds no first touch."""
    if options.fresh:
        subprocess.run([options.lobos, "blob", "format", f"{path}:{options.store_mib}MiB"],
                       check=True, stdout=subprocess.DEVNULL)
        return path
    write_out(path, options.store_mib)
    subprocess.run([options.lobos, "blob", "format", path], check=True, stdout=subprocess.DEVNULL)
    return path


def write_out(path, mib):
    """A file of zeros that are really on the disk."""
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(bytes(1 << 20))
        os.fsync(file.fileno())


def put_over(options, scratch, lobos, bucket, size, connections):
    most = options.seconds * 80_000
    keys = [lobos.presign("PUT", f"/{bucket}/key{number}") for number in range(2000)]
    targets = (keys[number % len(keys)] for number in range(most))
    return load(options, lobos, "PUT", targets_file(scratch, targets), size, connections)


if __name__ == "__main__":
    main()
