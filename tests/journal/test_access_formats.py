"""The access log in JSON, or as the operator writes it."""

from __future__ import annotations

import json
import time
from io import BytesIO
from typing import Any

import pytest
from support.explaining import broken
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.web.http_headers import Headers

from twisted_hangup.journal.access_formats import access_format
from twisted_hangup.journal.access_log import AccessLog
from twisted_hangup.journal.files import LogFile
from twisted_hangup.report.masking import DEFAULT_POLICY, UNMASKED, MaskingPolicy

ALL = "%h %l %u %t|%r|%m %U %q %H|%s %>s|%b %B|%D %T|%{Host}i %{x-none}i %{X-Out}o|%E %%"


class Answered:
    """As much of a request as a format looks at."""

    method, uri, clientproto = b"GET", b'/a"b?c=1', b"HTTP/1.1"
    code, sentLength = 200, 5

    def __init__(self) -> None:
        self.begun_at = time.monotonic() - 2
        self.responseHeaders = Headers({b"X-Out": [b"one", b"two"], b"Set-Cookie": [b"s=1"]})
        self.fields = {b"host": b"a:1", b"cookie": b"SECRET", b"user-agent": b"\x1b\xe4\\"}

    def getClientAddress(self) -> Any:
        return IPv4Address("TCP", "192.0.2.7", 4711)

    def getHeader(self, name: bytes) -> bytes | None:
        return self.fields.get(name.lower())


def log_of(text: str, policy: MaskingPolicy = DEFAULT_POLICY) -> tuple[AccessLog, BytesIO]:
    output = BytesIO()
    file, line_of = LogFile(output, "access log"), access_format(text)
    return AccessLog(file, line_of=line_of, policy=policy, seconds=lambda: 0.0), output


def line_of(text: str, what: Any, policy: MaskingPolicy = DEFAULT_POLICY) -> str:
    """The line of a request that was answered, or of an error."""
    log, output = log_of(text, policy)
    log.request(what) if isinstance(what, Answered) else log.refused(what, 400)
    line = output.getvalue().decode("utf-8")
    assert line.endswith("\n") and line.count("\n") == 1
    return line[:-1]


def test_every_directive() -> None:
    """Each stands for what it does in Apache; what came from outside has no quotes."""
    *first, took, fields, last = line_of(ALL, Answered()).split("|")
    assert first == [
        "192.0.2.7 - - [01/Jan/1970:00:00:00 +0000]",
        r"GET /a\x22b?c=1 HTTP/1.1",
        r"GET /a\x22b ?c=1 HTTP/1.1",
        "200 200",
        "5 5",
    ]
    microseconds, seconds = took.split()
    assert int(microseconds) >= 2_000_000 and int(seconds) >= 2
    assert (fields, last) == ("a:1 - one, two", "- %")


def test_every_directive_of_a_refused_request() -> None:
    """What is not known is a dash."""
    error = broken(b"POST /a?token=1 HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n")
    assert line_of(ALL, error).partition("|")[2] == (
        "POST /a?******* HTTP/1.1|POST /a ?******* HTTP/1.1|400 400|- 0|- -|a - -|"
        "HPE_INVALID_HEADER_TOKEN %"
    )
    nothing = broken(b"\x16\x03\x01")
    assert line_of("%r|%m|%U|%q|%H", nothing) == "-|-|-||-"


def test_json() -> None:
    """An object with the same names, whatever happened."""
    answered = json.loads(line_of("json", Answered()))
    assert answered.pop("seconds") >= 2
    assert answered == {
        "time": "1970-01-01T00:00:00.000Z",
        "peer": "192.0.2.7:4711",
        "method": "GET",
        "target": '/a"b?c=1',
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "host": "a:1",
        "referer": None,
        "user_agent": r"\x1b\xe4\\",
        "code": None,
    }
    refused = json.loads(line_of("json", broken(b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n")))
    assert refused["code"] == "HPE_INVALID_HEADER_TOKEN"
    assert refused.keys() - {"seconds"} == answered.keys()
    assert (refused["bytes"], refused["seconds"]) == (None, None)


@pytest.mark.parametrize("of", ["%{Cookie}i", "%{set-cookie}o", "%{Referer}i"])
def test_secrets_are_hidden(of: str) -> None:
    """A field that is a secret elsewhere is one here, unless nothing is."""
    request = Answered()
    request.fields[b"referer"] = b"SECRET"
    hiding = MaskingPolicy(extra_fields=frozenset([b"Referer"]))
    assert set(line_of(of, request, hiding)) == {"*"}
    assert line_of(of, request, UNMASKED) in ("SECRET", "s=1")


def test_client_without_an_address() -> None:
    """A client on a UNIX socket has no host."""
    request = Answered()
    request.getClientAddress = lambda: UNIXAddress("/x")  # type: ignore[method-assign]
    assert line_of("%h", request) == "-"
    assert json.loads(line_of("json", request))["peer"] == "unix"


def test_text_of_the_operators() -> None:
    """What he writes between the directives comes out as it is."""
    assert line_of("ä\t%%%m", Answered()) == "ä\t%GET"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("jsno", "'jsno' is not combined, not json"),
        ("", "'' is not combined"),
        ("%Z", "'%Z' is not one of %h, "),
        ("%h %", "'%' is not one of %h, "),
        ("%{Host}x", "'%{Host}x' is not one of"),
        ("%{Host", "'%{' is not one of"),
        ("%{}i", "'%{}i' is not one of"),
        ("%{Host}s", "'%{Host}s' is not one of"),
        ("%h\n", "control characters"),
        ("%h\x1b", "control characters"),
    ],
)
def test_what_is_no_format(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("{", r"\{")):
        access_format(text)


def test_combined_is_the_access_logs_own() -> None:
    assert access_format("combined") is None
