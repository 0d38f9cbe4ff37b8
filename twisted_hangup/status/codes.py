"""The page that says what each code means; the live page links to its entries."""

from __future__ import annotations

from html import escape

from ..report.remedies import REASONS, REMEDIES, Remedy, link_of
from .page import Document, document


def codes_page() -> Document:
    """An entry for each code: its usual causes, and what to do."""
    page = document("codes")
    entries = "\n".join(map(_entry, REMEDIES)).encode()
    return page._replace(html=page.html.replace(b"<!-- codes -->", entries))


def anchor_of(code: str) -> str | None:
    """The name of the entry for *code*; None where there is none."""
    return (link_of(code) or "").partition("#")[2] or None


def _entry(code: str) -> str:
    reasons: dict[Remedy, list[str]] = {}
    for (of, reason), remedy in REASONS.items():
        if of == code:
            reasons.setdefault(remedy, []).append(f"“{escape(reason)}”")
    others = [
        f"<p>For {', '.join(quoted)}:</p>\n{_remedy(remedy)}" for remedy, quoted in reasons.items()
    ]
    heading = f'<h2 id="{anchor_of(code)}">{escape(code)}</h2>'
    return "\n".join(["<section>", heading, _remedy(REMEDIES[code]), *others, "</section>"])


def _remedy(remedy: Remedy) -> str:
    cause, cure = map(escape, remedy)
    return f"<p><b>Usual cause</b> {cause}</p>\n<p><b>What to do</b> {cure}</p>"
