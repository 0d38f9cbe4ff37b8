"""Docstrings as the API pages show them: as Markdown, with links where they name a public name.

The pages in docs/api decide what is public: whatever has an entry there can be linked to.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import takewhile
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import griffe

PAGES: Final = Path(__file__).parent / "api"

#: What makes an entry on a page of docs/api.
ENTRY: Final = re.compile(r"^::: (\S+)", re.M)
#: A name in single backticks; double ones hold what is no name.
_NAME: Final = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")
#: An example: a paragraph that ends with two colons, and the lines that are indented after it.
_EXAMPLE: Final = re.compile(r"^(.*?) ?::\n\n((?: {4}.*\n|\n)* {4}.*)", re.M)


@cache
def entries() -> dict[str, str]:
    """Each name that has an entry on a page, without its modules -> with them."""
    paths = [
        path for page in sorted(PAGES.glob("*.md")) for path in ENTRY.findall(page.read_text())
    ]
    return {path.rpartition(".")[2]: path for path in paths}


class Docstrings(griffe.Extension):
    """Makes Markdown of docstrings, and docstrings of comments that begin with ``#:``."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if attr.docstring is None and (comment := _comment_above(attr)):
            attr.docstring = griffe.Docstring(comment, parent=attr)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for module in (pkg, *_submodules(pkg)):
            for thing in module.members.values():
                _translate(thing)


def _comment_above(attribute: griffe.Attribute) -> str:
    """The ``#:`` comment above *attribute*, or nothing."""
    if attribute.lineno is None or not isinstance(attribute.filepath, Path):
        return ""
    above = reversed(attribute.lines_collection[attribute.filepath][: attribute.lineno - 1])
    lines = takewhile(lambda line: line.lstrip().startswith("#:"), above)
    return "\n".join(line.lstrip().removeprefix("#:").strip() for line in [*lines][::-1])


def _submodules(module: griffe.Module) -> list[griffe.Module]:
    return [
        inner
        for member in module.members.values()
        if isinstance(member, griffe.Module)
        for inner in (member, *_submodules(member))
    ]


def _translate(thing: griffe.Object | griffe.Alias) -> None:
    """Make Markdown of the docstrings of *thing* and its members."""
    if isinstance(thing, griffe.Alias | griffe.Module):
        return
    if thing.docstring is not None:
        text = _EXAMPLE.sub(_fenced, thing.docstring.value)
        thing.docstring.value = _NAME.sub(lambda name: _reference(name, thing), text)
    if isinstance(thing, griffe.Class):
        for member in thing.members.values():
            _translate(member)


def _fenced(example: re.Match[str]) -> str:
    """*example* as Markdown writes one in Python."""
    words = f"{example[1]}:\n\n" if example[1] else ""
    return f"{words}```python\n{dedent(example[2])}\n```"


def _reference(name: re.Match[str], thing: griffe.Object) -> str:
    """A link to the entry of *name*, as *thing* says it; just code where there is none."""
    first, _, rest = name[1].partition(".")
    owner = thing if isinstance(thing, griffe.Class) else thing.parent
    if path := entries().get(first):
        member = thing.modules_collection[path].members.get(rest)
        target = f"{path}.{rest}" if member and member.docstring else path
    elif isinstance(owner, griffe.Class) and first in owner.members:
        target = f"{owner.path}.{first}"
    else:
        return f"`{name[1]}`"
    # Pages choose among the members of a class: to those that they leave out there is no link.
    return f'<autoref identifier="{target}" optional><code>{name[1]}</code></autoref>'
