"""The ABNF of RFC 9110 and RFC 9112 as named byte patterns, with our deviations at each rule.

For a single byte each pattern decides as llhttp 9.4 strict.  Where this differs from the RFC, the
comment at the rule says how and why.  No pattern matches the same bytes in two ways, so none can
backtrack over a long input.
"""

from __future__ import annotations

import re
from typing import Final

# --- characters: the inside of a character class, so that they can be joined -------------

# RFC 5234, appendix B.1
ALPHA: Final = rb"A-Za-z"
DIGIT: Final = rb"0-9"
HEXDIG: Final = rb"0-9A-Fa-f"

#: Single bytes, as indexing gives them.
CR: Final = 0x0D
LF: Final = 0x0A
SP: Final = 0x20

# RFC 9110, section 5.6.2
#   tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|"
#         / "~" / DIGIT / ALPHA
TCHAR: Final = rb"!#$%&'*+\-.^_`|~" + DIGIT + ALPHA

# RFC 9110, section 5.5
#   field-vchar = VCHAR / obs-text, between them SP / HTAB
# obs-text (0x80-0xff) is accepted as it is: the application decides what it means.
FIELD_CHAR: Final = rb"\t\x20-\x7e\x80-\xff"

# RFC 9110, section 5.6.4
#   qdtext = HTAB / SP / "!" / %x23-5B / %x5D-7E / obs-text
QDTEXT: Final = rb"\t !\x23-\x5b\x5d-\x7e\x80-\xff"

# RFC 3986, sections 2.2, 2.3 and 3.2.1
UNRESERVED: Final = ALPHA + DIGIT + rb"\-._~"
SUB_DELIMS: Final = rb"!$&'()*+,;="
PCT_ENCODED: Final = rb"%[" + HEXDIG + rb"]{2}"

# RFC 3986, appendix A: pchar and "/".  Laxer: also " < > [ \ ] ^ ` { | }, and "%" before
# anything.  llhttp accepts them, browsers send some of them, and the target is passed on as
# received.  Bytes >= 0x80 and control characters are refused.
TARGET_CHAR: Final = rb"!\"$-&'()*+,\-./0-9:;<=>@A-Z\[\\\]\^_`a-z{|}~"

# RFC 3986, section 3.2: the characters of userinfo, host and port, without "@".
AUTHORITY_CHAR: Final = ALPHA + DIGIT + rb"\-_.!~*'()%;:&=+$,\[\]"


def _runs_of(characters: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"[" + characters + rb"]+")


# --- runs: the exact reader takes each in one step ---------------------------------------

LINE_ENDS: Final = re.compile(rb"[\r\n]+")
SPACES: Final = re.compile(rb" +")
ZEROS: Final = re.compile(rb"0+")
#   OWS = *( SP / HTAB )                                          RFC 9110, section 5.6.3
WHITE_SPACE: Final = re.compile(rb"[ \t]+")
#   token = 1*tchar                                               RFC 9110, section 5.6.2
TOKEN: Final = _runs_of(TCHAR)
#   field-value = *field-content                                  RFC 9110, section 5.5
FIELD_VALUE: Final = _runs_of(FIELD_CHAR)
#   one element of a list: everything up to the comma             RFC 9110, section 5.6.1
LIST_ELEMENT: Final = re.compile(rb"[\t\x20-\x2b\x2d-\x7e\x80-\xff]+")
QUOTED_TEXT: Final = _runs_of(QDTEXT)

#   scheme = ALPHA *( ALPHA / DIGIT / "+" / "-" / "." )           RFC 3986, section 3.1
# Stricter: letters only, as in llhttp; no scheme of an HTTP request has others.
SCHEME: Final = _runs_of(ALPHA)
AUTHORITY: Final = _runs_of(AUTHORITY_CHAR)
PATH: Final = _runs_of(TARGET_CHAR)
QUERY: Final = _runs_of(TARGET_CHAR + rb"?")
FRAGMENT: Final = _runs_of(TARGET_CHAR + rb"?#")

# --- hosts --------------------------------------------------------------------------------

# RFC 3986, section 3.2.2
#   IPv4address = dec-octet "." dec-octet "." dec-octet "." dec-octet
_DEC_OCTET: Final = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4: Final = rb"(?:" + _DEC_OCTET + rb"\.){3}" + _DEC_OCTET
#   h16  = 1*4HEXDIG
#   ls32 = ( h16 ":" h16 ) / IPv4address
_H16: Final = rb"[" + HEXDIG + rb"]{1,4}"
_LS32: Final = rb"(?:" + _H16 + rb":" + _H16 + rb"|" + _IPV4 + rb")"


def _before_gap(most: int) -> bytes:
    """``[ *n( h16 ":" ) h16 ] "::"`` with *most* groups before the gap."""
    if most == 0:
        return rb"::"
    return rb"(?:(?:%b:){0,%d}%b)?::" % (_H16, most - 1, _H16)


#   IPv6address = 6( h16 ":" ) ls32 / "::" 5( h16 ":" ) ls32 / ... / [ *6( h16 ":" ) h16 ] "::"
_IPV6: Final = b"|".join(
    [
        rb"(?:%b:){6}%b" % (_H16, _LS32),
        *(_before_gap(5 - n) + rb"(?:%b:){%d}%b" % (_H16, n, _LS32) for n in range(5, -1, -1)),
        _before_gap(6) + _H16,
        _before_gap(7),
    ]
)
#   IPvFuture  = "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" )
#   IP-literal = "[" ( IPv6address / IPvFuture  ) "]"
_IP_LITERAL: Final = (
    rb"\[(?:" + _IPV6 + rb"|[vV][" + HEXDIG + rb"]+\.[" + UNRESERVED + SUB_DELIMS + rb":]+)\]"
)
#   reg-name = *( unreserved / pct-encoded / sub-delims ), which IPv4address is one of
# Stricter: no ",".  No host has one, and a recipient that joins two Host fields (RFC 9110,
# section 5.3) would make one valid-looking host of two.
_NAME_RUN: Final = rb"[" + UNRESERVED + SUB_DELIMS.replace(b",", b"") + rb"]"
_REG_NAME: Final = _NAME_RUN + rb"*(?:" + PCT_ENCODED + _NAME_RUN + rb"*)*"

# RFC 9110, section 7.2
#   Host = uri-host [ ":" port ]
# An empty value is valid: a client sends it if its target has no authority.
HOST: Final = re.compile(rb"(?:" + _IP_LITERAL + rb"|" + _REG_NAME + rb")(?::[0-9]*)?")

#: The valid start of a host; of an address in brackets also its start.
HOST_SO_FAR: Final = re.compile(
    rb"(?:" + _IP_LITERAL + rb"|\[[" + HEXDIG + rb":.]*|" + _REG_NAME + rb")(?:(?<!\[):[0-9]*)?"
)

# RFC 1035, section 2.3.4, and RFC 1123, section 2.1
# Laxer: "_", which names in a cluster have and every other client accepts.
#: A name that DNS can hold, or an IPv4 address.
DNS_NAME: Final = re.compile(rb"(?=.{1,253}\.?\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")

# --- request line -------------------------------------------------------------------------

# RFC 9112, section 3.2.2, and RFC 9110, section 4.2.1
#   absolute-form = absolute-URI = scheme ":" hier-part [ "?" query ]
# Stricter: after the scheme come "//" and a host that is not empty.  If two recipients read the
# authority differently, one routes the request by it and the other judges it.
# Its groups: scheme, host and port, and path and query.
_USERINFO_RUN: Final = rb"[" + UNRESERVED + SUB_DELIMS + rb":]*"
ABSOLUTE_FORM: Final = re.compile(
    rb"([%b]+)://(?:%b(?:%b%b)*@)?(?![:/?]|\Z)((?:%b|%b)(?::[0-9]*)?)((?:[/?].*)?)"
    % (ALPHA, _USERINFO_RUN, PCT_ENCODED, _USERINFO_RUN, _IP_LITERAL, _REG_NAME),
    re.DOTALL,
)

# RFC 9112, section 3
#   request-line = method SP request-target SP HTTP-version
# Only the common case: a target in origin-form without fragment.  The exact reader reads
# everything else; it begins after the target if that was common and the version was not.
# One SP exactly; section 3 lets a recipient split on any white space.  Two parsers that split
# differently are a way to smuggle requests (section 11.2).
COMMON_REQUEST_LINE: Final = re.compile(
    rb"([" + TCHAR + rb"]+) (/[" + TARGET_CHAR + rb"?]*) (?:HTTP/(1\.[01])\r\n)?"
)

# --- status line --------------------------------------------------------------------------

# RFC 9112, section 4
#   status-line   = HTTP-version SP status-code SP [ reason-phrase ]
#   reason-phrase = 1*( HTAB / SP / VCHAR / obs-text )
# Laxer: the SP may be missing if no reason follows, as several servers write it.
# Stricter: a status is 100 or more; none below has a meaning (RFC 9110, section 15).
COMMON_STATUS_LINE: Final = re.compile(
    rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([" + FIELD_CHAR + rb"]*))?\r\n"
)

# --- fields -------------------------------------------------------------------------------

# RFC 9112, sections 2.1 and 5
#   HTTP-message = start-line CRLF *( field-line CRLF ) CRLF [ message-body ]
#   field-line   = field-name ":" OWS field-value OWS
# Stricter: CRLF only; section 2.2 lets a recipient accept a bare LF.  obs-fold (section 5.2)
# is refused, as the RFC allows a server to.  Values with white space after them are valid, but
# so rare that the exact reader reads them.
FIELD_BLOCK: Final = re.compile(
    rb"(?:[" + TCHAR + rb"]+:[" + FIELD_CHAR + rb"]*\r(?<![ \t]\r)\n)*\r\n"
)

# One line, and what comes after its colon.  The pattern includes that the next line has begun
# without white space: only then is the line not continued.
FIELD_LINE: Final = re.compile(rb"([" + TCHAR + rb"]+):([" + FIELD_CHAR + rb"]*)\r\n(?=[^ \t])")

#: Name and value of each line of a valid `FIELD_BLOCK`.
FIELD_LINES: Final = re.compile(rb"([^:]+):[ \t]*([^\r]*)\r\n")

#   Content-Length = 1*DIGIT, and not near any machine's largest   RFC 9110, section 8.6
COMMON_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

# --- chunks -------------------------------------------------------------------------------

# RFC 9112, section 7.1
#   chunk      = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
#   chunk-size = 1*HEXDIG
# The RFC has no largest size.  More digits than these are refused, also if they are zeros.
MOST_SIZE_DIGITS: Final = 16

# Only the common case: what stands between the data of two chunks, without extensions.
NEXT_CHUNK: Final = re.compile(rb"\r\n([" + HEXDIG + rb"]{1,%d})\r\n" % MOST_SIZE_DIGITS)
