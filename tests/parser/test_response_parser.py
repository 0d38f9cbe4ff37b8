"""What comes of a response, case by case, and what a caller may ask of the parser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from oracle import node, responses
from oracle.response_cases import CASES, Case
from oracle.responses import Stream
from support.parsing import own_size

from twisted_hangup import ResponseHead, ResponseParseError, ResponseParser
from twisted_hangup.events import NEED_DATA, BodyData, EndOfMessage, ResponseEvent
from twisted_hangup.limits import Lenience, Limits

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
RECORDED: Final[dict[str, Any]] = json.loads(responses.RECORDING.read_text())["cases"]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def outcome_of(stream: Stream, limits: Limits | None = None) -> str:
    """The verdict on *stream*, as the cases write it."""
    verdict = responses.ours(stream, limits)
    outcome = []
    for message in verdict.messages:
        body = message.body.decode() or "-"
        trailers = b", ".join(b"%b: %b" % field for field in message.trailers or [])
        outcome.append(f"{message.status} {body}" + (f" ({trailers.decode()})" if trailers else ""))
        if message.upgrade:
            outcome[-1] += ", upgrade"
        elif not message.keep_alive and verdict.error is None:
            outcome[-1] += ", close"
    if verdict.error is not None:
        code, reason, offset = verdict.error
        outcome.append(f"{code}: {reason} at {'end' if offset is None else offset}")
    return " | ".join(outcome)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_outcome(case: Case) -> None:
    """The response is read as its case says: whole, byte by byte, and cut at every place."""
    assert outcome_of(Stream(case.method, [case.stream])) == case.outcome
    assert outcome_of(Stream(case.method, bytewise(case.stream))) == case.outcome
    for at in range(1, len(case.stream)):
        reads = [case.stream[:at], case.stream[at:]]
        assert outcome_of(Stream(case.method, reads)) == case.outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_as_node_decides(case: Case) -> None:
    """Node's client decides the same, but for the deviation that the case names."""
    verdict = responses.read_verdict(RECORDED[case.why])
    name = responses.difference(Stream(case.method, [case.stream]), verdict)
    assert name == case.deviation


def test_every_deviation_has_a_case() -> None:
    """What Node lets pass and we refuse is shown, each under its name."""
    assert set(responses.REFUSALS.values()) <= {case.deviation for case in CASES}


def test_deviations_are_documented() -> None:
    """The table of the docs has a row for each, and for what no single response shows."""
    page = (Path(__file__).parents[2] / "docs" / "deviations.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page.partition("\n## Responses")[2], re.M)
    named = {name for row in rows for name in re.findall("`(.*?)`", row)}
    shown = {case.deviation for case in CASES if case.deviation}
    assert named == shown | {"one-response", "overflow-at-limit", "response-fold"}


@pytest.fixture(scope="module")
def judge() -> str:
    """A node that may judge; without one there is nothing to compare with."""
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    return command


def test_mutants(judge: str) -> None:
    """Of thousands of mutated responses none is judged unlike Node but by a named deviation."""
    named, unexplained = responses.compare(judge, list(responses.mutants(6000, seed=7)))
    assert not unexplained
    assert {*responses.REFUSALS.values()} <= {*named}, "the fuzz no longer reaches them"


# --- what a caller may ask ---------------------------------------------------------------


def asked(method: bytes = b"GET", limits: Limits | None = None) -> ResponseParser:
    parser = ResponseParser(limits or Limits())
    parser.expect(method)
    return parser


def drain(parser: ResponseParser, *reads: bytes) -> list[ResponseEvent]:
    """All that comes out of *reads*."""
    out: list[ResponseEvent] = []
    for data in reads:
        parser.receive(data)
        while (event := parser.next_event()) is not NEED_DATA:
            out.append(event)
    return out


def refusal(parser: ResponseParser, *reads: bytes) -> ResponseParseError:
    with pytest.raises(ResponseParseError) as caught:
        drain(parser, *reads)
    assert parser.closed
    return caught.value


def test_one_response_after_the_other() -> None:
    """On a connection that is kept alive each request has its response."""
    parser = ResponseParser()
    for body in (b"ab", b"cd"):
        parser.expect(b"GET")
        head, data, end = drain(parser, OK + body)
        assert isinstance(head, ResponseHead) and head.keep_alive and head.has_body
        assert (data, end) == (BodyData(body), EndOfMessage())
        assert not parser.expecting


@pytest.mark.parametrize("rest", [b"HTTP/1.1 200 OK\r\n", b"\r\n", b"x"])
def test_bytes_that_nobody_asked_for(rest: bytes) -> None:
    """A byte more than the response is an error, and never the start of the next one."""
    parser = asked()
    error = refusal(parser, OK + b"ab" + rest)
    assert error.code == "ERR_HTTP_UNREQUESTED_RESPONSE"
    assert (error.phase, error.offset, error.bytes_parsed) == ("idle", 0, len(OK) + 2)
    assert refusal(ResponseParser(), rest).bytes_parsed == 0


def test_bytes_that_came_before_the_request() -> None:
    """Who sends the next request without looking does not get what came before it."""
    parser = asked()
    parser.receive(OK + b"ab" + OK + b"cd")
    while not isinstance(parser.next_event(), EndOfMessage):
        pass
    parser.expect(b"GET")
    error = refusal(parser, b"more")
    assert error.code == "ERR_HTTP_UNREQUESTED_RESPONSE"
    assert error.bytes_parsed == len(OK) + 2


def test_one_request_at_a_time() -> None:
    """A second request before the end of the first response is a caller's mistake."""
    parser = asked()
    drain(parser, OK + b"a")
    with pytest.raises(RuntimeError):
        parser.expect(b"GET")


def test_after_the_last_response() -> None:
    """Where the connection is to close, what follows is dropped, and nothing can be asked."""
    parser = asked()
    assert len(drain(parser, b"HTTP/1.0 204 No\r\n\r\n" + OK)) == 2
    assert parser.closed and drain(parser, OK) == []
    with pytest.raises(RuntimeError):
        parser.expect(b"GET")


def test_bytes_after_a_101_are_handed_over() -> None:
    """What another protocol sends is not read, and comes back read by read."""
    parser = ResponseParser()
    parser.expect(b"GET", upgrade=True)
    head, end = drain(
        parser, b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nab", b"cd", b"ef"
    )
    assert isinstance(head, ResponseHead) and head.upgrade and not head.interim
    assert isinstance(end, EndOfMessage)
    assert parser.finish() is None
    assert parser.unread() == [b"ab", b"cd", b"ef"]
    assert parser.closed


@pytest.mark.parametrize(
    ("wire", "phase"),
    [
        (b"", "idle"),
        (b"\r\n", "idle"),
        (b"H", "head"),
        (OK[:-1], "head"),
        (OK, "body"),
        (OK + b"a", "body"),
        (CHUNKED + b"1", "body"),
        (CHUNKED + b"0\r\nT", "body"),
        (b"HTTP/1.1 100 C\r\n\r\n", "idle"),
        (b"HTTP/1.1 100 C\r\n\r\nHT", "head"),
    ],
)
@pytest.mark.parametrize("cut", [lambda wire: [wire], bytewise], ids=["whole", "bytewise"])
def test_the_end_of_input(wire: bytes, phase: str, cut: Any) -> None:
    """A response that is cut short is an error that says where, and how much had come."""
    parser = asked()
    drain(parser, *cut(wire))
    assert parser.phase == phase
    with pytest.raises(ResponseParseError) as caught:
        parser.finish()
    error = caught.value
    assert (error.code, error.phase) == ("HPE_INVALID_EOF_STATE", phase)
    assert (error.raw_packet, error.bytes_parsed) == (None, 0)
    interim = wire.rfind(b"\r\n\r\n") + 4 if wire.startswith(b"HTTP/1.1 100") else 0
    assert error.offset == len(wire) - interim
    assert parser.closed


def test_the_end_of_input_after_a_response() -> None:
    """Between two requests a server may leave, and the second finds nobody there."""
    parser = asked()
    drain(parser, OK + b"ab")
    assert parser.phase == "idle"
    parser.expect(b"GET")
    with pytest.raises(ResponseParseError) as caught:
        parser.finish()
    assert (caught.value.phase, caught.value.offset) == ("idle", 0)
    idle = ResponseParser()
    assert idle.finish() is None
    assert idle.closed


def test_the_end_of_input_ends_a_body_without_length() -> None:
    """Nothing else can end it; its head says so."""
    parser = asked()
    head, data = drain(parser, b"HTTP/1.1 200 OK\r\n\r\nab")
    assert isinstance(head, ResponseHead) and head.until_close and not head.keep_alive
    assert parser.phase == "body" and data == BodyData(b"ab")
    assert parser.finish() == EndOfMessage()
    assert parser.closed


def test_an_error_has_the_response_so_far() -> None:
    """Status and fields that had come are told; there is no request, and no answer to it."""
    error = refusal(asked(), b"HTTP/1.1 404 No\r\nA: b\r\nC", b"ookie\x01: d\r\n")
    assert error.response is not None
    assert (error.response.status, error.response.fields) == (404, [(b"A", b"b")])
    assert (error.field, error.request, error.status) == (b"Cookie", None, None)
    assert (error.raw_packet, error.bytes_parsed) == (b"ookie\x01: d\r\n", 5)
    assert error.offset == 29


def test_the_end_of_input_in_a_field() -> None:
    """The field that is not complete is told by name, as far as it is known."""
    for wire, name in ((b"A: b\r\nC: d", b"C"), (b"A: b\r\nC", None)):
        parser = asked()
        drain(parser, b"HTTP/1.1 200 OK\r\n" + wire)
        with pytest.raises(ResponseParseError) as caught:
            parser.finish()
        assert caught.value.field == name


def test_a_length_of_zero_is_no_body() -> None:
    """A head tells whether anything will follow it."""
    head = drain(asked(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")[0]
    assert isinstance(head, ResponseHead)
    assert not head.has_body and not head.until_close and head.content_length == 0


def test_reads_that_wait() -> None:
    """Reads that nobody has asked about are kept apart, counted, and let go of."""
    parser = asked()
    drain(parser, OK)
    before = own_size(parser)
    for data in (b"a", b"b"):
        parser.receive(data)
    assert parser.buffered == 2
    assert parser.next_event() == BodyData(b"a")
    assert parser.buffered == 1
    assert parser.next_event() == BodyData(b"b")
    assert parser.buffered == 0
    assert own_size(parser) <= before


def test_fields_that_are_the_same_are_one_list() -> None:
    """A caller can tell by ``is`` that it has seen these fields before."""
    parser = ResponseParser()
    heads = []
    for status in (b"200 OK", b"404 No"):
        parser.expect(b"GET")
        wire = OK.replace(b"200 OK", status)
        heads.append(next(event for event in drain(parser, wire + b"ab")))
    assert isinstance(heads[0], ResponseHead) and isinstance(heads[1], ResponseHead)
    assert heads[0].fields is heads[1].fields


# --- limits ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "offset"),
    [
        (b"HTTP/1.1 200 " + b"r" * 200, 13 + 99),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 200, 20 + 96),
        (CHUNKED + b"0\r\n" + b"n" * 200, len(CHUNKED) + 3 + 99),
    ],
)
def test_head_bytes(wire: bytes, offset: int) -> None:
    """Reason, names and values together break at the byte that reaches the limit."""
    limits = Limits(head_bytes=100)
    for reads in ([wire], bytewise(wire), [wire + b"\r\n\r\n"]):
        error = refusal(asked(limits=limits), *reads)
        assert (error.code, error.offset) == ("HPE_HEADER_OVERFLOW", offset)


def test_head_bytes_that_fit() -> None:
    """One byte less is a head, whether it is read in one match or byte by byte."""
    wire = b"HTTP/1.1 200 OK\r\nA: " + b"b" * 96 + b"\r\n\r\n"
    for reads in ([wire], bytewise(wire)):
        assert len(drain(asked(limits=Limits(head_bytes=100)), *reads)) == 1


def test_other_limits() -> None:
    """Fields and chunk extensions are counted as in a request, a body is not."""
    limits = Limits(head_fields=1, chunk_extension_bytes=4, body_bytes=1)
    assert len(drain(asked(limits=limits), OK + b"ab")) == 3
    assert len(drain(asked(limits=limits), CHUNKED + b"2\r\nab\r\n0\r\n\r\n")) == 3
    error = refusal(asked(limits=limits), b"HTTP/1.1 200 OK\r\nA: b\r\nC: d\r\n\r\n")
    assert (error.code, error.offset) == ("HPE_HEADER_OVERFLOW", 23)
    error = refusal(asked(limits=limits), CHUNKED + b"1;abcde\r\n")
    assert error.code == "HPE_CHUNK_EXTENSIONS_OVERFLOW"


def test_lenience() -> None:
    """A switch that is on is on for responses too, and for the end of their first line."""
    for first in (b"HTTP/1.1 200\n", b"HTTP/1.1 200 OK\n"):
        wire = first + b"Content-Length: 2\n\nab"
        lenient = Limits(lenience=Lenience(bare_lf=True))
        assert outcome_of(Stream("GET", [wire]), lenient) == "200 ab"
        assert outcome_of(Stream("GET", bytewise(wire)), lenient) == "200 ab"
    fold = b"HTTP/1.1 204 No\r\nA: b\r\n c\r\n\r\n"
    head = drain(asked(limits=Limits(lenience=Lenience(obs_fold=True))), fold)[0]
    assert isinstance(head, ResponseHead) and head.fields == [(b"A", b"b c")]
