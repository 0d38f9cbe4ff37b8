"""`Lenience` against Node's parser with the flag of the same meaning, and what explains the rest.

A flag of llhttp's often means more than a switch of ours.  As in `deviations`, each rule
asks whether Node really let pass what we say it lets pass; docs/lenience.md has a row for
each name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final

from twisted_hangup.limits import Lenience

from .deviations import Difference
from .node import Message, Verdict

#: Field of `Lenience` -> constants of Node's HTTPParser.  With the first flag of bare_lf
#: alone llhttp goes on after an LF that ends a request line or a chunk size only if a
#: second LF follows.
NODE_FLAGS: Final[Mapping[str, Sequence[str]]] = {
    "bare_lf": ("kLenientOptionalCRBeforeLF", "kLenientOptionalLFAfterCR"),
    "control_bytes": ("kLenientHeaderValueRelaxed",),
    "obs_fold": ("kLenientHeaders",),
    "spaces_after_chunk_size": ("kLenientSpacesAfterChunkSize",),
}

_STREAM: Final = (
    b"POST /a HTTP/1.1\r\nHost: a\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'3\r\nxyz\r\n01;a\r\nx\r\n1;a=b;c="d"\r\nx\r\n0\r\nX-T: u v\r\nY:\r\n\r\n'
    b"GET / HTTP/1.1\r\nHost: b\r\nConnection: keep-alive\r\nUpgrade:\r\nZ:\r\nX: y\r\n\r\n"
    b"PUT / HTTP/1.0\r\nContent-Length: 2\r\nCookie: a=b; c\r\n\r\n\n\n"
)


def node_flags(switches: Lenience) -> list[str]:
    """The flags of Node's that *switches* stand for."""
    chosen = [field.name for field in fields(switches) if getattr(switches, field.name)]
    return [flag for name in chosen for flag in NODE_FLAGS[name]]


def seeds(strict: Sequence[bytes], switches: Lenience) -> list[bytes]:
    """More streams to start from, with what *switches* let pass."""
    streams: list[bytes] = []
    if switches.bare_lf:
        streams += [seed.replace(b"\r\n", b"\n") for seed in [*strict, _STREAM]]
    if switches.control_bytes:
        streams += [_STREAM.replace(b"b\r", b"\x01b\x1b\x7f\r"), _STREAM.replace(b"u v", b"\x0c")]
    if switches.obs_fold:
        streams += [
            re.sub(rb"(X|X-A|X-T|Cookie): ", rb"\1:\r\n\t \r\n ", _STREAM),
            _STREAM.replace(b"X-A: b", b"X-A: b \r\n\t\r\n  c").replace(b"u v", b"u\r\n v"),
            _STREAM.replace(b"Y:", b"Y:\r\n ").replace(b"Z:", b"Z: \r\n\tz\r\n "),
        ]
    if switches.spaces_after_chunk_size:
        streams += [re.sub(rb"(?m)^([0-9]+)", rb"\1 \t", _STREAM)]
    if len(streams) > 1:
        everything = streams[-1].replace(b"X-A: b", b"X-A: \x02b\r\n c\x03").replace(b"\r\n", b"\n")
        streams.append(everything)
    return streams * 5  # there are many strict ones


def node_returns(stream: bytes, switches: Lenience) -> bool:
    """Whether Node may be asked about *stream*.

    With the flag of control_bytes alone, llhttp 9.4 stays at a NUL in a value for ever.
    """
    return switches.obs_fold or not switches.control_bytes or b"\0" not in stream


# --- what explains a difference ---------------------------------------------------------

_SP_OR_TAB: Final = (b" ", b"\t")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FRAMING: Final = re.compile(
    rb"(connection|content-length|host|proxy-connection|transfer-encoding|upgrade) *:", re.I
)

#: The byte we refused is where the rule looks: what stands before it, and the byte itself.
Rule = Callable[[bytes, bytes], object]


def _line_of(before: bytes) -> bytes:
    """The line that *before* ends in; the one before it, where that is empty."""
    return before.rstrip(b"\r\n").rpartition(b"\n")[2]


def _in_framing_field(before: bytes, byte: bytes) -> bool:
    if re.search(rb"\n[ \t]\Z", before):
        before = before[:-1]  # after an empty value we point after the white space
    elif not (_CONTROL.fullmatch(byte) or (byte in _SP_OR_TAB and before.endswith(b"\n"))):
        return False
    return bool(_FRAMING.match(_line_of(before)))


def _after_cr(before: bytes, byte: bytes) -> bool:
    return before.endswith(b"\r")


#: Switch, code and reason of our refusal, name, rule.
RULES: Final[Sequence[tuple[str, str, str, str, Rule]]] = [
    *(
        ("bare_lf", "HPE_STRICT", reason, "lf-not-cr", _after_cr)
        for reason in (
            "Expected CRLF after version",
            "Expected LF after headers",
            "Expected LF after chunk size",
        )
    ),
    (
        "control_bytes",
        *("HPE_INVALID_HEADER_TOKEN", "Invalid header value char", "framing-stays-strict"),
        _in_framing_field,
    ),
    (
        "obs_fold",
        *("HPE_INVALID_HEADER_TOKEN", "Unexpected whitespace after header value"),
        "framing-stays-strict",
        _in_framing_field,
    ),
    (
        "obs_fold",
        *("HPE_INVALID_HEADER_TOKEN", "Invalid header value char", "framing-stays-strict"),
        lambda before, byte: before[-1:] in _SP_OR_TAB and _in_framing_field(before, byte),
    ),
    (
        "obs_fold",
        *("HPE_INVALID_HEADER_TOKEN", "Invalid header value char", "fold-only"),
        lambda before, byte: _CONTROL.fullmatch(byte),
    ),
    (
        "obs_fold",
        *("HPE_UNEXPECTED_SPACE", "Unexpected space after start line", "fold-only"),
        lambda before, byte: before.endswith(b"\n "),
    ),
    (
        "obs_fold",
        *("HPE_INVALID_HEADER_TOKEN", "Invalid header field char", "fold-only"),
        lambda before, byte: _FRAMING.fullmatch(_line_of(before) + b":"),
    ),
    ("obs_fold", "HPE_STRICT", "Expected LF after CR", "fold-only", _after_cr),
    (
        "obs_fold",
        *("HPE_CR_EXPECTED", "Missing expected CR after header value", "fold-only"),
        lambda before, byte: byte == b"\n" and _CONTROL.search(_line_of(before)),
    ),
]


def name_of(difference: Difference, switches: Lenience) -> str | None:
    """Name the deviation of *switches* that explains *difference*; None where none does."""
    error = difference.ours.error
    if error is None or error.offset is None or not difference.node_went_on:
        return None
    before = difference.stream[: error.offset]
    byte = difference.stream[error.offset : error.offset + 1]
    for switch, code, reason, name, rule in RULES:
        known = getattr(switches, switch) and (error.code, error.reason) == (code, reason)
        if known and rule(before, byte):
            return name
    return None


def with_one_space(difference: Difference) -> Difference:
    """The same with one space for each run of white space in a value.

    Node keeps that of a fold as it came; we have one space in its place.
    """

    def squeeze(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(name, re.sub(rb"[ \t]+", b" ", value)) for name, value in pairs]

    def message(each: Message) -> Message:
        return replace(each, fields=squeeze(each.fields), trailers=squeeze(each.trailers or []))

    def verdict(whole: Verdict) -> Verdict:
        return whole._replace(messages=[message(each) for each in whole.messages])

    return Difference(difference.stream, verdict(difference.ours), verdict(difference.node))


def doubled_line_ends(stream: bytes) -> Iterator[int]:
    """Where an LF may end a request line or a chunk size, and another LF follows."""
    for line_end in re.finditer(rb"(?:HTTP/1\.[01]|\n[0-9a-fA-F]+[ \t]*)(?=(\n)\n)", stream):
        yield line_end.start(1)


def moved(verdict: Verdict, at: int) -> Verdict:
    """*verdict* on a stream in which one byte more stands at index *at*."""
    error = verdict.error
    if error is None or error.offset is None or error.offset < at:
        return verdict
    return verdict._replace(error=error._replace(offset=error.offset + 1))
