"""What is shipped: everything that is needed, and nothing that would hurt."""

from __future__ import annotations

import ast
import pydoc
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pytest
from support.wire import PATIENCE

import twisted_hangup

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", ".*cache", ".hypothesis", "__pycache__")

PLUGIN = "twisted/plugins/twisted_hangup_plugin.py"

#: What may stand at the top of an sdist; hatchling adds the first three.
TOP = {
    *("PKG-INFO", "pyproject.toml", ".gitignore"),
    *("LICENSE", "README.md", "CHANGELOG.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"),
    *(".ci", ".github", "bootstrap.py", "mkdocs.yml"),
    *("benchmarks", "docs", "examples", "newsfragments", "tests", "twisted", "twisted_hangup"),
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built in a tree that somebody works in."""
    tree = tmp_path_factory.mktemp("build") / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCE)
    shutil.copy(ROOT / ".gitignore", tree)
    (tree / "twisted" / "plugins" / "dropin.cache").write_bytes(b"stale")
    for stray in ("notes.txt", "twistd.log", "tests/__pycache__/conftest.pyc"):
        (tree / stray).parent.mkdir(exist_ok=True)
        (tree / stray).write_text("not for others")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "../archives", "."]
    subprocess.run(build, cwd=tree, check=True, capture_output=True, timeout=2 * PATIENCE)
    return tree.parent / "archives"


def names(archives: Path, kind: str) -> set[str]:
    """Paths in the archive, without the folder that an sdist has around them."""
    if kind == "wheel":
        [wheel] = archives.glob("*.whl")
        return set(zipfile.ZipFile(wheel).namelist())
    [sdist] = archives.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_contents(archives: Path, kind: str) -> None:
    """Both hold the plugin, the package and its types, and no cache of the builder's."""
    found = names(archives, kind)
    assert {PLUGIN, "twisted_hangup/__init__.py", "twisted_hangup/py.typed"} <= found
    assert not [name for name in found if name.endswith("dropin.cache")]
    assert not {"twisted/__init__.py", "twisted/plugins/__init__.py"} & found


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_files_that_are_no_programs(archives: Path, kind: str) -> None:
    """What the modules read from beside them is shipped, too."""
    package = ROOT / "twisted_hangup"
    found = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.suffix in (".html", ".css", ".js")
    }
    assert "twisted_hangup/service/welcome.html" in found
    assert found <= names(archives, kind)


def test_wheel_owns_its_own_files_only(archives: Path) -> None:
    """An uninstall removes what is listed: nothing of Twisted's may be."""
    found = {name for name in names(archives, "wheel") if ".dist-info/" not in name}
    assert {name for name in found if not name.startswith("twisted_hangup/")} == {PLUGIN}


def test_licence_is_shipped(archives: Path) -> None:
    """The licence travels with the code."""
    assert [name for name in names(archives, "wheel") if name.endswith("licenses/LICENSE")]


def test_sdist_has_what_a_contributor_reads(archives: Path) -> None:
    """The pages that the README leads to and the examples travel with the source."""
    pages = {"ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"}
    programs = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    assert programs
    assert pages | programs <= names(archives, "sdist")


def test_public_names() -> None:
    """``help(twisted_hangup)`` has a line for each, and ``*`` imports them all."""
    code = ast.parse(Path(str(twisted_hangup.__file__)).read_text())
    imports = [node for node in code.body if isinstance(node, ast.ImportFrom)]
    exported = sorted(alias.name for node in imports for alias in node.names)
    assert sorted(twisted_hangup.__all__) == exported
    assert sorted(re.findall(r"^    (\w+): .+\.$", str(twisted_hangup.__doc__), re.M)) == exported
    assert all(name in pydoc.plain(pydoc.render_doc(twisted_hangup)) for name in exported)


def test_sdist_has_nothing_else(archives: Path) -> None:
    """What lies about in a tree that somebody works in is not shipped."""
    found = names(archives, "sdist") - {""}
    assert {name.partition("/")[0] for name in found} <= TOP
    assert not [name for name in found if re.search(r"\.pyc$|\.log$|__pycache__|_cache/", name)]


def metadata(archives: Path) -> Message:
    """What the index shows of the wheel."""
    [wheel] = archives.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        [name] = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(opened.read(name))


def test_metadata(archives: Path) -> None:
    """Every tool can read it, and all addresses of the project are below one."""
    shown = metadata(archives)
    assert shown["Metadata-Version"] == "2.4"
    assert shown["Version"] == twisted_hangup.__version__
    urls = dict(line.split(", ") for line in shown.get_all("Project-URL", []))
    assert {*urls} == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(urls["Homepage"]) for url in urls.values())


def test_links_of_the_readme_work_away_from_the_tree(archives: Path) -> None:
    """On an index the README has no files beside it: each link says where its file is."""
    shown = metadata(archives)
    text = str(shown.get_payload())
    links = re.findall(r"\]\(([^)]+)\)", text)
    base = dict(line.split(", ") for line in shown.get_all("Project-URL", []))["Source"]
    in_tree = re.findall(r"\]\((?!\w+:|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert in_tree
    expected = {f"{base}/blob/{twisted_hangup.__version__}/{link}" for link in in_tree}
    assert {link for link in links if link.startswith(base)} == expected
    assert all(re.match(r"https://|#", link) for link in links)


def test_version() -> None:
    """The package's is that of its distribution."""
    assert twisted_hangup.__version__ == version("twisted_hangup")


def test_the_changelog_has_this_version() -> None:
    """A release has a section, and what was news before it stands there."""
    assert f"\n## {twisted_hangup.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_every_python_of_the_metadata_is_tested() -> None:
    """What the index says we run on is what CI runs."""
    project = (ROOT / "pyproject.toml").read_text()
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    claimed = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    tested = re.findall(r'"(3\.\d+)"', workflow)
    assert sorted(tested) == sorted(claimed)
    assert f'requires-python = ">= {claimed[0]}"' in project


@pytest.mark.parametrize("workflow", [*(ROOT / ".github" / "workflows").iterdir()])
def test_actions_are_pinned(workflow: Path) -> None:
    """An action is a commit and not a tag, which its owner can move."""
    used = re.findall(r"uses: (?!\./)(\S+)", workflow.read_text())
    assert used
    assert not [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)]
