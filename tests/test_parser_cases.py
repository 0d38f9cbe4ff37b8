"""What Node 26.10 did with recorded streams, and what the parser makes of them at any cut.

``cases/node26.json`` holds the streams of llhttp's and Node's own test suites, and ours,
with what a real Node 26.10.0 server made of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from oracle import ours
from oracle.node import Error, Verdict

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.limits import Limits
from twisted_hangup.parser import RequestParser

#: Streams up to this long are cut in two at every place.
SHORT: Final = 300


@dataclass(frozen=True)
class Case:
    """One recorded stream: Node's option, its reads, and Node's first client error."""

    id: str
    source: str
    segments: list[str]
    requests: int
    options: dict[str, Any]
    fin: bool = False
    error: dict[str, Any] | None = None
    statuses: tuple[int, ...] = ()

    @property
    def reads(self) -> list[bytes]:
        return [segment.encode("latin-1") for segment in self.segments]

    @property
    def limits(self) -> Limits:
        return Limits(
            require_host=self.options.get("requireHostHeader", True),
            head_bytes=self.options.get("maxHeaderSize", Limits().head_bytes),
            head_fields=self.options.get("maxHeadersCount", Limits().head_fields),
        )

    @property
    def node_error(self) -> Error | None:
        """Node's error, its place counted from the first byte of the stream."""
        if self.error is None:
            return None
        code, reason, inside = (self.error[name] for name in ("code", "reason", "bytesParsed"))
        if "packet" not in self.error:
            return Error(code, reason, None)
        before = sum(map(len, self.reads[: self.error["packet"]]))
        return Error(code, reason, before + inside)


def load() -> Iterator[Case]:
    recorded = json.loads((Path(__file__).parent / "cases" / "node26.json").read_text())
    for case in recorded:
        case.setdefault("options", {})
        yield Case(**case)


CASES: Final = {case.id: case for case in load()}

OVERFLOW: Final = "HPE_HEADER_OVERFLOW", "Header overflow"
HTTP_0_9: Final = "HPE_INVALID_VERSION", "HTTP/0.9 is not supported"
NOT_HTTP: Final = "HPE_INVALID_CONSTANT", "Expected HTTP/"
FRAGMENT: Final = "HPE_INVALID_URL", "Fragment in the request target"

#: Case -> name of the deviation (docs/deviations.md), and our error instead of Node's.
DEVIATIONS: Final[dict[str, tuple[str, Error | None]]] = {
    "http09-lf": ("http-0.9", Error(*HTTP_0_9, 7)),
    "sample-no-http-version": ("http-0.9", Error(*HTTP_0_9, 7)),
    "junk-after-connection-close": ("data-after-close", None),
    "many-small-headers-overflow": ("overflow-at-limit", Error(*OVERFLOW, 17897)),
    "max-header-size-default": ("overflow-at-limit", Error(*OVERFLOW, 16404)),
    "trailer-overflow": ("overflow-at-limit", Error(*OVERFLOW, 16444)),
    "method-announce-request-with-rtsp": ("rtsp-ice", Error(*NOT_HTTP, 36)),
    "method-options-request-with-rtsp": ("rtsp-ice", Error(*NOT_HTTP, 35)),
    "method-source-request-with-ice": ("rtsp-ice", Error(*NOT_HTTP, 33)),
    "rtsp-ok": ("rtsp-ice", Error(*NOT_HTTP, 19)),
    "te-gzip-chunked": (
        "te-single-chunked",
        Error(
            "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding other than a single `chunked`", 62
        ),
    ),
    "uri-fragment-in-uri": ("target-fragment", Error(*FRAGMENT, 53)),
    **{
        f"transfer-encoding-post-with-{rest}": ("target-fragment", Error(*FRAGMENT, 52))
        for rest in (
            "chunked-and-duplicate-transfer-encoding",
            "chunked-as-last-transfer-encoding",
            "chunked-before-other-transfer-coding-names",
            "chunkedchunked-as-transfer-encoding",
            "transfer-encoding-and-content-length",
        )
    },
    "value-tab": ("one-valid-host", Error("ERR_HTTP_INVALID_HOST", "Invalid Host", 29)),
}

#: Complete requests that Node answers without its handler, or gives to nobody.
NOT_COUNTED: Final = {
    "connect-bad-target",
    "expect-unknown",
    "method-connect-request",
    "method-connect-request-with-caps",
}


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, byte by byte, and if it is short, in two at every place."""
    yield [stream]
    yield [stream[at : at + 1] for at in range(len(stream))]
    if len(stream) <= SHORT:
        yield from ([stream[:at], stream[at:]] for at in range(1, len(stream)))


def judge(case: Case, reads: list[bytes]) -> Verdict:
    """Our verdict; an end of input that the case does not have breaks nothing."""
    verdict = ours.judge(reads, case.limits)
    if not case.fin and verdict.error is not None and verdict.error.offset is None:
        return verdict._replace(error=None)
    return verdict


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_as_recorded(case: Case) -> None:
    """Cut as Node was sent it, a stream gets Node's verdict, or a deviation's by name."""
    verdict = judge(case, case.reads)
    if case.id in DEVIATIONS:
        _, expected = DEVIATIONS[case.id]
        assert expected != case.node_error
        assert verdict.error == expected
    else:
        assert verdict.error == case.node_error
        if case.id not in NOT_COUNTED:
            assert len(verdict.messages) == case.requests


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_at_any_cut(case: Case) -> None:
    """However the network cuts a stream, the verdict is the same."""
    expected = judge(case, case.reads)
    for reads in cuts(b"".join(case.reads)):
        assert judge(case, reads) == expected


#: Those whose error Node answered itself.
ANSWERED: Final = [case for case in CASES.values() if case.error and case.statuses]


@pytest.mark.parametrize(
    "case", [case for case in ANSWERED if case.id not in DEVIATIONS], ids=lambda case: case.id
)
def test_default_answer(case: Case) -> None:
    """An error that Node answers by default has the status Node answers with."""
    with pytest.raises(ParseError) as broke:
        drain(case)
    assert broke.value.status == case.statuses[-1]


def drain(case: Case) -> None:
    """Parse the recorded reads to the end, whatever comes out."""
    parser = RequestParser(case.limits)
    for data in case.reads:
        parser.receive(data)
        while parser.next_event() is not NEED_DATA:
            pass
    parser.finish()


def test_deviations_are_named_in_the_docs() -> None:
    """Every deviation that a case shows has a row in docs/deviations.md."""
    page = (Path(__file__).parent.parent / "docs" / "deviations.md").read_text()
    for name, _ in DEVIATIONS.values():
        assert f"| `{name}` |" in page
