"""Why clients send what is refused, and what to do about it: by code, and by reason.

`rules` says which rule was broken.  This is the next question of whoever reads that.
`lookalikes` knows more where the bytes look like something.  docs/codes.md is made of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ..parser import refusals as why
from .rules import HANG_UP, STALLED


class Remedy(NamedTuple):
    """What stands behind a code, for a person who runs a server.

    Attributes:
        cause: What usually is the matter, in sentences.
        cure: What to change, and on which side.
    """

    cause: str
    cure: str


SCANNERS: Final = "Scanners of the internet do it all day; those need no cure."

#: Code -> remedy.  A name that ends with ``*`` stands for every other code that begins so.
REMEDIES: Final[Mapping[str, Remedy]] = MappingProxyType(
    {
        # The request line.
        "HPE_INVALID_METHOD": Remedy(
            "What came is not the start of a request, or has a method that this server does not"
            " know. Often it is TLS on a port that serves plain HTTP (the first byte is 0x16), the"
            " rest of a body whose Content-Length was too small or missing, or another protocol. "
            + SCANNERS,
            "For 0x16, use https:// only on ports with TLS. After a body, correct the client's"
            " Content-Length. For a method of your own, allow it: --method NAME, or"
            " --any-method (Limits.methods).",
        ),
        "HPE_INVALID_URL": Remedy(
            "The client put a path or URL on the wire as somebody typed it: with a space, a"
            " letter outside ASCII, a fragment, or without the slash in front.",
            "Let the client percent-encode the target (quote() in Python, encodeURI() in"
            " JavaScript), and cut it at #.",
        ),
        "HPE_INVALID_CONSTANT": Remedy(
            "There is a space in the target, so that what follows it is taken for the version;"
            " or the client speaks another protocol, such as RTSP. In a response: the server"
            " speaks TLS or something else on that port.",
            "Write a space in a target as %20. Look whether host and port are those of an HTTP"
            " server.",
        ),
        "HPE_INVALID_VERSION": Remedy(
            "The client names a version other than 1.0 and 1.1, or none, as HTTP/0.9 did;"
            " or there is a space in its target.",
            "Send HTTP/1.1. HTTP/2 is agreed on in the TLS handshake, and never named in a"
            " request line.",
        ),
        "HPE_PAUSED_H2_UPGRADE": Remedy(
            "The client began with HTTP/2 on a connection on which nobody had agreed on it:"
            " plain TCP, or TLS without ALPN.",
            "Install the extra http2 and serve TLS, or let the client speak HTTP/1.1 (in curl:"
            " not --http2-prior-knowledge; in a load balancer: http1 towards this server).",
        ),
        "ERR_HTTP_TOO_MANY_EMPTY_LINES": Remedy(
            "Somebody holds a connection open with line ends, or a body ends with more of them"
            " than its Content-Length counts.",
            "Correct the client's Content-Length. The number is Limits.leading_crlf"
            " (--max-empty-lines).",
        ),
        # Fields.
        "HPE_UNEXPECTED_SPACE": Remedy(
            "The first field line begins with a space or a tab: the request was put together"
            " from an indented text, or is an attempt to smuggle a field past a proxy.",
            "Take the white space out of the client's request.",
        ),
        "HPE_INVALID_HEADER_TOKEN": Remedy(
            "A field name with a space or another character in it; a line without a colon, often"
            " the rest of a value with a line end in it; a control character in a value; or a"
            " value that goes on in the next line.",
            "Correct the program that writes this field; values from users must not hold CR, LF"
            " or NUL. For old clients there are --lenient control-bytes and --lenient obs-fold"
            " (docs/lenience.md).",
        ),
        "HPE_CR_EXPECTED": Remedy(
            "A line ends without CR LF, or a chunk is not as long as its size says.",
            "End lines with CR LF, and let the size of a chunk be the number of its bytes, not of"
            " its characters. For clients that end lines with LF alone there is --lenient bare-lf"
            " (docs/lenience.md).",
        ),
        "HPE_LF_EXPECTED": Remedy(
            "There is a CR inside of a line: text of an old Macintosh, a line end that was"
            " written twice (CR CR LF), or an attempt to split a field.",
            "End lines with CR LF, written once.",
        ),
        "HPE_STRICT": Remedy(
            "A chunk of the body is longer than its size says, there is junk in the line with its"
            " size, or a CR stands without its LF. Mostly, sizes were counted in characters, and"
            " the body has bytes that belong to no character of ASCII.",
            "Encode the body first, and count then. Leave the framing to an HTTP library.",
        ),
        "HPE_INVALID_CONTENT_LENGTH": Remedy(
            "Content-Length is not one decimal number, or stands beside Transfer-Encoding. The"
            " latter is how requests are smuggled past proxies; some clients do it by mistake.",
            "Send one of the two fields. If it comes from a proxy of yours, bring that up to date.",
        ),
        "HPE_UNEXPECTED_CONTENT_LENGTH": Remedy(
            "Two Content-Length fields: one of the program's and one of its library's, or an"
            " attempt to smuggle a request. In a response also: a length where there is no body.",
            "Let the library set Content-Length by itself.",
        ),
        "HPE_INVALID_TRANSFER_ENCODING": Remedy(
            "Transfer-Encoding is not just chunked: it lists another coding, is in an HTTP/1.0"
            " message, or stands beside Content-Length.",
            "Send Transfer-Encoding: chunked, or Content-Length. What is compressed says so in"
            " Content-Encoding.",
        ),
        "HPE_HEADER_OVERFLOW": Remedy(
            "Mostly cookies, which grow from visit to visit; a token with many claims; a search"
            " in the query of a URL; or a client that sends fields without end.",
            "Clear the cookies of that site, and set fewer. What is large belongs into the body"
            " of a POST. The limits are --max-header-size and --max-headers-count.",
        ),
        "ERR_HTTP_HOST_REQUIRED": Remedy(
            "A script that was written by hand, an old monitor, or a health check that knows"
            " HTTP/1.0 only and says 1.1.",
            "Send Host, or say HTTP/1.0. In HAProxy: http-check send hdr Host example.org. Last"
            " resort: --no-require-host.",
        ),
        "ERR_HTTP_INVALID_HOST": Remedy(
            "Host is a URL, a list or there twice, or has a byte that no host name has; often a"
            " proxy adds a second one. " + SCANNERS,
            "Send one host name, with a colon and a port where it is not the usual one."
            " In a proxy, set Host instead of adding it.",
        ),
        # The body.
        "HPE_INVALID_CHUNK_SIZE": Remedy(
            "A chunk does not begin with its size in hexadecimal digits: the body was not"
            " chunked although the head says so, or a size was too small.",
            "Leave the framing to an HTTP library, and do not set Transfer-Encoding by hand.",
        ),
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": Remedy(
            "Hardly anybody uses chunk extensions. Long ones are meant to keep a server busy.",
            "None is needed. The limit is --max-chunk-extensions-size.",
        ),
        "ERR_HTTP_BODY_TOO_LARGE": Remedy(
            "An upload that is larger than you allow, or a form with more fields.",
            "Raise the limit: --max-body-size (Limits.body_bytes), or for forms --max-form-size,"
            " --max-form-fields, --max-part-head-size. Or tell the user how large a file may be:"
            " a handler can answer with a page.",
        ),
        "ERR_HTTP_MULTIPART": Remedy(
            "A form whose Content-Type was set by hand, without its boundary or with that of"
            " another form; or one that ends before its last boundary.",
            "Let the library set Content-Type: in fetch() and in requests, leave the field out."
            " Where a form ends too soon, look at the program that cuts it (docs/forms.md).",
        ),
        "HPE_CLOSED_CONNECTION": Remedy(
            "Bytes behind a message that was the last one on its connection.",
            "Nothing has to be done: this server ignores them and answers the request."
            " Node refuses them.",
        ),
        "HPE_INVALID_EOF_STATE": Remedy(
            "The client ended its side in the middle: it gave up, crashed, was stopped, or"
            " announced more than it sent. In a response: the server did.",
            "Where it is always the same client, compare its Content-Length with what it sends."
            " Single ones are life on a network.",
        ),
        # Time, and the network.
        "ERR_HTTP_REQUEST_TIMEOUT": Remedy(
            "A slow or broken network, a client that announced more than it sent, or an attack with"
            " slow requests.",
            "Where large uploads come over slow lines, raise --request-timeout. For a client that"
            " waits for no reason, compare its Content-Length with what it sends.",
        ),
        "ECONNRESET": Remedy(
            "The client went away: a tab was closed, a program was stopped or ran out of"
            " patience, a phone lost its network, a firewall forgot the connection. Before any"
            " request: a load balancer looked whether the port is open.",
            "Many of them in the phase response mean that answers take longer than clients wait:"
            " look at the slow ones, and let work end with its client (docs/cancel.md).",
        ),
        "EPIPE": Remedy(
            "The client had gone when the server wrote to it. The same as ECONNRESET, noticed a"
            " little later.",
            "As for ECONNRESET.",
        ),
        "ETIMEDOUT": Remedy(
            "Nothing came from the client's machine any more: it was switched off, lost its"
            " network, or a firewall between drops packets.",
            "None here. If it is many, look at firewalls and at their idle times, and let clients"
            " use TCP keep-alive.",
        ),
        "ERR_PROXY_PROTOCOL": Remedy(
            "The port is a haproxy: endpoint, and who connects sends no PROXY header: a client"
            " that came past the load balancer, its health check, or a load balancer that was not"
            " told to send one.",
            "In HAProxy: send-proxy-v2 and check-send-proxy on the server line; in nginx:"
            " proxy_protocol on. Let a firewall keep others from that port (docs/balancer.md).",
        ),
        # TLS.
        "ERR_SSL_HTTP_REQUEST": Remedy(
            "A URL with http:// and the port of HTTPS, or a load balancer that has ended TLS and"
            " speaks plain HTTP to a port that expects TLS.",
            "Correct the URL; between load balancer and server use the same on both sides.",
        ),
        "ERR_SSL_WRONG_VERSION_NUMBER": Remedy(
            "Something else than TLS came to a port with TLS: another protocol, a PROXY header, a"
            " very old client. " + SCANNERS,
            "Look which program is at that address. TLS 1.2 is the least a client should speak.",
        ),
        "ERR_SSL_NO_APPLICATION_PROTOCOL": Remedy(
            "The client offered by ALPN only protocols that are not spoken here: HTTP/2 alone where"
            " that is not installed (the extra [http2]), or none of HTTP. " + SCANNERS,
            "Let the client offer http/1.1 as well, or install the extra.",
        ),
        "ERR_TLS_HANDSHAKE_TIMEOUT": Remedy(
            "A client began with TLS and did not go on: a slow or broken network, another protocol"
            " that looks like it, or a slow attack. With --log-idle also one that was silent: a"
            " browser in advance, a load balancer that only looks whether the port is open.",
            "Mostly none. The time is --handshake-timeout.",
        ),
        "ERR_SSL_UNSUPPORTED_PROTOCOL": Remedy(
            "The client speaks no version of TLS that this server speaks: an old device or program,"
            " with TLS 1.0 or 1.1 at most. " + SCANNERS,
            "Bring the client up to date. TLS 1.2 is the least it should speak.",
        ),
        "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA": Remedy(
            "The client does not know who has signed the certificate: itself, a CA of your own, or"
            " one whose certificates in between are not sent.",
            "Send the whole chain of certificates: openssl s_client -connect HOST:PORT shows what"
            " clients get. Give a CA of your own to each client (curl --cacert).",
        ),
        "ERR_SSL_*": Remedy(
            "The client does not accept the certificate (CERTIFICATE is in the name), no cipher is"
            " known to both sides, or bytes were changed on the way. What comes after ERR_SSL_ is"
            " OpenSSL's word for it.",
            "Send the whole chain of certificates, and renew it in time:"
            " openssl s_client -connect HOST:PORT shows what clients get.",
        ),
        "ERR_TLS_*": Remedy(
            "The TLS handshake was not completed.",
            "As for ERR_SSL_*.",
        ),
        # HTTP/2.
        "ERR_HTTP2_INVALID_PSEUDOHEADER": Remedy(
            "A client or proxy that makes HTTP/2 requests by hand left out :method, :scheme,"
            " :authority or :path, or sent one twice.",
            "Bring the client up to date, or let it speak HTTP/1.1.",
        ),
        "ERR_HTTP2_INVALID_CONNECTION_HEADERS": Remedy(
            "A program copied the fields of an HTTP/1.1 request into one of HTTP/2.",
            "Leave Connection, Keep-Alive, Transfer-Encoding and Upgrade out of it.",
        ),
        "ERR_HTTP2_ENHANCE_YOUR_CALM": Remedy(
            "An attack (such as Rapid Reset), or a client that gives up its requests, or sends"
            " frames that do nothing (docs/limits.md), much faster than a person could. Or more"
            " than 100 requests of one connection were refused in little time, each with an error"
            " of its own.",
            "None if it is an attack: the connection has been closed. Otherwise let the client"
            " cancel fewer requests, send fewer PINGs, and mend those that were refused.",
        ),
        "ERR_HTTP2_*": Remedy(
            "The client broke a rule of HTTP/2 that concerns the whole connection. The rest of"
            " the name is the code of RFC 9113, section 7.",
            "Bring the client up to date, or let it speak HTTP/1.1.",
        ),
        # Responses, which a proxy or a client of ours reads.
        "HPE_INVALID_STATUS": Remedy(
            "The server's status line has no number of three digits, or a control character"
            " behind it; often what came is the rest of the response before.",
            "Correct the server; look at the length that its previous response announced.",
        ),
        "ERR_HTTP_INVALID_UPGRADE": Remedy(
            "The server changed the protocol although nobody had asked, or without a word to"
            " which.",
            "Correct the server, or the program in front of it that drops Upgrade.",
        ),
        "ERR_HTTP_UNREQUESTED_RESPONSE": Remedy(
            "The server sent more than its response announced, or an answer that nobody had asked"
            " for, such as a 408 on an idle connection.",
            "Compare the length of what the server sends with its Content-Length. Its idle time"
            " should be longer than the client's.",
        ),
        "ERR_TLS_CERT_ALTNAME_INVALID": Remedy(
            "A server that was asked over TLS has a certificate for another name than that in the"
            " URL.",
            "Use the name in the certificate, or get one for that name.",
        ),
        "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES": Remedy(
            "The server sends 1xx responses without end.",
            "Correct the server: one 103 is enough.",
        ),
        "ERR_HTTP_INVALID_RESPONSE": Remedy(
            "The server's HTTP/1.1 response cannot be told in the client's protocol.",
            "Correct the server's response; the reason names the part.",
        ),
        # A proxy's servers.
        "ERR_UPSTREAM_REFUSED": Remedy(
            "Nothing listens at the address behind --proxy, or a firewall is between.",
            "Start that server, and compare its address with that of --proxy.",
        ),
        "ERR_UPSTREAM_RESET": Remedy(
            "The server behind --proxy closed the connection before its response was whole:"
            " it crashed, was restarted, or closes idle connections very soon.",
            "Read that server's log at the same time. Its idle time should be more than 4 seconds.",
        ),
        "ERR_UPSTREAM_RESPONSE": Remedy(
            "What the server behind --proxy sent is not HTTP/1.1, or could be read in two ways.",
            "The report shows the byte: correct that server. Look whether the port speaks TLS.",
        ),
        "ERR_UPSTREAM_TIMEOUT": Remedy(
            "The server behind --proxy took longer than it may.",
            "Find out what it waits for, or raise --proxy-timeout or --proxy-silence-timeout.",
        ),
        # What else begins so.
        "HPE_*": Remedy(
            "The bytes are not HTTP/1.1.", "Look at the byte that the report points at."
        ),
        "ERR_HTTP_*": Remedy(
            "The request is HTTP, and this server does not accept it.",
            "The reason says what to change in the request.",
        ),
    }
)

_HOST_OF_PROXY: Final = "In a proxy, set Host instead of adding to it."

#: For reasons of a code that have a cause of their own.
_BY_REASON: Final[tuple[tuple[tuple[why.Why, ...], Remedy], ...]] = (
    (
        (why.NO_SPACE_AFTER_METHOD,),
        Remedy(
            "The method goes on after one that this server knows, or a tab, a slash or a line end"
            " comes after it in place of a space.",
            "Write method, one space and target. For a method of your own, allow it:"
            " --method NAME, or --any-method (Limits.methods).",
        ),
    ),
    (
        (why.URL_START, why.URL_SCHEMA, why.TARGET_FORM),
        Remedy(
            "The path has no slash in front (GET index.html), or was left out so that the version"
            " stands in its place.",
            "Write the path with its slash: /index.html, and / alone for the start page.",
        ),
    ),
    (
        (why.TARGET_FRAGMENT, why.URL_FRAGMENT),
        Remedy(
            "The client sent the URL of an address bar, with its fragment.",
            "Cut the target at #. A # that belongs to a path is written %23.",
        ),
    ),
    (
        (why.MANY_SPACES,),
        Remedy(
            "A request line put together by hand: a template with an empty part, or columns"
            " lined up with spaces.",
            "Write one space between method and target, and one before HTTP/1.1.",
        ),
    ),
    (
        (why.URL_CHARACTERS, why.URL_PATH, why.URL_QUERY),
        Remedy(
            "A letter outside ASCII, or a control character, was put on the wire as somebody"
            " typed it.",
            "Let the client percent-encode the target: quote() in Python, encodeURI() in"
            " JavaScript.",
        ),
    ),
    (
        (why.HTTP_0_9,),
        Remedy(
            "The line ends after its target: typed into telnet or netcat, sent by an old monitor,"
            " or there is a line end in the target.",
            "Write GET / HTTP/1.1 and a Host, or GET / HTTP/1.0, and an empty line.",
        ),
    ),
    (
        (why.VERSION_CRLF, why.VERSION_LF),
        Remedy(
            "Something stands between the version and the end of its line: a space that a"
            " template or a shell script has left, or LF or CR alone in place of the two.",
            "End the request line right after HTTP/1.1, with CR LF. For clients that end lines"
            " with LF alone there is --lenient bare-lf (docs/lenience.md).",
        ),
    ),
    (
        (why.UNKNOWN_VERSION, why.MAJOR_VERSION, why.VERSION_DOT, why.MINOR_VERSION),
        Remedy(
            "The client names a version other than 1.0 and 1.1.",
            "Send HTTP/1.1. HTTP/2 is agreed on in the TLS handshake, and never named in a"
            " request line.",
        ),
    ),
    (
        (why.VALUE_CHAR,),
        Remedy(
            "A control character in a value: binary data, the NUL at the end of a string of C,"
            " or colors of a terminal.",
            "Correct the program that writes this field; base64 is the usual way to send bytes in"
            " one. For old clients there is --lenient control-bytes (docs/lenience.md), which lets"
            " no NUL pass.",
        ),
    ),
    (
        (why.VALUE_FOLDED,),
        Remedy(
            "A value goes on in the next line, as mail does it: a long token or certificate that"
            " was wrapped.",
            "Send the value in one line. For old clients there is --lenient obs-fold"
            " (docs/lenience.md).",
        ),
    ),
    (
        (why.VALUE_CR,),
        Remedy(
            "A field line ends with LF (0x0a) alone, or a value has a line end in it.",
            "End lines with CR LF. For clients that end lines with LF alone there is --lenient"
            " bare-lf (docs/lenience.md).",
        ),
    ),
    (
        (why.CL_AFTER_TE, why.TE_AFTER_CL),
        Remedy(
            "A program set Content-Length and its library Transfer-Encoding, or a proxy added one"
            " of them; also how requests are smuggled past proxies.",
            "Send one of the two fields. If it comes from a proxy of yours, bring that up to date.",
        ),
    ),
    (
        (why.CL_EMPTY, why.CL_CHAR, why.CL_OVERFLOW),
        Remedy(
            "Content-Length is empty, has a sign, a unit or a list in it, or is a number that was"
            " never set.",
            "Send the number of the body's bytes in decimal digits, or let the library do it.",
        ),
    ),
    (
        (why.HOST_TWICE,),
        Remedy(
            "A proxy adds its Host to the client's, or a program sets one beside its library's.",
            _HOST_OF_PROXY,
        ),
    ),
    (
        (why.HOSTS_DISAGREE,),
        Remedy(
            "A proxy that speaks HTTP/2 rewrites one of :authority and Host and not the other.",
            _HOST_OF_PROXY,
        ),
    ),
    (
        (why.FORM_TOO_LARGE, why.FORM_FIELDS, why.PART_HEAD_TOO_LARGE),
        Remedy(
            "A form with more text, more fields or longer names of files than you allow.",
            "Raise the limit: --max-form-size, --max-form-fields, --max-part-head-size.",
        ),
    ),
    (
        (
            *(why.PROXY_TOO_LONG, why.PROXY_PROTOCOL, why.PROXY_ADDRESS, why.PROXY_PORT),
            *(why.PROXY_END, why.PROXY_TOO_SHORT, why.PROXY_COMMAND, why.PROXY_FAMILY),
            why.PROXY_CUT,
        ),
        Remedy(
            "What connects to this haproxy: endpoint sends a PROXY header that breaks the rules of"
            " its protocol: written by hand, cut short, or changed by a program on the way.",
            "Look at the byte that the report points at, and correct what writes the header. In"
            " HAProxy send-proxy-v2 writes the version that leaves least to parse.",
        ),
    ),
    (
        (why.BODY_TOO_LONG,),
        Remedy(
            "Content-Length was set by hand and counts characters, not bytes; or the body was"
            " changed after it had been counted, by a proxy or a library.",
            "Let the library set Content-Length by itself. A program that changes a body counts"
            " it again, or leaves Content-Length out, which HTTP/2 does not need.",
        ),
    ),
    (
        (HANG_UP,),
        Remedy(
            "The client left before its response was complete: a tab was closed, a program was"
            " stopped or ran out of patience. Or it has only ended its side, as nc -N and some"
            " devices do, and still waits for the answer.",
            "Many of them mean that answers take longer than clients wait: look at the slow ones,"
            " and let work end with its client (docs/cancel.md). For clients that end their side"
            " first there is --allow-half-open.",
        ),
    ),
    (
        (STALLED,),
        Remedy(
            "The client took nothing of its response for --send-timeout: a download that was"
            " paused, a program that does not read, or a network that was lost.",
            "None for single ones. Where clients pause for long, raise --send-timeout"
            " (Timeouts.send_seconds).",
        ),
    ),
)

#: (code, reason) -> remedy, where it is another than that of the code.
REASONS: Final[Mapping[tuple[str, str], Remedy]] = MappingProxyType(
    {(row.code, row.reason): remedy for rows, remedy in _BY_REASON for row in rows}
)

_FAMILIES: Final = tuple(sorted((name for name in REMEDIES if name.endswith("*")), reverse=True))


def entry_of(code: str) -> str | None:
    """The name in `REMEDIES` that stands for *code*; None where there is none."""
    if code in REMEDIES:
        return code
    return next((name for name in _FAMILIES if code.startswith(name[:-1])), None)


def remedy_of(code: str, reason: str = "") -> Remedy | None:
    """Cause and cure: of the pair, else of the code, else of its family; None for none."""
    return REASONS.get((code, reason)) or REMEDIES.get(entry_of(code) or "")
