"""docs/ is complete, can be built, and shows commands and numbers that are so."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.cookbook import running
from support.documents import PAGES, run, written_codes
from support.explaining import broken, log_lines
from support.processes import BIN, connect, free_port
from support.wire import BAD, DEFAULT, Paths, Serve, statuses, talk
from twisted.web.server import Request, Site

from twisted_hangup import HangupSite, forward_client_errors
from twisted_hangup.__main__ import main
from twisted_hangup.limits import KIB, MIB, NODE_METHODS, Limits, Timeouts
from twisted_hangup.report.links import anchor_of
from twisted_hangup.report.lookalikes import LOOKALIKES
from twisted_hangup.report.remedies import REMEDIES, entry_of
from twisted_hangup.report.rules import FAMILIES
from twisted_hangup.server.request import HangupRequest
from twisted_hangup.service.options import LIMITS, TIMEOUTS, Options, size_text
from twisted_hangup.testing import feed

ROOT: Final = Path(__file__).parent.parent
TEXTS: Final = {name: path.read_text() for name, path in PAGES.items()}


@pytest.mark.parametrize("code", sorted(written_codes()))
def test_every_code_has_an_entry_of_its_own(code: str) -> None:
    """Cause and cure are told of every code that there is, not only of its family."""
    assert entry_of(code) == code
    assert f"\n### {code}\n" in TEXTS["codes"]


@pytest.mark.parametrize("prefix", [prefix for prefix, _ in FAMILIES])
def test_every_family_has_an_entry(prefix: str) -> None:
    """A code that OpenSSL or h2 makes up is explained by what it begins with."""
    assert entry_of(f"{prefix}NEVER_HEARD_OF") == f"{prefix}*"


def test_codes_without_an_entry() -> None:
    """Where nothing is told nothing is linked."""
    assert (entry_of("EOTHER"), anchor_of("EOTHER")) == (None, None)


def test_page_of_codes_is_that_of_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """The page says what the server says: python docs/make_codes.py > docs/codes.md."""
    runpy.run_path(str(ROOT / "docs" / "make_codes.py"), run_name="__main__")
    assert TEXTS["codes"] == capsys.readouterr().out


@pytest.mark.parametrize("name", [*REMEDIES, *LOOKALIKES])
def test_links_of_reports_lead_somewhere(name: str) -> None:
    """The link at the end of a report is a heading as mkdocs and GitHub name it."""
    anchor = anchor_of(name)
    headings = re.findall(r"^### (.*)$", TEXTS["codes"], re.M)
    assert anchor in [re.sub(r"[^\w\s-]", "", heading).lower() for heading in headings]


@pytest.mark.parametrize("code", [*REMEDIES])
def test_causes_and_cures_are_sentences(code: str) -> None:
    """They are printable ASCII, begin with a capital letter or a name, and end."""
    for text in REMEDIES[code]:
        assert text.isascii() and text.isprintable()
        assert text.endswith(".") and "  " not in text


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under *heading*, by their first column."""
    _, _, section = TEXTS[page].partition(f"\n## {heading}\n")
    cells = re.findall(r"^\| `(\w+)` \| (.*) \|$", section.split("\n## ")[0], re.M)
    return {name: rest.split(" | ") for name, rest in cells}


@pytest.mark.parametrize(
    "heading, record, settings",
    [("Limits", Limits(), LIMITS), ("Timeouts", Timeouts(), TIMEOUTS)],
)
def test_numbers_are_told(heading: str, record: Any, settings: Any) -> None:
    """docs/limits.md has every field, with its option and its default."""
    told = rows("limits", heading)
    assert [*told] == [field.name for field in fields(record)]
    for setting in settings:
        option, default, _ = told[setting.field]
        value = getattr(record, setting.field)
        shown = f"{value:g}" if heading == "Timeouts" else size_text(value)
        assert option == f"`--{setting.option}`"
        assert default in (shown, str(value), f"{shown}, no limit")


#: The section of docs/limits.md that says what a client can make us hold.
HELD: Final = "What a client can make us hold"

#: A constant with one of these words in its name bounds something.
BOUND: Final = re.compile(
    r"^(\w*(?:MOST|LARGEST|LEAST|RECENT|COUNTED|KEPT|SHARE|SLICE|AT_ONCE|PER_SECOND)\w*)"
    r"(?:: Final)? = ",
    re.M,
)
#: Rooms whose constants a client has to do with.
CLIENT_FACING: Final = ("parser", "server", "transport", "journal", "service", "status")

#: Such names that bound nothing which a client could make us hold: numbers of a grammar, text
#: of one error, and what is a part of another bound.
NOTHING_HELD: Final = {
    "parser.fields._LARGEST",
    "parser.grammar.MOST_SIZE_DIGITS",
    "server.forms._MOST_BOUNDARY",
    "server.forms._SLICE",
    "server.http2.connection._MOST_WORDS",
    "server.http2.head._MOST_SHOWN",
    "service.files.ranges._MOST_DIGITS",
    "transport.sockets._PIECES_AT_ONCE",
}


def bounds_of_source() -> set[str]:
    """The dotted names of constants that bound something."""
    package = ROOT / "twisted_hangup"
    return {
        ".".join([*path.relative_to(package).with_suffix("").parts, name])
        for room in CLIENT_FACING
        for path in (package / room).rglob("*.py")
        for name in BOUND.findall(path.read_text())
    }


def bounds_of_page() -> dict[str, str]:
    """The constants that docs/limits.md names in the last column of a table, and their rows."""
    return {
        name: line
        for line in TEXTS["limits"].splitlines()
        for name in re.findall(r"`((?:\w+\.)+_?[A-Z][A-Z_0-9]+)`", line.rpartition(" | ")[2])
    }


def test_every_bound_is_on_the_page() -> None:
    """Who adds a bound says there what it is for, and nothing stays there that has gone."""
    assert bounds_of_source() - NOTHING_HELD <= {*bounds_of_page()}
    assert bounds_of_source() >= NOTHING_HELD


@pytest.mark.parametrize("name", [*bounds_of_page()])
def test_bounds_are_those_of_the_source(name: str) -> None:
    """The row has the number that the source has, in one unit or another."""
    module, _, constant = name.rpartition(".")
    value = getattr(import_module(f"twisted_hangup.{module}"), constant)
    shown = {f"{value:,}", f"{value:g}", f"{value * 1000:g} ms"}
    shown |= {f"{value / KIB:g} KiB", f"{value / MIB:g} MiB"}
    numbers = re.findall(r"(?<![\d.,])\d[\d.,]*\b(?: (?:KiB|MiB|ms))?", bounds_of_page()[name])
    words = {word for number in numbers for word in (number, number.split()[0])}
    assert shown & words, f"{name} is {value}"


def test_every_limit_bounds_something() -> None:
    """Each number of `Limits` and `Timeouts` stands where it is said what it bounds."""
    _, _, section = TEXTS["limits"].partition(f"\n## {HELD}\n")
    section = section.split("\n## ")[0]
    numbers = [
        field.name
        for record in (Limits(), Timeouts())
        for field in fields(record)
        if type(getattr(record, field.name)) in (int, float)
    ]
    assert not [name for name in numbers if f"`{name}`" not in section]


def test_memory_is_what_the_benchmark_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says of each state of a connection what benchmarks/limits.py measures."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    cases = runpy.run_path(str(ROOT / "benchmarks" / "limits.py"))["CASES"]
    most: dict[str, list[str]] = {}
    for case in cases:
        most.setdefault(case.state, []).append(f"{case.most:,}")
    _, _, section = TEXTS["limits"].partition("\n### In a connection\n")
    table = re.findall(r"^\| (.*?) \| .* \| ([\d, /]+) \|$", section, re.M)
    assert {state: figures.split(" / ") for state, figures in table} == most


def test_number_of_methods() -> None:
    """The page counts them."""
    assert rows("limits", "Limits")["methods"][1] == f"Node's {len(NODE_METHODS)}"


def commands() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for line in re.findall(
            r"^(?:    |ExecStart=)(.*\b(?:twistd?|twisted_hangup) .*)$", path.read_text(), re.M
        ):
            yield path.stem, line


@pytest.mark.parametrize("page, line", [*commands()])
def test_commands_are_understood(page: str, line: str) -> None:
    """Whatever a page tells to type is accepted: options exist, and go together."""
    words = shlex.split(line.replace("\\\\:", "\\:"), comments=True)
    if "hangup" in words:
        options = [*words[words.index("hangup") + 1 :]]
        if options not in (["--help"], ["--help-all"]):
            Options().parseOptions(options)
    elif "twisted_hangup" in words:
        words = words[words.index("twisted_hangup") + 1 :]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--help"])
        assert ended.value.code == 0
    else:
        assert words[:2] == ["twistd", "-ny"]


def test_the_error_log_that_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The picture that docs/logs.md shows is what comes."""
    shown = TEXTS["logs"].split("the usual cause and the cure.\n\n")[1].split("\n\n    tail")[0]
    wire = b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n"

    line = log_lines(broken(wire)).replace(b"2001-09-09T01:46:40", b"2026-11-21T15:00:00")
    line = line.replace(b":51410", b":51332")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
    main(["explain"])
    said = capsys.readouterr().out
    expected = re.sub(r"^    ", "", shown, flags=re.M)
    # The page ends each row of the packet where the example does.
    assert [row.rstrip() for row in expected.splitlines()[:8]] == said.splitlines()[:8]


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"])
def test_links_beside_docs_lead_somewhere(page: Path) -> None:
    """mkdocs looks at the links of docs/ only."""
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_benchmark_is_told() -> None:
    """What a script shows, and how long that takes, stands in a row of its own."""
    text = (ROOT / "benchmarks" / "README.md").read_text()
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    shared = {"__main__.py", "flood.py", "measure.py", "servers.py"}
    assert {*re.findall(r"^\| `(\w+\.py)", text, re.M)} == scripts - shared


@pytest.mark.parametrize("page", [page for page in PAGES if page != "index"])
def test_start_leads_to_every_page(page: str) -> None:
    """No page is hidden."""
    assert f"]({page}.md)" in TEXTS["index"]


@pytest_twisted.ensureDeferred
async def test_errors(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """The handlers of docs/errors.md print, answer what is too large, and answer as JSON."""
    served = serve(run("errors")["site"])
    answer = await talk(served.port, BAD)
    assert answer.endswith(b'{"code": "HPE_INVALID_HEADER_TOKEN", "offset": 32}')
    assert "HPE_INVALID_HEADER_TOKEN: Invalid header token" in capsys.readouterr().out
    large = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: " + b"a" * 20_000 + b"\r\n\r\n"
    answer = await talk(served.port, large)
    assert answer.startswith(b"HTTP/1.1 431 ") and answer.endswith(b"try again.\n")


def test_report_in_the_page_of_errors() -> None:
    """The report that the page shows is the report of these bytes."""

    report = broken(b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: 1\r\n\r\n").report()
    assert "".join(f"    {line}\n" for line in report.splitlines()) in TEXTS["errors"]


def test_names_of_a_request_that_are_taken() -> None:
    """What stands before an application's request class takes no name that no page tells."""
    taken = {name for name in HangupRequest.__dict__ if not name.startswith("_")}
    own = taken - {*dir(Request)}
    assert own <= {*re.findall(r"`(\w+)`", TEXTS["subclass"])}, own


def test_forms() -> None:
    """The programs of docs/forms.md greet by a form of either kind, and count an upload."""
    page = run("forms")
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
    part = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nAda\r\n--b--\r\n'
    kinds = {
        b"application/x-www-form-urlencoded": b"name=Ada",
        b"multipart/form-data; boundary=b": part,
    }
    for kind, form in kinds.items():
        wire = head % (kind, len(form), form)
        assert feed(page["greeting"], wire).received.endswith(b"\r\n\r\nHello, Ada!\n")
        counted = feed(page["uploads"], wire).received
        assert counted.endswith(b"\r\n\r\n%d bytes\n" % len(form))


@pytest_twisted.ensureDeferred
async def test_subclass(serve: Serve) -> None:
    """Scanners get no answer, others do; so on all three kinds of site."""
    page = run("subclass")
    root = Paths()
    forwarding = Site(root)
    forward_client_errors(forwarding, channel=page["Quiet"])
    for site in HangupSite(root, channel=page["Quiet"]), page["QuietSite"](root), forwarding:
        served = serve(site)
        with pytest.raises(ConnectionResetError):
            await talk(served.port, b"\x16\x03\x01")
        assert await talk(served.port, BAD) == DEFAULT


@pytest.mark.parametrize("name", ["mine", "typed_site"])
def test_handlers_on_the_page_of_subclasses(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They print the error, on a site of one's own too."""
    site = run("subclass")[name]
    assert type(site) is (Site if name == "mine" else HangupSite)
    assert feed(site, BAD).received == DEFAULT
    assert capsys.readouterr().out.splitlines()[-1].startswith("HPE_INVALID_HEADER_TOKEN")


def test_journal_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The watchers print what the page shows."""
    feed(run("subclass")["watched_site"], BAD, fin=True)
    printed = capsys.readouterr().out
    shown = "".join(f"    {line}\n" for line in printed.splitlines())
    assert printed and f"A broken request prints:\n\n{shown}\n" in TEXTS["subclass"]


@pytest_twisted.ensureDeferred
async def test_request_factory(serve: Serve) -> None:
    """Each response has the field of the page's request class."""
    served = serve(Paths(), requestFactory=run("subclass")["Tagged"])
    wire = b"GET /fast HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = await talk(served.port, wire)
    assert statuses(answer) == [200] and b"X-Served-By: me" in answer


def test_tac(tmp_path: Path) -> None:
    """docs/serve.md's server serves and logs what it says."""
    [program] = re.findall(r"^`server.tac`:\n\n```python\n(.*?)^```$", TEXTS["serve"], re.S | re.M)
    port = free_port()
    (tmp_path / "public").mkdir()
    (tmp_path / "server.tac").write_text(program.replace("tcp:8000", f"tcp:{port}"))
    command = [str(BIN / "twistd"), "-ny", "server.tac", "--pidfile="]
    with running(tmp_path, *command):
        client = connect(port).send(BAD)
        assert client.read_all() == DEFAULT
        client.close()
    said = (tmp_path / "twistd.out").read_text()
    assert '400 HPE_INVALID_HEADER_TOKEN "Invalid header token" at byte 32' in said
    assert len((tmp_path / "errors.log").read_text().splitlines()) == 1
