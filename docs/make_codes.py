"""docs/codes.md, made of the tables that the server itself speaks from.

python docs/make_codes.py > docs/codes.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from twisted_hangup.errors import DEFAULT_STATUS, TARGET_TOO_LONG
from twisted_hangup.parser.refusals import Rule
from twisted_hangup.report.lookalikes import LOOKALIKES, Lookalike
from twisted_hangup.report.remedies import REASONS, REMEDIES, Remedy
from twisted_hangup.report.rules import FAMILIES, RESPONSE_RULES, RULES

_HEAD: Final = """\
# What each code means

Every error has a code that never changes: it is in the log, in `--error-log`, in
`ClientError.code`, and at the top of a report. Codes that begin with `HPE_` are those of llhttp,
the parser in Node, those of three or more letters and no underscore are the operating system's.
Here is each of them, with the rule that was broken, what usually is the cause, and what to do.

The same is told on the command line, also for the bytes themselves:

    python -m twisted_hangup explain --code HPE_INVALID_HEADER_TOKEN
    python -m twisted_hangup explain packet.bin

An HTTP status in the head of an entry is the default answer; a handler can give another one
([errors.md](errors.md)). Where the reasons of a code differ in the rule, each rule has its line;
the line without a reason is for all others. So it is with causes and cures. Where the bytes look
like something, that has the last word: [its entry](#what-it-looks-like) is named in the report.

This page is made of the tables in the source, by `python docs/make_codes.py`.
"""

#: Where a table ends and these begin, a chapter of the page does, too.
_CHAPTERS: Final = {
    "HPE_INVALID_METHOD": "In the request line",
    "HPE_UNEXPECTED_SPACE": "In the fields",
    "HPE_INVALID_CHUNK_SIZE": "In the body",
    "ERR_HTTP_REQUEST_TIMEOUT": "Time and network",
    "ERR_SSL_HTTP_REQUEST": "TLS",
    "ERR_HTTP2_INVALID_PSEUDOHEADER": "HTTP/2",
    "HPE_INVALID_STATUS": "Responses",
    "ERR_UPSTREAM_REFUSED": "Servers behind a proxy",
    "HPE_*": "All others",
}

_UPSTREAM_STATUS: Final = {
    "ERR_UPSTREAM_REFUSED": "502",
    "ERR_UPSTREAM_RESET": "502",
    "ERR_UPSTREAM_RESPONSE": "502",
    "ERR_UPSTREAM_TIMEOUT": "504",
}

#: What has no default answer of its own.
_UNANSWERED: Final = ("ERR_SSL_", "ERR_TLS_", "ERR_HTTP2_ENHANCE", "ERR_HTTP2_*")
_RESPONSES: Final = {
    "HPE_INVALID_STATUS",
    "ERR_HTTP_INVALID_UPGRADE",
    "ERR_HTTP_UNREQUESTED_RESPONSE",
    "ERR_HTTP_TOO_MANY_INTERIM_RESPONSES",
    "ERR_HTTP_INVALID_RESPONSE",
    "ERR_TLS_CERT_ALTNAME_INVALID",
}


_LOOKALIKES: Final = """
## What it looks like

Other protocols and known mistakes are recognised by their bytes. The name is `looks_like` in the
error log and in a metric; the console says it in words, and shows how it began.
"""


def page() -> str:
    """The whole page."""
    codes = "".join(_entry(name) for name in REMEDIES)
    return _HEAD + codes + _LOOKALIKES + "".join(map(_lookalike, LOOKALIKES.values()))


def _lookalike(lookalike: Lookalike) -> str:
    words = f"Looks like {_markdown(lookalike.words)}."
    return f"\n### {lookalike.name}\n\n{words}\n{_paragraphs(lookalike.remedy)}"


def _entry(name: str) -> str:
    remedy = REMEDIES[name]
    lines = [f"\n## {_CHAPTERS[name]}\n"] if name in _CHAPTERS else []
    lines += [f"\n### {_markdown(name)}\n", f"\n{_answer(name)}\n\n"]
    lines += _rules(name)
    lines += [_paragraphs(remedy), *_exceptions(name)]
    return "".join(lines)


def _exceptions(name: str) -> Iterator[str]:
    """Causes and cures of the reasons that have others than their code."""
    reasons: dict[Remedy, list[str]] = {}
    for (code, reason), remedy in REASONS.items():
        if code == name:
            reasons.setdefault(remedy, []).append(f'"{_markdown(reason)}"')
    for remedy, quoted in reasons.items():
        yield f"\nFor {', '.join(quoted)}:\n{_paragraphs(remedy)}"


def _paragraphs(remedy: Remedy) -> str:
    cause, cure = map(_markdown, remedy)
    return f"\n**Cause.** {cause}\n\n**Cure.** {cure}\n"


def _answer(name: str) -> str:
    if name in _UPSTREAM_STATUS:
        return f"The client is answered {_UPSTREAM_STATUS[name]}."
    if name == "ERR_SSL_HTTP_REQUEST":
        return "Answered 400, in plain text."
    if name == "HPE_INVALID_EOF_STATE":
        return (
            "Answered 400; over TLS not answered, where the end of input is that of the connection."
        )
    if name == "HPE_CLOSED_CONNECTION":
        return "Never raised here."
    if name in _RESPONSES:
        return "About a server's response; a proxy answers its client 502."
    if name == "HPE_HEADER_OVERFLOW":
        return f"Answered {DEFAULT_STATUS[name]}; {TARGET_TOO_LONG} where the target is too long."
    if name == "ERR_HTTP_REQUEST_TIMEOUT":
        return f"Answered {DEFAULT_STATUS[name]}, unless nothing had come but empty lines."
    if name in DEFAULT_STATUS:
        return f"Answered {DEFAULT_STATUS[name]}."
    if name.startswith(_UNANSWERED) or not name.startswith(("HPE_", "ERR_")):
        return "Not answered."
    return "Answered 400."


def _rules(name: str) -> Iterator[str]:
    """A line for each rule that a reason has, and one for all other reasons."""
    others = dict(FAMILIES).get(name.removesuffix("*")) or RULES.get((name, ""))
    if others is not None:
        yield f"- {_sentence(others)}\n"
    yield from _lines(name, RULES, others, "")
    yield from _lines(name, RESPONSE_RULES, None, " of a response")


def _lines(
    name: str, rules: Mapping[tuple[str, str], Rule], others: Rule | None, kind: str
) -> Iterator[str]:
    """A line for each rule but *others*, with its reasons."""
    reasons: dict[Rule, list[str]] = {}
    for (code, reason), rule in sorted(rules.items()):
        if code == name and rule != others:
            reasons.setdefault(rule, []).append(f'"{_markdown(reason)}"')
    for rule, quoted in reasons.items():
        yield f"- {', '.join(quoted)}{kind}: {_sentence(rule)}\n"


def _sentence(rule: Rule) -> str:
    source = f" {rule.source}." if rule.source else ""
    text = _markdown(rule.text)
    return f"{text[:1].upper()}{text[1:]}.{source}"


def _markdown(text: str) -> str:
    """*text* so that Markdown shows it as it is, with links where a page is named."""
    text = re.sub(r"([\\`*<>\[\]#|~^])", r"\\\1", text)
    return re.sub(r"docs/([a-z]+\.md)", r"[docs/\1](\1)", text)


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201  # it is a command
