"""Masking hides every secret at every cut, hides nothing else, and moves no byte."""

from __future__ import annotations

import re
import time
from typing import Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.secret_packets import Torn, leaks, torn_messages

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA, Break, Part
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser
from twisted_hangup.report import masked_packet
from twisted_hangup.report.masking import (
    DEFAULT_POLICY,
    UNMASKED,
    MaskingPolicy,
    culprit_index,
    mask_line,
    mask_packet,
    mask_target,
)

POLICY: Final = MaskingPolicy(frozenset({b"X-Api-Key"}))

LIMITS: Final = Limits(require_host=False)

TARGETS: Final = [
    (b"/", b"/"),
    (b"*", b"*"),
    (b"/a/b@c", b"/a/b@c"),
    (b"/a?b", b"/a?*"),
    (b"/a?", b"/a?"),
    (b"/a?b?c=d@e", b"/a?*******"),
    (b"/#token=x", b"/#*******"),
    (b"/a?b#c", b"/a?***"),
    (b"http://host/a", b"http://host/a"),
    (b"http://u:p@host/?q=s", b"http://***@host/?***"),
    (b"http://u:p@w@host/", b"http://*****@host/"),
    (b"http://u:p/w@host/", b"http://*****@host/"),
    (b"http://u:p?w@host/", b"http://***********"),
    (b"//u:p@host/", b"//***@host/"),
    (b"//u:p//w@host/", b"//******@host/"),
    (b"/proxy/http://u:p@host/", b"/proxy/http://***@host/"),
    (b"u:p@host:443", b"***@host:443"),
    (b"http:/u:p@host/", b"*********@host/"),
    (b"http://u:p", b"http://***"),
    (b"http://u:p/w", b"http://*****"),
    (b"//u:p", b"//***"),
    (b"u:p", b"u:*"),
    (b"http://host:80", b"http://host:80"),
    (b"http://[::1]:80", b"http://[::1]:80"),
    (b"http://u@[::1]:80/", b"http://*@[::1]:80/"),
    (b"host:443", b"host:443"),
    (b"[::1]:443", b"[::1]:443"),
    (b"/a//b:c", b"/a//***"),
    (b"/a:b", b"/a:b"),
]


@pytest.mark.parametrize("target, masked", TARGETS)
def test_target_loses_userinfo_query_and_fragment(target: bytes, masked: bytes) -> None:
    """Of a target nobody sees the userinfo, the query or the fragment, however malformed."""
    assert mask_target(target) == masked


REQUEST_LINES: Final = [
    (b"GET /?q=s HTTP/1.1", b"GET /?*** HTTP/1.1"),
    (b"GET http://u:p@host/?q=s HTTP/1.1", b"GET http://***@host/?*** HTTP/1.1"),
    (b"GET\t/?q=s\tHTTP/1.1", b"GET\t/?***\tHTTP/1.1"),
    (b"  GET  /?q=s  HTTP/1.1 ", b"  GET  /?***  HTTP/1.1 "),
    (b"GET /?q=my secret HTTP/1.1", b"GET /?*********** HTTP/1.1"),
    (b"GET /?q=s HTT", b"GET /?*** HTT"),
    (b"GET /?q=s HTTP/1", b"GET /?*** HTTP/1"),
    (b"GET /?q=s HTTP/1.1 more", b"GET /?*****************"),
    (b"GET /?q=s HTTP/9999", b"GET /?*************"),
    (b"GET /?q=s", b"GET /?***"),
    (b"http://u:p@host/?q=s HTTP/1.1", b"http://***@host/?*** HTTP/1.1"),
    (b"GET", b"GET"),
    (b"", b""),
    (b"GET http://host HTTP/1.1", b"GET http://host HTTP/1.1"),
    (b"GET http://host/a", b"GET http://host/a"),
    (b"GET http://host", b"GET http://****"),
    (b"GET http://u:p HTTP/1.1", b"GET http://*** HTTP/1.1"),
    (b"CONNECT h:443 HTTP/1.1", b"CONNECT h:443 HTTP/1.1"),
    (b"CONNECT h:443", b"CONNECT h:***"),
    (b"OPTIONS *", b"OPTIONS *"),
]


@pytest.mark.parametrize("line, masked", REQUEST_LINES)
def test_request_line_keeps_method_and_version(line: bytes, masked: bytes) -> None:
    """Of a request line only the secrets of its target are hidden, with whatever comes after."""
    assert mask_line(Part.REQUEST_LINE, line, len(line)) == masked


def test_version_counts_up_to_the_byte_that_broke_it() -> None:
    """A version that breaks is shown as far as it came, and nothing of the rest."""
    line = b"GET /?q=s HTTP/1.x secret"
    assert mask_line(Part.REQUEST_LINE, line, 17) == b"GET /?*** HTTP/1.x*******"


TORN_TARGETS: Final = [
    (b"GET ", b"http://u:", b"@h/p"),
    (b"GET ", b"//u:", b"@h"),
    (b"GET ", b"/proxy/http://u:", b"@h/"),
    (b"CONNECT ", b"u:", b"@h:1"),
]


@given(
    st.sampled_from(TORN_TARGETS),
    st.text("KQVWXYZ0123456789", min_size=3, max_size=12),
    st.sampled_from([b'"', b"\n", b"\r", b" ", b"\t", b"\x00", b"\x01", b"\xff", b"|", b"^"]),
    st.sampled_from([b"", b" HTTP/1.1", b" HTTP/1.1\r\nHost: h\r\n"]),
    st.data(),
)
def test_password_stays_hidden_where_a_target_breaks(
    target: tuple[bytes, bytes, bytes], word: str, culprit: bytes, rest: bytes, data: st.DataObject
) -> None:
    """A target that breaks before its "@" came, or after it, shows nothing of a password."""
    method, before, after = target
    secret = word.encode()
    whole = method + before + secret + after
    at = data.draw(st.integers(len(method), len(whole)), label="index of the culprit")
    line = whole[:at] + culprit
    # A break before the password may take away all that would tell it is one ("/ /u:p@h").
    cut = at < len(method + before) or data.draw(st.booleans(), label="nothing after it")
    packet = line if cut else line + whole[at:] + rest
    where = Break(Part.REQUEST_LINE, b"", line, at)
    shown_line = mask_line(Part.REQUEST_LINE, line, at)
    for text in (shown_line, mask_line(Part.REQUEST_LINE, whole[:at], at)):
        assert not shows(text, secret)
    assert not shows(mask_packet(packet, at, where), secret)
    assert shown_line.endswith(culprit)


def shows(text: bytes, secret: bytes) -> bool:
    """Whether *text* has three bytes in a row of *secret*."""
    return any(secret[i : i + 3] in text for i in range(len(secret) - 2))


FIELDS: Final = [
    (b"Host: example.org", b"Host: example.org"),
    (b"Authorization: Basic dTpw", b"Authorization: **********"),
    (b"authorization:x", b"authorization:*"),
    (b"Authorization : x", b"Authorization : *"),
    (b"\tAuthorization\t:\tx", b"\tAuthorization\t:\t*"),
    (b"PROXY-AUTHORIZATION: x", b"PROXY-AUTHORIZATION: *"),
    (b"Cookie: a=b; c=d", b"Cookie: ********"),
    (b"Cookie:", b"Cookie:"),
    (b"Cookie\x00: x", b"Cookie\x00: *"),
    (b"Coo kie: x", b"Coo kie: *"),
    (b'"Cookie": x', b'"Cookie": *'),
    (b"\xef\xbb\xbfCookie: x", b"\xef\xbb\xbfCookie: *"),
    (b": Cookie: x", b": Cookie***"),
    (b"Authorization Basic a:b", b"Authorization *********"),
    (b"Cookie=x", b"Cookie**"),
    (b"X-Api-Key: x", b"X-Api-Key: *"),
    (b"X-Cookie: x", b"X-Cookie: x"),
    (b"Cookies: x", b"Cookies: x"),
    (b"X: Cookie: x", b"X: Cookie: x"),
]


@pytest.mark.parametrize("line, masked", FIELDS)
@pytest.mark.parametrize("part", [Part.FIELD, Part.TRAILER])
def test_field_line_loses_secret_values(part: Part, line: bytes, masked: bytes) -> None:
    """A secret field's value is hidden in any case and with junk about the name."""
    assert mask_line(part, line, len(line), POLICY) == masked


CONTINUED: Final = [
    (b" ", 0, b" "),
    (b" x", 1, b"*x"),
    (b"dTpw=", 4, b"****="),
    (b"dTpw\r", 4, b"****\r"),
    (b"Bad ", 3, b"*** "),
    (b"user:pass\x01", 9, b"*********\x01"),
    (b"X-Own: y\x01", 8, b"X-Own: y\x01"),
    (b"host:y\x01", 6, b"host:y\x01"),
]


@pytest.mark.parametrize("line, caret, masked", CONTINUED)
def test_line_after_a_secret_may_be_the_rest_of_it(line: bytes, caret: int, masked: bytes) -> None:
    """All is hidden but a field whose name is in use."""
    assert mask_line(Part.FIELD, line, caret, after_secret=True) == masked
    assert mask_line(Part.FIELD, line, caret) == line


def test_byte_to_blame_is_never_hidden() -> None:
    """The byte that broke the value of a secret field stays, and only that one."""
    assert mask_line(Part.FIELD, b"Cookie: ab\x01cd", 10) == b"Cookie: **\x01**"


@pytest.mark.parametrize("part", [Part.BODY, Part.CHUNK_SIZE])
def test_line_of_a_body_shows_its_end_only(part: Part) -> None:
    """Of a body 16 bytes before the error are shown."""
    line = bytes(range(65, 91)) + b"\x01"
    assert mask_line(part, line, 26) == b"*" * 10 + line[10:]


def test_nothing_is_hidden_when_told_so() -> None:
    """`UNMASKED` hides nothing, on any way out."""
    packet = b"GET /?q=s HTTP/1.1\r\nCookie: a\x01"
    where = Break(Part.FIELD, packet[:18], packet[20:], 9)
    assert mask_target(b"/?q=s", UNMASKED) == b"/?q=s"
    assert mask_line(Part.FIELD, where.line, 9, UNMASKED) == where.line
    assert mask_packet(packet, len(packet) - 1, where, UNMASKED) == packet


TORN: Final = [
    [b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic QWxhZGRpbjpv\r\nSECRET \r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\nSECRET x\r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic \r\nu:SECRET\r\nSECRET \r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n\r\nSECRET\r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\n", b"\r\nSECRET\r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b;\r\nSECRET c=d\r\n\r\n"],
    [b"GET / HTTP/1.1\r\nHost: a\r\nCoo\r\nkie: SECRET\r\n\r\n"],
    [b"GET / HTTP/1.1\r\nCookie: a\r\nSE", b"CRET:SECRET\r\nE:\r\n\r\n"],
    [b"PUT \r/p?token=SECRET HTTP/1.1\r\n\r\n"],
    [b"GET \r\n/p?token=SECRET HTTP/1.1\r\n\r\n"],
    [b"GET \r\nhttp://u:SECRET@h/ HTTP/1.1\r\n\r\n"],
    [b"GET http:\n//u:SECRET@h/ HTTP/1.1\r\n\r\n"],
    [b"GET /p\r\n\r\n?token=SECRET HTTP/1.1\r\n"],
    [b"CONNECT /u:SECRET@h:443 HTTP/1.1\r\nHost: a\r\n\r\n"],
    [b"CONNECT /u:SECRET HTTP/1.1\r\nHost: a\r\n\r\n"],
    [b"CONNECT\r\nu:SECRET@h:443 HTTP/1.1\r\n\r\n"],
    [b"GET http://SECRET\r\n@h/ HTTP/1.1\r\n\r\n"],
]


@pytest.mark.parametrize("reads", TORN)
def test_torn_message_shows_no_secret(reads: list[bytes]) -> None:
    """No outlet shows what a stray line end, space or NUL has parted from its name."""
    assert not leaks(Torn(reads, b"SECRET", response=False))


@pytest.mark.parametrize("seed", range(4))
def test_no_secret_shows_however_its_message_is_torn(seed: int) -> None:
    """A secret torn in and around it is seen nowhere; a million of these are a command."""
    assert not [torn for torn in torn_messages(1500, seed) if leaks(torn)]


def test_fields_with_names_in_use_are_seen_after_a_secret() -> None:
    """They are no rest of it; neither is what comes after them."""
    head = b"GET / HTTP/1.1\r\nCookie: a\r\nMine: b\r\n"
    rest = b"hOST: a\r\nYours: c\r\nX-Own: \x01"
    shown = b"GET / HTTP/1.1\r\nCookie: *\r\n*******\r\n" + rest
    for cut in range(len(head + rest)):
        assert masked(broken((head + rest)[:cut], (head + rest)[cut:])) == shown[cut:]


def test_names_an_operator_gives_count_in_any_case() -> None:
    """Extra names are compared without case and without white space around them."""
    assert MaskingPolicy(frozenset({b" X-TOKEN "})).is_secret(b"x-token")
    assert not DEFAULT_POLICY.is_secret(b"x-token")


# What follows plants secrets into whole messages.  A piece is bytes and what may become of
# them; "may" is for bytes where both are right (what a body shows around an error).
HIDDEN: Final = "hidden"
SHOWN: Final = "shown"
MAY: Final = "may"


class Piece(NamedTuple):
    data: bytes
    fate: str


Line = list[Piece]

secrets = st.binary(min_size=1, max_size=12).map(
    lambda data: data.translate(bytes(b"ABCDEFGHabcdefgh"[byte % 16] for byte in range(256)))
)


def shown(data: bytes) -> Piece:
    return Piece(data, SHOWN)


def hidden(data: bytes) -> Piece:
    return Piece(data, HIDDEN)


@st.composite
def request_lines(draw: st.DrawFn) -> Line:
    """Valid request lines, with and without secrets."""
    a, b = draw(secrets), draw(secrets)
    return draw(
        st.sampled_from(
            [
                [shown(b"GET / HTTP/1.1")],
                [shown(b"GET /a?"), hidden(a), shown(b" HTTP/1.1")],
                [shown(b"GET /a?"), hidden(a + b"@?" + b), shown(b" HTTP/1.1")],
                [shown(b"GET http://"), hidden(a + b":" + b), shown(b"@h/ HTTP/1.1")],
                [
                    shown(b"GET http://"),
                    hidden(a),
                    shown(b"@h/?"),
                    hidden(b),
                    shown(b" HTTP/1.1"),
                ],
                [shown(b"CONNECT "), hidden(a + b":" + b), shown(b"@h:443 HTTP/1.1")],
            ]
        )
    )


PLAIN: Final = [
    b"Host: example.org",
    b"Accept: text/html;q=0.5",
    b"Referer: http://a.b/c?d",
    b"X-Cookie: Cookie: x",
    b"E:",
]

SECRET_NAMES: Final = [
    b"Cookie: ",
    b"cookie:",
    b"Authorization: ",
    b"PROXY-Authorization:\t",
    b"x-api-key: ",
]

# Names, and junk after them that is hidden for as long as no colon has come.
ODD_NAMES: Final = [
    (b"\tAuthorization", b": "),
    (b"Cookie", b" : "),
    (b"Coo", b" kie: "),
    (b"Authorization", b" "),
    (b"Cookie", b"\x00: "),
]

plain_lines = st.sampled_from(PLAIN).map(lambda line: [shown(line)])


@st.composite
def secret_lines(draw: st.DrawFn) -> Line:
    return [shown(draw(st.sampled_from(SECRET_NAMES))), hidden(draw(secrets))]


valid_lines = st.one_of(plain_lines, secret_lines())


@st.composite
def broken_lines(draw: st.DrawFn) -> tuple[Line, bytes, Line]:
    """A field line up to the byte that breaks it, that byte, and the rest of the line."""
    a, b = draw(secrets), draw(secrets)
    return draw(
        st.sampled_from(
            [
                ([shown(b"X-Trace: ab")], b"\x01", [shown(b"cd")]),
                ([shown(b"Bad")], b" ", [shown(b"Header: x")]),
                ([shown(b"Cookie: "), hidden(a)], b"\x01", [hidden(b)]),
                ([shown(b"Authorization: "), hidden(a)], b"\n", []),
                ([shown(b"Authorization")], b" ", [shown(b": "), hidden(b)]),
                ([shown(b"Cookie")], b"\x00", [shown(b": "), hidden(b)]),
                ([shown(b"Cookie")], b"=", [hidden(b)]),
                ([], b":", [shown(b" Cookie"), hidden(b": " + b)]),
            ]
        )
    )


@st.composite
def lines_after_the_error(draw: st.DrawFn) -> list[Line]:
    """Whatever a broken client goes on with; only the line ends are lines for sure."""
    lines: list[Line] = []
    kinds = draw(st.lists(st.sampled_from(["plain", "secret", "odd", "next"]), max_size=5))
    for kind in kinds:
        if kind == "plain":
            lines.append(draw(plain_lines))
        elif kind == "secret":
            lines.append(draw(secret_lines()))
            if draw(st.booleans(), label="folded"):
                lines.append([hidden(b" " + draw(secrets))])
                lines.append([hidden(draw(secrets) + b"==")])
        elif kind == "next":
            lines.append([shown(b"GET /?"), hidden(draw(secrets)), shown(b" HTTP/1.1")])
        else:
            name, junk = draw(st.sampled_from(ODD_NAMES))
            lines.append([shown(name), Piece(junk, MAY), hidden(draw(secrets))])
    return lines


line_ends = st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\r\n"])


def joined(lines: list[Line], end: bytes) -> Line:
    return [piece for line in lines for piece in [*line, shown(end)]]


def fates_of(pieces: Line) -> list[str]:
    return [piece.fate for piece in pieces for _ in piece.data]


def bytes_of(pieces: Line) -> bytes:
    return b"".join(piece.data for piece in pieces)


#: Names that begin with "X-" are anybody's: they need the space that a value has before it.
NAME_IN_USE: Final = re.compile(rb"(?:Host:|Accept:|Referer:|X-Trace: |X-Cookie: )")


def softened(stream: bytes, fates: list[str]) -> list[str]:
    """*fates*, where a line with no name in use after a secret may be the rest of it."""
    fates = fates[: len(stream)]
    secret = False
    for line in re.finditer(rb"[^\r\n]+", stream):
        start, end = line.span()
        if secret and not NAME_IN_USE.match(line[0]):
            fates[start:end] = [MAY if fate == SHOWN else fate for fate in fates[start:end]]
        else:
            # A target's secret is not continued.
            secret = HIDDEN in fates[start:end] and b"GET /?" not in line[0] and start > 0
    return fates


def check(packet: bytes, masked: bytes, fates: list[str], at: int) -> None:
    """Every byte met its fate; the one at *at* stayed."""
    assert len(masked) == len(packet) == len(fates)
    assert masked[at] == packet[at]
    for index, fate in enumerate(fates):
        was, now = packet[index], masked[index]
        assert now in (was, ord("*"))
        if index == at or was in b"\r\n" or fate == MAY:
            continue
        assert (now == ord("*")) == (fate == HIDDEN), (index, packet, masked)


def broken(*reads: bytes, limits: Limits = LIMITS) -> ParseError:
    """The error that the last of *reads* raises; none before it may."""
    parser = RequestParser(limits)
    for read in reads[:-1]:
        receive(parser, read)
    with pytest.raises(ParseError) as caught:
        receive(parser, reads[-1])
    return caught.value


def receive(parser: RequestParser, read: bytes) -> None:
    parser.receive(read)
    while parser.next_event() is not NEED_DATA:
        pass


def masked(error: ParseError) -> bytes:
    """All of the error's packet, masked."""
    assert error.raw_packet is not None
    excerpt = masked_packet(error, len(error.raw_packet), POLICY)
    assert excerpt is not None
    return excerpt.data


def culprit_of(error: ParseError) -> int:
    assert error.raw_packet is not None
    assert error.bytes_parsed is not None
    assert error.broke_at is not None
    return culprit_index(error.raw_packet, error.bytes_parsed, error.broke_at)


@given(
    request_lines(),
    st.lists(valid_lines, max_size=3),
    broken_lines(),
    lines_after_the_error(),
    line_ends,
    st.data(),
)
def test_broken_head_shows_no_secret_at_any_cut(
    request_line: Line,
    before: list[Line],
    broken_line: tuple[Line, bytes, Line],
    after: list[Line],
    end: bytes,
    data: st.DataObject,
) -> None:
    """Wherever a read begins and ends, a broken head shows all but its secrets."""
    start, culprit, rest = broken_line
    complete = joined([request_line, *before], b"\r\n") + start
    # A line feed that is to blame has ended its line: another end would end the head.
    rest = rest if culprit == b"\n" else [*rest, shown(end)]
    pieces = [*complete, shown(culprit), *rest, *joined(after, end)]
    stream, at = bytes_of(pieces), len(bytes_of(complete))
    first = data.draw(st.integers(0, at), label="first byte of the read")
    last = data.draw(st.integers(at + 1, len(stream)), label="end of the read")
    error = broken(stream[:first], stream[first:last])
    assert culprit_of(error) == at - first
    fates = softened(stream[:last], fates_of(pieces))[first:]
    check(stream[first:last], masked(error), fates, at - first)


HEAD: Final = b"POST /?q=s HTTP/1.1\r\nCookie: a=b\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD_MASKED: Final = b"POST /?*** HTTP/1.1\r\nCookie: ***\r\nTransfer-Encoding: chunked\r\n\r\n"


#: The same without a secret field.
OPEN_HEAD: Final = HEAD.replace(b"Cookie: a=b", b"Accept: a=b")
OPEN_HEAD_MASKED: Final = HEAD_MASKED.replace(b"Cookie: ***", b"Accept: a=b")

BODY: Final = b"1e\r\nhere is a secret nobody shows!" + b"XABCDEFGHIJKLMNOPQ more secrets\r\n0\r\n"


@pytest.mark.parametrize("cut", range(len(HEAD) + 10))
def test_body_shows_sixteen_bytes_around_the_error(cut: int) -> None:
    """Of a body only what stands right around the error is shown, however it is cut."""
    known = b"**\r\n**************et nobody shows!" + b"XABCDEFGHIJKLMNOP**************\r\n*\r\n"
    error = broken((OPEN_HEAD + BODY)[:cut], (OPEN_HEAD + BODY)[cut:])
    assert masked(error) == (OPEN_HEAD_MASKED + known)[cut:]
    assert "et nobody shows!X" not in error.report()


@pytest.mark.parametrize("cut", range(len(HEAD) + 10))
def test_body_after_a_secret_field_shows_the_byte_to_blame_alone(cut: int) -> None:
    """Where a masked field stands in the message nothing of its body is shown, nor in a report."""
    known = b"**\r\n" + b"*" * 30 + b"X" + b"*" * 30 + b"\r\n*\r\n"
    error = broken((HEAD + BODY)[:cut], (HEAD + BODY)[cut:])
    assert masked(error) == (HEAD_MASKED + known)[cut:]
    assert "shows" not in error.report()


def test_secret_field_near_an_error_in_the_body_hides_all_but_the_byte_to_blame() -> None:
    """The packet's secret fields count wherever they seem to stand."""
    error = broken(OPEN_HEAD + b"0;\x01\r\nCookie: abcdefgh\r\n d\r\n")
    rest = b"**\x01\r\n****************\r\n**\r\n"
    assert masked(error) == OPEN_HEAD_MASKED + rest


BEFORE_THE_NEXT: Final = [
    (b"abc?SECRET", b"abc*******"),
    (b"abc = SECRET", b"abc ********"),
    (b"abc SECRET@h", b"************"),
    (b"abc SECRET long@h", b"*****************"),
]


@pytest.mark.parametrize("rest, masked_rest", BEFORE_THE_NEXT)
def test_bytes_after_an_error_end_before_what_may_be_secret(
    rest: bytes, masked_rest: bytes
) -> None:
    """The next request may stand there, cut in pieces: its query and userinfo are hidden."""
    error = broken(OPEN_HEAD + b"x" + rest)
    assert masked(error) == OPEN_HEAD_MASKED + b"x" + masked_rest


@pytest.mark.parametrize("cut", range(len(HEAD) + 5, len(HEAD) + 46))
def test_trailer_line_that_broke_is_shown_as_a_field(cut: int) -> None:
    """Of trailers the line that broke is seen, with what follows it, minus its secrets."""
    body = b"3\r\nabc\r\n0\r\nA-Plain-Name: shown-with-its-value\x01\r\nCookie: abc\r\n"
    known = b"*\r\n***\r\n*\r\nA-Plain-Name: shown-with-its-value\x01\r\nCookie: ***\r\n"
    error = broken((HEAD + body)[:cut], (HEAD + body)[cut:])
    assert masked(error) == (HEAD_MASKED + known)[cut:]


def test_what_follows_the_trailers_is_no_trailer() -> None:
    """After the empty line that ends broken trailers everything is hidden again."""
    error = broken(HEAD + b"0\r\nA: \x01 and so on and so on\r\n\r\nsecret: s\r\n")
    expected = HEAD_MASKED + b"*\r\nA: \x01 and so on and so on\r\n\r\n*********\r\n"
    assert masked(error) == expected


def test_secret_trailer_that_broke_loses_its_value() -> None:
    """A trailer is a field like any other."""
    error = broken(HEAD + b"0\r\nCookie: abcdefgh\x01secret\r\n")
    assert masked(error) == HEAD_MASKED + b"*\r\nCookie: ********\x01******\r\n"


def test_earlier_messages_of_the_packet_are_hidden_wholly() -> None:
    """Finished requests before the broken one leave their line ends and no more."""
    good = b"GET /private HTTP/1.1\r\nHost: a\r\n\r\n"
    error = broken(good + b"GET / HTTP/1.1\r\nX: \x01")
    assert masked(error) == re.sub(rb"[^\r\n]", b"*", good) + b"GET / HTTP/1.1\r\nX: \x01"


def test_what_is_no_request_line_counts_as_body() -> None:
    """A body whose length was announced too short is not shown as if it were a head."""
    good = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    error = broken(good + b'{"password":\r\n"and a long secret": "hunter2"}\r\n')
    assert masked(error)[len(good) :] == b'{"password"*\r\n' + b"*" * 31 + b"\r\n"


def test_fields_after_a_head_that_ended_too_early_lose_their_values() -> None:
    """An empty line too many makes a field the start of the next message; it stays secret."""
    error = broken(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"Cookie: abcdef\r\n\r\n")
    assert masked(error) == b"Cookie: ******\r\n\r\n"


def test_wrapped_credential_is_hidden_with_the_name_it_seems_to_be() -> None:
    """What a client broke over two lines by mistake is hidden on both."""
    error = broken(b"GET / HTTP/1.1\r\nAuthorization: Basic AAAA\r\n", b"BBBB==\r\nHost: a\r\n")
    assert masked(error) == b"****=*\r\nHost: a\r\n"
    assert "BBBB" not in error.report()


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
@pytest.mark.parametrize("name", [b"Cookie", b"Coo kie", b"Cookie\x00"])
def test_name_torn_from_its_colon_still_names_a_secret(name: bytes, end: bytes) -> None:
    """After an error a line may end between the name and the colon; the value is hidden."""
    error = broken(b"GET / HTTP/1.1\r\nX: \x01\r\n" + name + end + b": a=SECRET\r\nHost: a\r\n")
    expected = b"GET / HTTP/1.1\r\nX: \x01\r\n" + name + end + b"**********\r\nHost: a\r\n"
    assert masked(error) == expected


def test_packet_without_a_known_state_counts_as_body() -> None:
    """If nobody knows where a packet begins, 16 bytes on each side are all that is shown."""
    error = ParseError("why", code="ERR_HTTP_MULTIPART", phase="body", raw_packet=b"x" * 40)
    error.bytes_parsed = 20
    assert masked(error) == b"*" * 4 + b"x" * 33 + b"*" * 3


def test_refusal_of_a_whole_line_reveals_no_byte() -> None:
    """Where no single byte is to blame, none is exempt from masking."""
    packet = b"GET / HTTP/1.1\r\nCookie: abc\r\n"
    where = Break(Part.FIELD, b"GET / HTTP/1.1", b"Cookie: abc", 11)
    assert mask_packet(packet, 25, where) == b"GET / HTTP/1.1\r\nCookie: ***\r\n"


CULPRITS: Final = [
    # Node's offset is the byte's own, or one further; or no byte is to blame.
    (b"GET / HTTP/1.1\r\nA: \x01", 19, 19),
    (b"GET / HTTP/1.1\nA: b\r\n", 15, 14),
    (b"GET  / HTTP/1.1\r\nA: b\r\n", 15, 15),
]


@pytest.mark.parametrize("packet, bytes_parsed, culprit", CULPRITS)
@pytest.mark.parametrize("cut", range(14))
def test_byte_to_blame_is_found_at_any_cut(
    packet: bytes, bytes_parsed: int, culprit: int, cut: int
) -> None:
    """The byte to blame is the one the report names, wherever Node's offset points."""
    error = broken(packet[:cut], packet[cut:])
    assert error.bytes_parsed == bytes_parsed - cut
    assert culprit_of(error) == culprit - cut


SLOW: Final = [
    (Part.REQUEST_LINE, b"GET /?" + b" " * 65536 + b"x"),
    (Part.REQUEST_LINE, b"GET" + b" " * 65536 + b"x HTTP/"),
    (Part.REQUEST_LINE, b"/" * 65536),
    (Part.FIELD, b"a\n" * 32768),
    (Part.FIELD, b"a" + b"\r" * 65536),
    (Part.FIELD, b"Cookie: a\n" + b" \n" * 32768),
    (Part.FIELD, b"a" + b" \t" * 32768),
    (Part.FIELD, b":" * 65536),
    (Part.BODY, b"\n" * 65536),
]


@pytest.mark.parametrize("part, packet", SLOW)
def test_masking_takes_linear_time(part: Part, packet: bytes) -> None:
    """No packet that a client can send keeps masking busy for long."""
    where = Break(part, b"", b"", 0, packet_part=part)
    began = time.process_time()
    mask_packet(packet, len(packet), where)
    assert time.process_time() - began < 1.0
