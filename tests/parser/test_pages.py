"""The cases of ``tests/cases``: what has to come of each, at any cut, and what Node says to it.

A page that fails shows the events as they came; ``tests/cases/README.md`` tells more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from oracle import node, ours, pages, record
from oracle.deviations import Difference, name_of
from oracle.node import Verdict
from oracle.pages import Case

from twisted_hangup.errors import ParseError
from twisted_hangup.events import NEED_DATA
from twisted_hangup.parser import RequestParser, refusals

CASES: Final = pages.load()
RECORDED: Final = record.recorded()
DOCS: Final = Path(__file__).parents[2] / "docs"
#: The pages are about the strict parser, so what lenience brings with it has no case here.
STRICT: Final = re.split(r"\n## .*[Ll]enien", (DOCS / "deviations.md").read_text())[0]
DEVIATIONS: Final = set(re.findall(r"^\| `([^`]+)` \|", STRICT, re.MULTILINE))

#: A stream is cut in two at no more places than this.
MOST_SPLITS: Final = 400

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """The stream whole, in single bytes, in threes, and in two at every place."""
    yield [stream]
    for size in (1, 3):
        yield [stream[at : at + size] for at in range(0, len(stream), size)]
    step = len(stream) // MOST_SPLITS + 1
    yield from ([stream[:at], stream[at:]] for at in range(1, len(stream), step))


def judge(case: Case, reads: list[bytes]) -> Verdict:
    """Our verdict; an end of input that the case does not have breaks nothing."""
    verdict = ours.judge(reads, case.limits)
    if not case.end_of_input and verdict.error is not None and verdict.error.offset is None:
        return verdict._replace(error=None)
    return verdict


@each_case
def test_as_the_page_says(case: Case) -> None:
    """What comes of a stream is what its page says, however the network cuts it."""
    for reads in cuts(case.stream):
        assert pages.told(judge(case, reads)).splitlines() == case.events.splitlines()


@each_case
def test_as_node_does(case: Case) -> None:
    """Our verdict is the recorded one of a Node server, or the page names the deviation."""
    verdict = judge(case, [case.stream])
    node_did = RECORDED.cases[case.name]
    mine = verdict.error, len(verdict.messages)
    theirs = node_did.error, node_did.requests
    if case.deviation is None:
        assert mine == theirs
    else:
        assert case.deviation in DEVIATIONS
        assert mine != theirs, "Node does the same: the page names a deviation that is none"


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.deviation == "overflow-at-limit"],
    ids=lambda case: case.name,
)
def test_overflow_is_nodes_but_for_the_place(case: Case) -> None:
    """Where both count, both say the same; white space in front of a value only we count."""
    mine = judge(case, [case.stream]).error
    theirs = RECORDED.cases[case.name].error
    assert mine is not None
    assert theirs is None or mine[:2] == theirs[:2]
    assert (theirs is None) == ("White space" in case.name)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if RECORDED.cases[case.name].error and case.deviation is None],
    ids=lambda case: case.name,
)
def test_default_answer(case: Case) -> None:
    """An error is answered with the status that Node answers it with."""
    with pytest.raises(ParseError) as broke:
        read_to_the_end(case)
    assert [broke.value.status] == RECORDED.cases[case.name].statuses[-1:]


def read_to_the_end(case: Case) -> None:
    parser = RequestParser(case.limits)
    parser.receive(case.stream)
    while parser.next_event() is not NEED_DATA:
        pass
    parser.finish()


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if b"error " in case.events and not case.end_of_input],
    ids=lambda case: case.name,
)
def test_nothing_after_an_error_is_read(case: Case) -> None:
    """Whatever comes after the byte that broke, the verdict is the same."""
    verdict = judge(case, [case.stream])
    assert verdict.error is not None and verdict.error.offset is not None
    broken = case.stream[: verdict.error.offset + 1]
    for rest in (b"", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
        assert judge(case, [broken + rest]) == verdict


def test_names_are_unique() -> None:
    """A case can be found by its name, and so can its record."""
    names = [case.name for case in CASES]
    assert len(names) == len({*names})
    assert names == [*RECORDED.cases], "record again: python -m tests.oracle.record"


#: What no bytes of HTTP/1.1 are refused for, by the parser of requests.
ELSEWHERE: Final = {
    *(refusals.MULTIPART, refusals.PSEUDO_FIELD, refusals.CONNECTION_FIELD),
    *(refusals.VALUE_SPACE, refusals.HOSTS_DISAGREE, refusals.BODY_TOO_LONG),
    *(refusals.FORM_TOO_LARGE, refusals.FORM_FIELDS, refusals.PART_HEAD_TOO_LARGE),
}
REFUSALS: Final = [
    value
    for value in vars(refusals).values()
    if isinstance(value, refusals.Why)
    and not isinstance(value, refusals.ResponseWhy)
    and value not in ELSEWHERE
    and value.code != refusals.PROXY_MISSING.code
]


@pytest.mark.parametrize("why", REFUSALS, ids=str)
def test_every_refusal_has_a_case(why: refusals.Why) -> None:
    """No refusal can be added without a page that shows it."""
    shown = f'error {why.code} "{why.reason}" at '.encode()
    assert any(shown in case.events for case in CASES)


@pytest.mark.parametrize("name", sorted(DEVIATIONS))
def test_every_deviation_has_a_case(name: str) -> None:
    """The table of deviations lists none that no page shows."""
    assert name in {case.deviation for case in CASES}


SAFE: Final = re.findall(
    r"^\| (?P<rule>[^|]+) \| (?P<inside>`[^|]+`) \| (?P<outside>`[^|]+`) \|$",
    (pages.PAGES / "README.md").read_text(),
    re.MULTILINE,
)


@pytest.mark.parametrize("rule, inside, outside", SAFE, ids=[rule for rule, _, _ in SAFE])
def test_safe_rules(rule: str, inside: str, outside: str) -> None:
    """Every safe rule has a case just inside, without error, and one outside that is refused."""
    by_name = {case.name: case for case in CASES}
    for name in re.findall("`(.*?)`", inside):
        assert b"error " not in by_name[name].events
    for name in re.findall("`(.*?)`", outside):
        assert b"error " in by_name[name].events


def test_the_table_of_safe_rules_is_read() -> None:
    """The rules are found where they are looked for."""
    assert len(SAFE) >= 20


@pytest.fixture(scope="module")
def command() -> str:
    """A node that may judge; without one there is nothing to compare with."""
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    return command


#: What Node's bare parser can judge: it has no limits, and asks for no Host.
BARE: Final = [
    case
    for case in CASES
    if case.stream
    and not case.options
    and case.deviation not in {"overflow-at-limit", "body-limit"}
]


@pytest.fixture(scope="module")
def differences(command: str) -> dict[str, Difference]:
    """Both verdicts on every case that a bare parser can judge."""
    theirs = node.judge(command, [[case.stream] for case in BARE])
    return {
        case.name: Difference(case.stream, ours.judge([case.stream], case.limits), verdict)
        for case, verdict in zip(BARE, theirs, strict=True)
    }


@pytest.mark.parametrize("case", BARE, ids=lambda case: case.name)
def test_the_deviation_is_the_right_one(differences: dict[str, Difference], case: Case) -> None:
    """The rule that tells a deviation from a mistake gives it the name that the page does."""
    difference = differences[case.name]
    if case.deviation is None:
        assert difference.ours[:2] == difference.node[:2]
    else:
        assert name_of(difference) == case.deviation


def test_the_record_is_what_node_says(command: str) -> None:
    """A server of the recorded version says it again."""
    answers = record.ask(command, CASES[:1])
    if answers.version != RECORDED.version:
        pytest.skip(f"recorded from {RECORDED.version}, and this is {answers.version}")
    answers = record.ask(command, CASES)
    # On a busy machine an answer may come too late: what differs is asked again.
    other = [case for case in CASES if answers.cases[case.name] != RECORDED.cases[case.name]]
    again = record.ask(command, other).cases
    assert again == {name: RECORDED.cases[name] for name in again}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("GET /\\r\\n\n\\r\\n\n", b"GET /\r\n\r\n"),
        ("{a*3}b{c\\r\\n*2}", b"aaabc\r\nc\r\n"),
        ('\\x00\\xff\\\\{"a": *}', b'\x00\xff\\{"a": *}'),
    ],
)
def test_bytes_of_a_block(text: str, expected: bytes) -> None:
    """Line ends are written out, those of the page are none, and what repeats is short."""
    assert pages.wire(text) == expected
