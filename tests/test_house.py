"""The architecture as a test: the rooms of the house, and who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from support.wire import PATIENCE

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = "twisted_hangup"
PLUGIN: Final = ROOT / "twisted" / "plugins" / "twisted_hangup_plugin.py"

#: From the top; a room imports only from the lines below its own.
ROOMS: Final = [
    "_worker",
    "service __main__ __init__",
    "commands metrics testing",
    "proxy outbox status",
    "client server wsgi async_resource",
    "transport journal cancel",
    "report",
    "parser",
    "errors",
    "events limits _defer",
    "_arguments",
]
LINE: Final = {room: line for line, rooms in enumerate(ROOMS) for room in rooms.split()}

#: What judges by tables alone, and knows no reactor, no transport and no Deferred.
NO_TWISTED: Final = [
    *("_arguments", "errors", "events", "limits", "parser", "report"),
    *("server.http2.head", "server.http2.frames", "proxy.forwarding", "proxy.upstream"),
]

#: All that the outbox knows of the house, which it may leave one day.
OUTBOX_KNOWS: Final = {"_arguments", "client", "errors", "limits", "report.text"}

MODULES: Final = {
    ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}


@cache
def nodes(module: str) -> list[ast.AST]:
    """The syntax tree of *module*, flat."""
    return [*ast.walk(ast.parse(MODULES[module].read_text()))]


def imports(module: str) -> set[str]:
    """Dotted names of all modules that *module* imports, also inside functions.

    Imports under ``if TYPE_CHECKING`` count: a reader has to open those modules too.
    """
    package = [PACKAGE, *MODULES[module].relative_to(ROOT / PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in nodes(module):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:  # ``from .parser import body`` names a module, too
                dotted = f"{start}.{alias.name}"
                found.add(dotted if dotted.removeprefix(f"{PACKAGE}.") in MODULES else start)
    return found


def own(module: str) -> set[str]:
    """Which of our modules *module* imports; a package is its ``__init__``."""
    names = {dotted.removeprefix(f"{PACKAGE}.") for dotted in imports(module)}
    found = {name if name in MODULES else f"{name}.__init__" for name in names} & {*MODULES}
    return found - {module}


def room(module: str) -> str:
    return module.split(".")[0]


def test_imports_go_downward() -> None:
    """A room knows what stands on the lines below its own, and nothing beside or above it."""
    wrong = [
        f"{module} imports {other}"
        for module in MODULES
        for other in own(module)
        if room(other) != room(module) and LINE[room(other)] <= LINE[room(module)]
    ]
    assert not wrong


def test_there_is_an_order_to_read_in() -> None:
    """No module needs, by whatever way, one that needs it."""
    unread = {module: own(module) for module in MODULES}
    while unread:
        readable = {module for module, before in unread.items() if not before & {*unread}}
        assert readable, f"a cycle among {sorted(unread)}"
        for module in readable:
            del unread[module]


def test_judges_know_no_twisted() -> None:
    """Words and the judging of bytes need no reactor, no transport and no Deferred."""
    judges = [m for m in MODULES if f"{m}.".startswith(tuple(f"{room}." for room in NO_TWISTED))]
    assert len(judges) > len(NO_TWISTED)
    assert not [m for m in judges if any(name.split(".")[0] == "twisted" for name in imports(m))]


def test_outbox_may_leave() -> None:
    """The queue needs a client, an error, a few numbers and a line of text, and no other room."""
    known = {other for module in MODULES if room(module) == "outbox" for other in own(module)}
    assert not {m for m in known if not {m, room(m)} & {"outbox", *OUTBOX_KNOWS}}


def test_folders_are_read_at_a_glance() -> None:
    """None is long, and below the top no file is private by its name."""
    inside = [path for path in (ROOT / PACKAGE).rglob("*") if "__pycache__" not in path.parts]
    sizes = Counter(path.parent for path in inside if path.name != "py.typed")
    assert sizes.pop(ROOT / PACKAGE) <= 24
    assert not [folder for folder, size in sizes.items() if size > 18]
    assert not [module for module in MODULES if re.search(r"\._(?!_)", module)]
    assert len([*(ROOT / "tests").glob("test_*.py")]) <= 16


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name, without what stands in brackets after it."""
    return ast.unparse(node).partition("[")[0].rpartition(".")[2]


def test_no_class_is_cut_in_two() -> None:
    """A class with one heir, in another file, is of use without it: called, or exported."""
    home, heirs, used = {}, defaultdict(list), set()
    for module in MODULES:
        for node in nodes(module):
            if isinstance(node, ast.ClassDef):
                home[node.name] = module
                for base in node.bases:
                    heirs[last_name(base)].append(module)
            elif isinstance(node, ast.Call):
                used.add(last_name(node.func))
            elif isinstance(node, ast.ImportFrom) and module.endswith("__init__"):
                used.update(alias.name for alias in node.names)
    assert not [
        base
        for base, [module, *others] in heirs.items()
        if not others and home.get(base, module) != module and base not in used
    ]


def test_no_method_waits_for_an_heir() -> None:
    """What a class does is written in it."""
    assert not [m for m, path in MODULES.items() if "NotImplementedError" in path.read_text()]


@pytest.mark.parametrize("module", ["", ".service"])
def test_import_installs_no_reactor(module: str) -> None:
    """Whoever imports the package may still choose a reactor."""
    program = f"import sys, {PACKAGE}{module}; sys.exit('twisted.internet.reactor' in sys.modules)"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT, timeout=PATIENCE).returncode == 0


def test_plugin_imports_nothing_of_ours() -> None:
    """``twistd --help`` runs every plugin file: ours must cost nothing and never fail."""
    code = ast.parse(PLUGIN.read_text())
    found = [node for node in ast.walk(code) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in found] == [
        "from twisted.application.service import ServiceMaker"
    ]


def test_page_of_the_architecture() -> None:
    """What it says of the rooms is what holds, and every path on it leads somewhere."""
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert "".join(f"    {line}\n" for line in ROOMS) in page
    paths = re.findall(r"`([\w./]+(?:/|\.py|\.js|\.md))`", page)
    assert len(paths) > 50
    assert not [p for p in paths if not ((ROOT / PACKAGE / p).exists() or (ROOT / p).exists())]


def test_twisted_stays_twisteds_package() -> None:
    """An ``__init__.py`` of ours would hide the real Twisted, or overwrite its own."""
    assert not [*(ROOT / "twisted").rglob("__init__.py")]
