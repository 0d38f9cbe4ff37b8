"""The rule for every code and reason, and the rows of errors that no parser finds.

`twisted_hangup.parser.refusals` has the parsers' rows.  Here are those of time and network, and
those for all reasons of a code, or a whole family of codes, whose words are the operating system's,
OpenSSL's or h2's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ..parser import refusals
from ..parser.refusals import ResponseWhy, Rule, Why

REQUEST_TIMEOUT: Final = Why(
    "ERR_HTTP_REQUEST_TIMEOUT",
    "Request timeout",
    "the client took too long to send its request",
    "RFC 9110, section 15.5.9",
)
HANDSHAKE_TIMEOUT: Final = Why(
    "ERR_TLS_HANDSHAKE_TIMEOUT",
    "TLS handshake timeout",
    "the client did not finish the TLS handshake in time",
    "RFC 8446, section 4",
)
#: The end of the input of a client that waits for a response.
HANG_UP: Final = Why("ECONNRESET", "socket hang up", "the client hung up", "")
RESET: Final = Why("ECONNRESET", "read ECONNRESET", "the client reset the connection", "")
#: The client takes no more bytes of a response.
STALLED: Final = Why(
    "ETIMEDOUT", "write ETIMEDOUT", "the client stopped answering on the network", ""
)

#: For codes whose reasons are not our words, or whose first row is too special.
_OTHER_REASONS: Final = {
    "HPE_STRICT": Rule(
        "a line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
        "RFC 9112, section 2.2",
    ),
    # Node refuses this; here it is ignored.
    "HPE_CLOSED_CONNECTION": Rule(
        "nothing may follow a request that said Connection: close", "RFC 9112, section 9.6"
    ),
    "ECONNRESET": Rule("the client broke the connection off", ""),
    "EPIPE": Rule("the client had closed the connection", ""),
    "ERR_SSL_HTTP_REQUEST": Rule(
        "the client speaks plain HTTP to a port that serves HTTPS; its URL has to start with"
        " https://",
        "RFC 9110, section 4.2.2",
    ),
    "ERR_SSL_WRONG_VERSION_NUMBER": Rule(
        "the client's first bytes are not TLS, or of a version that the server does not speak",
        "RFC 8446, section 5.1",
    ),
    "ERR_SSL_NO_APPLICATION_PROTOCOL": Rule(
        "client and server have no protocol in common", "RFC 7301, section 3.2"
    ),
    "ERR_SSL_UNSUPPORTED_PROTOCOL": Rule(
        "client and server have no version of TLS in common", "RFC 8446, section 4.2.1"
    ),
    "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA": Rule(
        "the client did not accept the server's certificate", "RFC 8446, section 6.2"
    ),
    "ERR_HTTP2_ENHANCE_YOUR_CALM": Rule(
        "the client gives the server work without end: requests that it resets or that are"
        " refused, frames that do nothing, answers that it does not read, or fields that never"
        " end",
        "RFC 9113, section 10.5",
    ),
}

#: For whole families of codes, if there is nothing more exact.
FAMILIES: Final[tuple[tuple[str, Rule], ...]] = (
    (
        "ERR_SSL_",
        Rule("the TLS handshake failed, or a TLS record was corrupt", "RFC 8446, section 6"),
    ),
    ("ERR_TLS_", Rule("the TLS handshake failed", "RFC 8446, section 6")),
    ("ERR_HTTP2_", Rule("the client broke a rule of HTTP/2", "RFC 9113, section 5.4.1")),
    ("HPE_", Rule("this is not a valid HTTP/1.1 request", "RFC 9112, section 2.1")),
    (
        "ERR_HTTP_",
        Rule("this is not a request that the server accepts", "RFC 9110, section 15.5.1"),
    ),
)

#: All rows; the parsers' come first.
ROWS: Final = tuple(
    row for rows in (vars(refusals), vars()) for row in rows.values() if isinstance(row, Why)
)

_Rules: TypeAlias = Mapping[tuple[str, str], Rule]


def _of_requests() -> _Rules:
    rules = {(code, ""): rule for code, rule in _OTHER_REASONS.items()}
    for row in ROWS:
        if not isinstance(row, ResponseWhy):
            rules[row.code, row.reason] = rule = Rule(row.rule, row.source)
            rules.setdefault((row.code, ""), rule)
    return MappingProxyType(rules)


def _of_responses() -> _Rules:
    rules = {}
    for row in ROWS:
        rule = Rule(row.rule, row.source) if isinstance(row, ResponseWhy) else row.of_response
        if rule is not None:
            rules[row.code, row.reason] = rule
    return MappingProxyType(rules)


#: (code, reason) -> rule.  An empty reason stands for every other reason of that code.
RULES: Final = _of_requests()

#: The same for a refused response, if it has a rule of its own.
RESPONSE_RULES: Final = _of_responses()


def rule_of(
    code: str, reason: str, about: Literal["request", "response"] = "request"
) -> Rule | None:
    """The rule of a refusal: by code and reason, else by the code, else by its family."""
    pair = (code, reason)
    exact = RESPONSE_RULES.get(pair) if about == "response" else None
    exact = exact or RULES.get(pair) or RULES.get((code, ""))
    return exact or next((rule for prefix, rule in FAMILIES if code.startswith(prefix)), None)
