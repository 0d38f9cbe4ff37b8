"""What each refusal means in plain words, and where the rule stands.  One table.

A sentence here says what was expected, to a person who has never seen the code.  It
follows a colon ("In the request line: ...") and therefore starts in lower case.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Rule(NamedTuple):
    """A rule in plain words, and the section of the RFC that has it.

    Attributes:
        text: What was expected, without a full stop.
        source: Such as ``RFC 9112, section 3``; empty where no RFC has it.
    """

    text: str
    source: str


_METHOD: Final = Rule(
    "a request starts with a method (GET, POST, ...), which is one of a known list and in"
    " upper case",
    "RFC 9112, section 3.1",
)
_TARGET_CHAR: Final = (
    "may hold only printable ASCII; spaces, control characters and bytes from 0x80 on have"
    " to be percent-encoded, such as %20"
)
_VERSION: Final = Rule(
    "the version has to be HTTP/1.1 or HTTP/1.0, in upper case, followed by CR LF",
    "RFC 9112, section 2.3",
)
_CONSTANT: Final = Rule(
    "behind method, space, target and space comes HTTP/1.1; a space inside the target has to"
    " be written %20",
    "RFC 9112, section 3",
)
_FIELD_NAME: Final = Rule(
    "a field is a name, a colon and a value; the name may hold letters, digits and"
    " !#$%&'*+-.^_`|~, with no space before the colon; an empty line (CR LF) ends the fields",
    "RFC 9112, section 5",
)
_FIELD_END: Final = Rule(
    "a field line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
    "RFC 9112, section 2.2",
)
_CL_DIGITS: Final = Rule(
    "a Content-Length is one number in decimal digits, with nothing in it or behind it",
    "RFC 9110, section 8.6",
)
_CL_AND_TE: Final = Rule(
    "a request may have Content-Length or Transfer-Encoding, not both: servers that believe"
    " one of them see another request than servers that believe the other",
    "RFC 9112, section 6.1",
)
_TE_VALUE: Final = Rule(
    "the only transfer coding accepted is a single chunked",
    "RFC 9112, section 6.1",
)
_CHUNK_SIZE: Final = Rule(
    "each chunk of the body starts with a line that has its size in hexadecimal digits;"
    " the last one is 0",
    "RFC 9112, section 7.1",
)
_CHUNK_SIZE_END: Final = Rule("this line ends with CR LF (0x0d 0x0a)", "RFC 9112, section 7.1")
_CHUNK_DATA: Final = Rule(
    "a chunk is as many bytes as its size said, and then CR LF (0x0d 0x0a); here something"
    " else follows, so that its size or its end is wrong",
    "RFC 9112, section 7.1",
)
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
_HEAD_SIZE: Final = Rule(
    "target and header fields together, or the trailer fields behind a body, have more bytes"
    " than this server takes (Limits.head_bytes), or the fields are too many"
    " (Limits.head_fields)",
    "RFC 6585, section 5",
)
_URL_FORM: Final = Rule(
    "the target is a path that starts with / (such as /search?q=1), a whole http:// or"
    " https:// URL, * for OPTIONS, or host:port for CONNECT",
    "RFC 9112, section 3.2",
)
_URL_SERVER: Final = Rule(
    "a URL has one host behind its //, which may hold letters, digits and punctuation, and"
    " at most one @ before it",
    "RFC 9112, section 3.2.2",
)
_FRAGMENT: Final = Rule(
    "a fragment (from # on) stays in the client and is never sent", "RFC 9112, section 3.2"
)
_H2_PREFACE: Final = Rule(
    "the client speaks HTTP/2 without having agreed on it with the server, which speaks"
    " HTTP/1.1 here",
    "RFC 9113, section 3.3",
)

#: (code, reason) -> rule.  An empty reason stands for every other reason of that code.
RULES: Final[Mapping[tuple[str, str], Rule]] = MappingProxyType(
    {
        # The request line.
        ("HPE_INVALID_METHOD", ""): _METHOD,
        ("HPE_INVALID_METHOD", "Expected space after method"): Rule(
            "one space has to follow the method, and then the target", "RFC 9112, section 3"
        ),
        ("HPE_INVALID_URL", ""): Rule(
            "the target (a path or a whole URL) " + _TARGET_CHAR,
            "RFC 9112, section 3.2",
        ),
        ("HPE_INVALID_URL", "Double @ in url"): _URL_SERVER,
        ("HPE_INVALID_URL", "Expected CRLF"): Rule(
            "a CR (0x0d) is allowed only at the end of the line, with an LF (0x0a) behind it",
            "RFC 9112, section 2.2",
        ),
        ("HPE_INVALID_URL", "Invalid char in url fragment start"): _FRAGMENT,
        ("HPE_INVALID_URL", "Fragment in the request target"): _FRAGMENT,
        ("HPE_INVALID_URL", "Request target in none of the four forms"): Rule(
            "the target is a path that starts with / (such as /search?q=1), a whole URL with a"
            " host in it (such as http://example.org/a), or * and nothing else",
            "RFC 9112, section 3.2",
        ),
        ("HPE_INVALID_URL", "More than one space in the request line"): Rule(
            "exactly one space stands between method and target, and one between target and"
            " version; a space inside the target has to be written %20",
            "RFC 9112, section 3",
        ),
        ("HPE_INVALID_URL", "Invalid char in url path"): Rule(
            "a path " + _TARGET_CHAR, "RFC 3986, section 3.3"
        ),
        ("HPE_INVALID_URL", "Invalid char in url query"): Rule(
            "a query " + _TARGET_CHAR, "RFC 3986, section 3.4"
        ),
        ("HPE_INVALID_URL", "Unexpected char in url schema"): Rule(
            "a target that does not start with / is a whole URL, such as http://example.org/a;"
            " perhaps the target has been left out",
            "RFC 9112, section 3.2",
        ),
        ("HPE_INVALID_URL", "Unexpected char in url server"): _URL_SERVER,
        ("HPE_INVALID_URL", "Unexpected start char in url"): _URL_FORM,
        ("HPE_INVALID_CONSTANT", ""): _CONSTANT,
        ("HPE_INVALID_CONSTANT", "Expected HTTP/"): Rule(
            "behind the target comes HTTP/1.1; this server speaks no other protocol",
            "RFC 9112, section 2.3",
        ),
        ("HPE_INVALID_CONSTANT", "Invalid method for HTTP/x.x request"): Rule(
            "this method belongs to another protocol than HTTP", "RFC 9110, section 9.1"
        ),
        ("HPE_INVALID_VERSION", ""): _VERSION,
        ("HPE_INVALID_VERSION", "HTTP/0.9 is not supported"): Rule(
            "behind the target comes a space and HTTP/1.1; a request without it is HTTP/0.9,"
            " which this server does not speak",
            "RFC 9112, section 3",
        ),
        ("HPE_INVALID_VERSION", "Expected CRLF after version"): Rule(
            "the request line ends right behind the version, with CR LF (0x0d 0x0a)",
            "RFC 9112, section 3",
        ),
        ("HPE_INVALID_VERSION", "Expected HTTP/2 Connection Preface"): Rule(
            "the method PRI is reserved for the start of HTTP/2", "RFC 9113, section 3.4"
        ),
        ("HPE_PAUSED_H2_UPGRADE", ""): _H2_PREFACE,
        ("ERR_HTTP_TOO_MANY_EMPTY_LINES", ""): Rule(
            "a request starts with its request line; there are more empty lines in front of it"
            " than this server skips (Limits.leading_crlf)",
            "RFC 9112, section 2.2",
        ),
        # Fields.
        ("HPE_UNEXPECTED_SPACE", ""): Rule(
            "no white space may stand between the request line and the first field",
            "RFC 9112, section 2.2",
        ),
        ("HPE_INVALID_HEADER_TOKEN", ""): _FIELD_NAME,
        ("HPE_INVALID_HEADER_TOKEN", "Invalid header value char"): Rule(
            "a control character other than tab is not allowed in a field value",
            "RFC 9110, section 5.5",
        ),
        ("HPE_INVALID_HEADER_TOKEN", "Unexpected whitespace after header value"): Rule(
            "a field may not be continued on a second line (obsolete line folding)",
            "RFC 9112, section 5.2",
        ),
        ("HPE_CR_EXPECTED", ""): _FIELD_END,
        ("HPE_LF_EXPECTED", ""): _FIELD_END,
        ("HPE_STRICT", ""): Rule(
            "a line ends with CR LF (0x0d 0x0a); neither of the two may stand alone",
            "RFC 9112, section 2.2",
        ),
        ("HPE_STRICT", "Expected CRLF after version"): Rule(
            "the CR (0x0d) behind the version needs an LF (0x0a) behind it",
            "RFC 9112, section 2.2",
        ),
        ("HPE_STRICT", "Expected LF after CR"): _FIELD_END,
        ("HPE_STRICT", "Expected LF after headers"): Rule(
            "the CR (0x0d) of the empty line that ends the fields needs an LF (0x0a) behind it",
            "RFC 9112, section 2.2",
        ),
        ("HPE_INVALID_CONTENT_LENGTH", ""): _CL_DIGITS,
        (
            "HPE_INVALID_CONTENT_LENGTH",
            "Content-Length can't be present with Transfer-Encoding",
        ): _CL_AND_TE,
        ("HPE_INVALID_CONTENT_LENGTH", "Content-Length overflow"): Rule(
            "a Content-Length of 2^63 or more is refused: no body is that long",
            "RFC 9110, section 8.6",
        ),
        ("HPE_UNEXPECTED_CONTENT_LENGTH", ""): Rule(
            "a request has one Content-Length at most, even where both say the same",
            "RFC 9110, section 8.6",
        ),
        ("HPE_INVALID_TRANSFER_ENCODING", ""): _TE_VALUE,
        (
            "HPE_INVALID_TRANSFER_ENCODING",
            "Transfer-Encoding can't be present with Content-Length",
        ): _CL_AND_TE,
        ("HPE_HEADER_OVERFLOW", ""): _HEAD_SIZE,
        ("HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 request"): Rule(
            "HTTP/1.0 has no Transfer-Encoding, so that nobody can tell where this body ends",
            "RFC 9112, section 6.1",
        ),
        (
            "HPE_INVALID_TRANSFER_ENCODING",
            "Transfer-Encoding other than a single `chunked`",
        ): Rule(
            "the one coding that this server decodes is chunked; it stands alone, once, in one"
            " field, because servers disagree about lists of codings",
            "RFC 9112, section 6.1",
        ),
        ("ERR_HTTP_HOST_REQUIRED", ""): Rule(
            "there is no Host among them, and an HTTP/1.1 request has to have one, even where"
            " its target is a whole URL",
            "RFC 9112, section 3.2",
        ),
        ("ERR_HTTP_INVALID_HOST", "More than one Host"): Rule(
            "a request has one Host field only, even where both say the same: servers that"
            " believe the first see another site than servers that believe the last",
            "RFC 9112, section 3.2",
        ),
        ("ERR_HTTP_INVALID_HOST", ""): Rule(
            "a Host is a host name or an address (an IPv6 address in brackets), and a colon and"
            " a port where there is one, such as example.org:8080; not a URL, and no list",
            "RFC 9110, section 7.2",
        ),
        ("ERR_HTTP_INVALID_HOST", ":authority and Host differ"): Rule(
            "an HTTP/2 request names its host in :authority; a Host beside it has to say the same",
            "RFC 9113, section 8.3.1",
        ),
        # What HTTP/2 alone has.
        ("HPE_INVALID_HEADER_TOKEN", "White space around a header value"): Rule(
            "a value in HTTP/2 neither begins nor ends with a space or tab",
            "RFC 9113, section 8.2.1",
        ),
        ("ERR_HTTP2_INVALID_PSEUDOHEADER", ""): Rule(
            "a request starts with :method, :scheme, :authority and :path, each of them once;"
            " no other name starts with a colon",
            "RFC 9113, section 8.3",
        ),
        ("ERR_HTTP2_INVALID_CONNECTION_HEADERS", ""): Rule(
            "HTTP/2 has none of Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding and"
            " Upgrade, and TE may only be trailers",
            "RFC 9113, section 8.2.2",
        ),
        ("ERR_HTTP2_ENHANCE_YOUR_CALM", ""): Rule(
            "the client gives the server work without end: requests that it resets, answers"
            " that it does not read, or fields that never end",
            "RFC 9113, section 10.5",
        ),
        # The body.
        ("HPE_CR_EXPECTED", "Missing expected CR after chunk data"): _CHUNK_DATA,
        ("HPE_CR_EXPECTED", "Missing expected CR after chunk extension name"): _CHUNK_SIZE_END,
        ("HPE_CR_EXPECTED", "Missing expected CR after chunk extension value"): _CHUNK_SIZE_END,
        ("HPE_CR_EXPECTED", "Missing expected CR after chunk size"): _CHUNK_SIZE_END,
        ("HPE_STRICT", "Expected LF after chunk data"): _CHUNK_DATA,
        ("HPE_STRICT", "Expected LF after chunk size"): _CHUNK_SIZE_END,
        ("HPE_STRICT", "Invalid character in chunk extensions"): _CHUNK_EXT,
        ("HPE_STRICT", "Invalid character in chunk extensions name"): _CHUNK_EXT,
        ("HPE_STRICT", "Invalid character in chunk extensions value"): _CHUNK_EXT,
        ("HPE_STRICT", "Invalid character in chunk extensions quote value"): _QUOTED,
        ("HPE_STRICT", "Invalid character in chunk extensions quoted value"): _QUOTED,
        ("HPE_STRICT", "Invalid quoted-pair in chunk extensions quoted value"): _QUOTED,
        ("HPE_INVALID_CHUNK_SIZE", ""): _CHUNK_SIZE,
        ("HPE_INVALID_CHUNK_SIZE", "Chunk size overflow"): Rule(
            "the size of a chunk has at most 16 hexadecimal digits", "RFC 9112, section 7.1"
        ),
        ("HPE_CHUNK_EXTENSIONS_OVERFLOW", ""): Rule(
            "the extensions of this chunk are longer than this server takes"
            " (Limits.chunk_extension_bytes)",
            "RFC 9112, section 7.1.1",
        ),
        ("ERR_HTTP_BODY_TOO_LARGE", ""): Rule(
            "the body has more bytes than this server takes (Limits.body_bytes)",
            "RFC 9110, section 15.5.14",
        ),
        ("ERR_HTTP_MULTIPART", ""): Rule(
            "its Content-Type says multipart/form-data, where parts stand between"
            " lines with the boundary that Content-Type names, each with a Content-Disposition",
            "RFC 7578, section 4",
        ),
        ("HPE_CLOSED_CONNECTION", ""): Rule(
            "nothing may follow a request that said Connection: close", "RFC 9112, section 9.6"
        ),
        # No byte is to blame.
        ("HPE_INVALID_EOF_STATE", ""): Rule(
            "the client ended its input before the request was complete", "RFC 9112, section 8"
        ),
        ("ERR_HTTP_REQUEST_TIMEOUT", ""): Rule(
            "the client took too long to send its request", "RFC 9110, section 15.5.9"
        ),
        ("ECONNRESET", ""): Rule("the client broke the connection off", ""),
        ("ECONNRESET", "read ECONNRESET"): Rule("the client reset the connection", ""),
        ("ECONNRESET", "socket hang up"): Rule("the client hung up", ""),
        ("EPIPE", ""): Rule("the client had closed the connection", ""),
        ("ETIMEDOUT", ""): Rule("the client stopped answering on the network", ""),
        ("ERR_PROXY_PROTOCOL", ""): Rule(
            "this port expects a PROXY header first, as load balancers send it, such as"
            " PROXY TCP4 192.0.2.7 203.0.113.1 51410 443 and CR LF",
            "PROXY protocol, section 2",
        ),
        ("ERR_TLS_HANDSHAKE_TIMEOUT", ""): Rule(
            "the client did not finish the TLS handshake in time", "RFC 8446, section 4"
        ),
        ("ERR_SSL_HTTP_REQUEST", ""): Rule(
            "the client speaks plain HTTP to a port that serves HTTPS; its URL has to start with"
            " https://",
            "RFC 9110, section 4.2.2",
        ),
        ("ERR_SSL_WRONG_VERSION_NUMBER", ""): Rule(
            "the client's first bytes are not TLS, or of a version that the server does not speak",
            "RFC 8446, section 5.1",
        ),
    }
)

#: For whole families of codes, where the table has nothing more exact.
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


def rule_of(code: str, reason: str) -> Rule | None:
    """The rule behind a refusal: of the pair, else of the code, else of its family."""
    exact = RULES.get((code, reason)) or RULES.get((code, ""))
    if exact is not None:
        return exact
    return next((rule for prefix, rule in FAMILIES if code.startswith(prefix)), None)
