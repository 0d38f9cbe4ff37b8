"""Why clients send what is refused, and what to do about it: by code, and by reason.

`rules` says which rule was broken; this is what a reader asks next.  `lookalikes` knows more where
the bytes look like something.  `entries` puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from ..parser import refusals as why
from .rules import HANG_UP, STALLED


class Remedy(NamedTuple):
    """Help for a person who runs a server.

    Attributes:
        cause: What usually happened, in sentences.
        cure: What to change, and on which side.
    """

    cause: str
    cure: str


SCANNERS: Final = "Internet scanners send this all day: ignore those."

_LF_ALONE: Final = "--lenient bare-lf accepts clients that end lines with LF alone."

_UNCHUNKED: Final = (
    "Let an HTTP library write the chunks, and do not set Transfer-Encoding by hand."
)

_ONE_LENGTH: Final = "Send only one of the two headers. If a proxy of yours adds one, update it."

_OWN_METHOD: Final = (
    "To accept a method of your own, use --method NAME or --any-method (Limits.methods)."
)

_VERSION: Final = (
    "Send HTTP/1.1. Client and server agree on HTTP/2 in the TLS handshake; no request line and no"
    " status line names it."
)

_ENCODE_TARGET: Final = (
    "Percent-encode the target in the client: quote() in Python, encodeURI() in JavaScript."
)

_SEE_CERTIFICATES: Final = "openssl s_client -connect HOST:PORT shows what clients get."

#: Code -> remedy.  A name that ends with ``*`` stands for every other code that begins so.
REMEDIES: Final[Mapping[str, Remedy]] = MappingProxyType(
    {
        # The request line.
        "HPE_INVALID_METHOD": Remedy(
            "The first bytes are not a request, or name a method that this server does not know."
            " They are often TLS sent to a port for plain HTTP (the first byte is 0x16), the rest"
            " of a body whose Content-Length was missing or too small, or another protocol. "
            + SCANNERS,
            "If the first byte is 0x16, use https:// only on a port with TLS. After a body, correct"
            " the client's Content-Length. " + _OWN_METHOD,
        ),
        "HPE_INVALID_URL": Remedy(
            "The client sends a path or URL as somebody typed it: with a space, a non-ASCII letter"
            " or a fragment, or without the leading slash.",
            _ENCODE_TARGET + " Cut it at #.",
        ),
        "HPE_INVALID_CONSTANT": Remedy(
            "The target contains a space, so that the server takes the rest of it for the version."
            " Or the client speaks another protocol, such as RTSP. For a response: the server"
            " speaks TLS or another protocol on that port.",
            "Write a space in a target as %20. Check that host and port are those of an HTTP"
            " server.",
        ),
        "HPE_INVALID_VERSION": Remedy(
            "The client names a version other than 1.0 and 1.1, or none, as HTTP/0.9 does. Or its"
            " target contains a space.",
            _VERSION,
        ),
        "HPE_PAUSED_H2_UPGRADE": Remedy(
            "The client starts with HTTP/2 on a connection where nobody agreed to use it: plain"
            " TCP, or TLS without ALPN.",
            "Install twisted_hangup[http2] and serve TLS, or make the client speak HTTP/1.1. In"
            " curl, leave out --http2-prior-knowledge. In a load balancer, set HTTP/1.1 for this"
            " server.",
        ),
        "ERR_HTTP_TOO_MANY_EMPTY_LINES": Remedy(
            "A client keeps a connection busy with line ends, or sends a body that ends with more"
            " of them than its Content-Length counts.",
            "Correct the client's Content-Length. --max-empty-lines (Limits.leading_crlf) sets the"
            " limit.",
        ),
        # Headers.
        "HPE_UNEXPECTED_SPACE": Remedy(
            "The first header line begins with a space or a tab. A program built the request from"
            " indented text, or somebody tries to smuggle a header past a proxy.",
            "Remove the white space from the client's request.",
        ),
        "HPE_INVALID_HEADER_TOKEN": Remedy(
            "A header name contains a space or another forbidden character, or a line has no colon:"
            " often it is the rest of a value that contains a line end. Or a value contains a"
            " control character or goes on in the next line.",
            "Correct the program that writes this header. Remove CR, LF and NUL from values that"
            " users enter. For old clients, --lenient control-bytes and --lenient obs-fold accept"
            " some of this.",
        ),
        "HPE_CR_EXPECTED": Remedy(
            "A line ends without CR LF, or a chunk is not as long as its size says.",
            "End lines with CR LF. Count the bytes of a chunk, not its characters. " + _LF_ALONE,
        ),
        "HPE_LF_EXPECTED": Remedy(
            "A line contains a CR without an LF after it: a doubled line end (CR CR LF), text with"
            " the line ends of an old Macintosh, or an attempt to split a header.",
            "End each line with one CR LF.",
        ),
        "HPE_STRICT": Remedy(
            "A chunk is longer than its size says, the line with its size contains other text, or a"
            " CR has no LF after it. Usually the client counts characters, and the body contains"
            " non-ASCII ones that are several bytes long.",
            "Encode the body first and count its bytes then. Better, let an HTTP library write the"
            " chunks.",
        ),
        "HPE_INVALID_CONTENT_LENGTH": Remedy(
            "Content-Length is not a decimal number, or the request also has Transfer-Encoding."
            " Attackers send both to smuggle requests past a proxy; some clients do it by mistake.",
            _ONE_LENGTH,
        ),
        "HPE_UNEXPECTED_CONTENT_LENGTH": Remedy(
            "The request has two Content-Length headers: one from the program and one from its HTTP"
            " library, or an attempt to smuggle a request. A response may also have a length"
            " although it has no body.",
            "Let the library set Content-Length.",
        ),
        "HPE_INVALID_TRANSFER_ENCODING": Remedy(
            "Transfer-Encoding is not just chunked: it lists another coding, comes in an HTTP/1.0"
            " message, or comes with Content-Length.",
            "Send Transfer-Encoding: chunked, or Content-Length. Announce compression in"
            " Content-Encoding.",
        ),
        "HPE_HEADER_OVERFLOW": Remedy(
            "Usually cookies that grow from visit to visit. Or a token with many claims, a long"
            " query in the URL, or a client that sends headers without end.",
            "Clear the site's cookies, and set fewer. Send large data in the body of a POST."
            " --max-header-size and --max-headers-count set the limits.",
        ),
        "ERR_HTTP_HOST_REQUIRED": Remedy(
            "A hand-written script, an old monitor, or a health check that names HTTP/1.1 and sends"
            " a request of HTTP/1.0.",
            "Send Host, or name HTTP/1.0. In HAProxy: http-check send hdr Host example.org. As a"
            " last resort, use --no-require-host.",
        ),
        "ERR_HTTP_INVALID_HOST": Remedy(
            "Host is a URL or a list, contains a byte that no host name has, or is there twice,"
            " often because a proxy adds one. " + SCANNERS,
            "Send one host name, with a colon and the port unless it is the default port. In a"
            " proxy, set Host instead of adding it.",
        ),
        # The body.
        "HPE_INVALID_CHUNK_SIZE": Remedy(
            "A chunk does not begin with its size in hexadecimal digits. The body is not chunked"
            " although the head says so, or the size of the chunk before was too small.",
            _UNCHUNKED,
        ),
        "HPE_CHUNK_EXTENSIONS_OVERFLOW": Remedy(
            "Hardly any client uses chunk extensions. Attackers send long ones to keep a server"
            " busy.",
            "Usually nothing. --max-chunk-extensions-size sets the limit.",
        ),
        "ERR_HTTP_BODY_TOO_LARGE": Remedy(
            "A client uploads more than you allow, or sends a form with more fields.",
            "Raise --max-body-size (Limits.body_bytes); for forms --max-form-size,"
            " --max-form-fields or --max-part-head-size. Or let a handler answer with a page that"
            " names the limit.",
        ),
        "ERR_HTTP_MULTIPART": Remedy(
            "The client sets the form's Content-Type by hand, without the boundary or with that of"
            " another form. Or the form ends before its last boundary.",
            "Let the HTTP library set Content-Type: in fetch() and in requests, leave the header"
            " out. If the form ends too early, find the program that cuts it.",
        ),
        "HPE_CLOSED_CONNECTION": Remedy(
            "Bytes come after a request that says Connection: close. Node refuses them.",
            "Nothing. This server ignores them and answers the request.",
        ),
        "HPE_INVALID_EOF_STATE": Remedy(
            "The client closed the connection, or half-closed it (sent FIN), inside a request: it"
            " gave up, crashed, was stopped, or announced a longer body than it sent. For a"
            " response: the server did.",
            "Single ones are normal on a network. If it is always the same client, compare its"
            " Content-Length with the bytes that it sends.",
        ),
        # Time, and the network.
        "ERR_HTTP_REQUEST_TIMEOUT": Remedy(
            "The network is slow or broken, the client announced more than it sent, or an attacker"
            " sends slow requests.",
            "For large uploads over slow lines, raise --request-timeout. If a client waits for no"
            " reason, compare its Content-Length with the bytes that it sends.",
        ),
        "ECONNRESET": Remedy(
            "The client went away: a user closed a tab, a program was stopped or did not want to"
            " wait longer, a phone lost its network, or a firewall forgot the connection. Before"
            " any request, it is usually a load balancer that checks whether the port is open."
            " In an error of HangupAgent, it is the server that went away.",
            "Single ones are normal. Many in the phase response mean that answers take longer than"
            " clients wait: make the slow ones faster, and cancel work when its client leaves"
            " (cancel_on_hangup).",
        ),
        "EPIPE": Remedy(
            "The client left before the server wrote its answer. It is ECONNRESET, noticed a little"
            " later.",
            "As for ECONNRESET.",
        ),
        "ETIMEDOUT": Remedy(
            "The client's machine does not answer any more: it was switched off or lost its"
            " network, or a firewall drops the packets.",
            "Usually nothing. If there are many, check the idle timeouts of the firewalls between,"
            " and use TCP keep-alive in the clients.",
        ),
        "ERR_PROXY_PROTOCOL": Remedy(
            "The port is a haproxy: endpoint, and whatever connects to it sends no PROXY header: a"
            " client that bypasses the load balancer, the load balancer's health check, or a load"
            " balancer that is not set up to send one.",
            "In HAProxy, put send-proxy-v2 and check-send-proxy on the server line. In nginx, set"
            " proxy_protocol on. Let a firewall keep all others from that port.",
        ),
        # TLS.
        "ERR_SSL_HTTP_REQUEST": Remedy(
            "A URL says http:// and names the port for HTTPS. Or a load balancer ends TLS and"
            " speaks plain HTTP to a port with TLS.",
            "Correct the URL. Between a load balancer and this server, use TLS or plain HTTP on"
            " both sides.",
        ),
        "ERR_SSL_WRONG_VERSION_NUMBER": Remedy(
            "Something other than TLS came to a port with TLS: another protocol, a PROXY header, or"
            " a very old client. " + SCANNERS,
            "Find out which program runs at that address. A client should speak at least TLS 1.2.",
        ),
        "ERR_SSL_NO_APPLICATION_PROTOCOL": Remedy(
            "The client offers (by ALPN) no protocol that this port speaks: only HTTP/2 where"
            " twisted_hangup[http2] is not installed, or no version of HTTP. " + SCANNERS,
            "Make the client offer http/1.1 as well, or install twisted_hangup[http2].",
        ),
        "ERR_TLS_HANDSHAKE_TIMEOUT": Remedy(
            "A client began the TLS handshake and did not finish it: the network is slow or broken,"
            " the bytes belong to another protocol, or it is a slow attack. With --log-idle it may"
            " also be a client that sent nothing: a browser that connects in advance, or a load"
            " balancer that checks whether the port is open.",
            "Usually nothing. --handshake-timeout sets the time.",
        ),
        "ERR_SSL_UNSUPPORTED_PROTOCOL": Remedy(
            "The client speaks no TLS version that this server speaks: an old device or program"
            " that knows TLS 1.1 at most. " + SCANNERS,
            "Update the client. It should speak at least TLS 1.2.",
        ),
        "ERR_SSL_TLSV1_ALERT_UNKNOWN_CA": Remedy(
            "The client does not trust the issuer of the certificate: it is self-signed, comes from"
            " a CA of your own, or the server does not send the intermediate certificates.",
            "Send the whole chain of certificates. "
            + _SEE_CERTIFICATES
            + " Give every client the certificate of a CA of your own (curl --cacert).",
        ),
        "ERR_SSL_*": Remedy(
            "The client rejects the certificate (the code contains CERTIFICATE), client and server"
            " have no cipher in common, or bytes changed on the way. The words after ERR_SSL_ are"
            " OpenSSL's.",
            "Send the whole chain of certificates, and renew it in time. " + _SEE_CERTIFICATES,
        ),
        "ERR_TLS_*": Remedy(
            "The TLS handshake did not complete.",
            "As for ERR_SSL_*.",
        ),
        # HTTP/2.
        "ERR_HTTP2_INVALID_PSEUDOHEADER": Remedy(
            "A client or proxy with its own HTTP/2 code leaves out :method, :scheme, :authority or"
            " :path, or sends one twice.",
            "Update the client, or make it speak HTTP/1.1.",
        ),
        "ERR_HTTP2_INVALID_CONNECTION_HEADERS": Remedy(
            "A program copies the headers of an HTTP/1.1 request into an HTTP/2 request.",
            "Leave out Connection, Keep-Alive, Transfer-Encoding and Upgrade.",
        ),
        "ERR_HTTP2_ENHANCE_YOUR_CALM": Remedy(
            "An attack (such as Rapid Reset), or a client that cancels requests or sends frames"
            " that do nothing, much faster than a person could. Or the server refused more than 100"
            " requests of the connection in a short time, each with an error of its own.",
            "If it is an attack, nothing: the server has closed the connection. Otherwise make the"
            " client cancel fewer requests and send fewer PINGs, and correct the requests that were"
            " refused.",
        ),
        "ERR_HTTP2_*": Remedy(
            "The client broke a rule of HTTP/2 that concerns the whole connection. The words after"
            " ERR_HTTP2_ are the error code of RFC 9113, section 7.",
            "Update the client, or make it speak HTTP/1.1.",
        ),
        # Responses, which a proxy or a client of ours reads.
        "HPE_INVALID_STATUS": Remedy(
            "The server's status line has no number of three digits, or a control character after"
            " it. Often the bytes are the rest of the response before.",
            "Correct the server. Check the length that its previous response announced.",
        ),
        "ERR_HTTP_INVALID_UPGRADE": Remedy(
            "The server changes the protocol although the request did not ask for that, or does not"
            " name the new protocol.",
            "Correct the server, or the program in front of it that removes Upgrade.",
        ),
        "ERR_HTTP_UNREQUESTED_RESPONSE": Remedy(
            "The server sends more than its response announced, or a response that no request asked"
            " for, such as a 408 on an idle connection.",
            "Compare the Content-Length of the server's response with the bytes that it sends. Make"
            " its idle timeout longer than the client's.",
        ),
        "ERR_TLS_CERT_ALTNAME_INVALID": Remedy(
            "The certificate of the server is for another name than the URL.",
            "Use a name that is in the certificate, or get a certificate for that name.",
        ),
        "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES": Remedy(
            "The server sends 1xx responses without end.",
            "Correct the server: one 103 is enough.",
        ),
        "ERR_HTTP_INVALID_RESPONSE": Remedy(
            "HangupAgent uses Twisted's HTTP client, which cannot read the server's response.",
            "Correct the server's response. The reason says what Twisted could not read.",
        ),
        # A proxy's servers.
        "ERR_UPSTREAM_REFUSED": Remedy(
            "No program listens at the address in --proxy, a firewall blocks it, its host name"
            " cannot be resolved, or its certificate is not accepted.",
            "Start that server, and compare its address with the one in --proxy. The reason in the"
            " log has more.",
        ),
        "ERR_UPSTREAM_RESET": Remedy(
            "The server in --proxy closed the connection before its response was complete: it"
            " crashed, was restarted, or closes idle connections very soon.",
            "Read that server's log at the same time. Make its idle timeout longer than 4 seconds.",
        ),
        "ERR_UPSTREAM_RESPONSE": Remedy(
            "The server in --proxy sends something other than HTTP/1.1, or a response that can be"
            " read in two ways.",
            "The report points at the byte: correct that server. Check whether its port speaks"
            " TLS.",
        ),
        "ERR_UPSTREAM_TIMEOUT": Remedy(
            "The server in --proxy took too long.",
            "Find out what it waits for, or raise --proxy-timeout or --proxy-silence-timeout.",
        ),
        "ERR_UPSTREAM_BUSY": Remedy(
            "All connections that --proxy-max-connections allows are in use, and as many requests"
            " wait; or this one has waited for --proxy-connect-timeout.",
            "Find out why the server in --proxy answers slowly, or raise --proxy-max-connections.",
        ),
        # What else begins so.
        "HPE_*": Remedy("The bytes are not HTTP/1.1.", "Look at the byte that the report shows."),
        "ERR_HTTP_*": Remedy(
            "The request is HTTP, and this server does not accept it.",
            "The reason says what to change in the request.",
        ),
    }
)

_HOST_OF_PROXY: Final = "In a proxy, set Host instead of adding it."

#: For reasons of a code that have a cause of their own.
_BY_REASON: Final[tuple[tuple[tuple[why.Why, ...], Remedy], ...]] = (
    (
        (why.NO_SPACE_AFTER_METHOD,),
        Remedy(
            "The method begins like one that this server knows and goes on, or a tab, a slash or a"
            " line end comes after it instead of a space.",
            "Write the method, one space and the target. " + _OWN_METHOD,
        ),
    ),
    (
        (why.URL_START, why.URL_SCHEMA, why.TARGET_FORM),
        Remedy(
            "The path has no leading slash (GET index.html), or there is no path and the version"
            " comes in its place.",
            "Write the path with its slash: /index.html. The start page is / alone.",
        ),
    ),
    (
        (why.TARGET_FRAGMENT, why.URL_FRAGMENT),
        Remedy(
            "The client sends a URL as the address bar shows it, with its fragment.",
            "Cut the target at #. Write a # that belongs to the path as %23.",
        ),
    ),
    (
        (why.MANY_SPACES,),
        Remedy(
            "A template left a part of the request line empty, or the line has several spaces in a"
            " row.",
            "Write one space between method and target, and one before HTTP/1.1.",
        ),
    ),
    (
        (why.URL_CHARACTERS, why.URL_PATH, why.URL_QUERY),
        Remedy(
            "The client sends a non-ASCII letter or a control character as somebody typed it.",
            _ENCODE_TARGET,
        ),
    ),
    (
        (why.HTTP_0_9,),
        Remedy(
            "The line ends after its target: somebody typed it into telnet or netcat, an old"
            " monitor sent it, or the target contains a line end.",
            "Write GET / HTTP/1.1, a Host header and an empty line; or GET / HTTP/1.0 and an empty"
            " line.",
        ),
    ),
    (
        (why.VERSION_CRLF, why.VERSION_LF),
        Remedy(
            "Something comes between the version and the end of its line: a space from a template"
            " or a shell script. Or the line ends with LF or CR alone.",
            "End the request line right after HTTP/1.1, with CR LF. " + _LF_ALONE,
        ),
    ),
    (
        (why.UNKNOWN_VERSION, why.MAJOR_VERSION, why.VERSION_DOT, why.MINOR_VERSION),
        Remedy("The line names a version other than 1.0 and 1.1.", _VERSION),
    ),
    (
        (why.VALUE_CHAR,),
        Remedy(
            "A value contains a control character: binary data, the NUL at the end of a C string,"
            " or the colour codes of a terminal.",
            "Correct the program that writes this header; base64 is the usual way to send bytes in"
            " one. For old clients, --lenient control-bytes accepts all of them but NUL.",
        ),
    ),
    (
        (why.VALUE_FOLDED,),
        Remedy(
            "A value goes on in the next line, as in mail: a long token or certificate was"
            " wrapped.",
            "Send the value in one line. For old clients, --lenient obs-fold accepts it.",
        ),
    ),
    (
        (why.VALUE_CR,),
        Remedy(
            "A header line ends with LF (0x0a) alone, or a value contains a line end.",
            "End lines with CR LF. " + _LF_ALONE,
        ),
    ),
    (
        (why.CL_AFTER_TE, why.TE_AFTER_CL),
        Remedy(
            "A program sets Content-Length and its HTTP library sets Transfer-Encoding, or a proxy"
            " adds one of them. Attackers send both to smuggle requests past a proxy.",
            _ONE_LENGTH,
        ),
    ),
    (
        (why.CL_EMPTY, why.CL_CHAR, why.CL_OVERFLOW),
        Remedy(
            "Content-Length is empty, contains a sign, a unit or a list, or is a number that was"
            " never set.",
            "Send the number of the body's bytes in decimal digits, or let the HTTP library do it.",
        ),
    ),
    (
        (why.HOST_TWICE,),
        Remedy(
            "A proxy adds its Host to the client's, or a program sets one as well as its library.",
            _HOST_OF_PROXY,
        ),
    ),
    (
        (why.HOSTS_DISAGREE,),
        Remedy(
            "A proxy that speaks HTTP/2 rewrites :authority and not Host, or Host and not"
            " :authority.",
            _HOST_OF_PROXY,
        ),
    ),
    (
        (why.FORM_TOO_LARGE, why.FORM_FIELDS, why.PART_HEAD_TOO_LARGE),
        Remedy(
            "A form has more text, more fields or longer file names than you allow.",
            "Raise --max-form-size, --max-form-fields or --max-part-head-size.",
        ),
    ),
    (
        (
            *(why.PROXY_TOO_LONG, why.PROXY_PROTOCOL, why.PROXY_ADDRESS, why.PROXY_PORT),
            *(why.PROXY_END, why.PROXY_TOO_SHORT, why.PROXY_COMMAND, why.PROXY_FAMILY),
            why.PROXY_CUT,
        ),
        Remedy(
            "The program that connects to this haproxy: endpoint sends an invalid PROXY header: it"
            " is hand-written, was cut, or changed on the way.",
            "Look at the byte that the report points at, and correct the program that writes the"
            " header. In HAProxy, send-proxy-v2 writes the version that is easiest to parse.",
        ),
    ),
    (
        (why.BODY_TOO_LONG,),
        Remedy(
            "A program sets Content-Length by hand and counts characters, not bytes. Or a proxy or"
            " a library changed the body after it was counted.",
            "Let the HTTP library set Content-Length. A program that changes a body must count it"
            " again, or leave Content-Length out: HTTP/2 does not need it.",
        ),
    ),
    (
        (HANG_UP,),
        Remedy(
            "The client left before its response was complete: a user closed a tab, a program was"
            " stopped or did not want to wait longer. Or it only half-closed the connection (sent"
            " FIN), as nc -N and some devices do, and still waits for the answer.",
            "Single ones are normal. Many mean that answers take longer than clients wait: make the"
            " slow ones faster, and cancel work when its client leaves (cancel_on_hangup). For"
            " clients that half-close, use --allow-half-open.",
        ),
    ),
    (
        (STALLED,),
        Remedy(
            "The client took nothing of its response for the time of --send-timeout: a paused"
            " download, a program that does not read, or a lost network.",
            "Single ones are normal. If clients pause for long, raise --send-timeout"
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
