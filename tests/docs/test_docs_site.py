"""The site of docs/ can be built, loads nothing from afar, and shows the whole API."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from threading import Thread
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from support.wire import PATIENCE

import twisted_hangup
from twisted_hangup.__main__ import command_parser
from twisted_hangup.service.options import Options

ROOT: Final = Path(__file__).parents[2]
API: Final = {path: path.read_text() for path in sorted((ROOT / "docs" / "api").glob("*.md"))}
ENTRIES: Final = [name for text in API.values() for name in re.findall(r"^::: (\S+)", text, re.M)]

#: Submodules that users import from.
SUBMODULES: Final = [
    "journal",
    "metrics",
    "outbox",
    "parser",
    "service.files",
    "service.workers",
    "status",
    "testing",
]


def exported(module: str) -> set[str]:
    """What a package's ``__init__`` exports, or the classes and functions of a module."""
    names = vars(import_module(f"twisted_hangup.{module}"))
    path = ROOT / "twisted_hangup" / module.replace(".", "/") / "__init__.py"
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


def misread() -> Iterator[tuple[str, str]]:
    """Names and types of the API's docstrings that are none: whose docstring, and what it is."""
    options = {"returns_multiple_items": False, "returns_named_value": False}
    griffe = pytest.importorskip("griffe")
    package = griffe.load(
        "twisted_hangup", search_paths=[ROOT], docstring_parser="google", docstring_options=options
    )
    for name in ENTRIES:
        entry = package.modules_collection[name]
        for thing in (entry, *entry.members.values()):
            for section in thing.docstring.parsed if thing.docstring else ():
                if section.kind.value in ("attributes", "parameters"):
                    words = [item.name for item in section.value]
                elif section.kind.value == "raises":
                    words = [str(item.annotation) for item in section.value]
                elif section.kind.value == "returns":  # text where it is not the annotation's
                    words = [it.annotation for it in section.value if type(it.annotation) is str]
                else:
                    continue
                yield from ((thing.path, word) for word in words if not word.isidentifier())


def test_docstrings_are_read_as_they_are_meant() -> None:
    """A colon in the first line of Returns makes a type of it, a comma makes one name of two."""
    assert not [*misread()]


PROGRAMS: Final = [
    program
    for text in API.values()
    for program in re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_the_api(program: str) -> None:
    """The programs at the top of the pages run; without ``reactor.run()`` they end."""
    program = program.replace("tcp:8000", "tcp:0:interface=127.0.0.1")
    subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the site is, as one command makes it."""
    if not find_spec("mkdocstrings"):
        pytest.skip("no mkdocstrings")
    directory = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,  # it has much to do
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return directory


def test_nothing_is_loaded_from_afar(site: Path) -> None:
    """Pages and style sheets name no other host as a source."""
    for page in site.rglob("*.html"):
        assert not re.findall(r'(?:src=|<link[^>]*href=)"(?:https?:)?//[^"]*', page.read_text())
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", sheet.read_text())


def test_version_in_the_header(site: Path) -> None:
    """Whoever reads a page sees which version it is of."""
    assert f"twisted_hangup {twisted_hangup.__version__}" in (site / "index.html").read_text()


def test_entries_on_the_site(site: Path) -> None:
    """Every entry has an anchor, no private name has one, and no markup is left."""
    text = "".join(page.read_text() for page in (site / "api").glob("*.html"))
    anchors = {*re.findall(r'id="(twisted_hangup\.[\w.]+)"', text)}
    assert {*ENTRIES} <= anchors
    assert not [anchor for anchor in anchors if re.search(r"\._", anchor)]
    prose = re.sub(r"<(code|pre)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.findall(r"^- .*|.*(?:::$|::<|`|====|:class:).*", prose, re.M)


def test_pages_of_other_files(site: Path) -> None:
    """The links of files at the top of the repository lead to the site's pages."""
    security = (site / "security.html").read_text()
    assert 'href="limits.html"' in security and 'href="docs/' not in security


def test_every_option_has_an_anchor(site: Path) -> None:
    """One can link to each option of ``twistd hangup``, and of the other commands."""
    anchors = {*re.findall(r'id="([^"]*)"', (site / "command-line.html").read_text())}
    assert {f"--{option.rstrip('=')}" for option in Options().longOpt} <= anchors
    assert {"explain", "explain--json", "outbox-list", "outbox-list--dead"} <= anchors


CHROMIUM: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")

#: What people type who have a question -> a page that has the answer.
QUESTIONS: Final = {
    "clientError": "from-node.html",
    "rawPacket": "from-node.html",
    "django": "serve.html",
    "gunicorn": "compare.html",
    "letsencrypt": "cookbook/tls.html",
    "let's encrypt": "cookbook/tls.html",
    "--max-header-size": "command-line.html",
    "HPE_INVALID_HEADER_TOKEN": "codes.html",
    "PROXY protocol": "balancer.html",
    "RetryPolicy": "api/client.html",
}


#: The commands that the page of all options shows.
COMMANDS: Final = re.findall(
    r"^(?:twistd|python) .*", (ROOT / "docs" / "command_line.py").read_text(), re.M
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line: str) -> None:
    """Whatever the page of all options shows is accepted."""
    words = shlex.split(line)
    if words[0] == "twistd":
        Options().parseOptions(words[words.index("hangup") + 1 :])
    else:
        assert command_parser().parse_args(words[3:]).run


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Leave the output to the tests."""


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """The address of the site's top."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A real browser."""
    webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service: Any = pytest.importorskip("selenium.webdriver.chrome.service")
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(switch)  # as root in a container, too
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
    yield driver
    driver.quit()


def requests(driver: Any) -> list[str]:
    """The URLs that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def test_pages_fit_a_telephone_and_load_nothing_from_afar(
    driver: Any, site: Path, url: str
) -> None:
    """At 390 pixels no page scrolls sideways; tables and programs scroll in their own frames."""
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    pages = sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
    wide = []
    for page in pages:
        driver.get(url + page)
        width = driver.execute_script("return document.documentElement.scrollWidth")
        wide += [(page, width)] if width > 390 else []
    assert not wide
    asked = {urlsplit(asked)[:2] for asked in requests(driver)}
    assert {host for scheme, host in asked if scheme != "data"} == {urlsplit(url).netloc}


@pytest.mark.parametrize("words, page", QUESTIONS.items())
def test_search(driver: Any, url: str, words: str, page: str) -> None:
    """The page with the answer is among the first ten that are found."""
    driver.get(url + "index.html")
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    field = driver.find_element("css selector", "input.md-search__input")
    field.click()
    field.send_keys(words)
    first = "return [...document.querySelectorAll('.md-search-result__item > a')].slice(0, 10)"
    deadline = time.monotonic() + PATIENCE
    links: list[str] = []
    while url + page not in {link.partition("?")[0] for link in links}:  # it finds while one types
        assert time.monotonic() < deadline, links
        links = driver.execute_script(f"{first}.map(link => link.href)")
        time.sleep(0.05)
