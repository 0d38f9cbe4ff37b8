"""The fields of a head as Twisted's `Headers`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.web import http_headers
from twisted.web.http_headers import Headers

from twisted_hangup.events import Field
from twisted_hangup.server.headers import fields_of, headers_of, replace_fields

NAMES = st.sampled_from(
    [b"host", b"Cookie", b"x-" * 40 + b"a", b"X-" * 40 + b"A", b"a" * 64, b"a" * 65, b"-" * 70]
)


FIELDS = st.lists(st.tuples(NAMES, st.sampled_from([b"", b"a", b"b c", b"a\rb", b"a\nb", b"\x0b"])))


class Counted(Headers):
    """An application's own."""


@given(FIELDS)
def test_headers_of(fields: list[tuple[bytes, bytes]]) -> None:
    """They are what Twisted makes of them, however long a name is."""
    headers = Headers()
    for name, value in fields:
        headers.addRawHeader(name, value)
    assert headers_of(fields) == headers
    assert fields_of(headers_of(fields)) == fields_of(headers)


def test_long_names_are_not_kept() -> None:
    """Twisted's table of names, which lives as long as the process, gets none over 64 bytes."""
    table = http_headers._nameEncoder._canonicalHeaderCache
    before = len(table)
    headers_of([(b"never-seen-" + b"%d" % each * 60, b"a") for each in range(10)])
    assert len(table) == before
    headers_of([(b"seen-once-in-a-test", b"a")])
    assert len(table) == before + 1


@given(FIELDS, FIELDS, st.sampled_from([Headers, Counted]))
def test_replace_fields(before: list[Field], fields: list[Field], kind: type[Headers]) -> None:
    """As if each name were removed, and then each line added."""
    expected, headers = kind(), kind()
    for name, value in before:
        expected.addRawHeader(name, value)
        headers.addRawHeader(name, value)
    for name, _ in fields:
        expected.removeHeader(name)
    for name, value in fields:
        expected.addRawHeader(name, value)
    replace_fields(headers, fields)
    assert list(headers.getAllRawHeaders()) == list(expected.getAllRawHeaders())
