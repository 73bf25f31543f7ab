"""Requests that two readers could understand differently end as this table says.

Each carries a second request where a laxer reader would find one: it must never be served.
`closed`: the connection does not go on. The HTTP library answers 400 without a body; a body and
an id are ours.
"""

import pytest

from raw import statuses

REFUSED = {400}
HIDDEN = b"DELETE /demo/victim HTTP/1.1\r\nHost: localhost\r\n\r\n"


def put(*headers, body=b"", first=b"PUT /demo/new HTTP/1.1", host=b"Host: localhost"):
    lines = [first, *([host] if host else []), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# A PUT takes a body of unknown length if it says how long the data in it is.
FRAMED = b"\r\n".join([b"Transfer-Encoding: chunked", b"x-amz-decoded-content-length: 5",
                      b"x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER"])
CHUNKS = b"0\r\n\r\n"
TE, CL = b"Transfer-Encoding: chunked", b"Content-Length: %d" % (len(CHUNKS) + len(HIDDEN))

# name: (bytes, the status of the one answer, whether the connection must be closed)
TABLE = {
    # RFC 9112, 6.3: chunked wins and the connection ends.
    "length_then_chunked": (put(CL, TE, body=CHUNKS + HIDDEN), {400, 411}, True),
    "chunked_then_length": (put(TE, CL, body=CHUNKS + HIDDEN), {400, 411}, True),
    "two_lengths": (put(b"Content-Length: 0", CL, body=CHUNKS + HIDDEN), REFUSED, True),
    "length_list": (put(b"Content-Length: 0, 5", body=HIDDEN), REFUSED, True),
    "length_plus": (put(b"Content-Length: +1", body=HIDDEN), REFUSED, True),
    "length_hex": (put(b"Content-Length: 0x1", body=HIDDEN), REFUSED, True),
    "length_negative": (put(b"Content-Length: -1", body=HIDDEN), REFUSED, True),
    "length_empty": (put(b"Content-Length: ", body=HIDDEN), REFUSED, True),
    "length_huge": (put(b"Content-Length: 18446744073709551616", body=HIDDEN), REFUSED, True),
    "length_words": (put(b"Content-Length: 1 1", body=HIDDEN), REFUSED, True),
    "te_gzip": (put(b"Transfer-Encoding: gzip", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_twice": (put(TE, TE, body=CHUNKS + HIDDEN), REFUSED, True),
    "te_list": (put(b"Transfer-Encoding: gzip, chunked", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_chunked_not_last": (
        put(b"Transfer-Encoding: chunked, gzip", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_almost": (put(b"Transfer-Encoding: xchunked", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_identity": (put(b"Transfer-Encoding: identity", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_parameter": (put(b"Transfer-Encoding: chunked;a=b", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_vertical_tab": (
        put(b"Transfer-Encoding: \x0bchunked", body=CHUNKS + HIDDEN), REFUSED, True),
    "te_old_version": (
        put(TE, first=b"PUT /demo/new HTTP/1.0", body=CHUNKS + HIDDEN), REFUSED, True),
    "folded_header": (put(b"X-A: b\r\n Content-Length: 5", body=HIDDEN), REFUSED, True),
    "folded_first": (put(b" X-A: b", host=None, body=HIDDEN), REFUSED, True),
    "bare_cr": (put(b"X-A: b\rTransfer-Encoding: chunked", body=HIDDEN), REFUSED, True),
    "nul_in_value": (put(b"X-A: b\0c", body=HIDDEN), REFUSED, True),
    "space_before_colon": (put(b"Content-Length : 5", body=HIDDEN), REFUSED, True),
    "space_in_name": (put(b"Content Length: 5", body=HIDDEN), REFUSED, True),
    "no_colon": (put(b"Content-Length", body=HIDDEN), REFUSED, True),
    "empty_name": (put(b": 5", body=HIDDEN), REFUSED, True),
    "no_version": (b"GET /demo/victim\r\n\r\n" + HIDDEN, REFUSED, True),
    "version_0_9": (put(first=b"GET /demo/victim HTTP/0.9", body=HIDDEN), REFUSED, True),
    "version_1_2": (put(first=b"GET /demo/victim HTTP/1.2", body=HIDDEN), REFUSED, True),
    "version_long": (put(first=b"GET /demo/victim HTTP/1.1x", body=HIDDEN), REFUSED, True),
    "space_in_target": (put(first=b"GET /demo/victim x HTTP/1.1", body=HIDDEN), REFUSED, True),
    "no_method": (put(first=b" /demo/victim HTTP/1.1", body=HIDDEN), REFUSED, True),
    "other_authority": (put(first=b"GET http://10.0.0.1/demo/victim HTTP/1.1"), REFUSED, True),
    "other_port": (put(first=b"GET http://localhost:1/demo/victim HTTP/1.1"), REFUSED, True),
    "no_host": (put(host=None, first=b"GET /demo/victim HTTP/1.1"), REFUSED, True),
    "no_host_old": (put(host=None, first=b"GET /demo/victim HTTP/1.0"), REFUSED, True),
    "two_hosts": (put(b"Host: localhost"), REFUSED, True),
    "two_other_hosts": (put(b"Host: evil.example"), REFUSED, True),
    "empty_host": (put(host=b"Host: "), REFUSED, True),
    "host_list": (put(host=b"Host: localhost, evil.example"), REFUSED, True),
    "host_path": (put(host=b"Host: localhost/demo"), REFUSED, True),
    "host_user": (put(host=b"Host: evil@localhost"), REFUSED, True),
    "host_blank": (put(host=b"Host: local host"), REFUSED, True),
    "internal_header": (put(b"X-Lobos-Internal-User: root"), REFUSED, True),
    "connect": (put(first=b"CONNECT localhost:80 HTTP/1.1"), {400, 405}, True),
    "chunk_size_hex_prefix": (put(FRAMED, body=b"0x5\r\nabcde\r\n0\r\n\r\n" + HIDDEN), REFUSED, True),
    "chunk_size_plus": (put(FRAMED, body=b"+5\r\nabcde\r\n0\r\n\r\n" + HIDDEN), REFUSED, True),
    "chunk_size_negative": (put(FRAMED, body=b"-5\r\nabcde\r\n0\r\n\r\n" + HIDDEN), REFUSED, True),
    "chunk_size_huge": (put(FRAMED, body=b"f" * 17 + b"\r\n" + HIDDEN), REFUSED, True),
    "chunk_size_empty": (put(FRAMED, body=b"\r\n" + HIDDEN), REFUSED, True),
    "chunk_without_end": (put(FRAMED, body=b"2\r\nabcde\r\n0\r\n\r\n" + HIDDEN), REFUSED, True),
    "chunk_size_bare_lf": (put(FRAMED, body=b"5\nabcde\r\n0\r\n\r\n" + HIDDEN), REFUSED, True),
}


@pytest.mark.parametrize("name", TABLE)
def test_sec_smuggling_table(victim, name):
    data, allowed, closed = TABLE[name]
    answer, ended = victim.talk(data, patience=1.0)
    got = statuses(answer)
    assert len(got) == 1 and got[0] in allowed, f"{got}: {answer[:400]!r}"
    assert ended or not closed, "the connection goes on after a doubtful request"
    if got[0] != 200:
        assert not (victim.directory / "new").exists(), "a refused PUT left something"
    victim.assert_whole()


def test_sec_smuggling_the_table_holds_good_chunks_to_be_good(victim):
    data = put(FRAMED, body=b"f\r\n5\r\nabcde\r\n0\r\n\r\n\r\n0\r\n\r\n")
    answer, _ = victim.talk(data, 2)
    assert statuses(answer) == [200] and (victim.directory / "new").read_bytes() == b"abcde"


def test_sec_smuggling_a_body_of_a_get_is_no_request(victim):
    body = HIDDEN
    data = victim.request("GET", "/demo/victim", body=body, close=False)
    answer, _ = victim.talk(data + victim.request("HEAD", "/demo/victim"), patience=2)
    assert statuses(answer) in ([200, 200], [200], [400]), answer
    victim.assert_whole()


def test_sec_smuggling_trailers_are_no_headers(victim):
    trailers = b"Content-Length: 99\r\nHost: evil.example\r\nx-amz-meta-a: b\r\n\r\n"
    framed = b"3\r\nabc\r\n0\r\n\r\n"
    headers = [TE, b"x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER",
               b"x-amz-decoded-content-length: 3", b"Connection: close"]
    body = b"%x\r\n%s\r\n0\r\n" % (len(framed), framed) + trailers
    answer, _ = victim.talk(put(*headers, body=body), 2)
    assert statuses(answer) in ([200], [400])
    if statuses(answer) == [200]:
        head = victim.ask("HEAD", "/demo/new").lower()
        assert b"x-amz-meta-a" not in head and b"content-length: 3\r\n" in head
    victim.assert_whole()


def test_sec_smuggling_absolute_form_and_bare_line_feeds_are_read_as_rfc_9112_says(victim):
    target = f"http://{victim.host}/demo/victim"
    assert statuses(victim.ask("GET", target)) == [200]
    data = victim.request("GET", "/demo/victim").replace(b"\r\n", b"\n")
    assert statuses(victim.talk(data)[0]) in ([200], [400])
    assert statuses(victim.talk(b"\r\n\r\n" + victim.request("GET", "/demo/victim"))[0]) == [200]


def test_sec_smuggling_garbage_is_refused_and_closed(victim):
    for data in [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b"\0" * 5000,
                 b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 99,
                 b"GET\r\n\r\n", b"\r\n" * 3000, b"{}" * 40000]:
        victim.talk(data, 0.3)
    victim.assert_whole()
