r"""What the bytes of a broken message look like: another protocol, or a known mistake.

A code says which rule was broken, and many things break the same one.  These rows know the
bytes, each with cause and cure.  They are asked for errors only, and look at no more than
`OPENING_BYTES` where the message should have begun, or of a Host, and at a few bytes around
the one that broke another line.  So they may know the more, the more the read has brought that
broke the message: a lone ``S`` is nobody's banner.

Names are an interface (JSON, a label of a metric): documented, and never renamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from ..errors import RecordedError
from ..events import Break, Part
from ..parser.refusals import HEADER_OVERFLOW, HOST_INVALID, HTTP2, INVALID_METHOD, PROXY_MISSING
from .masking import culprit_index
from .remedies import REMEDIES, SCANNERS, Remedy, entry_of, remedy_of

#: Most bytes that are looked at where a message should have begun.
OPENING_BYTES: Final = 256

#: Most bytes that are looked at from the byte on that broke a line.
_AFTER_BYTES: Final = 8

START_LINES: Final = (Part.EMPTY_LINE, Part.REQUEST_LINE, Part.STATUS_LINE)


class Lookalike(NamedTuple):
    """Something that is known by its bytes.

    Attributes:
        name: For programs.
        words: For people, after "looks like".
        remedy: Cause and cure.
    """

    name: str
    words: str
    remedy: Remedy


class Advice(NamedTuple):
    """What helps against an error.

    Attributes:
        remedy: Cause and cure; None without an entry.
        name: What `links` finds the entry by: a code, or the name of a lookalike; None likewise.
    """

    remedy: Remedy | None
    name: str | None


class Opening(NamedTuple):
    """Where a message should have begun, and something else did.

    Attributes:
        data: Its first bytes, as far as they have come.
        known: How many of them are the protocol's own, and hold no secret.
    """

    data: bytes
    known: int


def _other_port(client: str) -> Remedy:
    """For a protocol about which an HTTP server has nothing else to say."""
    return Remedy(
        f"{client} connects to the host and port of this server. {SCANNERS}",
        "Correct the port in that program, or let a firewall keep other programs from this port.",
    )


# --- where a request should begin ---------------------------------------------------------

_PROXY_HEADER: Final = Remedy(
    "A load balancer sends a PROXY header to a port that expects none. The setting is send-proxy"
    " in HAProxy, proxy_protocol in nginx, or proxy protocol in an AWS target group.",
    "Begin the port's description with haproxy: (--port haproxy:tcp:8000), or turn the header off"
    " in the load balancer.",
)

#: Name, words, what it begins with (of which no byte may be secret), and its remedy.
_REQUEST_OPENINGS: Final = (
    (
        "tls-hello",
        "a TLS hello",
        rb"\x16(?:\x03[\x00-\x04].{,61}|\x03?\Z)|\x80.\x01\x03.{,60}",
        Remedy(
            "A TLS handshake starts with 0x16: the client probably speaks HTTPS to a port that"
            " serves plain HTTP.",
            "Use http:// in the client's URL, or https:// with a port that serves TLS"
            " (--port ssl:...).",
        ),
    ),
    (
        "proxy-v1",
        "a PROXY header (version 1)",
        rb"PROX(?:Y (?:TCP[46]|UNKNOWN)[ 0-9A-Fa-f:.]{,100}|Y? ?\Z)",
        _PROXY_HEADER,
    ),
    (
        "proxy-v2",
        "a PROXY header (version 2)",
        rb"(?:\r\n\r\n)?\x00\r\n(?:QUIT\n.{,16}|(?:QUIT?|QU?)?\Z)|\r\n\r\n\x00\Z",
        _PROXY_HEADER,
    ),
    (
        "http2-preface",
        "an HTTP/2 preface",
        rb"PRI \* HTTP/2\.0(?:\r\n\r\n(?:SM\r\n\r\n.{,9})?)?",
        REMEDIES[HTTP2.code],
    ),
    ("ssh", "an SSH client", rb"SSH-[0-9.]*(?:-[!-~]{,60})?", _other_port("An SSH client")),
    (
        "rdp",
        "a Remote Desktop (RDP) client",
        rb"\x03\x00..[\x02-\xff]\xe0.{,5}(?:Cookie: mstshash=|.{,40}\Z)?",
        _other_port("A Remote Desktop client"),
    ),
    (
        "smb",
        "an SMB client",
        rb"\x00...[\xfd-\xff]SMB.{,56}|\x81\x00\x00\x44.{,60}",
        _other_port("A client of Windows file shares (SMB)"),
    ),
    (
        "redis",
        "a Redis client",
        rb"\*\d{1,7}\r?\n(?:\$\d{1,7}\r?\n[A-Za-z]{,20})?|(?i:PING|INFO|CLIENT LIST)\r?\n",
        _other_port("A Redis client"),
    ),
    (
        "memcached",
        "a memcached client",
        rb"(?:stats|version)\r?\n|(?:gets?|incr|decr) (?=[!-~]{1,200}(?: \d+)?\r?\n)"
        rb"|(?:set|add|replace) (?=[!-~]{1,200} \d+ \d+ \d+\r?\n)",
        _other_port("A memcached client"),
    ),
    (
        "sip",
        "a SIP client",
        rb"[A-Z]{3,9} sips?:(?:[\w.-]+ SIP/2\.0\r\n)?",
        _other_port("A telephone or a telephone server (SIP)"),
    ),
    (
        "rtsp",
        "an RTSP client",
        rb"[A-Z_]{3,13} (?:rtsp[su]?:|(?=[*/][!-~]{,200} RTSP/))",
        _other_port("A camera or a video player (RTSP)"),
    ),
    (
        "smtp",
        "a mail client (SMTP)",
        rb"(?i:EHLO|HELO|LHLO|MAIL FROM:|RCPT TO:)\b",
        _other_port("A program that sends mail"),
    ),
    (
        "ftp",
        "an FTP, POP3 or IMAP client",
        rb"(?:USER|FEAT|CAPA|AUTH TLS|STLS)(?: |\r\n)"
        rb"|[A-Za-z]?\d{1,5} (?i:CAPABILITY|LOGIN|NOOP)\b",
        _other_port("An FTP or mailbox client"),
    ),
    (
        "socks",
        "a SOCKS client",
        rb"\x05[\x01-\x08][\x00-\x03\x80-\xff]{1,8}\Z|\x04[\x01\x02].{6}",
        _other_port("A SOCKS client"),
    ),
    (
        "mqtt",
        "an MQTT client",
        rb"\x10.{1,4}\x00[\x04\x06]MQ(?:TT|Isdp)",
        _other_port("An MQTT client"),
    ),
    ("amqp", "an AMQP client", rb"AMQP.{,4}", _other_port("A message broker's client (AMQP)")),
    (
        "ldap",
        "an LDAP client",
        rb"0(?:.|\x81.|\x82..|\x84....)\x02[\x01-\x04].{1,4}[\x60\x63\x77]",
        _other_port("An LDAP client"),
    ),
    (
        "postgresql",
        "a PostgreSQL client",
        rb"\x00\x00\x00\x08\x04\xd2\x16[\x2f\x30]|\x00\x00..\x00\x03\x00[\x00-\x02]",
        _other_port("A PostgreSQL client"),
    ),
    (
        "mongodb",
        "a MongoDB client",
        rb"..\x00\x00.{8}(?:\xd4\x07|\xdd\x07|\xdc\x07)\x00\x00",
        _other_port("A MongoDB client"),
    ),
    (
        "dns",
        "a DNS query",
        rb"\x00.{3}[\x00\x01]\x00\x00\x01(?:\x00.){3}",
        _other_port("A DNS client"),
    ),
    (
        "java-rmi",
        "a Java RMI or T3 client",
        rb"JRMI\x00.{,3}|t3s? \d+\.\d+",
        _other_port("A Java program (RMI, WebLogic's T3)"),
    ),
    (
        "telnet",
        "a telnet client",
        rb"\xff[\xfb-\xfe][\x00-\x31](?:\xff.{,6}|\Z)",
        _other_port("A telnet client"),
    ),
    (
        "bittorrent",
        "a BitTorrent client",
        rb"\x13BitTorrent protocol",
        _other_port("A BitTorrent client"),
    ),
    (
        "metrics",
        "lines of metrics",
        rb"(?=[\w.:%-]{1,200}(?:;[\w.=;-]{1,200})? -?\d[\d.eE+-]* \d{9,13}[\r\n])"
        rb"|put (?=[\w.-]{1,200} \d{9,13} )",
        _other_port("A program that sends metrics (Graphite, OpenTSDB, netdata)"),
    ),
    (
        "utf-16",
        "text in UTF-16",
        rb"\xff\xfe.{,2}|\xfe\xff.{,2}|[A-Z]\x00[A-Z]\x00|\x00[A-Z]\x00[A-Z]",
        Remedy(
            "The request is text in UTF-16, as PowerShell and Notepad may save it.",
            "Save it as ASCII, or as UTF-8 without a byte order mark.",
        ),
    ),
    (
        "method-case",
        "a method in lower case",
        rb"(?![A-Z]+ )(?i:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH) ",
        Remedy(
            "The client writes its method in lower case. Methods are case-sensitive, and fetch()"
            " leaves patch as it is.",
            "Write the method in upper case: GET, POST, PATCH.",
        ),
    ),
)

#: The same where a body stands: which of the three remedies fits depends on what came before.
_BODY_OPENINGS: Final = (
    ("json", "JSON where a request should begin", rb"\s{,8}(?:\{|\[)"),
    ("xml", "XML or HTML where a request should begin", rb"(?:\xef\xbb\xbf)?\s{,8}<"),
    ("multipart", "the body of a form where a request should begin", rb"--"),
    ("form", "form data where a request should begin", rb"(?=[\w.%+-]{1,64}=)"),
    ("chunk", "a chunk of a body where a request should begin", rb"(?=[0-9A-Fa-f]{1,8}\r\n)"),
)

#: Where it is not known what came before.
_SOME_BODY: Final = Remedy(
    "A body comes without a head. Or it belongs to the request before it, whose Content-Length was"
    " missing or too small: usually it counts characters, not bytes.",
    "Send the number of the body's bytes as Content-Length, or Transfer-Encoding: chunked. An HTTP"
    " library does that for you.",
)
BODY_ALONE: Final = Remedy(
    "The client sends a body without a head before it: it speaks plain TCP, or the part that sends"
    " the head failed.",
    "Send a head first: POST /path HTTP/1.1, Host, Content-Type, Content-Length and an empty line."
    " Better, let an HTTP library do that.",
)
BODY_UNANNOUNCED: Final = Remedy(
    "The request before it has neither Content-Length nor Transfer-Encoding, so it has no body: the"
    " server takes what the client meant as its body for the next request.",
    "Send the number of the body's bytes as Content-Length, or Transfer-Encoding: chunked. An HTTP"
    " library does that for you.",
)
BODY_LONGER: Final = Remedy(
    "The body of the request before it is longer than announced: usually Content-Length counts"
    " characters, not bytes, or was copied from another request.",
    "Encode the body first and count its bytes then, or let an HTTP library set Content-Length.",
)

_TLS_ALERT: Final = Remedy(
    "A TLS alert starts with 0x15: the server probably speaks HTTPS on this port, and got a plain"
    " HTTP request.",
    "Use https:// in the URL of that server.",
)


def _other_server(server: str) -> Remedy:
    """For a protocol about which an HTTP client has nothing else to say."""
    return Remedy(
        f"{server} answers at that address.", "Correct the port in the URL of the server."
    )


_RESPONSE_OPENINGS: Final = (
    ("tls-alert", "a TLS alert", rb"\x15(?:\x03.{,5}|\Z)", _TLS_ALERT),
    (
        "http2-settings",
        "HTTP/2 settings",
        rb"\x00\x00.\x04[\x00\x01]\x00{4}",
        Remedy(
            "The server speaks only HTTP/2 on this port (h2c, gRPC).",
            "Make that server speak HTTP/1.1 on this port, or use a port where it does.",
        ),
    ),
    (
        "ssh-server",
        "an SSH server",
        rb"SSH-[0-9.]*(?:-[!-~]{,60})?",
        _other_server("An SSH server"),
    ),
    (
        "mail-server",
        "a mail or FTP server",
        rb"(?:220|421|554)[ -][ -~]{,60}|\+OK |\* OK ",
        _other_server("A mail or FTP server"),
    ),
    (
        "redis-server",
        "a Redis server",
        rb"-(?:ERR|NOAUTH|DENIED) ",
        _other_server("A Redis server"),
    ),
    (
        "mysql-server",
        "a MySQL server",
        rb"..\x00[\x00\x01]\x0a[\d.]+|..\x00[\x00\x01]\xff",
        _other_server("A MySQL server"),
    ),
)

# --- in a line ----------------------------------------------------------------------------

LF_ONLY: Final = Lookalike(
    "lf-only",
    "lines that end with LF alone",
    Remedy(
        "The client ends its lines with LF (0x0a) alone, as scripts, devices and netcat do.",
        'End lines with CR LF: printf "GET / HTTP/1.1\\r\\n...", nc -C. If you cannot change the'
        " client, --lenient bare-lf accepts it.",
    ),
)
#: The same in a response.
_LF_ONLY_SERVER: Final = Remedy(
    "The server ends its lines with LF (0x0a) alone, as old CGI programs and devices do.",
    "Make that server end lines with CR LF. If you cannot change it, Lenience(bare_lf=True) accepts"
    " it.",
)
TYPOGRAPHIC_QUOTES: Final = Lookalike(
    "smart-quotes",
    "smart quotes or dashes",
    Remedy(
        "Somebody copied the command or the code from a document or a chat that had replaced plain"
        " quotes and hyphens by typographic ones.",
        "Type the quotes and hyphens again, in a terminal or a code editor.",
    ),
)
INVISIBLE: Final = Lookalike(
    "invisible-character",
    "an invisible character",
    Remedy(
        "Somebody copied a no-break space, a zero-width space or a byte order mark from a document"
        " or a web page, or saved the text with one.",
        "Type the line again. Save files as UTF-8 without a byte order mark.",
    ),
)
LONG_TARGET: Final = Lookalike(
    "long-target",
    "a target that is too long",
    Remedy(
        "A form is sent with GET, the query contains a long search or a token, or a redirect makes"
        " its own address longer each time.",
        "Send long data in the body of a POST. --max-header-size sets the limit.",
    ),
)
COOKIES: Final = Lookalike(
    "cookies",
    "cookies that have grown",
    Remedy(
        "Cookies grow from visit to visit, and a browser sends the cookies of all programs on one"
        " host name to each of them.",
        "Clear the site's cookies. Set fewer and shorter ones, each with a Path. --max-header-size"
        " sets the limit.",
    ),
)

#: What a value of Host looks like that is none.
_HOSTS: Final = tuple(
    (Lookalike(name, words, Remedy(cause, cure)), re.compile(pattern, re.S))
    for name, words, pattern, cause, cure in (
        (
            "host-url",
            "a URL typed as Host",
            rb".*[/\\?#]",
            "Host is a whole URL, or has a path after the host name.",
            "Set Host to the host name, with a colon and the port unless it is the default port:"
            " example.org:8080 for http://example.org:8080/a.",
        ),
        (
            "host-zone-id",
            "an address with a zone id as Host",
            rb"\[?(?=[0-9A-Fa-f.]*:)[0-9A-Fa-f:.]*%",
            "Host is an IPv6 address with the name of a network interface (%eth0), which has a"
            " meaning only on the client's machine.",
            "Leave the zone id out of Host: [fe80::1] (RFC 6874, section 4).",
        ),
        (
            "host-not-ascii",
            "a host name outside ASCII",
            rb".*[\x80-\xff]",
            "The client sends a host name with non-ASCII letters as somebody typed it.",
            "Send the name as DNS has it, such as xn--mnchen-3ya.example. In Python, the package"
            " idna converts it.",
        ),
        (
            "host-userinfo",
            "a user name or password before the host",
            rb".*@",
            "Host has a user name or a password and an @ before the host name.",
            "Send the host name alone, and credentials in Authorization.",
        ),
        (
            "host-placeholder",
            "a placeholder or quotes as Host",
            rb".*[{}<>$`\"']",
            "The client sends a template without the value of its variable, or quotes around the"
            " name.",
            "Find where the client takes the name from, and put the host name there.",
        ),
        (
            "host-list",
            "a list of hosts",
            rb".*[,;]",
            "The client sends two names, or a program on the way joined two Host headers.",
            "Send one name. In a proxy, set Host instead of adding it.",
        ),
        (
            "host-bare-ipv6",
            "an IPv6 address without brackets",
            rb"(?=.*::|(?:[^:]*:){4})[0-9A-Fa-f:.]+\Z",
            "Host is an IPv6 address without brackets.",
            "Put the address into brackets, before the colon and the port: [2001:db8::1]:8080.",
        ),
        (
            "host-port",
            "a port that is not a number",
            rb"(?:[^:\[\]]*|\[[^\]]*\]):",
            "After the host name and a colon comes something other than one port number.",
            "Send one number after the colon, or leave out both.",
        ),
    )
)

#: As UTF-8, and as single bytes of Windows.
_QUOTES: Final = re.compile(
    rb"\xe2\x80[\x90-\x9f\xb9\xba]|\xc2[\xab\xbb]|(?<![\x80-\xff])[\x91-\x97](?![\x80-\xff])"
)
_UNSEEN: Final = re.compile(
    rb"\xc2[\xa0\xad]|\xe2\x80[\x8b-\x8f]|\xe2\x81\xa0|\xef\xbb\xbf"
    rb"|(?<![\x80-\xff])\xa0(?![\x80-\xff])"
)

_BODY: Final = Lookalike("body", "the body of the request before", _SOME_BODY)

_Openings: TypeAlias = Callable[[bytes], "tuple[Lookalike, int] | None"]


def _openings(rows: tuple[tuple[str, str, bytes, Remedy], ...]) -> _Openings:
    """Of some openings: the one that bytes have, and how long it is."""
    lookalikes = [Lookalike(name, words, remedy) for name, words, _, remedy in rows]
    # One pattern for all: to ask for each costs ten times as much.
    patterns = re.compile(b"|".join(b"(" + pattern + b")" for _, _, pattern, _ in rows), re.S)

    def opening(data: bytes) -> tuple[Lookalike, int] | None:
        match = patterns.match(data)
        return match and (lookalikes[(match.lastindex or 1) - 1], match.end())

    return opening


_BODIES: Final = tuple((*row, _SOME_BODY) for row in _BODY_OPENINGS)
_request_opening: Final = _openings(_REQUEST_OPENINGS)
_body_opening: Final = _openings(_BODIES)
_response_opening: Final = _openings(_RESPONSE_OPENINGS)

#: What a request line looks like, whatever its method.
_REQUEST_LINE: Final = re.compile(rb"[!-~]+ +[!-~]+ +HTTP/")

#: Every one by its name, in the order of docs/codes.md.
LOOKALIKES: Final[Mapping[str, Lookalike]] = MappingProxyType(
    {
        lookalike.name: lookalike
        for lookalike in (
            *(Lookalike(row[0], row[1], row[3]) for row in _REQUEST_OPENINGS),
            *(Lookalike(row[0], row[1], row[3]) for row in _BODIES),
            _BODY,
            LF_ONLY,
            TYPOGRAPHIC_QUOTES,
            INVISIBLE,
            LONG_TARGET,
            COOKIES,
            *(lookalike for lookalike, _ in _HOSTS),
            *(Lookalike(row[0], row[1], row[3]) for row in _RESPONSE_OPENINGS),
        )
    }
)


def lookalike_of(error: RecordedError) -> Lookalike | None:
    """What the bytes that *error* tells of look like; None where nothing is known."""
    where = error.broke_at
    if where is None:
        return None
    if where.part in START_LINES and (known := _opening(error, where)):
        return known[0]
    return _in_line(error, where)


def opening_of(error: RecordedError) -> Opening | None:
    """How something else than a message begins; None where a message does, as far as it came."""
    where = error.broke_at
    if where is None or where.part not in START_LINES:
        return None
    data = _first_bytes(error, where)
    known = _opening(error, where)
    if known is not None:
        return Opening(data, known[1])
    begins = where.caret >= len(where.line) or b" " in where.line[: where.caret]
    return None if begins else Opening(data, 0)


def advice_of(code: str, reason: str, lookalike: Lookalike | None) -> Advice:
    """What to tell of an error: by what its bytes look like, else by reason and code."""
    # Without a PROXY header everything is refused, whatever it is.
    if lookalike is not None and code != PROXY_MISSING.code:
        return Advice(lookalike.remedy, lookalike.name)
    return Advice(remedy_of(code, reason), code if entry_of(code) else None)


def _first_bytes(error: RecordedError, where: Break) -> bytes:
    """The first bytes of the message that broke, as far as they are known."""
    if error.raw_packet is None:
        return where.line[:OPENING_BYTES]
    start = where.message_at
    prefix = b"" if start else where.packet_prefix
    return (prefix + error.raw_packet[start : start + OPENING_BYTES])[:OPENING_BYTES]


def _opening(error: RecordedError, where: Break) -> tuple[Lookalike, int] | None:
    """What begins where a message should, and how many bytes of it are known."""
    data = _first_bytes(error, where)
    if error.about == "response":
        return _response_opening(data)
    if known := _request_opening(data):
        return known
    if error.code != INVALID_METHOD.code or _REQUEST_LINE.match(data):
        return None
    known = _body_opening(data)
    remedy = _remedy_of_body(where)
    if known is not None:
        return known[0]._replace(remedy=remedy), known[1]
    return None if remedy is BODY_ALONE else (_BODY._replace(remedy=remedy), 0)


def _remedy_of_body(where: Break) -> Remedy:
    """Why a body stands where a request should, by the fields of the request before."""
    names = {name.lower() for name, _ in where.fields or ()}
    if names & {b"content-length", b"transfer-encoding"}:
        return BODY_LONGER
    return BODY_UNANNOUNCED if b"content-type" in names else BODY_ALONE


def _in_line(error: RecordedError, where: Break) -> Lookalike | None:
    """What the line that broke looks like."""
    line, caret = where.line, where.caret
    host = (error.code, error.reason) == HOST_INVALID[:2]
    if error.code == HEADER_OVERFLOW.code:
        if where.part is Part.REQUEST_LINE and error.request is None:
            return LONG_TARGET
        return COOKIES if line[:7].lower() == b"cookie:" else None
    if host:
        around = line[:OPENING_BYTES]
    elif where.part is Part.BODY:
        return None
    elif line[caret : caret + 1] == b"\n":
        # Without its version a line is refused however it ends.
        if line.endswith(b"\r\n") or (where.part is Part.REQUEST_LINE and b" HTTP/1." not in line):
            return None
        return LF_ONLY if error.about == "request" else LF_ONLY._replace(remedy=_LF_ONLY_SERVER)
    else:
        packet = error.raw_packet or b""
        after = culprit_index(packet, error.bytes_parsed or 0, where) + 1
        around = line[max(0, caret - 2) :] + packet[after : after + _AFTER_BYTES]
    if _QUOTES.search(around):
        return TYPOGRAPHIC_QUOTES
    if _UNSEEN.search(around):
        return INVISIBLE
    if not host:
        return None
    value = around.partition(b":")[2].strip()
    return next((known for known, pattern in _HOSTS if pattern.match(value)), None)
