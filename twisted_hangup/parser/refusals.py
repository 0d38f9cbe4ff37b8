"""Every refusal by name, one row each: code, reason, the rule that was broken, and its source.

If llhttp 9.4 refuses too, code and reason are its words, byte for byte; if only Node's HTTP/2 does,
they are Node's.  The other rows refuse what both accept; docs/deviations.md says why.

A rule is written for a person who has never seen the code.  It follows a colon ("In the request
line: ...") and therefore starts in lower case.  An unknown reason of a code gets the rule of that
code's first row.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Rule(NamedTuple):
    """A rule in plain words, and the section of the RFC that contains it.

    Attributes:
        text: What was expected, without a full stop.
        source: Such as ``RFC 9112, section 3``; empty if no RFC contains it.
    """

    text: str
    source: str


class Why(NamedTuple):
    """What is wrong, in the words of the error that will be raised, and the rule.

    Attributes:
        code: Stable name, as in `RecordedError.code`.
        reason: What happened.
        rule: What was expected: the text of a `Rule`, and *source* is its source.
        of_response: The rule for a refused response, if that is another.
    """

    code: str
    reason: str
    rule: str
    source: str
    of_response: Rule | None = None

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class ResponseWhy(Why):
    """Why a response is refused; no request is refused for it."""

    __slots__ = ()


class Refusal(Exception):
    """Raised at a byte, or a whole line, that ends the parsing of the connection.

    Attributes:
        why: Code and reason.
        offset: Node's ``bytesParsed``: an index in the packet being read.
        culprit: Index in that packet of the byte to blame; None if it is a whole line.
        line: That line, if it is not the current one.
        field: Name of the field that the line belongs to, if it is not the current one.
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
    """Blame the byte at *index*, and point after it: llhttp had consumed it."""
    return Refusal(why, index + 1, index)


def current_line(why: Why, index: int) -> Refusal:
    """Blame the whole line that ends at *index*, and point there."""
    return Refusal(why, index, None)


# --- the request line -------------------------------------------------------------------

_METHOD: Final = Rule(
    "a request starts with a method (GET, POST, ...), which is one of a known list and in"
    " upper case",
    "RFC 9112, section 3.1",
)
_TARGET_CHAR: Final = (
    "may hold only printable ASCII; spaces, control characters and bytes from 0x80 on have"
    " to be percent-encoded, such as %20"
)
_URL_SERVER: Final = Rule(
    "a URL has one host after its //, with letters, digits and punctuation in it, and at"
    " most one @ before it",
    "RFC 9112, section 3.2.2",
)
_FRAGMENT: Final = Rule(
    "a client never sends the fragment of a URL (from # on)", "RFC 9112, section 3.2"
)
_PROTOCOL: Final = Rule(
    "HTTP/1.1 comes after the method, a space, the target and a space; a space inside the"
    " target has to be written %20",
    "RFC 9112, section 3",
)
_PROTOCOL_OF_RESPONSE: Final = Rule(
    "a response starts with HTTP/1.1 or HTTP/1.0; perhaps the server speaks another protocol on"
    " this port, or what comes here belongs to the response before",
    "RFC 9112, section 4",
)
_VERSION_OF_RESPONSE: Final = Rule(
    "the version has to be HTTP/1.1 or HTTP/1.0, in upper case, with one space after it",
    "RFC 9112, section 2.3",
)
#: For requests and for responses.
_VERSION: Final = (
    "the version has to be HTTP/1.1 or HTTP/1.0, in upper case, followed by CR LF",
    "RFC 9112, section 2.3",
    _VERSION_OF_RESPONSE,
)

INVALID_METHOD: Final = Why("HPE_INVALID_METHOD", "Invalid method encountered", *_METHOD)
NO_SPACE_AFTER_METHOD: Final = Why(
    "HPE_INVALID_METHOD",
    "Expected space after method",
    "one space has to follow the method, and then the target",
    "RFC 9112, section 3",
)
URL_CHARACTERS: Final = Why(
    "HPE_INVALID_URL",
    "Invalid characters in url",
    "the target (a path or a whole URL) " + _TARGET_CHAR,
    "RFC 9112, section 3.2",
)
URL_START: Final = Why(
    "HPE_INVALID_URL",
    "Unexpected start char in url",
    "the target is a path that starts with / (such as /search?q=1), a whole http:// or"
    " https:// URL, * for OPTIONS, or host:port for CONNECT",
    "RFC 9112, section 3.2",
)
URL_SCHEMA: Final = Why(
    "HPE_INVALID_URL",
    "Unexpected char in url schema",
    "a target that does not start with / is a whole URL, such as http://example.org/a;"
    " perhaps the target is missing",
    "RFC 9112, section 3.2",
)
URL_SERVER: Final = Why("HPE_INVALID_URL", "Unexpected char in url server", *_URL_SERVER)
URL_DOUBLE_AT: Final = Why("HPE_INVALID_URL", "Double @ in url", *_URL_SERVER)
URL_PATH: Final = Why(
    "HPE_INVALID_URL",
    "Invalid char in url path",
    "a path " + _TARGET_CHAR,
    "RFC 3986, section 3.3",
)
URL_QUERY: Final = Why(
    "HPE_INVALID_URL",
    "Invalid char in url query",
    "a query " + _TARGET_CHAR,
    "RFC 3986, section 3.4",
)
URL_FRAGMENT: Final = Why("HPE_INVALID_URL", "Invalid char in url fragment start", *_FRAGMENT)
URL_CRLF: Final = Why(
    "HPE_INVALID_URL",
    "Expected CRLF",
    "a CR (0x0d) is allowed only at the end of the line, with an LF (0x0a) after it",
    "RFC 9112, section 2.2",
)
NO_PROTOCOL: Final = Why(
    "HPE_INVALID_CONSTANT", "Expected HTTP/, RTSP/ or ICE/", *_PROTOCOL, _PROTOCOL_OF_RESPONSE
)
NOT_AN_HTTP_METHOD: Final = Why(
    "HPE_INVALID_CONSTANT",
    "Invalid method for HTTP/x.x request",
    "this method belongs to another protocol than HTTP",
    "RFC 9110, section 9.1",
)
NOT_AN_RTSP_METHOD: Final = Why(
    "HPE_INVALID_CONSTANT", "Invalid method for RTSP/x.x request", *_PROTOCOL
)
NOT_AN_ICE_METHOD: Final = Why(
    "HPE_INVALID_CONSTANT", "Expected SOURCE method for ICE/x.x request", *_PROTOCOL
)
MAJOR_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid major version", *_VERSION)
VERSION_DOT: Final = Why("HPE_INVALID_VERSION", "Expected dot", *_VERSION)
MINOR_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid minor version", *_VERSION)
UNKNOWN_VERSION: Final = Why("HPE_INVALID_VERSION", "Invalid HTTP version", *_VERSION)
HTTP2_PREFACE: Final = Why(
    "HPE_INVALID_VERSION",
    "Expected HTTP/2 Connection Preface",
    "the method PRI is reserved for the start of HTTP/2",
    "RFC 9113, section 3.4",
)
HTTP2: Final = Why(
    "HPE_PAUSED_H2_UPGRADE",
    "Pause on PRI/Upgrade",
    "the client speaks HTTP/2 without agreeing on it first; the server speaks HTTP/1.1"
    " on this connection",
    "RFC 9113, section 3.3",
)
VERSION_CRLF: Final = Why(
    "HPE_INVALID_VERSION",
    "Expected CRLF after version",
    "the request line ends right after the version, with CR LF (0x0d 0x0a)",
    "RFC 9112, section 3",
)
VERSION_LF: Final = Why(
    "HPE_STRICT",
    "Expected CRLF after version",
    "the CR (0x0d) after the version needs an LF (0x0a) after it",
    "RFC 9112, section 2.2",
)

# Ours
EMPTY_LINES: Final = Why(
    "ERR_HTTP_TOO_MANY_EMPTY_LINES",
    "Too many empty lines before the request line",
    "a request starts with its request line; there are more empty lines in front of it"
    " than this server skips (Limits.leading_crlf)",
    "RFC 9112, section 2.2",
)
HTTP_0_9: Final = Why(
    "HPE_INVALID_VERSION",
    "HTTP/0.9 is not supported",
    "a space and HTTP/1.1 come after the target; a request without them is HTTP/0.9,"
    " which this server does not speak",
    "RFC 9112, section 3",
)
NOT_HTTP: Final = Why(
    "HPE_INVALID_CONSTANT",
    "Expected HTTP/",
    "HTTP/1.1 comes after the target; this server speaks no other protocol",
    "RFC 9112, section 2.3",
    _PROTOCOL_OF_RESPONSE,
)
MANY_SPACES: Final = Why(
    "HPE_INVALID_URL",
    "More than one space in the request line",
    "exactly one space stands between method and target, and one between target and"
    " version; a space inside the target has to be written %20",
    "RFC 9112, section 3",
)
TARGET_FRAGMENT: Final = Why("HPE_INVALID_URL", "Fragment in the request target", *_FRAGMENT)
TARGET_FORM: Final = Why(
    "HPE_INVALID_URL",
    "Request target in none of the four forms",
    "the target is a path that starts with / (such as /search?q=1), a whole URL with a"
    " host in it (such as http://example.org/a), or, for OPTIONS, * and nothing else",
    "RFC 9112, section 3.2",
)

# --- the status line --------------------------------------------------------------------

_STATUS: Final = Rule(
    "the status is a number of three digits, from 100 on, after one space; then comes"
    " a space and the reason phrase, or the end of the line",
    "RFC 9112, section 4",
)

SPACE_AFTER_VERSION: Final = ResponseWhy(
    "HPE_INVALID_VERSION", "Expected space after version", *_VERSION_OF_RESPONSE
)
STATUS_CODE: Final = ResponseWhy("HPE_INVALID_STATUS", "Invalid status code", *_STATUS)
AFTER_STATUS: Final = ResponseWhy("HPE_INVALID_STATUS", "Invalid response status", *_STATUS)

# Ours
EMPTY_LINES_BEFORE_STATUS: Final = ResponseWhy(
    "ERR_HTTP_TOO_MANY_EMPTY_LINES",
    "Too many empty lines before the status line",
    "a response starts with its status line; there are more empty lines in front of it"
    " than we skip (Limits.leading_crlf)",
    "RFC 9112, section 4",
)
STATUS_BELOW_100: Final = ResponseWhy("HPE_INVALID_STATUS", "Status code below 100", *_STATUS)
REASON_CHAR: Final = ResponseWhy(
    "HPE_INVALID_STATUS",
    "Invalid character in reason phrase",
    "a control character other than tab is not allowed in the reason phrase",
    "RFC 9112, section 4",
)
NOT_REQUESTED: Final = ResponseWhy(
    "ERR_HTTP_UNREQUESTED_RESPONSE",
    "Bytes that no request asked for",
    "the server sent bytes while no request waited for an answer; perhaps the response"
    " before was longer than it said",
    "RFC 9112, section 9.2",
)

# --- fields -----------------------------------------------------------------------------

_FIELD_NAME: Final = Rule(
    "a field is a name, a colon and a value; the name may hold letters, digits and"
    " !#$%&'*+-.^_`|~, with no space before the colon; an empty line (CR LF) ends the fields",
    "RFC 9112, section 5",
)
_FIELD_END: Final = Rule(
    "a field line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
    "RFC 9112, section 2.2",
)

SPACE_BEFORE_FIELDS: Final = Why(
    "HPE_UNEXPECTED_SPACE",
    "Unexpected space after start line",
    "no white space may stand between the request line and the first field",
    "RFC 9112, section 2.2",
    Rule(
        "no white space may stand between the status line and the first field",
        "RFC 9112, section 2.2",
    ),
)
FIELD_CHAR: Final = Why("HPE_INVALID_HEADER_TOKEN", "Invalid header field char", *_FIELD_NAME)
FIELD_TOKEN: Final = Why("HPE_INVALID_HEADER_TOKEN", "Invalid header token", *_FIELD_NAME)
VALUE_CHAR: Final = Why(
    "HPE_INVALID_HEADER_TOKEN",
    "Invalid header value char",
    "a control character other than tab is not allowed in a field value",
    "RFC 9110, section 5.5",
)
VALUE_FOLDED: Final = Why(
    "HPE_INVALID_HEADER_TOKEN",
    "Unexpected whitespace after header value",
    "a field may not continue on a second line (obsolete line folding)",
    "RFC 9112, section 5.2",
)
VALUE_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after header value", *_FIELD_END)
VALUE_LF: Final = Why("HPE_LF_EXPECTED", "Missing expected LF after header value", *_FIELD_END)
STATUS_LINE_CR: Final = ResponseWhy(
    "HPE_CR_EXPECTED",
    "Missing expected CR after response line",
    "the status line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
    "RFC 9112, section 2.2",
)
#: In a response also after its status line.
LF_AFTER_CR: Final = Why(
    "HPE_STRICT",
    "Expected LF after CR",
    *_FIELD_END,
    Rule(
        "a CR (0x0d) is allowed only at the end of a line, with an LF (0x0a) after it",
        "RFC 9112, section 2.2",
    ),
)
FIELDS_LF: Final = Why(
    "HPE_STRICT",
    "Expected LF after headers",
    "the CR (0x0d) of the empty line that ends the fields needs an LF (0x0a) after it",
    "RFC 9112, section 2.2",
)
HEADER_OVERFLOW: Final = Why(
    "HPE_HEADER_OVERFLOW",
    "Header overflow",
    "target and headers together, or the trailers after a body, have more bytes than this"
    " server accepts (Limits.head_bytes), or there are too many of them"
    " (Limits.head_fields)",
    "RFC 6585, section 5",
    Rule(
        "reason phrase and headers together, or the trailers after a body, have more bytes"
        " than we accept (Limits.head_bytes), or there are too many of them"
        " (Limits.head_fields)",
        "RFC 9110, section 5.4",
    ),
)

# Ours
HOST_MISSING: Final = Why(
    "ERR_HTTP_HOST_REQUIRED",
    "Missing Host",
    "there is no Host, and an HTTP/1.1 request has to have one, even if its target is a whole URL",
    "RFC 9112, section 3.2",
)
HOST_INVALID: Final = Why(
    "ERR_HTTP_INVALID_HOST",
    "Invalid Host",
    "a Host is a host name or an address (an IPv6 address in brackets), with a colon and"
    " a port if need be, such as example.org:8080; it is not a URL and not a list",
    "RFC 9110, section 7.2",
)
HOST_TWICE: Final = Why(
    "ERR_HTTP_INVALID_HOST",
    "More than one Host",
    "a request has only one Host, even if both say the same: servers that believe the"
    " first see another site than servers that believe the last",
    "RFC 9112, section 3.2",
)
UPGRADE_UNASKED: Final = ResponseWhy(
    "ERR_HTTP_INVALID_UPGRADE",
    "101 to a request without Upgrade",
    "a 101 changes the protocol, and is allowed only if the request asked for it",
    "RFC 9110, section 15.2.2",
)
UPGRADE_UNNAMED: Final = ResponseWhy(
    "ERR_HTTP_INVALID_UPGRADE",
    "101 without Upgrade",
    "a 101 has to name the new protocol: Upgrade, and Connection: upgrade",
    "RFC 9110, section 7.8",
)

# --- framing ----------------------------------------------------------------------------

_CL_DIGITS: Final = Rule(
    "a Content-Length is one number in decimal digits, with nothing in it or after it",
    "RFC 9110, section 8.6",
)
#: For requests and for responses.
_CL_AND_TE: Final = (
    "a request may have Content-Length or Transfer-Encoding, not both: servers that believe"
    " one of them see another request than servers that believe the other",
    "RFC 9112, section 6.1",
    Rule(
        "a response may have Content-Length or Transfer-Encoding, not both: recipients that"
        " believe one of them see another response than recipients that believe the other",
        "RFC 9112, section 6.1",
    ),
)
_TE_VALUE: Final = Rule(
    "the only transfer coding accepted is a single chunked", "RFC 9112, section 6.1"
)
_TE_IN_HTTP_1_0: Final = Rule(
    "HTTP/1.0 has no Transfer-Encoding, so it is unclear where this body ends",
    "RFC 9112, section 6.1",
)
_NO_BODY: Final = (
    "a response with a status of 1xx or 204 has no body, and this one announces one: a"
    " recipient that believes it takes the start of the next response for that body"
)

CL_EMPTY: Final = Why("HPE_INVALID_CONTENT_LENGTH", "Empty Content-Length", *_CL_DIGITS)
CL_CHAR: Final = Why(
    "HPE_INVALID_CONTENT_LENGTH", "Invalid character in Content-Length", *_CL_DIGITS
)
CL_OVERFLOW: Final = Why(
    "HPE_INVALID_CONTENT_LENGTH",
    "Content-Length overflow",
    "a Content-Length of 2^63 or more is refused: no body is that long",
    "RFC 9110, section 8.6",
)
CL_AFTER_TE: Final = Why(
    "HPE_INVALID_CONTENT_LENGTH",
    "Content-Length can't be present with Transfer-Encoding",
    *_CL_AND_TE,
)
CL_TWICE: Final = Why(
    "HPE_UNEXPECTED_CONTENT_LENGTH",
    "Duplicate Content-Length",
    "a request has at most one Content-Length, even if both say the same",
    "RFC 9110, section 8.6",
    Rule(
        "a response may repeat its Content-Length only with the same value",
        "RFC 9110, section 8.6",
    ),
)
TE_EMPTY: Final = Why("HPE_INVALID_TRANSFER_ENCODING", "Empty Transfer-Encoding", *_TE_VALUE)
TE_VALUE: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Invalid `Transfer-Encoding` header value", *_TE_VALUE
)
TE_NOT_CHUNKED: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Request has invalid `Transfer-Encoding`", *_TE_VALUE
)
TE_AFTER_CL: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING",
    "Transfer-Encoding can't be present with Content-Length",
    *_CL_AND_TE,
)

# Ours
TE_IN_HTTP_1_0: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 request", *_TE_IN_HTTP_1_0
)
TE_IN_HTTP_1_0_RESPONSE: Final = ResponseWhy(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 response", *_TE_IN_HTTP_1_0
)
TE_NOT_ONLY_CHUNKED: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING",
    "Transfer-Encoding other than a single `chunked`",
    "the only coding that this server decodes is chunked, once, in one field and alone,"
    " because servers disagree about lists of codings",
    "RFC 9112, section 6.1",
    Rule(
        "the only coding that we decode is chunked, once, in one field and alone, because"
        " recipients disagree about lists of codings",
        "RFC 9112, section 6.1",
    ),
)
TE_WITHOUT_BODY: Final = ResponseWhy(
    "HPE_INVALID_TRANSFER_ENCODING",
    "Transfer-Encoding in a 1xx or 204 response",
    _NO_BODY,
    "RFC 9112, section 6.1",
)
CL_WITHOUT_BODY: Final = ResponseWhy(
    "HPE_UNEXPECTED_CONTENT_LENGTH",
    "Content-Length in a 1xx or 204 response",
    _NO_BODY,
    "RFC 9110, section 8.6",
)
BODY_TOO_LARGE: Final = Why(
    "ERR_HTTP_BODY_TOO_LARGE",
    "Body too large",
    "the body has more bytes than this server accepts (Limits.body_bytes)",
    "RFC 9110, section 15.5.14",
)

# --- the chunked coding -----------------------------------------------------------------

_CHUNK_SIZE_END: Final = Rule("this line ends with CR LF (0x0d 0x0a)", "RFC 9112, section 7.1")
_CHUNK_EXT: Final = Rule(
    'a chunk extension is ;name or ;name=value or ;name="value", where name and value hold'
    " letters, digits and !#$%&'*+-.^_`|~",
    "RFC 9112, section 7.1.1",
)
_QUOTED: Final = Rule(
    "a quoted value may hold tab, space and visible characters, each of which may have a"
    ' backslash before it; after the closing quotation mark comes ";" or CR LF',
    "RFC 9110, section 5.6.4",
)
_CHUNK_DATA: Final = Rule(
    "a chunk is as many bytes as its size said, and then CR LF (0x0d 0x0a); here something"
    " else follows, so its size or its end is wrong",
    "RFC 9112, section 7.1",
)

CHUNK_SIZE: Final = Why(
    "HPE_INVALID_CHUNK_SIZE",
    "Invalid character in chunk size",
    "each chunk of the body starts with a line that has its size in hexadecimal digits;"
    " the last size is 0",
    "RFC 9112, section 7.1",
)
CHUNK_SIZE_OVERFLOW: Final = Why(
    "HPE_INVALID_CHUNK_SIZE",
    "Chunk size overflow",
    "the size of a chunk has at most 16 hexadecimal digits",
    "RFC 9112, section 7.1",
)
CHUNK_SIZE_CR: Final = Why(
    "HPE_CR_EXPECTED", "Missing expected CR after chunk size", *_CHUNK_SIZE_END
)
CHUNK_SIZE_LF: Final = Why("HPE_STRICT", "Expected LF after chunk size", *_CHUNK_SIZE_END)
CHUNK_EXT: Final = Why("HPE_STRICT", "Invalid character in chunk extensions", *_CHUNK_EXT)
CHUNK_EXT_NAME: Final = Why("HPE_STRICT", "Invalid character in chunk extensions name", *_CHUNK_EXT)
CHUNK_EXT_NAME_CR: Final = Why(
    "HPE_CR_EXPECTED", "Missing expected CR after chunk extension name", *_CHUNK_SIZE_END
)
CHUNK_EXT_VALUE: Final = Why(
    "HPE_STRICT", "Invalid character in chunk extensions value", *_CHUNK_EXT
)
CHUNK_EXT_VALUE_CR: Final = Why(
    "HPE_CR_EXPECTED", "Missing expected CR after chunk extension value", *_CHUNK_SIZE_END
)
CHUNK_EXT_QUOTED: Final = Why(
    "HPE_STRICT", "Invalid character in chunk extensions quoted value", *_QUOTED
)
CHUNK_EXT_QUOTED_PAIR: Final = Why(
    "HPE_STRICT", "Invalid quoted-pair in chunk extensions quoted value", *_QUOTED
)
CHUNK_EXT_AFTER_QUOTE: Final = Why(
    "HPE_STRICT", "Invalid character in chunk extensions quote value", *_QUOTED
)
CHUNK_EXT_OVERFLOW: Final = Why(
    "HPE_CHUNK_EXTENSIONS_OVERFLOW",
    "Chunk extensions overflow",
    "the extensions of this chunk are longer than this server accepts"
    " (Limits.chunk_extension_bytes)",
    "RFC 9112, section 7.1.1",
    Rule(
        "the extensions of this chunk are longer than we accept (Limits.chunk_extension_bytes)",
        "RFC 9112, section 7.1.1",
    ),
)
CHUNK_DATA_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after chunk data", *_CHUNK_DATA)
CHUNK_DATA_LF: Final = Why("HPE_STRICT", "Expected LF after chunk data", *_CHUNK_DATA)

# --- the end of input -------------------------------------------------------------------

END_OF_INPUT: Final = Why(
    "HPE_INVALID_EOF_STATE",
    "Invalid EOF state",
    "the client ended its input before the request was complete",
    "RFC 9112, section 8",
    Rule("the server ended its output before the response was complete", "RFC 9112, section 8"),
)

# --- valid HTTP that the server refuses -------------------------------------------------

MULTIPART: Final = Why(
    "ERR_HTTP_MULTIPART",
    "Invalid multipart body",
    "the form's Content-Type says multipart/form-data: parts between lines with the boundary that"
    " Content-Type names, each part with a Content-Disposition",
    "RFC 7578, section 4",
)

FORM_TOO_LARGE: Final = Why(
    "ERR_HTTP_BODY_TOO_LARGE",
    "Form too large",
    "the form has more bytes than this server accepts (Limits.form_bytes)",
    "RFC 9110, section 15.5.14",
)
FORM_FIELDS: Final = Why(
    "ERR_HTTP_BODY_TOO_LARGE",
    "Too many fields in a form",
    "the form has more fields than this server accepts (Limits.form_fields)",
    "RFC 9110, section 15.5.14",
)
PART_HEAD_TOO_LARGE: Final = Why(
    "ERR_HTTP_BODY_TOO_LARGE",
    "Head of a part too large",
    "a part of the form has a longer header than this server accepts (Limits.part_head_bytes)",
    "RFC 9110, section 15.5.14",
)

# --- only in HTTP/2 ---------------------------------------------------------------------

PSEUDO_FIELD: Final = Why(
    "ERR_HTTP2_INVALID_PSEUDOHEADER",
    "Invalid pseudoheader, or used incorrectly",
    "a request starts with :method, :scheme, :authority and :path, each of them once;"
    " no other name starts with a colon",
    "RFC 9113, section 8.3",
)
CONNECTION_FIELD: Final = Why(
    "ERR_HTTP2_INVALID_CONNECTION_HEADERS",
    "HTTP/1 Connection specific headers are forbidden",
    "HTTP/2 has none of Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding and"
    " Upgrade, and TE may only be trailers",
    "RFC 9113, section 8.2.2",
)

# Ours
VALUE_SPACE: Final = Why(
    "HPE_INVALID_HEADER_TOKEN",
    "White space around a header value",
    "a value in HTTP/2 neither begins nor ends with a space or tab",
    "RFC 9113, section 8.2.1",
)
HOSTS_DISAGREE: Final = Why(
    "ERR_HTTP_INVALID_HOST",
    ":authority and Host differ",
    "an HTTP/2 request names its host in :authority; a Host in addition has to say the same",
    "RFC 9113, section 8.3.1",
)
BODY_TOO_LONG: Final = Why(
    "HPE_INVALID_CONTENT_LENGTH",
    "Body longer than its Content-Length",
    "the DATA frames of a request together have as many bytes as its Content-Length says;"
    " these have more",
    "RFC 9113, section 8.1.1",
)

# --- a PROXY header, in front of all HTTP -----------------------------------------------

_PROXY: Final = Rule(
    "this port expects a PROXY header first, as load balancers send it, such as"
    " PROXY TCP4 192.0.2.7 203.0.113.1 51410 443 and CR LF",
    "PROXY protocol, section 2",
)

PROXY_MISSING: Final = Why("ERR_PROXY_PROTOCOL", "Missing PROXY protocol header", *_PROXY)
PROXY_TOO_LONG: Final = Why("ERR_PROXY_PROTOCOL", "Header overflow", *_PROXY)
PROXY_PROTOCOL: Final = Why("ERR_PROXY_PROTOCOL", "Invalid protocol", *_PROXY)
PROXY_ADDRESS: Final = Why("ERR_PROXY_PROTOCOL", "Invalid address", *_PROXY)
PROXY_PORT: Final = Why("ERR_PROXY_PROTOCOL", "Invalid port", *_PROXY)
PROXY_END: Final = Why("ERR_PROXY_PROTOCOL", "Expected CR LF after the ports", *_PROXY)
PROXY_TOO_SHORT: Final = Why("ERR_PROXY_PROTOCOL", "Missing address or port", *_PROXY)
PROXY_COMMAND: Final = Why("ERR_PROXY_PROTOCOL", "Invalid version or command", *_PROXY)
PROXY_CUT: Final = Why("ERR_PROXY_PROTOCOL", "Header cut short", *_PROXY)
PROXY_FAMILY: Final = Why("ERR_PROXY_PROTOCOL", "Invalid address family or transport", *_PROXY)

# --- which of them know the whole head ---------------------------------------------------

#: Code and reason of the refusals in phase ``"head"`` that come only once the head is complete.
OF_A_WHOLE_HEAD: Final = frozenset(
    (one.code, one.reason)
    for one in (
        *(HOST_MISSING, HOST_INVALID, HOST_TWICE, HOSTS_DISAGREE, BODY_TOO_LARGE),
        *(TE_NOT_CHUNKED, TE_IN_HTTP_1_0, TE_NOT_ONLY_CHUNKED),
    )
)
