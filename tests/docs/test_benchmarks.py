"""What `python -m benchmarks` makes of its measurements; speed itself is not tested here."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from support.wire import PATIENCE

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a script of the folder; they import each other by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = {*sys.modules}
    yield lambda name: import_module(name)
    for name in {*sys.modules} - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture
def runner(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return load("benchmarks.__main__")


def row(load: Any, name: str, stock: float, ours: float) -> Any:
    return load("measure").Row(name, "us", {"stock": [stock] * 3, "hangup": [ours] * 3})


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def test_every_script_is_listed() -> None:
    """Each is a part of the comparison, or runs by its name, and nothing is lost."""
    command = [sys.executable, "-m", "benchmarks", "--list"]
    listed = run(*command)
    names = {line.split()[0] for line in listed.stdout.splitlines() if line.startswith("  ")}
    shared = {"__main__", "flood", "measure", "servers"}
    assert names == {path.stem for path in FOLDER.glob("*.py")} - shared


def test_a_script_runs_by_its_name() -> None:
    """It gets what follows, and its exit status is the command's."""
    command = [sys.executable, "-m", "benchmarks", "curves", "--help"]
    helped = run(*command)
    assert helped.returncode == 0 and "curves.py" in helped.stdout


def test_ratios_are_of_the_same_round(load: Any) -> None:
    """A round in which the machine was busy is busy for all."""
    measured = load("measure").Row("x", "us", {"stock": [20.0, 60.0], "hangup": [10.0, 30.0]})
    assert measured.ratios("stock") == [2.0, 2.0]


def test_floors(load: Any) -> None:
    """A load without one is never missed; a share of it is for a busy machine."""
    floor = load("measure").FLOORS["minimal GET"]
    assert row(load, "minimal GET", floor - 0.1, 1).missed()
    assert not row(load, "minimal GET", floor - 0.1, 1).missed(0.8)
    assert not row(load, "minimal GET", floor + 0.1, 1).missed()
    assert not row(load, "something else", 0.1, 1).missed()


def test_every_checked_load_has_a_floor(load: Any, runner: Any) -> None:
    """What is checked is compared with something."""
    floors = load("measure").FLOORS
    checked = [name for names in runner.CHECKED.values() for name in names]
    assert not [name for name in checked if not any(name in floor for floor in floors)]
    assert {*runner.CHECKED} <= {*runner.COMPARISONS}


@pytest.mark.parametrize(("second", "fails"), [(3.0, False), (1.0, True)])
def test_a_miss_is_measured_once_more(
    load: Any, runner: Any, monkeypatch: pytest.MonkeyPatch, second: float, fails: bool
) -> None:
    """Only what misses its floor twice fails the check."""
    figures = iter([1.0, second])
    module = SimpleNamespace(rows=lambda _: [row(load, "minimal GET", next(figures), 1)])
    monkeypatch.setattr(runner, "CHECKED", {"compare": ["minimal GET"]})
    monkeypatch.setattr(runner, "NEEDED", ())
    monkeypatch.setattr(runner, "import_module", lambda _: module)
    if fails:
        with pytest.raises(SystemExit, match="minimal GET"):
            runner.check()
    else:
        runner.check()
    assert next(figures, None) is None


def test_the_check_skips_without_its_tools(
    runner: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so in a line."""
    monkeypatch.setattr(runner, "NEEDED", ("no-such-program",))
    runner.check()
    assert capsys.readouterr().out == "skipped: no no-such-program here\n"


def test_results_say_what_is_not_in_them(
    load: Any, runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is not here, a comparison that broke off, and scripts that are no part of it."""
    monkeypatch.setattr(runner, "installed_peers", lambda: ["nginx"])
    measured = runner.Outcome("compare", [row(load, "minimal GET", 3, 1)], "no wrk here")
    text = runner.page([measured], 8, 0.0, (0.5, 0.5, 0.5))
    assert "- uvicorn: not installed\n" in text
    assert "- compare: no wrk here\n" in text
    assert "- proxy: not asked for\n" in text
    assert "`leaks`" in text
    assert "| minimal GET | stock | 3 (3-3) us | 3.00 (3.00-3.00) |" in text


def test_the_table_of_the_page(
    load: Any, runner: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The results go into the first table of docs/speed.md, and nothing else there changes."""
    page = tmp_path / "speed.md"
    page.write_text("# Speed\n\n| old |\n|---|\n| 1 |\n\nText.\n\n| other |\n")
    monkeypatch.setattr(runner, "SPEED", page)
    runner.write_table([runner.Outcome("compare", [row(load, "minimal GET", 3, 1)])])
    before, table, after = page.read_text().partition(
        "| load | ours | stock | aimed at |\n| --- | --- | --- | --- |\n"
        "| minimal GET | 1 us | 3.00 | 2.2 |\n"
    )
    assert table and before == "# Speed\n\n" and after == "\nText.\n\n| other |\n"


def test_curves_are_drawn(load: Any) -> None:
    """The picture is SVG, with a line for each server and a dot for each point."""
    curves = load("curves")
    rows = [row(load, f"{point}", 2.0 * point, point) for point in (1, 2, 4)]
    curve = curves.Curve("Handlers & more", "handlers", [1, 2, 4], rows)
    picture = ET.fromstring(curves.picture([curve]))
    space = "{http://www.w3.org/2000/svg}"
    assert len([*picture.iter(f"{space}polyline")]) == 2
    assert len([*picture.iter(f"{space}circle")]) == 6
    assert curve.growth() == 1.0
