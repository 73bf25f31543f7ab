"""A test that is renamed or lost takes the promise with it: the count of each class has a floor."""

import re
from collections import Counter
from pathlib import Path

import pytest

import test_authentication
import test_p12_bounded
import test_path_escape
import test_smuggling

REPOSITORY = Path(__file__).resolve().parents[2]
# Functions by class or promise, in tests/security and in the Rust sources.
FLOOR = {
    "sec_auth_dispatch": 5, "sec_signature_scope": 5, "sec_streaming_body": 6, "sec_smuggling": 8,
    "sec_path_escape": 6, "sec_parse_twice_differ": 2, "sec_response_injection": 5,
    "sec_info_leak": 1, "sec_dns_rebinding": 2, "sec_panics": 9, "sec_secrets": 1,
    "sec_resource_exhaustion": 1, "p5": 1, "p12": 18, "p13": 10, "p15": 1, "p18": 4, "p20": 6,
}


def functions():
    found = Counter()
    for path in [*REPOSITORY.glob("tests/**/*.py"), *REPOSITORY.glob("src/**/*.rs"),
                 *REPOSITORY.glob("tests/**/*.rs")]:
        for name in re.findall(r"(?:def test_|fn )((?:sec|p\d+)_\w+)", path.read_text()):
            for known in FLOOR:
                found[known] += name.startswith(known + "_")
    return found


@pytest.mark.parametrize("name", FLOOR)
def test_sec_floor_no_class_lost_a_test(name):
    assert functions()[name] >= FLOOR[name]


def test_sec_floor_the_tables_are_whole():
    assert len(test_smuggling.TABLE) >= 53
    assert len(test_authentication.KINDS) >= 58 and len(test_authentication.VERBS) >= 24
    assert len(test_path_escape.TARGETS) >= 77 and len(test_path_escape.RESERVED) >= 14
    assert len(test_p12_bounded.XML_BOMBS) >= 22
