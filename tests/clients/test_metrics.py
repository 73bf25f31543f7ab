"""The metrics endpoint: what a scraper gets, and what happens to its port."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import yaml
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from lobos import REPOSITORY

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; q=0.9, text/plain; q=0.1"


def write_config(tmp_path, metrics, more=""):
    """A configuration of one bucket with this line in its section of metrics, and more sections."""
    config = tmp_path / "lobos.cfg"
    config.write_text(f"""
        [server]
        listen = "127.0.0.1:0"
        [filesystem.buckets]
        data = "{tmp_path}/data"
        [metrics]
        {metrics}
        {more}
    """)
    return config


@pytest.fixture
def scraped(start, tmp_path, image):
    """A server with one directory and a blob store whose metrics are at a free port, and the URL
    of the metrics."""
    store = f'[blob]\npath = "{image}"\nsize = "64 MiB"'
    server = start("-c", write_config(tmp_path, 'listen = "127.0.0.1:0"', store))
    return server, re.search(r"^metrics: (http://\S+/metrics)$", server.printed(), re.M)[1]


def get(url, accept="*/*"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def samples(families):
    return {(s.name, *sorted(s.labels.items())): s.value for f in families for s in f.samples}


def test_requests_are_counted_by_operation_and_status(scraped):
    server, url = scraped
    s3 = server.client()
    s3.put_object(Bucket="data", Key="a", Body=b"x" * 100_000)
    for _ in range(3):
        s3.get_object(Bucket="data", Key="a")["Body"].read()
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="data", Key="b")
    with pytest.raises(urllib.error.HTTPError):
        get(f"{server.endpoint}/data?x=%FF")
    found = samples(parser.text_string_to_metric_families(get(url)[1]))
    requests = "lobos_s3_requests_total"
    seconds = "lobos_s3_request_duration_seconds"
    of_get, infinity = ("operation", "GetObject"), ("le", "+Inf")
    assert found[requests, of_get, ("status", "200")] == 3
    assert found[requests, of_get, ("status", "404")] == 1
    assert found[requests, ("operation", "PutObject"), ("status", "200")] == 1
    assert any(name == requests and dict(labels)["operation"] == "Unknown"
               for name, *labels in found)
    assert found[f"{seconds}_count", of_get] == 4 == found[f"{seconds}_bucket", infinity, of_get]
    assert 0 < found[f"{seconds}_sum", of_get] < 60
    assert found["lobos_received_bytes_total",] > 100_000
    assert found["lobos_sent_bytes_total",] > 300_000
    accepted = found["lobos_connections_accepted_total",]
    assert 1 <= found["lobos_connections_open",] <= accepted
    assert found["lobos_panics_total",] == 0
    assert found["lobos_bucket_durability_info", ("bucket", "data"), ("durability", "strict")] == 1
    assert found["lobos_bucket_free_bytes", ("bucket", "data")] > 0
    assert 0 < found["process_resident_memory_bytes",] < 1 << 30
    assert found["process_open_fds",] > 3


def test_stages_devices_and_faults_are_counted(scraped):
    server, url = scraped
    s3 = server.client()

    def look():
        return samples(parser.text_string_to_metric_families(get(url)[1]))

    before = look()
    for bucket in ("data", "lobos"):
        s3.put_object(Bucket=bucket, Key="a", Body=b"x" * 300_000)
        for _ in range(5):
            s3.get_object(Bucket=bucket, Key="a")["Body"].read()
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="data", Key="b")
    after = look()

    def grown(name, **labels):
        sample = (name, *sorted(labels.items()))
        return after[sample] - before.get(sample, 0)

    stage = "lobos_s3_stage_duration_seconds"
    for name, least in [("auth", 13), ("engine", 13), ("device", 4), ("send", 12)]:
        assert grown(f"{stage}_count", stage=name) >= least, name
        assert grown(f"{stage}_bucket", stage=name, le="+Inf") >= least
        assert 0 < grown(f"{stage}_sum", stage=name) < 60
    device = "lobos_device_duration_seconds"
    for engine, operation in [("fs", "write"), ("fs", "sync"), ("blob", "write"), ("blob", "sync"),
                              ("blob", "read")]:
        assert grown(f"{device}_count", engine=engine, operation=operation) >= 1, (engine, operation)
        assert grown(f"{device}_sum", engine=engine, operation=operation) > 0
    errors = "lobos_s3_errors_total"
    faults = {fault: grown(errors, fault=fault) for fault in ("client", "device", "load", "bug")}
    assert faults == {"client": 1, "device": 0, "load": 0, "bug": 0}
    # Nothing goes on once all is answered, but for what hyper still holds for a moment.
    deadline = time.monotonic() + 10
    while look()["lobos_s3_requests_in_flight",] > 0:
        assert time.monotonic() < deadline
    assert after["lobos_body_memory_waiting",] == 0 == after["lobos_trace_queue_events",]
    assert after["lobos_bucket_capacity_bytes", ("bucket", "data")] >= after[
        "lobos_bucket_free_bytes", ("bucket", "data")] > 0


def test_the_blob_store_is_measured(scraped):
    server, url = scraped
    s3 = server.client()
    before = samples(parser.text_string_to_metric_families(get(url)[1]))
    for key in ("a", "b", "c"):
        s3.put_object(Bucket="lobos", Key=key, Body=b"x" * 1_000_000)
    s3.delete_object(Bucket="lobos", Key="c")
    after = samples(parser.text_string_to_metric_families(get(url)[1]))
    name = "lobos_storage_{}".format
    assert after[name("capacity_bytes"),] == 64 << 20
    assert after[name("objects"),] == 2 and after[name("buckets"),] == 1
    used = before[name("free_bytes"),] - after[name("free_bytes"),] - after[name("held_bytes"),]
    assert 2_000_000 <= used < 3_000_000
    assert 0 < after[name("journal_used_bytes"),] < after[name("journal_bytes"),]
    assert 0 <= after[name("fragmentation_ratio"),] < 0.1
    assert after[name("flushes_total"),] >= before[name("flushes_total"),] + 4
    assert after[name("flush_seconds_total"),] > before[name("flush_seconds_total"),]
    assert after[name("durability_info"), ("durability", "strict")] == 1
    assert after[name("read_only"),] == 0


def test_both_formats_hold_the_same_and_every_documented_name(scraped):
    server, url = scraped
    server.client().list_objects_v2(Bucket="data")
    kind, text = get(url)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    plain = list(parser.text_string_to_metric_families(text))
    kind, text = get(url, OPEN_METRICS)
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    opened = list(openmetrics.text_string_to_metric_families(text))
    assert samples(plain).keys() == samples(opened).keys()
    documentation = (REPOSITORY / "docs" / "operations.md").read_text()
    documentation = documentation.split("## Metrics")[1].split("\n## ")[0]
    documented = set(re.findall(r"`((?:lobos|process)_[a-z0-9_]+)`", documentation))
    # Those of a drive are there where SPDK drives one.
    documented = {name for name in documented if not name.startswith("lobos_spdk_")}
    names = {f.name + "_total" * (f.type == "counter") for f in plain}
    assert names == documented


def test_other_paths_and_methods_are_refused(scraped):
    _, url = scraped
    for path, method, status in [("/", "GET", 404), ("/metrics", "POST", 405)]:
        request = urllib.request.Request(url.removesuffix("/metrics") + path, method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == status


def test_sec_dns_rebinding_foreign_names_and_pages_get_no_metrics(start, tmp_path):
    config = write_config(tmp_path, 'listen = "127.0.0.1:0"')
    config.write_text(config.read_text().replace("[server]", '[server]\ndomains = ["s3.test"]'))
    server = start("-c", config)
    url = re.search(r"^metrics: (http://\S+/metrics)$", server.printed(), re.M)[1]
    port = url.split(":")[2].split("/")[0]
    for headers, status in [
        ({"Host": f"localhost:{port}"}, 200),
        ({"Host": f"127.0.0.1:{port}", "Origin": "http://localhost:3000"}, 200),
        ({"Host": f"s3.test:{port}"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "10.0.0.1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "chrome-extension://localhost"}, 403),
    ]:
        request = urllib.request.Request(url, headers=headers)
        try:
            found = urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as refused:
            found = refused.code
        assert found == status, headers


def test_a_configured_port_that_is_taken_is_an_error(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        config = write_config(tmp_path, f'listen = "{address}"')
        with pytest.raises(AssertionError, match=f"cannot listen on {address}"):
            start("-c", config)


def test_the_usual_port_that_is_taken_is_a_warning(start, tmp_path):
    servers = [start("serve", tmp_path / "data", "--listen", "127.0.0.1:0") for _ in range(2)]
    without = [server for server in servers if "\nmetrics: " not in server.printed()]
    assert without, "both listen at 127.0.0.1:9091"
    for server in without:
        assert "127.0.0.1:9091 is in use" in server.log.read_text()
        server.client().list_objects_v2(Bucket="data")


def test_metrics_can_be_turned_off(start, tmp_path):
    server = start("-c", write_config(tmp_path, "enabled = false"))
    assert "\nmetrics: " not in server.printed()
    assert "no metrics" not in server.log.read_text()


@pytest.mark.parametrize("path", ["grafana/lobos.json", "prometheus/lobos.rules.yml"])
def test_dashboard_and_alerts_ask_for_metrics_that_exist(scraped, path):
    server, url = scraped
    server.client().list_objects_v2(Bucket="data")
    families = list(parser.text_string_to_metric_families(get(url)[1]))
    exist = {sample.name for family in families for sample in family.samples}
    text = (REPOSITORY / "contrib" / path).read_text()
    asked = set(re.findall(r"\b(?:lobos|process)_[a-z0-9_]+", text))
    assert len(asked) > 5 and asked <= exist, asked - exist
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    labels |= {"instance", "job"}
    for matchers in re.findall(r"\b(?:lobos|process)_[a-z0-9_]+\{([^}]*)\}", text):
        used = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\\?\"", matchers))
        assert used <= labels, (used - labels, matchers)
    document = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    if path.endswith(".json"):
        assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"]) > 10
    else:
        rules = [rule for group in document["groups"] for rule in group["rules"]]
        assert all({"alert", "expr", "labels", "annotations"} <= rule.keys() for rule in rules)


def test_promtool_finds_nothing_wrong_with_rules_and_metrics(scraped):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed; what it knows beyond the parsers is not checked")
    rules = REPOSITORY / "contrib" / "prometheus" / "lobos.rules.yml"
    for words, given in [(["rules", rules], None), (["metrics"], get(scraped[1])[1])]:
        done = subprocess.run([promtool, "check", *words], input=given, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, done
