"""What a refusal means where it is a response that is refused: `rules`, but for those
rules that are told otherwise of responses, or are theirs alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .rules import RULES, Rule
from .rules import rule_of as rule_of_request

_STATUS_LINE: Final = "RFC 9112, section 4"

_PROTOCOL: Final = Rule(
    "a response starts with HTTP/1.1 or HTTP/1.0; perhaps the server speaks another protocol on"
    " this port, or what comes here belongs to the response before",
    _STATUS_LINE,
)
_BOTH_LENGTHS: Final = Rule(
    "a response may have Content-Length or Transfer-Encoding, not both: who believes one of"
    " them sees another response than who believes the other",
    "RFC 9112, section 6.1",
)

#: (code, reason) -> rule.  An empty reason stands for every other reason of that code.
RESPONSE_RULES: Final[Mapping[tuple[str, str], Rule]] = MappingProxyType(
    {
        # The status line.
        ("HPE_INVALID_CONSTANT", ""): _PROTOCOL,
        ("HPE_INVALID_CONSTANT", "Expected HTTP/"): _PROTOCOL,
        ("HPE_INVALID_VERSION", ""): Rule(
            "the version has to be HTTP/1.1 or HTTP/1.0, in upper case, with one space behind it",
            "RFC 9112, section 2.3",
        ),
        ("HPE_INVALID_STATUS", ""): Rule(
            "the status is a number of three digits, from 100 on, behind one space; then comes"
            " a space and the reason phrase, or the end of the line",
            _STATUS_LINE,
        ),
        ("HPE_INVALID_STATUS", "Invalid character in reason phrase"): Rule(
            "a control character other than tab is not allowed in the reason phrase",
            _STATUS_LINE,
        ),
        ("HPE_CR_EXPECTED", "Missing expected CR after response line"): Rule(
            "the status line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
            "RFC 9112, section 2.2",
        ),
        ("HPE_STRICT", "Expected LF after CR"): Rule(
            "a CR (0x0d) is allowed only at the end of a line, with an LF (0x0a) behind it",
            "RFC 9112, section 2.2",
        ),
        ("ERR_HTTP_TOO_MANY_EMPTY_LINES", ""): Rule(
            "a response starts with its status line; there are more empty lines in front of it"
            " than are skipped (Limits.leading_crlf)",
            _STATUS_LINE,
        ),
        # Fields.
        ("HPE_UNEXPECTED_SPACE", ""): Rule(
            "no white space may stand between the status line and the first field",
            "RFC 9112, section 2.2",
        ),
        ("HPE_HEADER_OVERFLOW", ""): Rule(
            "reason phrase and header fields together, or the trailer fields behind a body,"
            " have more bytes than are taken (Limits.head_bytes), or the fields are too many"
            " (Limits.head_fields)",
            "RFC 9110, section 5.4",
        ),
        (
            "HPE_INVALID_CONTENT_LENGTH",
            "Content-Length can't be present with Transfer-Encoding",
        ): _BOTH_LENGTHS,
        (
            "HPE_INVALID_TRANSFER_ENCODING",
            "Transfer-Encoding can't be present with Content-Length",
        ): _BOTH_LENGTHS,
        ("HPE_UNEXPECTED_CONTENT_LENGTH", ""): Rule(
            "a response has one Content-Length at most, even where both say the same",
            "RFC 9110, section 8.6",
        ),
        ("HPE_UNEXPECTED_CONTENT_LENGTH", "Content-Length in a 1xx or 204 response"): Rule(
            "a response with a status of 1xx or 204 has no body, and this one announces one: who"
            " believes it takes the start of the next response for that body",
            "RFC 9110, section 8.6",
        ),
        ("HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in a 1xx or 204 response"): Rule(
            "a response with a status of 1xx or 204 has no body, and this one announces one: who"
            " believes it takes the start of the next response for that body",
            "RFC 9112, section 6.1",
        ),
        (
            "HPE_INVALID_TRANSFER_ENCODING",
            "Transfer-Encoding other than a single `chunked`",
        ): Rule(
            "the one coding that is decoded is chunked; it stands alone, once, in one field,"
            " because recipients disagree about lists of codings",
            "RFC 9112, section 6.1",
        ),
        ("HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 response"): Rule(
            "HTTP/1.0 has no Transfer-Encoding, so that nobody can tell where this body ends",
            "RFC 9112, section 6.1",
        ),
        ("ERR_HTTP_INVALID_UPGRADE", ""): Rule(
            "a 101 changes the protocol, and is allowed only where the request asked for it",
            "RFC 9110, section 15.2.2",
        ),
        ("ERR_HTTP_INVALID_UPGRADE", "101 without Upgrade"): Rule(
            "a 101 has to name the new protocol: Upgrade, and Connection: upgrade",
            "RFC 9110, section 7.8",
        ),
        # The body, and what is not part of it.
        ("HPE_CHUNK_EXTENSIONS_OVERFLOW", ""): Rule(
            "the extensions of this chunk are longer than is taken (Limits.chunk_extension_bytes)",
            "RFC 9112, section 7.1.1",
        ),
        ("ERR_HTTP_UNREQUESTED_RESPONSE", ""): Rule(
            "the server sent something where no request waited for an answer; perhaps the"
            " response before was longer than it said",
            "RFC 9112, section 9.2",
        ),
        ("HPE_INVALID_EOF_STATE", ""): Rule(
            "the server ended its output before the response was complete", "RFC 9112, section 8"
        ),
    }
)


def rule_of(code: str, reason: str) -> Rule | None:
    """The rule behind a refusal: of the pair, else of the code, else what requests have."""
    told = RESPONSE_RULES
    return (
        told.get((code, reason))
        or RULES.get((code, reason))
        or told.get((code, ""))
        or rule_of_request(code, reason)
    )
