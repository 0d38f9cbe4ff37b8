"""The architecture as a test: who may import whom, and how long a module may get."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = "twisted_hangup"
PLUGIN: Final = ROOT / "twisted" / "plugins" / "twisted_hangup_plugin.py"
MOST_LINES: Final = 450

#: A module imports from lower floors, and from its own without a cycle.  The first two
#: floors know no Twisted.
FLOORS: Final = [
    # words, standard library only
    {
        *{"errors", "events", "limits", "report", "_grammar", "_masking", "_rules", "_text"},
        *{"_response_rules", "_remedies"},
    },
    # judging bytes: no I/O, no clock, no Twisted
    {
        *{"parser", "_body", "_request_line", "_target", "_fields", "_head_end", "_blocks"},
        *{"response_parser", "_reads", "_status_line", "_response_head", "_response_scan"},
        *{"_response_refusals"},
        *{
            "_scan",
            "_facts",
            "_refusals",
            "_h2_frames",
            "_h2_rules",
            "_proxy_header",
            "_forwarding",
            "_upstream",
        },
    },
    # Twisted adapters
    {
        *{"client_socket", "errbacks", "deadlines", "journal", "hangups", "request"},
        *{
            "_headers",
            "_addresses",
            "_backlog",
            "_cork",
            "_paused",
            "_stalled",
            "_flood",
            "_whole_lines",
            "_seldom",
            "_handler_log",
            "_open_files",
            "_errno",
            "_layers",
            "_quiet",
            "_watchers",
            "_rates",
            "_top",
        },
    },
    # the server
    {
        *{
            "channel",
            "http2",
            "_h2_requests",
            "_h2_sending",
            "_h2_stream",
            "tls",
            "endpoint",
            "site",
            "_loss",
            "_message_clock",
            "_driver",
        },
        *{"_preamble", "_proxy_protocol"},
    },
    # applications of the above
    {
        *{"cancel", "agent", "outbox", "proxy", "metrics", "status", "console", "error_log"},
        *{"_metrics_outbox"},
        *{"_access_log", "_accept", "_static", "_welcome", "_plain_page"},
        *{"_outbound", "_outbound_body", "_outbound_pool", "_tunnel"},
        *{"_hangup_agent", "_retry_agent", "_client_response", "_hang_ups"},
        *{"async_resource", "wsgi"},
        *{"_outbox_claim", "_outbox_database", "_outbox_delivery", "_outbox_manage"},
        *{"_outbox_policy", "_outbox_request", "_outbox_sql", "_outbox_store", "_outbox_writer"},
        *{"_explain", "_explanation", "_picture"},
    },
    # wiring
    {
        *{"service", "__main__", "testing", "__init__"},
        *{"_options", "_ports", "_content", "_serving", "_command_line"},
        *{"_outbox_command", "_coerce", "_status_service"},
    },
]
FLOOR: Final = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}

MODULES: Final = sorted((ROOT / PACKAGE).rglob("*.py"))


def name(path: Path) -> str:
    """The module that *path* belongs to; a subpackage counts as one module."""
    return path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that *path* imports, also inside functions.

    Imports under ``if TYPE_CHECKING`` count: a reader has to open those modules too.
    """
    package = [PACKAGE, *path.relative_to(ROOT / PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            # ``from .site import X`` names a module; ``from . import site`` its package.
            found.update(
                [start] if node.module else [f"{start}.{alias.name}" for alias in node.names]
            )
    return found


def own(path: Path) -> set[str]:
    """Which of our modules *path* imports; the package itself is ``__init__``."""
    return {
        [*dotted.split("."), "__init__"][1]
        for dotted in imports(path)
        if dotted.split(".")[0] == PACKAGE
    } - {name(path)}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_has_a_floor(path: Path) -> None:
    """A module that stands on no floor has no place in the house."""
    assert name(path) in FLOOR


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_downward(path: Path) -> None:
    """A module knows the floors below it and its neighbours, and nothing above."""
    above = {other for other in own(path) if FLOOR[other] > FLOOR[name(path)]}
    assert not above


def test_neighbours_import_each_other_without_a_cycle() -> None:
    """On one floor there is an order in which the modules can be read."""
    neighbours: dict[str, set[str]] = {}
    for path in MODULES:
        module = name(path)
        same = {other for other in own(path) if FLOOR[other] == FLOOR[module]}
        neighbours.setdefault(module, set()).update(same)
    while neighbours:
        readable = {module for module, before in neighbours.items() if not before & {*neighbours}}
        assert readable, f"a cycle among {sorted(neighbours)}"
        for module in readable:
            del neighbours[module]


@pytest.mark.parametrize(
    "path", [path for path in MODULES if FLOOR.get(name(path), 0) < 2], ids=name
)
def test_low_floors_know_no_twisted(path: Path) -> None:
    """Words and the judging of bytes need no reactor, no transport and no Deferred."""
    assert not {dotted for dotted in imports(path) if dotted.split(".")[0] == "twisted"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_about_one_thing(path: Path) -> None:
    """Past this length a file has a second subject."""
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("module", ["", ".service"])
def test_import_installs_no_reactor(module: str) -> None:
    """Whoever imports the package may still choose a reactor."""
    program = f"import sys, {PACKAGE}{module}; sys.exit('twisted.internet.reactor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_plugin_imports_nothing_of_ours() -> None:
    """``twistd --help`` runs every plugin file: ours must cost nothing and never fail."""
    code = ast.parse(PLUGIN.read_text())
    found = [node for node in ast.walk(code) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in found] == [
        "from twisted.application.service import ServiceMaker"
    ]


def test_twisted_stays_twisteds_package() -> None:
    """An ``__init__.py`` of ours would hide the real Twisted, or overwrite its own."""
    assert not [*(ROOT / "twisted").rglob("__init__.py")]
