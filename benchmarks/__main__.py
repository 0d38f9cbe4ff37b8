"""All benchmarks by one command.

    python -m benchmarks [NAME ...] [--quick] [--write FILE]
    python -m benchmarks --list
    python -m benchmarks --check

Without a name, it compares ours with stock Twisted and with every peer that is installed, load by
load, and writes benchmarks/RESULTS.md and the table of docs/speed.md.  With names, it runs these
and prints what comes out.  A name that is no comparison is a script that runs alone, with what
follows as its arguments.  ``--check`` asks stock and ours only, for about a minute, and exits with
1 where stock costs less than 0.8 of what is aimed at, twice.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))  # the scripts import each other by name

from measure import OURS, Options, Row, node, show, spread  # noqa: E402
from servers import PEERS, installed_peers  # noqa: E402

#: The comparison, in the order of the results; the other scripts run alone.
COMPARISONS: Final = [
    *("compare", "pipelined", "handshakes", "files", "bodies", "http2", "proxy", "idle"),
    *("cancel", "outbox"),
]

#: The page whose first table is written with the results.
SPEED: Final = FOLDER.parent / "docs" / "speed.md"

#: What has no rows and is no script.
SHARED: Final = {"__main__", "flood", "measure", "servers"}

#: Packages whose versions matter, and programs that say theirs.
PACKAGES: Final = (
    *("Twisted", "pyOpenSSL", "cryptography", "h2", "hpack", "treq", "zope.interface"),
    *("uvicorn", "httptools", "uvloop", "aiohttp", "hypercorn", "daphne", "psycopg"),
)
PROGRAMS: Final = {
    "nginx": ["nginx", "-v"],
    "wrk": ["wrk", "-v"],
    "h2load": ["h2load", "--version"],
    "curl": ["curl", "--version"],
}

#: The share of the floors that ``--check`` asks for: a busy machine moves a figure by so much.
SHARE: Final = 0.8

#: The share for loads that miss their floor: they are held where they are.
SHARES: Final = {"file of 8 MB": 0.6}

#: What ``--check`` measures, by comparison.
CHECKED: Final = {
    "compare": [""],
    "pipelined": [""],
    "handshakes": ["TLS 1.3 handshake, full"],
    "files": ["file of 8 MB"],
    "bodies": ["TCP body up, Content-Length"],
    "http2": [""],
    "proxy": ["proxy, small"],
}

#: After how many seconds the check counts as hanging, and is ended: many times what it takes.
LONGEST_CHECK: Final = 1200.0

#: What the check needs.
NEEDED: Final = ("wrk", "h2load", "openssl", "nginx", "curl")


#: How RESULTS.md begins.
INTRODUCTION: Final = """\
# Results

`python -m benchmarks` wrote this page on {day}, all of it in one run.

A number without a unit says how many times ours the other costs: above 1, ours is cheaper. Measured
is the processor time of the server's process. Three things are measured otherwise: KiB are memory,
ms alone are a delay, and the outbox's us are the time that its caller waits. All servers of a load
run at once and are asked in turn. Shown is the median of {rounds} rounds (of fewer for memory), and
in parentheses the least and the most. "Aimed at" is what the first of the others should cost at
least.

"""


class Outcome(NamedTuple):
    """What came of one comparison.

    Attributes:
        why: Why it ended before its end.
    """

    name: str
    rows: list[Row]
    why: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="three rounds, not eight")
    parser.add_argument("--write", type=Path, help="where the results go")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--check", action="store_true", help="ours beside stock, in a minute")
    given = sys.argv[1:]
    if given and given[0] in scripts() and given[0] not in COMPARISONS:
        sys.exit(subprocess.call([sys.executable, FOLDER / f"{given[0]}.py", *given[1:]]))
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in COMPARISONS]:
        parser.error(f"no comparison: {', '.join(unknown)}; --list says what there is")
    if options.list:
        show_list()
    elif options.check:
        check()
    else:
        rounds = Options(rounds=3 if options.quick else 8)
        began, load = time.time(), os.getloadavg()
        outcomes = [run(name, rounds) for name in options.names or COMPARISONS]
        target = options.write or (None if options.names else FOLDER / "RESULTS.md")
        if target:
            target.write_text(page(outcomes, rounds.rounds, began, load))
            print(f"written: {target}")
        if not options.names and not options.write:
            write_table(outcomes)
        sys.exit(1 if any(row.missed() for outcome in outcomes for row in outcome.rows) else 0)


def scripts() -> dict[str, str]:
    """What can be run, and the first line of what it says of itself."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        for path in sorted(FOLDER.glob("*.py"))
        if path.stem not in SHARED
    }


def show_list() -> None:
    described = scripts()
    print("The comparison:")
    for name in COMPARISONS:
        print(f"  {name:<18}{described.pop(name)}")
    print("Alone, with arguments of its own:")
    for name, words in described.items():
        print(f"  {name:<18}{words}")


def run(name: str, options: Options) -> Outcome:
    """Run one comparison, and print each row when it is there."""
    print(f"== {name}", flush=True)
    rows: list[Row] = []
    try:
        for row in import_module(name).rows(options):
            show(row)
            rows.append(row)
    except (SystemExit, Exception) as error:  # the others are measured all the same
        why = str(error) or type(error).__name__
        print(f"not measured: {why}", flush=True)
        return Outcome(name, rows, why)
    return Outcome(name, rows)


# The page.


def page(
    outcomes: Sequence[Outcome], rounds: int, began: float, load: tuple[float, float, float]
) -> str:
    """RESULTS.md."""
    day = time.strftime("%Y-%m-%d", time.gmtime(began))
    lines = [
        *INTRODUCTION.format(day=day, rounds=rounds).splitlines(),
        *table(["machine", ""], [[name, words] for name, words in machine(began, load)]),
        "",
        "## What could not be run",
        "",
        *([f"- {line}" for line in lacking(outcomes)] or ["Nothing."]),
        "",
        "## In short",
        "",
        *in_short(outcomes),
    ]
    for outcome in outcomes:
        if outcome.rows:
            lines += ["", f"## {outcome.name}", "", f"{scripts()[outcome.name]}", ""]
            lines += table(["load", "server", "each", "times ours", "a second"], details(outcome))
    return "\n".join(lines) + "\n"


def write_table(outcomes: Sequence[Outcome]) -> None:
    """Put what stands beside stock into docs/speed.md."""
    lines = in_short(outcomes, lambda row: "stock" in row.costs)
    text = SPEED.read_text()
    SPEED.write_text(re.sub(r"(?m)(^\|.*\n)+", "\n".join(lines) + "\n", text, count=1))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def in_short(
    outcomes: Sequence[Outcome], wanted: Callable[[Row], bool] = lambda row: True
) -> list[str]:
    """A line for each load that is *wanted*: how many times ours each of the others costs."""
    rows = [row for outcome in outcomes for row in outcome.rows if wanted(row)]
    peers = list(dict.fromkeys(peer for row in rows for peer in row.costs if peer != OURS))
    lines = []
    for row in rows:
        cells = [f"{median(row.costs[OURS]):.3g} {row.unit}"]
        cells += [f"{median(row.ratios(peer)):.2f}" if peer in row.costs else "" for peer in peers]
        least = "" if row.least is None else f"{row.least}" + " (missed)" * row.missed()
        lines.append([row.load, *cells, least])
    return table(["load", "ours", *peers, "aimed at"], lines)


def details(outcome: Outcome) -> Iterator[list[str]]:
    """A line for each load and server."""
    for row in outcome.rows:
        for peer, costs in row.costs.items():
            rates = row.rates.get(peer)
            yield [
                row.load,
                peer,
                f"{spread(costs, '.4g')} {row.unit}",
                "" if peer == OURS else spread(row.ratios(peer)),
                spread(rates, ".4g") if rates else "",
            ]


def lacking(outcomes: Sequence[Outcome]) -> list[str]:
    """What is not in the results, and why."""
    absent = [f"{peer}: not installed" for peer in PEERS if peer not in installed_peers()]
    broken = [f"{one.name}: {' '.join(one.why.split())}" for one in outcomes if one.why]
    left = [
        f"{name}: not asked for" for name in COMPARISONS if name not in {o.name for o in outcomes}
    ]
    alone = ", ".join(f"`{name}`" for name in scripts() if name not in COMPARISONS)
    return [*absent, *broken, *left, f"No part of the comparison, and run by name: {alone}."]


def machine(began: float, load: tuple[float, float, float]) -> Iterator[tuple[str, str]]:
    """What this was measured on, with and beside."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    yield "date", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began))
    yield "commit", first_line(["git", "-C", str(FOLDER), "describe", "--always", "--dirty"])
    yield "processor", f"{len(models)} x {models[0] if models else platform.machine()}"
    yield "kernel", f"{platform.system()} {platform.release()}"
    averages = (" ".join(f"{one:.1f}" for one in each) for each in (load, os.getloadavg()))
    yield "load, before and after", " / ".join(averages)
    yield "Python", f"{platform.python_implementation()} {platform.python_version()}"
    yield "OpenSSL", openssl()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"
    programs = {**PROGRAMS, "node": [node() or "node", "--version"]}
    for name, command in programs.items():
        yield name, first_line(command) if shutil.which(command[0]) else "not installed"


def openssl() -> str:
    """The library that Twisted uses, and the one of Python's own ssl."""
    import ssl

    from OpenSSL import SSL

    return f"{SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()} (Python's: {ssl.OPENSSL_VERSION})"


def first_line(command: Sequence[str]) -> str:
    """The first line that a program says."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return next(iter(run.stdout.splitlines()), "").partition("Copyright")[0].strip()


# The check.


def check() -> None:
    """Measure ours beside stock; what misses is measured once more before that counts.

    Raises:
        SystemExit: Stock costs less than `SHARE` of what is aimed at.
    """
    lacking = [program for program in NEEDED if shutil.which(program) is None]
    if not Path("/proc/self/schedstat").exists():
        lacking.append("/proc/PID/schedstat")
    if lacking:
        print(f"skipped: no {', '.join(lacking)} here")
        return
    faulthandler.dump_traceback_later(LONGEST_CHECK, exit=True)
    missed = []
    for name, loads in CHECKED.items():
        rows = import_module(name).rows
        for row in rows(Options(rounds=1, only=loads, peers=False)):
            show(row)
            share = SHARES.get(row.load, SHARE)
            if row.missed(share):
                again = next(iter(rows(Options(rounds=9, only=[row.load], peers=False))))
                show(again)
                if again.missed(share):
                    missed.append(f"{again.load} (less than {share} of {again.least})")
    faulthandler.cancel_dump_traceback_later()
    if missed:
        sys.exit(f"dearer than it may be: {', '.join(missed)}")


if __name__ == "__main__":
    main()
