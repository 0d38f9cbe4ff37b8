"""Every refusal of the parser by name: code and reason, llhttp's own first, then ours.

Where llhttp 9.4 refuses, code and reason are its words, byte for byte.  The last group is
what it lets through and we do not; docs/deviations.md tells why.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Why(NamedTuple):
    """What is wrong, in the words of the error that will be raised."""

    code: str
    reason: str


class Refusal(Exception):
    """A byte, or a whole line, that ends the connection's parsing.

    Attributes:
        why: Code and reason.
        offset: Node's ``bytesParsed``: an index in the packet being read.
        culprit: Index in that packet of the byte to blame; None where it is a whole line.
        line: That line, if it is not the current one.
        field: Name of the field it belongs to, likewise.
    """

    __slots__ = ("culprit", "field", "line", "offset", "why")

    def __init__(
        self,
        why: Why,
        offset: int,
        culprit: int | None,
        line: bytes | None = None,
        field: bytes | None = None,
    ) -> None:
        self.why = why
        self.offset = offset
        self.culprit = culprit
        self.line = line
        self.field = field


def at_byte(why: Why, index: int) -> Refusal:
    """Blame the byte at *index*, and point at it."""
    return Refusal(why, index, index)


def after_byte(why: Why, index: int) -> Refusal:
    """Blame the byte at *index*, and point behind it: llhttp had consumed it."""
    return Refusal(why, index + 1, index)


def current_line(why: Why, index: int) -> Refusal:
    """Blame all of the line that ends at *index*, and point there."""
    return Refusal(why, index, None)


# The request line
INVALID_METHOD: Final = Why("HPE_INVALID_METHOD", "Invalid method encountered")
NO_SPACE_AFTER_METHOD: Final = Why("HPE_INVALID_METHOD", "Expected space after method")
URL_START: Final = Why("HPE_INVALID_URL", "Unexpected start char in url")
URL_CHARACTERS: Final = Why("HPE_INVALID_URL", "Invalid characters in url")
URL_SCHEMA: Final = Why("HPE_INVALID_URL", "Unexpected char in url schema")
URL_SERVER: Final = Why("HPE_INVALID_URL", "Unexpected char in url server")
URL_DOUBLE_AT: Final = Why("HPE_INVALID_URL", "Double @ in url")
URL_PATH: Final = Why("HPE_INVALID_URL", "Invalid char in url path")
URL_QUERY: Final = Why("HPE_INVALID_URL", "Invalid char in url query")
URL_FRAGMENT: Final = Why("HPE_INVALID_URL", "Invalid char in url fragment start")
URL_CRLF: Final = Why("HPE_INVALID_URL", "Expected CRLF")
NO_PROTOCOL: Final = Why("HPE_INVALID_CONSTANT", "Expected HTTP/, RTSP/ or ICE/")
NOT_AN_HTTP_METHOD: Final = Why("HPE_INVALID_CONSTANT", "Invalid method for HTTP/x.x request")
NOT_AN_RTSP_METHOD: Final = Why("HPE_INVALID_CONSTANT", "Invalid method for RTSP/x.x request")
NOT_AN_ICE_METHOD: Final = Why("HPE_INVALID_CONSTANT", "Expected SOURCE method for ICE/x.x request")
MAJOR_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid major version")
VERSION_DOT: Final = Why("HPE_INVALID_VERSION", "Expected dot")
MINOR_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid minor version")
UNKNOWN_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid HTTP version")
HTTP2_PREFACE: Final = Why("HPE_INVALID_VERSION", "Expected HTTP/2 Connection Preface")
HTTP2: Final = Why("HPE_PAUSED_H2_UPGRADE", "Pause on PRI/Upgrade")
VERSION_CRLF: Final = Why("HPE_INVALID_VERSION", "Expected CRLF after version")
VERSION_LF: Final = Why("HPE_STRICT", "Expected CRLF after version")

# Fields
SPACE_BEFORE_FIELDS: Final = Why("HPE_UNEXPECTED_SPACE", "Unexpected space after start line")
FIELD_CHAR: Final = Why("HPE_INVALID_HEADER_TOKEN", "Invalid header field char")
FIELD_TOKEN: Final = Why("HPE_INVALID_HEADER_TOKEN", "Invalid header token")
VALUE_CHAR: Final = Why("HPE_INVALID_HEADER_TOKEN", "Invalid header value char")
VALUE_FOLDED: Final = Why("HPE_INVALID_HEADER_TOKEN", "Unexpected whitespace after header value")
VALUE_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after header value")
VALUE_LF: Final = Why("HPE_LF_EXPECTED", "Missing expected LF after header value")
EMPTY_VALUE_LF: Final = Why("HPE_STRICT", "Expected LF after CR")
FIELDS_LF: Final = Why("HPE_STRICT", "Expected LF after headers")
HEADER_OVERFLOW: Final = Why("HPE_HEADER_OVERFLOW", "Header overflow")

# Framing
CL_AFTER_TE: Final = Why(
    "HPE_INVALID_CONTENT_LENGTH", "Content-Length can't be present with Transfer-Encoding"
)
CL_EMPTY: Final = Why("HPE_INVALID_CONTENT_LENGTH", "Empty Content-Length")
CL_CHAR: Final = Why("HPE_INVALID_CONTENT_LENGTH", "Invalid character in Content-Length")
CL_OVERFLOW: Final = Why("HPE_INVALID_CONTENT_LENGTH", "Content-Length overflow")
CL_TWICE: Final = Why("HPE_UNEXPECTED_CONTENT_LENGTH", "Duplicate Content-Length")
TE_AFTER_CL: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding can't be present with Content-Length"
)
TE_EMPTY: Final = Why("HPE_INVALID_TRANSFER_ENCODING", "Empty Transfer-Encoding")
TE_VALUE: Final = Why("HPE_INVALID_TRANSFER_ENCODING", "Invalid `Transfer-Encoding` header value")
TE_NOT_CHUNKED: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Request has invalid `Transfer-Encoding`"
)

# The chunked coding
CHUNK_SIZE: Final = Why("HPE_INVALID_CHUNK_SIZE", "Invalid character in chunk size")
CHUNK_SIZE_OVERFLOW: Final = Why("HPE_INVALID_CHUNK_SIZE", "Chunk size overflow")
CHUNK_SIZE_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after chunk size")
CHUNK_SIZE_LF: Final = Why("HPE_STRICT", "Expected LF after chunk size")
CHUNK_EXT: Final = Why("HPE_STRICT", "Invalid character in chunk extensions")
CHUNK_EXT_NAME: Final = Why("HPE_STRICT", "Invalid character in chunk extensions name")
CHUNK_EXT_NAME_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after chunk extension name")
CHUNK_EXT_VALUE: Final = Why("HPE_STRICT", "Invalid character in chunk extensions value")
CHUNK_EXT_VALUE_CR: Final = Why(
    "HPE_CR_EXPECTED", "Missing expected CR after chunk extension value"
)
CHUNK_EXT_QUOTED: Final = Why("HPE_STRICT", "Invalid character in chunk extensions quoted value")
CHUNK_EXT_QUOTED_PAIR: Final = Why(
    "HPE_STRICT", "Invalid quoted-pair in chunk extensions quoted value"
)
CHUNK_EXT_AFTER_QUOTE: Final = Why(
    "HPE_STRICT", "Invalid character in chunk extensions quote value"
)
CHUNK_EXT_OVERFLOW: Final = Why("HPE_CHUNK_EXTENSIONS_OVERFLOW", "Chunk extensions overflow")
CHUNK_DATA_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after chunk data")
CHUNK_DATA_LF: Final = Why("HPE_STRICT", "Expected LF after chunk data")

# The end of input
END_OF_INPUT: Final = Why("HPE_INVALID_EOF_STATE", "Invalid EOF state")

# Ours
HTTP_0_9: Final = Why("HPE_INVALID_VERSION", "HTTP/0.9 is not supported")
NOT_HTTP: Final = Why("HPE_INVALID_CONSTANT", "Expected HTTP/")
MANY_SPACES: Final = Why("HPE_INVALID_URL", "More than one space in the request line")
TARGET_FRAGMENT: Final = Why("HPE_INVALID_URL", "Fragment in the request target")
TARGET_FORM: Final = Why("HPE_INVALID_URL", "Request target in none of the four forms")
TE_IN_HTTP_1_0: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 request"
)
TE_NOT_ONLY_CHUNKED: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding other than a single `chunked`"
)
HOST_MISSING: Final = Why("ERR_HTTP_HOST_REQUIRED", "Missing Host")
HOST_TWICE: Final = Why("ERR_HTTP_INVALID_HOST", "More than one Host")
HOST_INVALID: Final = Why("ERR_HTTP_INVALID_HOST", "Invalid Host")
BODY_TOO_LARGE: Final = Why("ERR_HTTP_BODY_TOO_LARGE", "Body too large")
EMPTY_LINES: Final = Why(
    "ERR_HTTP_TOO_MANY_EMPTY_LINES", "Too many empty lines before the request line"
)
