"""Bad arguments raise a clear error, and good ones become one row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from twisted.web.http_headers import Headers

from twisted_hangup.outbox.request import (
    NewRequest,
    OutboxLimits,
    destination_named,
    headers_from_text,
    new_key,
    new_request,
)


def request(
    method: Any = "POST",
    url: Any = "http://example.com/a",
    headers: Any = None,
    body: Any = b"",
    **options: Any,
) -> NewRequest:
    arguments = {"key": None, "ordered": False, "max_age_seconds": 60.0, "limits": OutboxLimits()}
    return new_request(method, url, headers, body, **{**arguments, **options})


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"method": "GE T"}, ValueError, "not a method"),
        ({"method": ""}, ValueError, "not a method"),
        ({"method": "CONNECT"}, ValueError, "tunnel"),
        ({"method": None}, TypeError, "the method must be str or bytes"),
        ({"url": "example.com"}, ValueError, "absolute http or https"),
        ({"url": "ftp://example.com/"}, ValueError, "absolute http or https"),
        ({"url": "http:///a"}, ValueError, "not a valid host"),
        ({"url": "http://example.com/a b"}, ValueError, "absolute http or https"),
        ({"url": "http://example.com/a\r\nX: y"}, ValueError, "absolute http or https"),
        ({"url": "http://example.com/é"}, ValueError, "percent-encode"),
        ({"url": "http://me:secret@example.com/"}, ValueError, "userinfo"),
        ({"url": "http://example.com:0/"}, ValueError, "not a valid port"),
        ({"url": "http://example.com:65536/"}, ValueError, "not a valid port"),
        ({"url": "http://a..b/"}, ValueError, "not a valid host"),
        ({"url": "http://[::1/"}, ValueError, "not a host and a port"),
        ({"url": "http://[1:2]/"}, ValueError, "not a valid host"),
        ({"url": "http://example.com/" + "a" * 8192}, ValueError, "the URL has"),
        ({"url": 5}, TypeError, "the URL must be"),
        ({"headers": {"a b": "c"}}, ValueError, "not a field name"),
        ({"headers": {"a": "b\r\nc: d"}}, ValueError, "the field a has"),
        ({"headers": {"a": "\u20ac"}}, ValueError, "the field a has"),
        ({"headers": {"a": 1}}, TypeError, "a field value must be"),
        ({"headers": {"Content-Length": "1"}}, ValueError, "is made when"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, ValueError, "is made when"),
        ({"headers": {"a": "b" * 65536}}, ValueError, "the headers have"),
        ({"headers": "a: b"}, TypeError, "pairs"),
        ({"headers": [("Idempotency-Key", "a"), ("idempotency-key", "b")]}, ValueError, "two keys"),
        ({"headers": {"Idempotency-Key": "a"}, "key": "b"}, ValueError, "two keys"),
        ({"body": "text"}, TypeError, "the body must be bytes"),
        ({"body": None}, TypeError, "the body must be bytes"),
        ({"body": b"x" * (1024 * 1024 + 1)}, ValueError, "the body has"),
        ({"key": ""}, ValueError, "not a key"),
        ({"key": "a b"}, ValueError, "not a key"),
        ({"key": "a" * 256}, ValueError, "not a key"),
        ({"key": b"a"}, ValueError, "not a key"),
        ({"ordered": "a b"}, ValueError, "ordered must be"),
        ({"ordered": 7}, ValueError, "ordered must be"),
        ({"max_age_seconds": 0}, ValueError, "max_age_seconds"),
        ({"max_age_seconds": "5"}, TypeError, "max_age_seconds must be a number"),
    ],
)
def test_refused(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    """What cannot be sent is refused by name, before anything is stored."""
    with pytest.raises(error, match=words):
        request(**arguments)


@pytest.mark.parametrize(
    "password", ["secret", "s/secret", "secret/", "secret/5?", "s#secret", "é/secret"]
)
def test_a_password_is_not_repeated(password: str) -> None:
    """The message of an error goes to logs, and so does what it was raised from."""
    url = f"http://me:{password}@example.com/"
    for refuse in (lambda: request(url=url), lambda: destination_named(url)):
        with pytest.raises(ValueError, match=r"userinfo|not shown") as caught:
            refuse()
        assert "secret" not in "".join(str(one) for one in (caught.value, caught.value.__context__))


def test_an_agent_of_ones_own_may_have_names_of_its_own() -> None:
    """What a host means is for the agent to say, as with one that connects to UNIX sockets."""
    assert request(url="http://%2Frun%2Fa/", by_name=False).lane == "http://%2frun%2fa:80"


@pytest.mark.parametrize(
    "url, ordered, lane",
    [
        ("http://example.com/a", False, "http://example.com:80"),
        ("HTTPS://Example.COM", False, "https://example.com:443"),
        ("http://example.com:8080?q", False, "http://example.com:8080"),
        ("http://example.com:/", False, "http://example.com:80"),
        ("http://[::1]:1/", False, "http://[::1]:1"),
        (b"http://example.com/a", True, "http://example.com:80 "),
        ("http://example.com/a", "customer-7", "http://example.com:80 customer-7"),
    ],
)
def test_lane(url: Any, ordered: Any, lane: str) -> None:
    """Requests to one scheme, host and port have a lane in common, and ordered ones another."""
    stored = request(url=url, ordered=ordered)
    assert (stored.lane, stored.ordered) == (lane, int(bool(ordered)))


@pytest.mark.parametrize(
    "headers",
    [
        {"Accept": ["a", "b"], "X": "c\xe9: "},
        [("Accept", "a"), (b"Accept", b"b"), ("X", b"c\xe9: ")],
        Headers({b"accept": [b"a", b"b"], b"X": [b"c\xe9: "]}),
    ],
)
def test_headers(headers: Any) -> None:
    """Every way to give headers comes to the same."""
    pairs = headers_from_text(request(headers=headers).headers)
    assert [(name.lower(), value) for name, value in pairs] == [
        *(("accept", "a"), ("accept", "b")),
        ("x", "c\xe9: "),
    ]


def test_the_key_may_be_a_header() -> None:
    """One that stands in the headers is the key, and not sent twice."""
    stored = request(headers={"idempotency-KEY": "mine", "a": "b"})
    assert (stored.key, stored.headers) == ("mine", "a: b\n")


def test_a_fragment_is_not_sent() -> None:
    """RFC 9110, section 7.1."""
    assert request(url="http://example.com/a#b").url == "http://example.com/a"


def test_new_keys_are_uuids_in_order_of_time() -> None:
    """Version 7 of RFC 9562, and never the same twice."""
    keys = [new_key() for _ in range(1000)]
    assert len({*keys}) == 1000
    assert {UUID(key).version for key in keys} == {7}
    assert {UUID(key).variant for key in keys} == {UUID(int=2 << 62).variant}
    assert [key[:13] for key in keys] == sorted(key[:13] for key in keys)
