"""What mkdocs.yml cannot say: the version, the repository, and pages that are made in the build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import command_line
from docstrings import ENTRY
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from twisted_hangup import __version__

ROOT: Final = Path(__file__).parent.parent

#: Page -> the file at the top of the repository that it shows.
TOP_FILES: Final = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}

#: Page -> its weight in a search: a word of Node's means Node's page, the changelog comes last.
WEIGHTS: Final = {"from-node.md": 4.0, "architecture.md": 0.3, "changelog.md": 0.3}

_API_HEAD: Final = """\
# The API

Every public name, by the page that describes it. Most come from `twisted_hangup`; each page says
where its names come from. `help(twisted_hangup)` lists them with a line each.

| page | names |
|---|---|
"""

#: A link to a file, in a file at the top of the repository.
_LINK: Final = re.compile(r"(?<=\]\()([^()\s#:]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the version in the header, and link to the repository."""
    config.site_name = f"{config.site_name} {__version__}"
    project = (ROOT / "pyproject.toml").read_text()
    [config.repo_url] = re.findall(r'^Source = "(.*)"$', project, re.M)  # 3.10 has no tomllib
    config.repo_name = "Source"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of something else."""
    pages = {page: page_of(name, config) for page, name in TOP_FILES.items()}
    pages |= {"api/index.md": api_page(), "command-line.md": command_line.page()}
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def api_page() -> str:
    """The page with all names of the API, as links to their entries."""
    rows = []
    for page in sorted((ROOT / "docs" / "api").glob("*.md")):
        text = page.read_text()
        title = text.partition("\n")[0].removeprefix("# ")
        links = [f"[`{path.rpartition('.')[2]}`][{path}]" for path in ENTRY.findall(text)]
        rows.append(f"| [{title}]({page.name}) | {', '.join(links)} |\n")
    return _API_HEAD + "".join(rows)


def page_of(name: str, config: MkDocsConfig) -> str:
    """The text of a file at the top, with links that lead to the same places from the site."""
    return _LINK.sub(lambda link: _on_site(link[1], config), (ROOT / name).read_text())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Weigh *page*, and let links that leave docs/ in the repository lead to the same places."""
    if page.file.src_uri in TOP_FILES:
        page.edit_url = f"{config.repo_url}/edit/main/{TOP_FILES[page.file.src_uri]}"
    page.meta["search"] = {"boost": WEIGHTS.get(page.file.src_uri, 1.0)}
    up = "../" * page.file.src_uri.count("/")
    outward = rf"(?<=\]\(){re.escape(up)}\.\./(?!\.\./)([^()\s#:]+)"
    return re.sub(outward, lambda link: _on_site(link[1], config, up), markdown)


def _on_site(path: str, config: MkDocsConfig, up: str = "") -> str:
    """The link to *path*, as seen from the top of the repository; *up* leads to the site's top."""
    pages = {name: page for page, name in TOP_FILES.items()}
    if path in pages or path.startswith("docs/"):
        return up + pages.get(path, path.removeprefix("docs/"))
    return f"{config.repo_url}/blob/main/{path}"
