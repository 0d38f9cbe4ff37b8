"""The entry of each code, in one place for command line, status page and docs.

An entry says what a code means, what the client gets, the usual cause, what to do, and shows an
example.  Where a reason of that code has a rule or a cause of its own, it says that too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from ..errors import DEFAULT_STATUS, TARGET_TOO_LONG
from ..parser.refusals import Rule
from .examples import example_of
from .remedies import REASONS, REMEDIES, Remedy, entry_of
from .rules import RESPONSE_RULES, RULES, rule_of

About: TypeAlias = Literal["request", "response"]


class Variant(NamedTuple):
    """What some reasons of a code mean, if they have a rule or a remedy of their own.

    Attributes:
        reasons: As `RecordedError.reason` has them.
        about: Whether a request or a response is refused for them.
        rule: What was expected; None if it is the rule of the code.
        remedy: Cause and cure; None likewise.
    """

    reasons: tuple[str, ...]
    about: About
    rule: Rule | None
    remedy: Remedy | None


class Entry(NamedTuple):
    """What there is to say about one code, or about a family of codes.

    Attributes:
        name: The code; of a family, its start and ``*``.
        meaning: What happened, in a few words.
        answer: What the client gets: a status first, if it gets one.
        rule: What was expected, for every reason that is in no variant; None if there is no rule.
        remedy: Cause and cure, for the same reasons.
        example: Lines that show bytes or a command; none if there is no good example.
        variants: The other reasons.
    """

    name: str
    meaning: str
    answer: str
    rule: Rule | None
    remedy: Remedy
    example: list[str]
    variants: list[Variant]


#: Heading -> codes with their meanings, in the order of the page.
GROUPS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "The request line": {
            "HPE_INVALID_METHOD": "no known method where a request begins",
            "HPE_INVALID_URL": "a wrong form or character in the target",
            "HPE_INVALID_CONSTANT": "no HTTP/1.1 after the target",
            "HPE_INVALID_VERSION": "a version other than 1.0 and 1.1",
            "HPE_PAUSED_H2_UPGRADE": "HTTP/2 on a port for HTTP/1.1",
            "ERR_HTTP_TOO_MANY_EMPTY_LINES": "too many empty lines before a request",
        },
        "Headers": {
            "HPE_UNEXPECTED_SPACE": "white space before the first header",
            "HPE_INVALID_HEADER_TOKEN": "a byte that no header may have there",
            "HPE_CR_EXPECTED": "LF without CR, or a wrong chunk size",
            "HPE_LF_EXPECTED": "CR without LF in a header",
            "HPE_STRICT": "a line or a chunk that ends wrongly",
            "HPE_INVALID_CONTENT_LENGTH": "an invalid or forbidden Content-Length",
            "HPE_UNEXPECTED_CONTENT_LENGTH": "a second Content-Length",
            "HPE_INVALID_TRANSFER_ENCODING": "a Transfer-Encoding other than chunked",
            "HPE_HEADER_OVERFLOW": "a target or headers over the limit",
            "ERR_HTTP_HOST_REQUIRED": "no Host header",
            "ERR_HTTP_INVALID_HOST": "an invalid Host, or more than one",
        },
        "The body": {
            "HPE_INVALID_CHUNK_SIZE": "a chunk size that is no hex number",
            "HPE_CHUNK_EXTENSIONS_OVERFLOW": "chunk extensions over the limit",
            "ERR_HTTP_BODY_TOO_LARGE": "a body or a form over the limit",
            "ERR_HTTP_MULTIPART": "a form that cannot be read",
            "HPE_CLOSED_CONNECTION": "bytes after the last request (Node only)",
            "HPE_INVALID_EOF_STATE": "the end of input inside a message",
        },
        "Time and network": {
            "ERR_HTTP_REQUEST_TIMEOUT": "a request that took too long to arrive",
            "ECONNRESET": "the client hung up, or reset",
            "EPIPE": "the client had left when we wrote",
            "ETIMEDOUT": "the client stopped answering",
            "ERR_PROXY_PROTOCOL": "a missing or broken PROXY header",
        },
        "TLS": {
            "ERR_SSL_HTTP_REQUEST": "plain HTTP on a port for HTTPS",
            "ERR_SSL_WRONG_VERSION_NUMBER": "something other than TLS on a TLS port",
            "ERR_SSL_NO_APPLICATION_PROTOCOL": "no protocol in common (ALPN)",
            "ERR_TLS_HANDSHAKE_TIMEOUT": "a TLS handshake that took too long",
            "ERR_SSL_UNSUPPORTED_PROTOCOL": "no TLS version in common",
            "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA": "the client rejected the certificate",
            "ERR_SSL_*": "another TLS failure",
            "ERR_TLS_*": "another failed TLS handshake",
        },
        "HTTP/2": {
            "ERR_HTTP2_INVALID_PSEUDOHEADER": "a missing or wrong pseudo-header",
            "ERR_HTTP2_INVALID_CONNECTION_HEADERS": "an HTTP/1.1 header in HTTP/2",
            "ERR_HTTP2_ENHANCE_YOUR_CALM": "too much useless work for the server",
            "ERR_HTTP2_*": "another broken rule of HTTP/2",
        },
        "Responses": {
            "HPE_INVALID_STATUS": "a response with a wrong status line",
            "ERR_HTTP_INVALID_UPGRADE": "a 101 that no request asked for",
            "ERR_HTTP_UNREQUESTED_RESPONSE": "bytes that no request asked for",
            "ERR_TLS_CERT_ALTNAME_INVALID": "a server's certificate for another name",
            "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES": "1xx responses without end",
            "ERR_HTTP_INVALID_RESPONSE": "a response that Twisted cannot read",
        },
        "Servers behind a proxy": {
            "ERR_UPSTREAM_REFUSED": "no connection to the server",
            "ERR_UPSTREAM_RESET": "the server hung up",
            "ERR_UPSTREAM_RESPONSE": "the server sent something other than HTTP",
            "ERR_UPSTREAM_TIMEOUT": "the server took too long",
            "ERR_UPSTREAM_BUSY": "all connections to the server are in use",
        },
        "All others": {
            "HPE_*": "bytes that are not HTTP/1.1",
            "ERR_HTTP_*": "a request that this server refuses",
        },
    }
)

_MEANINGS: Final = {code: words for group in GROUPS.values() for code, words in group.items()}

#: Codes about a server -> the status that the client of a proxy gets.
_OF_PROXY: Final = {
    **dict.fromkeys(GROUPS["Responses"], 502),
    **dict.fromkeys(GROUPS["Servers behind a proxy"], 502),
    "ERR_UPSTREAM_TIMEOUT": 504,
    "ERR_UPSTREAM_BUSY": 503,
}

#: How codes begin that have no default answer.
_UNANSWERED: Final = ("ERR_SSL_", "ERR_TLS_", "ERR_HTTP2_ENHANCE_YOUR_CALM", "ERR_HTTP2_*")

_ANSWERS: Final = {
    "HPE_HEADER_OVERFLOW": f"{DEFAULT_STATUS['HPE_HEADER_OVERFLOW']}, or {TARGET_TOO_LONG} if"
    " the target alone is too long",
    "HPE_INVALID_EOF_STATE": "400, or no response if the client closed a TLS connection",
    "HPE_CLOSED_CONNECTION": "its response: this server never refuses a request with this code",
    "ERR_HTTP_REQUEST_TIMEOUT": f"{DEFAULT_STATUS['ERR_HTTP_REQUEST_TIMEOUT']}, or no response if"
    " it sent nothing but empty lines",
    "ERR_SSL_HTTP_REQUEST": "400, in plain text",
    "ERR_HTTP_INVALID_RESPONSE": "what your program answers: this is an error of HangupAgent",
}


def entry_named(name: str) -> Entry | None:
    """The entry for a code, such as ``HPE_STRICT`` or ``ERR_SSL_NO_SHARED_CIPHER``, or for a
    family, such as ``ERR_SSL_*``; None if there is none."""
    code = entry_of(name)
    if code is None:
        return None
    return Entry(
        code,
        _MEANINGS[code],
        _answer(code),
        rule_of(code.rstrip("*"), "") if _has_rule(code) else None,
        REMEDIES[code],
        example_of(code),
        [*_variants(code)],
    )


def _has_rule(code: str) -> bool:
    """Whether requests are refused with *code*, or it stands for a family."""
    return code.endswith("*") or (code, "") in RULES


def _answer(code: str) -> str:
    if code in _ANSWERS:
        return _ANSWERS[code]
    if code in _OF_PROXY:
        return f"{_OF_PROXY[code]} from a proxy"
    if code in DEFAULT_STATUS:
        return str(DEFAULT_STATUS[code])
    if code.startswith(_UNANSWERED) or not code.startswith(("HPE_", "ERR_")):
        return "no response"
    return "400"


def _variants(code: str) -> Iterator[Variant]:
    rule = RULES.get((code, ""))
    variants: dict[tuple[About, Rule | None, Remedy | None], list[str]] = {}
    tables: Mapping[About, Mapping[tuple[str, str], Rule]]
    tables = {"request": RULES, "response": RESPONSE_RULES}
    for about, table in tables.items():
        for (of, reason), own in table.items():
            if of == code and reason:
                other = None if own == rule else own
                variants.setdefault((about, other, REASONS.get((code, reason))), []).append(reason)
    for (about, other, advice), reasons in variants.items():
        if other or advice:
            yield Variant((*reasons,), about, other, advice)
