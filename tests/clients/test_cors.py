"""CORS rules of buckets: kept, asked for before a request, and told with the reply."""

import pytest
from botocore.exceptions import ClientError

import wire

PAGE = "https://page.example"
RULES = [
    {"ID": "one", "AllowedOrigins": [PAGE, "https://*.under.example"],
     "AllowedMethods": ["GET", "PUT"], "AllowedHeaders": ["x-amz-*", "Content-Type"],
     "ExposeHeaders": ["ETag", "x-amz-request-id"], "MaxAgeSeconds": 600},
    {"AllowedOrigins": ["*"], "AllowedMethods": ["HEAD"]},
]


def set_rules(s3, rules=RULES):
    s3.put_bucket_cors(Bucket="demo", CORSConfiguration={"CORSRules": rules})


def ask(server, origin=PAGE, method="GET", headers=None, target="/demo/k"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return wire.plain(server, "OPTIONS", target, asked)


def told(answer):
    """What a reply tells the browser."""
    return {name.lower(): value for name, value in answer.headers.items()
            if name.lower().startswith("access-control-")}


def test_rules_are_kept_as_they_were_given(site):
    with pytest.raises(ClientError) as error:
        site.s3.get_bucket_cors(Bucket="demo")
    assert error.value.response["Error"]["Code"] == "NoSuchCORSConfiguration"
    set_rules(site.s3)
    assert site.s3.get_bucket_cors(Bucket="demo")["CORSRules"] == RULES
    site.s3.delete_bucket_cors(Bucket="demo")
    with pytest.raises(ClientError):
        site.s3.get_bucket_cors(Bucket="demo")


def test_a_preflight_is_answered_by_the_first_rule_that_allows_it(site):
    set_rules(site.s3)
    answer = ask(site.server, headers="X-Amz-Date, content-type")
    assert answer.status == 200 and answer.body == b""
    assert told(answer) == {
        "access-control-allow-origin": PAGE,
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "x-amz-date, content-type",
        "access-control-expose-headers": "ETag, x-amz-request-id",
        "access-control-max-age": "600",
        "access-control-allow-credentials": "true",
    }
    assert "Origin" in answer.headers["Vary"]
    answer = ask(site.server, "http://any.example", "HEAD")
    assert told(answer) == {"access-control-allow-origin": "*",
                            "access-control-allow-methods": "HEAD"}
    assert ask(site.server, "https://a.under.example", "PUT").status == 200
    assert ask(site.server, target="/demo").status == 200
    # The pre-flight carries the query of the request that will follow.
    assert ask(site.server, target="/demo/k?partNumber=1&uploadId=x&X-Amz-Signature=y").status == 200


@pytest.mark.parametrize("asked", [
    {"origin": "https://other.example"}, {"method": "DELETE"}, {"headers": "range"},
    {"headers": "x-amz-date, range"}, {"origin": "https://under.example", "method": "PUT"},
])
def test_a_preflight_that_no_rule_allows_is_forbidden(site, asked):
    set_rules(site.s3)
    answer = ask(site.server, **asked)
    assert (answer.status, answer.code, told(answer)) == (403, "AccessForbidden", {})


def test_a_preflight_without_rules_or_without_a_question_is_refused(site):
    assert ask(site.server).code == "AccessForbidden"
    assert ask(site.server, target="/other/k").status == 404
    set_rules(site.s3)
    assert wire.plain(site.server, "OPTIONS", "/demo/k").code == "BadRequest"
    assert wire.plain(site.server, "OPTIONS", "/demo/k", {"Origin": PAGE}).code == "BadRequest"


def test_replies_tell_a_page_whether_it_may_see_them(site):
    set_rules(site.s3)
    site.put("k", b"data")
    answer = wire.signed(site.server, "GET", "/demo/k", headers={"Origin": PAGE})
    assert answer.body == b"data"
    assert told(answer)["access-control-allow-origin"] == PAGE
    assert "ETag" in told(answer)["access-control-expose-headers"]
    # Errors too, or the page could not tell what went wrong.
    answer = wire.plain(site.server, "GET", "/demo/k", {"Origin": PAGE})
    assert answer.status == 403 and told(answer)["access-control-allow-origin"] == PAGE
    for headers in ({"Origin": "https://other.example"}, {}):
        answer = wire.signed(site.server, "GET", "/demo/k", headers=headers)
        assert answer.body == b"data" and told(answer) == {}


@pytest.mark.parametrize("rule, code", [
    ({"AllowedMethods": ["PATCH"]}, "InvalidRequest"),
    ({"AllowedOrigins": ["*.*"]}, "InvalidRequest"),
    ({"ExposeHeaders": ["x-*"]}, "InvalidRequest"),
    ({"AllowedOrigins": []}, "MalformedXML"),
])
def test_rules_that_make_no_sense_are_refused(site, rule, code):
    set_rules(site.s3)
    wrong = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]} | rule
    with pytest.raises(ClientError) as error:
        set_rules(site.s3, [wrong])
    assert error.value.response["Error"]["Code"] == code
    assert site.s3.get_bucket_cors(Bucket="demo")["CORSRules"] == RULES


def test_at_most_a_hundred_rules(site):
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}
    set_rules(site.s3, [rule] * 100)
    with pytest.raises(ClientError):
        set_rules(site.s3, [rule] * 101)


def test_without_authentication_a_page_needs_a_rule_that_names_it(start, tmp_path):
    (tmp_path / "demo").mkdir()
    server = start("serve", tmp_path / "demo", "--no-auth", "--listen", "127.0.0.1:0")
    page = {"Origin": PAGE}
    assert wire.plain(server, "PUT", "/demo/k", page, b"x").status == 403
    # A page cannot give itself rules.
    rules = (b"<CORSConfiguration><CORSRule><AllowedOrigin>*</AllowedOrigin>"
             b"<AllowedMethod>PUT</AllowedMethod></CORSRule></CORSConfiguration>")
    assert wire.plain(server, "PUT", "/demo?cors", page, rules).status == 403
    set_rules(server.client())
    assert wire.plain(server, "PUT", "/demo/k", page, b"x").status == 200
    assert told(wire.plain(server, "GET", "/demo/k", page))["access-control-allow-origin"] == PAGE
    assert wire.plain(server, "DELETE", "/demo/k", page).status == 403
    assert wire.plain(server, "PUT", "/demo/k", {"Origin": "https://other.example"}, b"y").status == 403
    assert wire.plain(server, "GET", "/", page).status == 403
    assert wire.plain(server, "GET", "/demo/k").body == b"x"
