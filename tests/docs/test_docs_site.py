"""The site of docs/ can be built, loads nothing from afar, and shows the whole API."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

import pytest

import twisted_hangup

ROOT: Final = Path(__file__).parents[2]
API: Final = {path: path.read_text() for path in sorted((ROOT / "docs" / "api").glob("*.md"))}
ENTRIES: Final = [name for text in API.values() for name in re.findall(r"^::: (\S+)", text, re.M)]

#: Submodules that users import from.
SUBMODULES: Final = ["journal", "metrics", "outbox", "parser", "status", "testing"]

needs_mkdocs = pytest.mark.skipif(not find_spec("mkdocstrings"), reason="no mkdocstrings")


def exported(module: str) -> set[str]:
    """What a package's ``__init__`` exports, or the classes and functions of a module."""
    names = vars(import_module(f"twisted_hangup.{module}"))
    path = ROOT / "twisted_hangup" / module / "__init__.py"
    if path.exists():
        return {*re.findall(r"^from .* import \w+ as (\w+)$", path.read_text(), re.M)}
    return {
        name
        for name, value in names.items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == f"twisted_hangup.{module}"
    }


def public_names() -> set[str]:
    """Every public name, with the module that users import it from."""
    names = {f"twisted_hangup.{name}" for name in twisted_hangup.__all__}
    for module in SUBMODULES:
        own = exported(module) - {*twisted_hangup.__all__}
        names |= {f"twisted_hangup.{module}.{name}" for name in own}
    return names


def test_every_public_name_has_an_entry() -> None:
    """The pages in docs/api leave out no name that users may import."""
    assert not public_names() - {*ENTRIES}


@pytest.mark.parametrize("name, times", sorted(Counter(ENTRIES).items()))
def test_entries_are_names(name: str, times: int) -> None:
    """Each entry is of something that there is, and is not private; no other is the same."""
    resolve_name(name)
    assert times == 1
    assert not re.search(r"\._", name)


PROGRAMS: Final = [
    program
    for text in API.values()
    for program in re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_the_api(program: str) -> None:
    """The programs at the top of the pages run; without ``reactor.run()`` they end."""
    program = program.replace("tcp:8000", "tcp:0:interface=127.0.0.1")
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the site is, as one command makes it."""
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return directory


@needs_mkdocs
def test_nothing_is_loaded_from_afar(site: Path) -> None:
    """Pages and style sheets name no other host as a source."""
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src=|<link[^>]*href=)"(?:https?:)?//[^"]*', page.read_text())
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", sheet.read_text())


@needs_mkdocs
def test_version_in_the_header(site: Path) -> None:
    """Whoever reads a page sees which version it is of."""
    assert f"twisted_hangup {twisted_hangup.__version__}" in (site / "index.html").read_text()


@needs_mkdocs
def test_entries_on_the_site(site: Path) -> None:
    """Every entry has an anchor, no private name has one, and no reStructuredText is left."""
    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    anchors = {*re.findall(r'id="(twisted_hangup\.[\w.]+)"', text)}
    assert {*ENTRIES} <= anchors
    assert not [anchor for anchor in anchors if re.search(r"\._", anchor)]
    prose = re.sub(r"<(code|pre)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.findall(r".*(?:::$|::<|`).*", prose, re.M)


@needs_mkdocs
def test_pages_of_other_files(site: Path) -> None:
    """The links of files at the top of the repository lead to the site's pages."""
    security = (site / "security.html").read_text()
    assert 'href="limits.html"' in security and 'href="docs/' not in security
