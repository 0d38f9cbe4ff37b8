"""The page that says what each code means; the live page links to its entries."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from ..parser.refusals import Rule
from ..report.entries import GROUPS, entry_named
from ..report.links import anchor_of
from ..report.lookalikes import LOOKALIKES
from ..report.remedies import Remedy
from .page import Document, document


def codes_page() -> Document:
    """An entry for each code and each lookalike: what it means, its usual cause, what to do."""
    page = document("codes")
    codes = "\n".join(_section(code) for group in GROUPS.values() for code in group)
    lookalikes = "\n".join(map(_lookalike, LOOKALIKES))
    html = page.html.replace(b"<!-- codes -->", codes.encode())
    return page._replace(html=html.replace(b"<!-- lookalikes -->", lookalikes.encode()))


def _section(code: str) -> str:
    one = entry_named(code)
    assert one is not None
    lines = [
        f'<section>\n<h2 id="{anchor_of(code)}">{escape(code)}</h2>',
        f"<p>{escape(_sentence(one.meaning))} The client gets {escape(one.answer)}.</p>",
        *_rule(one.rule),
        *_remedy(one.remedy),
    ]
    if one.example:
        example = escape("\n".join(one.example))
        lines.append(f'<pre tabindex="0">{example}</pre>')
    for variant in one.variants:
        reasons = ", ".join(f"“{escape(reason)}”" for reason in variant.reasons)
        whose = " of a response" if variant.about == "response" else ""
        lines += [
            f"<p>Reason{whose}: {reasons}</p>",
            *_rule(variant.rule),
            *_remedy(variant.remedy),
        ]
    return "\n".join([*lines, "</section>"])


def _lookalike(name: str) -> str:
    lookalike = LOOKALIKES[name]
    heading = (
        f'<section>\n<h2 id="{name}">{name}</h2>\n<p>It looks like {escape(lookalike.words)}.</p>'
    )
    return "\n".join([heading, *_remedy(lookalike.remedy), "</section>"])


def _rule(rule: Rule | None) -> Iterator[str]:
    if rule is not None:
        source = f" {rule.source}." if rule.source else ""
        yield f"<p>{escape(_sentence(rule.text) + source)}</p>"


def _remedy(remedy: Remedy | None) -> Iterator[str]:
    if remedy is not None:
        yield f"<p><b>Usual cause</b> {escape(remedy.cause)}</p>"
        yield f"<p><b>What to do</b> {escape(remedy.cure)}</p>"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
