"""Our deviations from Node as rules that tell one from a mistake.

Each rule is narrow: it asks whether Node really let pass what we say it lets pass, from
what Node made of the message or from the bytes in front of the break, never from our own
parser.  docs/deviations.md has a row for each name.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from .node import Error, Message, Verdict


class Difference:
    """One stream that two parsers judge differently.

    Attributes:
        stream: All of its bytes.
        ours: Our verdict.
        node: Node's.
    """

    def __init__(self, stream: bytes, ours: Verdict, node: Verdict) -> None:
        self.stream = stream
        self.ours = ours
        self.node = node

    @property
    def node_went_on(self) -> bool:
        """Whether Node let the byte pass that we refused, after the same messages."""
        error = self.ours.error
        if error is None or error.offset is None:
            return False
        theirs = self.node.error
        later = theirs is None or theirs.offset is None or theirs.offset >= error.offset
        ours, node = self.ours.messages, self.node.messages[: len(self.ours.messages)]
        if ours and node and not ours[-1].complete and node[-1].body.startswith(ours[-1].body):
            # Node has read on in the body that we refused to.
            node[-1] = replace(
                node[-1], body=ours[-1].body, trailers=ours[-1].trailers, complete=False
            )
        return later and ours == node

    @property
    def node_stopped_at_close(self) -> bool:
        """Whether Node only refused that anything followed a last request."""
        theirs = self.node.error
        return theirs is not None and theirs.code == "HPE_CLOSED_CONNECTION"

    @property
    def line(self) -> bytes:
        """The request line in front of the byte we refused."""
        assert self.ours.error is not None
        return self.stream[self.ours.broken_at : self.ours.error.offset].strip(b"\r\n")

    @property
    def refused_head(self) -> Message | None:
        """What Node made of the head that we refused as a whole."""
        count = len(self.ours.messages)
        return self.node.messages[count] if count < len(self.node.messages) else None


#: RFC 3986, section 3.2.2: unreserved and sub-delims, of which we leave out the comma.
_REG_NAME_BYTES: Final = (string.ascii_letters + string.digits + "-._~!$&'()*+;=").encode()

Rule = Callable[[Difference, Error], bool]


def _values(head: Message, name: bytes) -> list[bytes]:
    return [value for given, value in head.fields if given.lower() == name]


def _head_rule(rule: Callable[[Message], bool]) -> Rule:
    def judge(difference: Difference, error: Error) -> bool:
        head = difference.refused_head
        return difference.node_went_on and head is not None and rule(head)

    return judge


def _line_rule(rule: Callable[[bytes], object]) -> Rule:
    def judge(difference: Difference, error: Error) -> bool:
        return difference.node_went_on and bool(rule(difference.line))

    return judge


def _valid_host(value: bytes) -> bool:
    """RFC 9110, section 7.2, told in another way than our grammar tells it."""
    host = value if value.endswith(b"]") else re.sub(rb":[0-9]*\Z", b"", value)
    if not host.startswith(b"["):
        return not re.sub(rb"%[0-9a-fA-F][0-9a-fA-F]", b"", host).strip(_REG_NAME_BYTES)
    if not host.endswith(b"]"):
        return False
    literal = host[1:-1]
    if re.match(rb"[vV][0-9a-fA-F]+\.", literal):
        rest = literal.partition(b".")[2]
        return bool(rest) and not rest.strip(_REG_NAME_BYTES + b",:")
    try:
        ipaddress.IPv6Address(literal.decode("ascii"))
    except ValueError:
        return False
    return b"%" not in literal


def _bad_form(line: bytes) -> bool:
    """Whether the target is no path, no URL with a sound authority, nor the "*" of OPTIONS."""
    method, target = line.split(b" ")[:2]
    if target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*"):
        return False
    authority = re.match(rb"[A-Za-z]+://([^/?]*)", target)
    if authority is None:
        return True
    userinfo, _, host = authority[1].rpartition(b"@")
    sound = re.sub(rb"%[0-9a-fA-F][0-9a-fA-F]", b"", userinfo)
    nameless = not host or host.startswith(b":")
    return nameless or not _valid_host(host) or bool(re.search(rb"[%@\[\]]", sound))


def _chunk_size_digits(difference: Difference, error: Error) -> bool:
    digits = difference.stream[: error.offset][-17:]
    return difference.node_went_on and bool(re.fullmatch(rb"[0-9a-fA-F]{17}", digits))


def _empty_lines(difference: Difference, error: Error) -> bool:
    assert error.offset is not None
    before = re.search(rb"[\r\n]*\Z", difference.stream[: error.offset])
    return difference.node_went_on and before is not None and len(before[0]) >= 32


#: (code, reason) of a refusal of ours -> name of the deviation, and its rule.
REFUSALS: Final[Mapping[tuple[str, str], tuple[str, Rule]]] = {
    ("HPE_INVALID_VERSION", "HTTP/0.9 is not supported"): (
        "http-0.9",
        _line_rule(lambda line: re.fullmatch(rb"[A-Z_-]+ +[^ ]*", line)),
    ),
    ("HPE_INVALID_VERSION", "Invalid HTTP version"): (
        "http-version",
        _line_rule(lambda line: re.search(rb" (HTTP|RTSP|ICE)/(0\.9|2\.0)\Z", line)),
    ),
    ("HPE_INVALID_CONSTANT", "Expected HTTP/"): (
        "rtsp-ice",
        _line_rule(lambda line: re.search(rb" (RTSP|ICE)/1\.[01]\Z", line)),
    ),
    ("HPE_INVALID_URL", "More than one space in the request line"): (
        "one-space",
        _line_rule(lambda line: b"  " in line),
    ),
    ("HPE_INVALID_URL", "Fragment in the request target"): (
        "target-fragment",
        _line_rule(lambda line: b"#" in line.split(b" ")[1]),
    ),
    ("HPE_INVALID_URL", "Request target in none of the four forms"): (
        "target-form",
        _line_rule(_bad_form),
    ),
    ("HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 request"): (
        "te-http-1.0",
        _head_rule(lambda head: head.version == b"1.0"),
    ),
    ("HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding other than a single `chunked`"): (
        "te-single-chunked",
        _head_rule(
            lambda head: (
                [v.lower() for v in _values(head, b"transfer-encoding")] != [b"chunked"]
                or head.upgrade
            )
        ),
    ),
    ("HPE_INVALID_CONTENT_LENGTH", "Content-Length overflow"): (
        "content-length-63-bits",
        _head_rule(lambda head: int(_values(head, b"content-length")[0]) >= 2**63),
    ),
    ("ERR_HTTP_HOST_REQUIRED", "Missing Host"): (
        "one-valid-host",
        _head_rule(lambda head: head.version == b"1.1" and not _values(head, b"host")),
    ),
    ("ERR_HTTP_INVALID_HOST", "More than one Host"): (
        "one-valid-host",
        _head_rule(lambda head: len(_values(head, b"host")) > 1),
    ),
    ("ERR_HTTP_INVALID_HOST", "Invalid Host"): (
        "one-valid-host",
        _head_rule(lambda head: not _valid_host(_values(head, b"host")[0])),
    ),
    ("HPE_INVALID_CHUNK_SIZE", "Chunk size overflow"): ("chunk-size-digits", _chunk_size_digits),
    ("ERR_HTTP_TOO_MANY_EMPTY_LINES", "Too many empty lines before the request line"): (
        "leading-empty-lines",
        _empty_lines,
    ),
}


def name_of(difference: Difference) -> str | None:
    """Name the deviation that explains *difference*; None where nothing does."""
    error = difference.ours.error
    if error is not None and (known := REFUSALS.get((error.code, error.reason))) is not None:
        name, rule = known
        if rule(difference, error):
            return name
    if _same_error_earlier(difference):
        return "te-refused-before-request"
    if difference.node_stopped_at_close:
        return _after_close(difference)
    return None


def _same_error_earlier(difference: Difference) -> bool:
    """Whether both refuse alike, but Node had already given out the head in question."""
    return (
        difference.ours.error is not None
        and difference.ours.error == difference.node.error
        and difference.ours.error.reason == "Request has invalid `Transfer-Encoding`"
        and difference.ours.messages == difference.node.messages[:-1]
    )


def _after_close(difference: Difference) -> str | None:
    """Node closed after a message; see that we agree on everything up to its end."""
    theirs = difference.node.messages
    ours = difference.ours.messages
    if ours[: len(theirs)] != theirs:
        return None
    options = b",".join(
        value
        for name, value in theirs[-1].trailers or []
        if name.lower() in (b"connection", b"proxy-connection")
    )
    if theirs[-1].keep_alive:
        # Trailers made Node close; we go on, or fail, with what follows.
        return "trailers-frame-nothing" if b"close" in options.lower() else None
    same_end = len(ours) == len(theirs) and difference.ours.error is None
    return "data-after-close" if same_end else None
