"""What mkdocs.yml cannot say: the version, the repository, and pages made of other files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from twisted_hangup import __version__

ROOT: Final = Path(__file__).parent.parent

#: Page -> the file at the top of the repository that it shows.
TOP_FILES: Final = {
    "architecture.md": "ARCHITECTURE.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}

#: A link to a file, in a file at the top of the repository.
_LINK: Final = re.compile(r"(?<=\]\()([^()\s#:]+)(?=[)#])")
#: The same on a page of docs/, to a file that is not in docs/.
_OUTWARD: Final = re.compile(r"(?<=\]\()\.\./([^()\s#:]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the version in the header."""
    config.site_name = f"{config.site_name} {__version__}"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files at the top of the repository."""
    for page, name in TOP_FILES.items():
        file = File.generated(config, page, content=page_of(name, config))
        files.append(file)
    return files


def page_of(name: str, config: MkDocsConfig) -> str:
    """The text of a file at the top, with links that lead to the same places from the site."""
    return _LINK.sub(lambda link: _on_site(link[1], config), (ROOT / name).read_text())


def on_page_markdown(markdown: str, config: MkDocsConfig, **_: object) -> str:
    """Let links that leave docs/ in the repository lead to the same places from the site."""
    return _OUTWARD.sub(lambda link: _on_site(link[1], config), markdown)


def _on_site(path: str, config: MkDocsConfig) -> str:
    """Where *path*, as seen from the top of the repository, is for a page of the site."""
    pages = {name: page for page, name in TOP_FILES.items()}
    if path in pages:
        return pages[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{config.repo_url}/blob/main/{path}"
