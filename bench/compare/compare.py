#!/usr/bin/env python3
"""Lobos beside nginx and beside bare system calls, on this machine.

    cargo build --release --bin lobos --example load
    python3 bench/compare/compare.py                 # everything, about ten minutes
    python3 bench/compare/compare.py get put --rounds 3 --directory /mnt/disk

The server runs on one core, its client on another. Comparisons alternate A B A B; each figure is
the median of the rounds. "CPU us" is what the server's processes used, user and system, per
operation, from /proc/PID/stat: it stays honest when the client is the bottleneck.

Needs two cores, Linux, nginx and wrk (packages of those names), and no others' work meanwhile.
"""

import argparse
import datetime
import hashlib
import hmac
import http.client
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ACCESS_KEY, SECRET_KEY, REGION = "comparison", "comparison/secret", "us-east-1"
TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 10
PARTS = ("start", "get", "head", "put", "list")


def main():
    parser = arguments(__doc__, PARTS)
    parser.add_argument("--keys", type=int, default=100_000, help="keys of the listing")
    run_parts(parse(parser, PARTS), globals())


def run_parts(options, functions):
    """Each part that was asked for, in a directory of its own that goes afterwards."""
    release = options.target / "release"
    options.lobos, options.load = release / "lobos", release / "examples" / "load"
    need(options)
    print(f"# {version(options)}; {platform.system()} {platform.release()}, {cpu_name()}; "
          f"server on core {options.server_core}, client on core {options.client_core}; "
          f"{options.rounds} rounds of {options.seconds} s; {filesystem(options.directory)}")
    for part in options.parts:
        with tempfile.TemporaryDirectory(prefix="lobos-compare-", dir=options.directory) as scratch:
            os.chmod(scratch, 0o755)
            functions[f"part_{part}"](options, Path(scratch))


def arguments(text, parts):
    """What every comparison can be told."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(parts))
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()),
                        help="where the files are made, on the disk to be measured")
    parser.add_argument("--target", type=Path, default=REPOSITORY / "target",
                        help="cargo's target directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--client-core", type=int, default=1)
    return parser


def parse(parser, parts):
    options = parser.parse_args()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no such part: {' '.join(unknown)}; there are {' '.join(parts)}")
    options.parts = options.parts or list(parts)
    return options


def need(options):
    """Ends with a message where something is missing."""
    missing = []
    for program in (options.lobos, options.load):
        if not program.exists():
            missing.append(f"{program}: cargo build --release --bin lobos --example load")
    if "get" in options.parts:
        missing += [f"{name}: install the package {name}" for name in ("nginx", "wrk")
                    if not find(name)]
    if (os.cpu_count() or 1) < 2:
        missing.append("a second core: server and client would share the only one")
    if missing:
        sys.exit("compare.py needs, and does not find:\n  " + "\n  ".join(missing))


def find(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


# The parts.


def part_start(options, scratch):
    """From exec to the first 200 of an empty directory; what the process costs when idle."""
    taken, memory, waking, burnt = [], [], [], []
    for number in range(options.rounds):
        (scratch / f"home{number}").mkdir()
        before = time.monotonic()
        with Lobos(options, scratch / f"home{number}") as server:
            taken.append((time.monotonic() - before) * 1e3)
            time.sleep(1)
            cpu, switches = server.cpu_us(), server.switches()
            time.sleep(options.seconds)
            memory.append(server.resident_kib() / 1024)
            waking.append((server.switches() - switches) / options.seconds)
            burnt.append((server.cpu_us() - cpu) / options.seconds / 1e6 * 100)
    table("Start and idle", ["ms to first 200", "idle RSS MiB", "idle wake-ups/s", "idle CPU %"])
    row(f"{median(taken):.1f}", f"{median(memory):.1f}", f"{median(waking):.2f}",
        f"{median(burnt):.3f}")


def part_get(options, scratch):
    """GET of a cached file, presigned V4, beside nginx with sendfile and open_file_cache."""
    bucket = scratch / "bucket"
    bucket.mkdir()
    sizes = {"4 KiB": 4 << 10, "32 KiB": 32 << 10, "1 MiB": 1 << 20}
    for name, size in sizes.items():
        (bucket / file_name(name)).write_bytes(os.urandom(size))
    time.sleep(0.1)
    table("GET, cached, keep-alive", ["size", "connections", "nginx op/s", "nginx CPU us",
                                      "Lobos op/s", "Lobos CPU us", "op/s ratio", "CPU ratio"])
    with Nginx(options, scratch) as nginx, Lobos(options, scratch, bucket) as lobos:
        for name in sizes:
            target = f"/bucket/{file_name(name)}"
            for connections in (32, 1) if name == "4 KiB" else (16,) if name == "1 MiB" else (32,):
                a, b = alternate(
                    options,
                    lambda: wrk(options, nginx, target, connections),
                    lambda: wrk(options, lobos, lobos.presign("GET", target), connections))
                row(name, connections, f"{a.rate:,.0f}", f"{a.cpu_us:.1f}", f"{b.rate:,.0f}",
                    f"{b.cpu_us:.1f}", f"{b.rate / a.rate:.2f}", f"{a.cpu_us / b.cpu_us:.2f}")


def part_head(options, scratch):
    """HEAD of a warm 4 KiB file on one connection."""
    bucket = scratch / "bucket"
    bucket.mkdir()
    (bucket / "file").write_bytes(os.urandom(4 << 10))
    table("HEAD, 1 connection", ["op/s", "CPU us", "p50 us", "p99 us"])
    with Lobos(options, scratch, bucket) as lobos:
        targets = targets_file(scratch, [lobos.presign("HEAD", "/bucket/file")] * 500_000)
        (runs,) = alternate(options, lambda: load(options, lobos, "HEAD", targets, 0, 1))
    row(f"{runs.rate:,.0f}", f"{runs.cpu_us:.1f}", f"{runs.p50_us:.0f}", f"{runs.p99_us:.0f}")


def part_put(options, scratch):
    """Durable PUT of new keys, presigned (unsigned payload), beside the same system calls."""
    table("PUT, durable", ["size", "connections", "bare op/s", "bare CPU us", "Lobos op/s",
                           "Lobos CPU us", "op/s ratio", "p50 ms", "p99 ms"])
    with Lobos(options, scratch, root=scratch / "root") as lobos:
        for name, size in {"4 KiB": 4 << 10, "32 KiB": 32 << 10, "1 MiB": 1 << 20}.items():
            for connections in (1, 32):
                rounds = iter(range(1000))
                a, b = alternate(
                    options,
                    lambda: bare(options, scratch, size, connections),
                    lambda: put(options, scratch, lobos, f"run{next(rounds)}", size, connections))
                row(name, connections, f"{a.rate:,.0f}", f"{a.cpu_us:.0f}", f"{b.rate:,.0f}",
                    f"{b.cpu_us:.0f}", f"{b.rate / a.rate:.2f}", f"{b.p50_us / 1e3:.2f}",
                    f"{b.p99_us / 1e3:.2f}")


def put(options, scratch, lobos, bucket, size, connections):
    """One run into a new bucket, which is removed as the bare loop's directory is."""
    directory = scratch / "root" / bucket
    directory.mkdir()
    most = options.seconds * 12_000
    keys = (lobos.presign("PUT", f"/{bucket}/key{number}") for number in range(most))
    result = load(options, lobos, "PUT", targets_file(scratch, keys), size, connections)
    shutil.rmtree(directory)
    return result


def bare(options, scratch, size, threads):
    directory = Path(tempfile.mkdtemp(dir=scratch))
    result = alone(options, "bare", directory, size, threads, options.seconds)
    shutil.rmtree(directory)
    return result


def alone(options, *arguments):
    """A run of `load` that is itself what is measured, on the server's core."""
    command = pinned(options.server_core, [options.load, *arguments])
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    output = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}")
    return Run.of(json.loads(output), (usage.ru_utime + usage.ru_stime) * 1e6)


def part_list(options, scratch):
    """ListObjectsV2, pages of 1,000 keys that were uploaded; signed; everything in memory."""
    shapes = {"one directory": lambda n: f"key{n:06}", "1,000 a directory":
              lambda n: f"d{n // 1000:03}/key{n:06}"}
    table("LIST, warm", ["shape", "keys", "keys/s of server CPU", "CPU ms a page", "ms a page"])
    root = scratch / "root"
    root.mkdir()
    environment = {"LOBOS_DURABILITY": "relaxed"}
    with Lobos(options, scratch, root=root, environment=environment) as lobos:
        for number, (name, key) in enumerate(shapes.items()):
            bucket = f"list{number}"
            (root / bucket).mkdir()
            targets = (lobos.presign("PUT", f"/{bucket}/{key(n)}") for n in range(options.keys))
            load(options, lobos, "PUT", targets_file(scratch, targets), 1024, 32, seconds=600)
            walk(lobos, bucket)
            runs = []
            for _ in range(options.rounds):
                cpu, before = lobos.cpu_us(), time.monotonic()
                keys, pages = walk(lobos, bucket)
                cpu, wall = lobos.cpu_us() - cpu, time.monotonic() - before
                runs.append((keys / cpu * 1e6, cpu / pages / 1e3, wall / pages * 1e3))
            rate, cpu_ms, wall_ms = map(median, zip(*runs))
            row(name, f"{keys:,}", f"{rate:,.0f}", f"{cpu_ms:.2f}", f"{wall_ms:.2f}")


def walk(lobos, bucket):
    """Keys and pages of a whole listing."""
    connection = http.client.HTTPConnection(lobos.address)
    keys = pages = 0
    token = None
    while pages == 0 or token:
        query = {"list-type": "2"} | ({"continuation-token": token} if token else {})
        connection.request("GET", lobos.presign("GET", f"/{bucket}", query))
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            sys.exit(f"LIST was answered {reply.status}: {body.decode()}")
        keys += body.count(b"<Key>")
        pages += 1
        found = re.search(b"<NextContinuationToken>([^<]*)<", body)
        token = found and found.group(1).decode()
    connection.close()
    return keys, pages


# Servers.


class Server:
    """A process with its children, pinned to the server's core."""

    def start(self, options, command, environment=None):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        command = [str(part).replace("{address}", self.address) for part in command]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            pinned(options.server_core, command), stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, env=dict(os.environ) | (environment or {}))

    def wait_until_ready(self, path):
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection(self.address)
                connection.request("GET", path)
                connection.getresponse().read()
                return
            except OSError:
                time.sleep(0.001)
        self.log.seek(0)
        sys.exit(f"{self.process.args} does not answer:\n{self.log.read().decode()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.close()

    def processes(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [self.process.pid, *map(int, children.read_text().split())]

    def cpu_us(self):
        ticks = 0
        for pid in self.processes():
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(after_name[11]) + int(after_name[12])
        return ticks / TICKS * 1e6

    def switches(self):
        """Times that any thread gave up its core, which is one less than its wake-ups."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int(re.search(r"\nvoluntary_ctxt_switches:\s*(\d+)",
                                 (task / "status").read_text()).group(1)) for task in tasks)

    def resident_kib(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s*(\d+)", status).group(1))


class Lobos(Server):
    def __init__(self, options, home, *buckets, root=None, store=None, environment=None):
        arguments = ["--root", root] if root else list(buckets) or [home / "empty"]
        if store:
            arguments = ["--blob", store]
        self.start(options, [options.lobos, "serve", *arguments, "--threads", "1", "--listen",
                             "{address}", "--state-dir", home / "state"],
                   {"LOBOS_ROOT_USER": ACCESS_KEY, "LOBOS_ROOT_PASSWORD": SECRET_KEY}
                   | (environment or {}))
        self.keys = {}
        self.wait_until_ready("/-/healthz")

    def presign(self, method, path, query=None):
        """The target of a request that is signed in its query, good for an hour."""
        now = datetime.datetime.now(datetime.timezone.utc)
        scope = f"{now:%Y%m%d}/{REGION}/s3/aws4_request"
        pairs = (query or {}) | {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": f"{ACCESS_KEY}/{scope}",
            "X-Amz-Date": f"{now:%Y%m%dT%H%M%SZ}", "X-Amz-Expires": "3600",
            "X-Amz-SignedHeaders": "host"}
        quote = urllib.parse.quote
        text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}"
                        for name, value in sorted(pairs.items()))
        asked = f"{method}\n{path}\n{text}\nhost:{self.address}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(asked.encode()).hexdigest()
        signed = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{digest}"
        signature = hmac.digest(self.signing_key(scope), signed.encode(), "sha256").hex()
        return f"{path}?{text}&X-Amz-Signature={signature}"

    def signing_key(self, scope):
        if scope not in self.keys:
            key = b"AWS4" + SECRET_KEY.encode()
            for piece in scope.split("/"):
                key = hmac.digest(key, piece.encode(), "sha256")
            self.keys[scope] = key
        return self.keys[scope]


class Nginx(Server):
    CONFIG = """
        daemon off; worker_processes 1; pid {scratch}/nginx.pid; error_log stderr; {user}
        events {{ worker_connections 1024; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
            keepalive_requests 1000000000; open_file_cache max=1000 inactive=1h;
            open_file_cache_valid 1h; default_type application/octet-stream;
            client_body_temp_path {scratch}/t1; proxy_temp_path {scratch}/t2;
            fastcgi_temp_path {scratch}/t3; uwsgi_temp_path {scratch}/t4;
            scgi_temp_path {scratch}/t5;
            server {{ listen {address}; root {scratch}; }}
        }}"""

    def __init__(self, options, scratch):
        config = scratch / "nginx.conf"
        command = [find("nginx"), "-p", scratch, "-c", config]
        address = f"127.0.0.1:{free_port()}"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(self.CONFIG.format(scratch=scratch, address=address, user=user))
        self.start(options, command)
        self.address = address
        self.wait_until_ready("/bucket/")


# Clients.


class Run:
    """What one run did; of several, the medians."""

    def __init__(self, rate, cpu_us, p50_us=0.0, p99_us=0.0):
        self.rate, self.cpu_us, self.p50_us, self.p99_us = rate, cpu_us, p50_us, p99_us

    @classmethod
    def of(cls, output, cpu_us):
        operations = output["operations"]
        if not operations:
            sys.exit("a run did nothing")
        return cls(operations / output["seconds"], cpu_us / operations, output["p50_us"],
                   output["p99_us"])


def alternate(options, *sides):
    """Each side once a round; the medians of each. A first round is not counted."""
    for side in sides:
        side()
    runs = [[side() for side in sides] for _ in range(options.rounds)]
    fields = ("rate", "cpu_us", "p50_us", "p99_us")
    return [Run(*(median([getattr(run, field) for run in side]) for field in fields))
            for side in zip(*runs)]


def wrk(options, server, target, connections):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{options.seconds}s",
               f"http://{server.address}{target}"]
    cpu = server.cpu_us()
    output = subprocess.run(pinned(options.client_core, command), capture_output=True, text=True,
                            check=True).stdout
    cpu = server.cpu_us() - cpu
    if "Non-2xx" in output or "Socket errors" in output:
        sys.exit(f"wrk saw errors:\n{output}")
    operations, seconds = re.search(r"(\d+) requests in ([\d.]+)s", output).groups()
    return Run(int(operations) / float(seconds), cpu / int(operations))


def load(options, server, method, targets, size, connections, seconds=None):
    command = [options.load, "http", method, server.address, targets, size, connections,
               seconds or options.seconds]
    cpu = server.cpu_us()
    output = subprocess.run(pinned(options.client_core, command), stdout=subprocess.PIPE,
                            check=True).stdout
    return Run.of(json.loads(output), server.cpu_us() - cpu)


def targets_file(scratch, targets):
    path = scratch / "targets.txt"
    path.write_text("\n".join(targets))
    return path


def pinned(core, command):
    return ["taskset", "-c", str(core), *map(str, command)]


# Words.


def table(title, columns):
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def version(options):
    return subprocess.run([options.lobos, "--version"], capture_output=True, text=True,
                          check=True).stdout.strip()


def cpu_name():
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} x {found.group(1) if found else platform.machine()}"


def filesystem(directory):
    command = ["stat", "--file-system", "--format=%T", directory]
    kind = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return f"files on {kind}"


def file_name(size):
    return size.replace(" ", "-")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def median(values):
    return statistics.median(values)


if __name__ == "__main__":
    main()
