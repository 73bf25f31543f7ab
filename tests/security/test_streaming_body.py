"""Signed streaming bodies: no byte of the framing, the data or the trailer can be changed."""

import zlib
from base64 import b64encode

import pytest

import wire

CHUNKS = [b"first chunk, ", b"second chunk"]
DATA = b"".join(CHUNKS)
CRC = "x-amz-checksum-crc32", b64encode(zlib.crc32(DATA).to_bytes(4)).decode()
FORMS = {"signed": (wire.CHUNKS_SIGNED, None), "signed_trailer": (wire.CHUNKS_SIGNED_TRAILER, CRC),
         "unsigned_trailer": (wire.CHUNKS_UNSIGNED_TRAILER, CRC)}


def body_of(site, form, trailer):
    seen = []
    answer = wire.put_in_chunks(site.server, "/demo/whole", CHUNKS, form, trailer,
                                tamper=lambda body: seen.append(body) or body)
    assert answer.status == 200, answer.body
    assert site.read("whole") == DATA
    return seen[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80])
def test_sec_streaming_body_every_byte_is_verified(site, form, flip):
    """A flipped byte is refused, or (case of a hex digit, say) changes nothing of the data."""
    form, trailer = FORMS[form]
    length, harmless = len(body_of(site, form, trailer)), 0
    for at in range(length):
        def tamper(body, at=at):
            return body[:at] + bytes([body[at] ^ flip]) + body[at + 1:]
        answer = wire.put_in_chunks(site.server, "/demo/k", CHUNKS, form, trailer, tamper)
        if answer.status == 200:
            harmless += 1
            assert site.read("k") == DATA, f"byte {at}"
            site.s3.delete_object(Bucket="demo", Key="k")
        else:
            assert answer.status in (400, 403), (at, answer.status)
            assert not (site.directory / "k").exists(), f"byte {at}"
    assert harmless < length / 2, "most bytes are not verified"


@pytest.mark.parametrize("form", FORMS)
def test_sec_streaming_body_cut_short_anywhere_is_refused(site, form):
    form, trailer = FORMS[form]
    length = len(body_of(site, form, trailer))
    for keep in range(length - 3):
        answer = wire.put_in_chunks(
            site.server, "/demo/k", CHUNKS, form, trailer, lambda body, keep=keep: body[:keep])
        if answer.status == 200:
            # Only the blank line at the very end may be missing.
            assert keep >= length - 4 and site.read("k") == DATA, keep
            site.s3.delete_object(Bucket="demo", Key="k")
        assert not (site.directory / "k").exists(), keep


@pytest.mark.parametrize("form", ["signed", "signed_trailer"])
def test_sec_streaming_body_chunks_are_bound_to_their_place(site, form):
    form, trailer = FORMS[form]
    body_of(site, form, trailer)
    first = len(f"{len(CHUNKS[0]):x};chunk-signature=".encode()) + 64 + 2 + len(CHUNKS[0]) + 2
    second = len(f"{len(CHUNKS[1]):x};chunk-signature=".encode()) + 64 + 2 + len(CHUNKS[1]) + 2
    changes = {
        "swapped": lambda b: b[first:first + second] + b[:first] + b[first + second:],
        "repeated": lambda b: b[:first] + b[:first] + b[first + second:],
        "left out": lambda b: b[first:],
        "last left out": lambda b: b[:first + second],
        "appended": lambda b: b + b"5\r\nextra\r\n0\r\n\r\n",
        "unsigned": lambda b: b.replace(b";chunk-signature=", b";chunk-nothing=="),
        "no extension": lambda b: f"{len(CHUNKS[0]):x}\r\n".encode() + b[first - len(CHUNKS[0]) - 2:],
    }
    for name, tamper in changes.items():
        answer = wire.put_in_chunks(site.server, "/demo/k", CHUNKS, form, trailer, tamper)
        assert answer.status in (400, 403), (name, answer.status)
        assert not (site.directory / "k").exists(), name


@pytest.mark.parametrize("length", ["0", "1", "24", "26", "-1", "", "x", "18446744073709551616"])
def test_sec_streaming_body_decoded_length_is_exact(site, length):
    form = wire.CHUNKS_UNSIGNED_TRAILER
    signer = wire.Signer(site.server)
    headers = {"x-amz-decoded-content-length": length, "Content-Encoding": "aws-chunked",
               "x-amz-trailer": CRC[0]}
    headers = signer.sign("PUT", "/demo/k", "", headers, form, f"127.0.0.1:{site.server.port}")
    body = b"".join(b"%x\r\n%s\r\n" % (len(data), data) for data in CHUNKS) + (
        f"0\r\n{CRC[0]}:{CRC[1]}\r\n\r\n".encode())
    answer = wire.plain(site.server, "PUT", "/demo/k", headers, body)
    assert answer.status in (400, 411), answer.status
    assert not (site.directory / "k").exists()


def test_sec_streaming_body_trailers_must_be_announced_and_right(site):
    wrong = CRC[0], b64encode(b"abcd").decode()
    other = "x-amz-checksum-sha256", CRC[1]
    for form in (wire.CHUNKS_SIGNED_TRAILER, wire.CHUNKS_UNSIGNED_TRAILER):
        for trailer in (wrong, other, ("x-amz-meta-a", "b"), ("authorization", "x")):
            answer = wire.put_in_chunks(site.server, "/demo/k", CHUNKS, form, trailer)
            assert answer.status in (400, 403), (form, trailer, answer.status)
        renamed = lambda body: body.replace(b"x-amz-checksum-crc32", b"x-amz-checksum-crc3c")
        answer = wire.put_in_chunks(site.server, "/demo/k", CHUNKS, form, CRC, renamed)
        assert answer.status in (400, 403)
        assert not (site.directory / "k").exists()


def test_sec_streaming_body_unsigned_trailers_are_for_data_alone(site):
    """Elsewhere nothing would bind the body to the signature."""
    body = b"<Delete><Object><Key>whole</Key></Object></Delete>"
    site.put("whole", b"kept")
    headers = {"x-amz-decoded-content-length": str(len(body)), "Content-Encoding": "aws-chunked"}
    signer = wire.Signer(site.server)
    headers = signer.sign("POST", "/demo", "delete=", headers, wire.CHUNKS_UNSIGNED_TRAILER,
                          f"127.0.0.1:{site.server.port}")
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    answer = wire.plain(site.server, "POST", "/demo?delete=", headers, framed)
    assert answer.status in (400, 403), answer.status
    assert site.read("whole") == b"kept"
