"""Each refusal is one row, which both the place that raises and the report speak from."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from oracle.record import recorded

import twisted_hangup
from twisted_hangup.parser.refusals import URL_CHARACTERS, ResponseWhy, Rule, Why
from twisted_hangup.report.rules import FAMILIES, RESPONSE_RULES, ROWS, RULES, rule_of

PACKAGE: Final = Path(twisted_hangup.__file__).parent

TREES: Final = [ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")]

#: Codes of llhttp, Node and ours, and names of the operating system's.
CODE: Final = re.compile(r"(?:HPE|ERR)_[A-Z0-9_]*[A-Z0-9]|E[A-Z]{3,}")


@pytest.mark.parametrize(
    "pair, rule", [*RULES.items(), *RESPONSE_RULES.items()], ids=lambda pair: " ".join(pair)
)
def test_rules_are_sentences_that_follow_a_colon(pair: tuple[str, str], rule: Rule) -> None:
    """A rule is printable ASCII, starts in lower case, has no full stop, and names a section."""
    assert rule.text.isascii()
    assert rule.text[0].islower() or rule.text.startswith(("HTTP", "CR LF"))
    assert not rule.text.endswith(".")
    named = rule.source.startswith(("RFC ", "PROXY protocol, "))
    assert named or (rule.source == "" and pair[0].startswith("E"))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_refusal_has_its_own_rule(row: Why) -> None:
    """No two refusals share code and reason, so that one would be explained like the other."""
    rule = Rule(row.rule, row.source)
    if not isinstance(row, ResponseWhy):
        assert rule_of(row.code, row.reason) == rule
    assert rule_of(row.code, row.reason, "response") == (row.of_response or rule)


def test_reasons_that_nobody_knows() -> None:
    """They are explained as the code's first reason is, else as its family."""
    known = rule_of(URL_CHARACTERS.code, URL_CHARACTERS.reason)
    assert rule_of(URL_CHARACTERS.code, "of another version") == known
    assert rule_of("HPE_STRICT", "of another version") == RULES["HPE_STRICT", ""]
    assert rule_of("HPE_NEVER_HEARD_OF", "x") == dict(FAMILIES)["HPE_"]
    assert rule_of("EOTHER", "x") is None


NODE_PAIRS: Final = sorted(
    {(case.error.code, case.error.reason) for case in recorded().cases.values() if case.error}
)


@pytest.mark.parametrize("pair", NODE_PAIRS, ids=" ".join)
def test_every_refusal_recorded_from_node_has_a_rule(pair: tuple[str, str]) -> None:
    """Whatever Node 26 was seen to say has a rule of its own."""
    assert pair in RULES or (pair[0], "") in RULES


def pairs(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Code and reason wherever both are written side by side, as arguments or in a tuple."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            values = [*node.args, *(each.value for each in node.keywords if each.arg == "code")]
        elif isinstance(node, ast.Tuple):
            values = node.elts
        else:
            continue
        words = [
            value.value
            for value in values
            if isinstance(value, ast.Constant) and isinstance(value.value, str)
        ]
        codes = [word for word in words if CODE.fullmatch(word)]
        reasons = [word for word in words if word not in codes]
        if codes and reasons:
            yield codes[0], reasons[0]


def test_a_pair_is_written_once() -> None:
    """Code and reason of an error are in one place, from which all others take them."""
    written = Counter(pair for tree in TREES for pair in pairs(tree))
    assert {row[:2] for row in ROWS} <= {*written}
    assert [pair for pair, count in written.items() if count > 1] == []


def test_a_reason_is_written_once() -> None:
    """Nor is the reason of a row written anywhere else, with its code or without."""
    written = Counter(
        node.value
        for tree in TREES
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    reasons = Counter(row.reason for row in ROWS)
    assert {reason: written[reason] for reason in reasons} == reasons
