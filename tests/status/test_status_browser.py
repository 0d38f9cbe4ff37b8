"""The status page in a real browser: what it draws, what it refuses to run, how it is used.

Needs Debian's packages chromium and chromium-driver, and selenium; skipped without.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import pytest_twisted
from support.processes import free_port
from support.wire import BAD, PATIENCE, Client, Paths, Serve, in_thread, pause
from twisted.internet.defer import Deferred, maybeDeferred

from twisted_hangup.errors import ParseError
from twisted_hangup.journal.merged import MergedJournal, WorkerState, report_of
from twisted_hangup.report.masking import MaskingPolicy
from twisted_hangup.status import StatusSite
from twisted_hangup.status.snapshots import entry_record

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
service: Any = pytest.importorskip("selenium.webdriver.chrome.service")
exceptions: Any = pytest.importorskip("selenium.common.exceptions")
keys: Any = pytest.importorskip("selenium.webdriver.common.keys")

CHROMIUM: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromium-driver are not installed"
)

CHUNK = b"POST /fast HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
HOSTILE = (
    b"GET /<script>alert(1)</script> HTTP/1.1\r\nHost: a\r\n"
    b"X-A: <img src=x onerror=alert(1)>\x1b[31m\xe2\x80\xae</pre></div>\x01\r\n\r\n"
)


class Browser:
    """A browser that is told what to do from a thread, and one page in it."""

    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for switch in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(switch)  # as root in a container, too
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
        self.url = ""

    def open(self, url: str, *, width: int = 1200, scheme: str = "light") -> None:
        """Load the page as a screen of that width and that colour scheme shows it."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.driver.delete_all_cookies()
        self.driver.get(url)
        self.url = url

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def classes(self, selector: str) -> set[str]:
        """The classes of all that *selector* finds, in one go: the page draws anew meanwhile."""
        find = "[...document.querySelectorAll(arguments[0])]"
        script = f"return {find}.map(found => found.getAttribute('class'))"
        return set(self.driver.execute_script(script, selector))

    def all(self, selector: str) -> list[Any]:
        """The elements that are to be seen."""
        elements = self.driver.find_elements("css selector", selector)
        return [element for element in elements if element.is_displayed()]

    def one(self, selector: str) -> Any:
        [element] = self.all(selector)
        return element

    def choose(self, field: str, value: str) -> None:
        option = f"#{field} option[value='{value}']"
        self.driver.find_element("css selector", option).click()

    def text(self, selector: str) -> str:
        return str(self.one(selector).text)

    def until(self, true: Callable[[], object]) -> None:
        """Wait until something is *true*, which may fail before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                if true():
                    return
            except (ValueError, exceptions.WebDriverException):
                pass
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.02)

    def has_rows(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.all(".error")) == count

    def is_live(self) -> bool:
        return self.text("#state") == "Live"

    def has_focus(self, name: str) -> Callable[[], bool]:
        return lambda: self.driver.switch_to.active_element.get_attribute("id") == name

    def press(self, *names: str) -> None:
        for name in names:
            focused = self.driver.switch_to.active_element
            focused.send_keys(getattr(keys.Keys, name, name))

    def complaints(self) -> list[str]:
        """What the browser's console says, such as a breach of the page's policy."""
        return [line["message"] for line in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def running_browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    """A browser that follows nothing, before the test and after it."""
    running_browser.complaints()
    yield running_browser
    running_browser.driver.get("about:blank")


class Pair:
    """A site to break, and its status page."""

    def __init__(self, serve: Serve, **arguments: Any) -> None:
        from twisted.internet import reactor

        self.shown = serve(Paths())
        self.site = StatusSite(self.shown.site, reactor, **arguments)
        self.served = serve(self.site)
        self.url = f"http://127.0.0.1:{self.served.port}/"

    def send(self, wire: bytes) -> None:
        """To be called in a thread."""
        client = Client(self.shown.port)
        client.send(wire).read_all()
        client.close()


@pytest.fixture
def pair(serve: Serve) -> Pair:
    return Pair(serve)


def use(steps: Callable[[], None]) -> Deferred[Any]:
    """Do what a person does, while the reactor serves."""
    return in_thread(steps)


@pytest_twisted.ensureDeferred
async def test_an_error_appears(pair: Pair, browser: Browser) -> None:
    """An error stands on the page when it happens; opened, it tells all there is to know."""

    def steps() -> None:
        browser.open(pair.url)
        browser.until(browser.is_live)
        assert "No errors so far." in browser.text("#empty")
        pair.send(BAD)
        browser.until(browser.has_rows(1))
        row = browser.text(".error")
        for text in ("HPE_INVALID_HEADER_TOKEN", "Invalid header token", "head", "127.0.0.1:"):
            assert text in row
        browser.until(lambda: browser.text(".error .answer") == "400")
        assert not browser.all("#empty")
        assert browser.text("#total") == browser.text("#minute") == "1"

        browser.one(".error .code button").click()
        assert [mark.text for mark in browser.all(".packet mark")][:1] == ["20"]
        assert "byte 32 is 0x20 (space)" in browser.text(".packet figcaption")
        detail = browser.text(".detail")
        assert "no space before the colon" in detail and "RFC 9112, section 5" in detail
        assert "Usual cause" in detail and "What to do" in detail
        assert "GET /fast HTTP/1.1" in detail
        entry = browser.one(".detail .facts a").get_attribute("href")
        assert entry == f"{pair.url}codes#hpe_invalid_header_token"
        assert browser.driver.title == "(1) Client errors"
        browser.one(".error .code button").click()
        assert not browser.all(".detail")
        assert not browser.complaints()

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_links_to_the_codes(pair: Pair, browser: Browser) -> None:
    """The code and what the bytes look like lead to their entries, and the tally to all."""

    def steps() -> None:
        pair.send(b"\x16\x03\x01")
        browser.open(pair.url)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        links = browser.all(".detail .facts a")
        assert [(link.text, link.get_attribute("href")) for link in links] == [
            ("HPE_INVALID_METHOD", f"{pair.url}codes#hpe_invalid_method"),
            ("tls-hello", f"{pair.url}codes#tls-hello"),
        ]
        links[1].click()
        browser.until(lambda: browser.text(":target") == "tls-hello")
        browser.open(pair.url)
        browser.one(".codes .head a").click()
        browser.until(lambda: "ERR_HTTP_HOST_REQUIRED" in browser.text("main"))
        assert not browser.complaints()

    await use(steps)


@pytest.mark.parametrize("width, columns", [(1200, 16), (390, 8)])
@pytest_twisted.ensureDeferred
async def test_caret(pair: Pair, browser: Browser, width: int, columns: int) -> None:
    """The carets stand under the byte, in hexadecimal and as text, however long a line is."""

    def steps() -> None:
        pair.send(b"GET /fast HTTP/1.1\r\nHost: a\r\nx=y: 1\r\n\r\n")
        browser.open(pair.url, width=width)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        lines = browser.run("return document.querySelector('.packet pre').textContent").split("\n")
        at = next(index for index, line in enumerate(lines) if "^" in line)
        offset = int(lines[at - 1][:5], 16)
        assert lines[0].split()[1:3] == ["47", "45"] and offset % columns == 0
        hexes, text = lines[at].index("^^"), lines[at].rindex("^")
        assert (lines[at - 1][hexes : hexes + 2], lines[at - 1][text]) == ("3d", "=")
        shown = "".join(line[-columns:] for index, line in enumerate(lines[:-2]) if index != at)
        assert shown.startswith("GET /fast HTTP")

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_peer_bytes_do_nothing(pair: Pair, browser: Browser) -> None:
    """Markup, scripts, terminal escapes and bidi controls of a peer are text."""

    def steps() -> None:
        browser.open(pair.url)
        browser.until(browser.is_live)
        count = "return document.querySelectorAll('*').length"
        pair.send(BAD)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        browser.one(".error .code button").click()
        before = browser.run(count)
        pair.send(HOSTILE)
        browser.until(browser.has_rows(2))
        added = browser.run(count) - before
        browser.all(".error .code button")[0].click()
        browser.one(".detail summary").click()

        # What a row, an option or a name in a list needs, and not one element more.
        assert added <= 30
        assert browser.run("return document.querySelectorAll('script').length") == 1
        assert not browser.run("return document.querySelectorAll('img, iframe, object').length")
        shown = browser.run("return document.body.textContent")
        assert "/<script>alert(1)</script>" in shown
        assert not [char for char in shown if ord(char) in (0x1B, 0x202E, 0x01)]
        assert browser.driver.title == "(2) Client errors"
        dump = browser.run("return document.querySelector('.packet pre').textContent")
        assert "GET /<script>ale" in dump and " 1b 5b " in dump
        assert not browser.complaints()

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_nothing_else_can_run(pair: Pair, browser: Browser) -> None:
    """The browser itself refuses markup from text, other scripts and whatever is elsewhere."""

    def steps() -> None:
        browser.open(pair.url)
        browser.until(browser.is_live)
        with pytest.raises(exceptions.JavascriptException, match="TrustedHTML"):
            browser.run("document.body.innerHTML = '<b>bold</b>'")
        refused = browser.driver.execute_async_script(
            "const done = arguments[0];"
            "fetch('http://127.0.0.1:9/').then(() => done('read'), (e) => done(`${e}`));"
        )
        assert "TypeError" in refused
        assert any("Content Security Policy" in line for line in browser.complaints())
        loaded = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert {*loaded} - {"http://127.0.0.1:9/"} <= {f"{pair.url}events"}

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_filters(pair: Pair, browser: Browser) -> None:
    """Code, phase and peer choose what is shown, from the form or from the lists."""

    def steps() -> None:
        browser.open(pair.url)
        browser.until(browser.is_live)
        for wire in (BAD, BAD, CHUNK):
            pair.send(wire)
        browser.until(browser.has_rows(3))
        browser.choose("code", "HPE_INVALID_CHUNK_SIZE")
        browser.until(browser.has_rows(1))
        assert browser.text("#shown") == "1 of the last 3"
        browser.one("#clear").click()
        browser.until(browser.has_rows(3))
        browser.choose("phase", "head")
        browser.until(browser.has_rows(2))
        browser.one("#clear").click()
        browser.until(browser.has_rows(3))

        chosen = "#codes [data-name=HPE_INVALID_CHUNK_SIZE]"
        browser.one(chosen).click()
        browser.until(browser.has_rows(1))
        assert browser.one(chosen).get_attribute("aria-pressed") == "true"
        pair.send(BAD)  # not shown, and the choice stays
        browser.until(lambda: browser.text("#total") == "4")
        browser.until(browser.has_rows(1))
        browser.one(chosen).click()
        browser.until(browser.has_rows(4))

    def choose_at_once() -> None:
        browser.one("#peer").send_keys("127.0.0.1:1x")
        browser.until(browser.has_rows(0))
        assert browser.text("#empty") == "No recent error matches the filter."
        browser.one("#clear").click()
        browser.until(browser.has_rows(4))
        browser.one("#peers button").click()
        assert browser.one("#peer").get_attribute("value") == "127.0.0.1"
        browser.until(browser.has_rows(4))

    await use(steps)
    choose_at_once()  # not with the next update: while this runs, the server sends none


@pytest_twisted.ensureDeferred
async def test_pause(pair: Pair, browser: Browser) -> None:
    """A page that is held still shows nothing new, and all of it when it goes on."""

    def steps() -> None:
        browser.open(pair.url)
        pair.send(CHUNK)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        browser.one("#pause").click()
        assert browser.text("#state").startswith("Paused at ")
        assert browser.one("#pause").get_attribute("aria-pressed") == "true"
        pair.send(BAD)
        time.sleep(1)
        assert browser.has_rows(1)() and browser.text("#total") == "1"
        browser.one("#pause").click()
        browser.until(browser.has_rows(2))
        assert browser.is_live()
        buttons = browser.all(".error .code button")
        opened = [button.get_attribute("aria-expanded") for button in buttons]
        assert opened == ["false", "true"]  # what was open stays so

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_what_it_looks_like(pair: Pair, browser: Browser) -> None:
    """Where the bytes are known by their look, an error says so when it is opened."""

    def steps() -> None:
        browser.open(pair.url)
        pair.send(b"JRMI\0\2K")
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        assert "java-rmi" in browser.text(".facts")

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_the_answer_comes_later(pair: Pair, browser: Browser) -> None:
    """Where a handler takes its time, the answer is filled in when it was sent."""
    error = ParseError("Invalid", code="HPE_INVALID_URL", phase="head")
    pair.shown.site.journal.record(error)

    def waiting() -> None:
        browser.open(pair.url)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        assert browser.text(".error .answer") == "…"
        assert "no answer yet" in browser.text(".facts")

    def answered() -> None:
        browser.until(lambda: browser.text(".error .answer") == "418")
        assert "418" in browser.text(".facts")

    await use(waiting)
    pair.shown.site.journal.settle(error, 418)
    await use(answered)


@pytest_twisted.ensureDeferred
async def test_reconnect(pair: Pair, browser: Browser) -> None:
    """When the server has been away, the page says so and comes back by itself."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    number = free_port()  # which nobody else takes while the server is away

    def listen() -> Any:
        return reactor.listenTCP(number, pair.site, interface="127.0.0.1")

    def opened() -> None:
        browser.open(f"http://127.0.0.1:{number}/")
        browser.until(browser.is_live)
        pair.send(BAD)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()

    def lost() -> None:
        browser.until(lambda: browser.text("#state") == "Reconnecting")
        pair.send(CHUNK)

    def back() -> None:
        browser.until(browser.is_live)
        browser.until(browser.has_rows(2))
        assert len(browser.all(".detail")) == 1  # still open
        codes = [button.text for button in browser.all(".error .code button")]
        assert codes == ["HPE_INVALID_CHUNK_SIZE", "HPE_INVALID_HEADER_TOKEN"]

    port = listen()
    try:
        await use(opened)
        await maybeDeferred(port.stopListening)
        pair.site.hang_up_all()
        await use(lost)
        port = listen()
        await use(back)
    finally:
        await use(lambda: browser.driver.get("about:blank"))
        await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_sign_in(serve: Serve, browser: Browser) -> None:
    """The token is typed in once; scripts cannot read the cookie that stands for it."""
    pair = Pair(serve, token="a-token-of-the-operators")

    def steps() -> None:
        browser.open(pair.url)
        assert browser.driver.title == "Client errors: sign in"
        browser.until(browser.has_focus("token"))
        browser.press("wrong", "ENTER")
        browser.until(lambda: browser.one("#token").get_attribute("value") == "")
        browser.until(browser.has_focus("token"))
        browser.press("a-token-of-the-operators", "ENTER")
        browser.until(browser.is_live)
        assert browser.driver.current_url == pair.url
        assert browser.run("return document.cookie") == ""
        [cookie] = browser.driver.get_cookies()
        assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        browser.driver.delete_all_cookies()
        browser.driver.refresh()
        assert browser.driver.title == "Client errors: sign in"

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_keyboard(pair: Pair, browser: Browser) -> None:
    """Everything can be reached and used without a mouse, and has a name."""

    def steps() -> None:
        pair.send(BAD)
        browser.open(pair.url)
        browser.until(browser.has_rows(1))
        reached = {}
        for _ in range(20):
            browser.press("TAB")
            focused = browser.driver.switch_to.active_element
            if focused.tag_name == "body":
                break
            assert focused.accessible_name, focused.get_attribute("outerHTML")
            reached[focused.get_attribute("id")] = focused.accessible_name
            if focused.get_attribute("aria-expanded") == "false":
                browser.press("ENTER")
                assert focused.get_attribute("aria-expanded") == "true"
            if focused.get_attribute("id") == "chart":
                browser.press("ARROW_LEFT")
                browser.until(lambda: " to " in browser.text("#reading"))
        assert reached["pause"] == "Pause" and "Errors by code" in reached["chart"]
        named = {name: reached[name] for name in ("code", "phase", "peer")}
        assert named == {"code": "Code", "phase": "Phase", "peer": "Peer"}
        assert browser.all(".detail")

    await use(steps)


@pytest.mark.parametrize("width", [390, 820, 1200])
@pytest_twisted.ensureDeferred
async def test_no_width_is_too_narrow(pair: Pair, browser: Browser, width: int) -> None:
    """Nothing sticks out of the page, not with the longest codes and lines either."""

    def steps() -> None:
        pair.send(BAD.replace(b"/fast", b"/" + b"a" * 3000))
        pair.send(HOSTILE)
        browser.open(pair.url, width=width)
        browser.until(browser.has_rows(2))
        for button in browser.all(".error .code button"):
            button.click()
        inside = "return [document.documentElement.scrollWidth, innerWidth]"
        wide, screen = browser.run(inside)
        assert screen == width and wide <= screen

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_light_and_dark(pair: Pair, browser: Browser) -> None:
    """The page has the system's colours, and text stands out from its ground in both."""

    def brightness(colour: str) -> float:
        return sum(int(part) for part in colour[4:-1].split(", ")) / 3

    def steps() -> None:
        for scheme, ground_is_light in (("light", True), ("dark", False)):
            browser.open(pair.url, scheme=scheme)
            style = "getComputedStyle(document.body)"
            ground = brightness(browser.run(f"return {style}.backgroundColor"))
            ink = brightness(browser.run(f"return {style}.color"))
            assert (ground > ink) is ground_is_light and abs(ground - ink) > 180

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_picture(pair: Pair, browser: Browser) -> None:
    """Bars have the colours of their codes, and what they hold can be read."""

    def steps() -> None:
        browser.open(pair.url)
        browser.until(browser.is_live)
        for wire in (BAD, CHUNK, CHUNK):
            pair.send(wire)
        browser.until(lambda: browser.text("#total") == "3")
        browser.until(lambda: len(browser.all("#chart rect[class^=c]")) >= 2)
        drawn = browser.classes("#chart rect[class^=c]")
        named = browser.classes("#codes .swatch")
        assert {f"swatch {colour}" for colour in drawn} == named and len(named) == 2
        assert "3 in all" in browser.one("#chart").get_attribute("aria-label")
        browser.one("input[value='3600'] + span").click()
        browser.until(lambda: browser.text("#reading") == "Each bar is 30 seconds.")

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_flood(pair: Pair, browser: Browser) -> None:
    """Ten thousand errors leave a page of bounded length, with the right count."""

    def steps() -> None:
        browser.until(lambda: browser.text("#total") == "10,000")
        assert len(browser.driver.find_elements("css selector", ".error")) <= 200

    await use(lambda: browser.open(pair.url))
    await use(lambda: browser.until(browser.is_live))
    journal = pair.shown.site.journal
    for number in range(10_000):
        error = ParseError("Invalid", code="HPE_INVALID_URL", phase="head")
        journal.record(error)
        journal.settle(error, 400)
        if number % 250 == 0:
            await pause(0.02)
    await use(steps)


@pytest_twisted.ensureDeferred
async def test_workers(serve: Serve, browser: Browser) -> None:
    """The page says how each worker is, and which one an error is of; without workers, nothing."""
    from twisted.internet import reactor

    states = [WorkerState(1, 71, True, 12, 0), WorkerState(2, 0, False, 0, 1300)]
    merged = MergedJournal(MaskingPolicy(), lambda: states)
    shown = serve(Paths())
    shown.site.journal.record(ParseError("broken", code="HPE_STRICT", phase="head"))
    snapshot = shown.site.journal.snapshot()
    (entry,) = snapshot.entries
    record = entry_record(entry, MaskingPolicy())
    del record["number"]
    merged.add_entry("process", 2, 1, True, json.dumps(record)[1:-1].encode())
    merged.add_report("process", json.loads(json.dumps(report_of(snapshot, 12, 0))))
    served = serve(StatusSite(merged, reactor))

    def steps() -> None:
        browser.open(f"http://127.0.0.1:{served.port}/")
        browser.until(browser.has_rows(1))
        assert [item.text for item in browser.all("#workers li")] == [
            "worker 1: pid 71, 12 open",
            "worker 2: does not serve, 1,300 records lost",
        ]
        assert browser.text("#connections") == "12"
        browser.one(".error button").click()
        browser.until(lambda: "Worker\n2" in browser.text(".detail .facts"))
        assert not browser.complaints()

    await use(steps)
