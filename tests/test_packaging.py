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
from importlib.metadata import version
from pathlib import Path

import pytest

import twisted_hangup

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "dist", "tests")

PLUGIN = "twisted/plugins/twisted_hangup_plugin.py"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist, built where twistd has been run."""
    tree = tmp_path_factory.mktemp("build") / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCE)
    shutil.copy(ROOT / ".gitignore", tree)
    (tree / "twisted" / "plugins" / "dropin.cache").write_bytes(b"stale")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "../archives", "."]
    subprocess.run(build, cwd=tree, check=True, capture_output=True)
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


def test_version() -> None:
    """The package's is that of its distribution."""
    assert twisted_hangup.__version__ == version("twisted_hangup")
