"""The pages for people without violations of axe-core's rules, light and dark.

Needs what `test_status_browser` needs, and the npm package axe-core where .ci/run puts it;
skipped without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import pytest_twisted
from support.wire import BAD, Serve
from test_status_browser import CHROMIUM, DRIVER, Browser, Pair, use
from test_status_browser import browser as browser
from test_status_browser import pair as pair
from test_status_browser import running_browser as running_browser
from twisted.web.resource import Resource

from twisted_hangup.errors import ParseError
from twisted_hangup.server.pages import ErrorPages
from twisted_hangup.service.welcome import WelcomePage

AXE: Final = Path(__file__).parents[2] / ".cache/axe/node_modules/axe-core/axe.min.js"

pytestmark = [
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and its driver are not there"),
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not there: npm install axe-core"),
    pytest.mark.parametrize("scheme", ["light", "dark"]),
]

RUN: Final = """
const done = arguments[arguments.length - 1];
axe.run({resultTypes: ["violations"]}).then((results) => done(results.violations.map(
  (rule) => `${rule.id}: ${rule.help}: ` + rule.nodes.map((node) => node.html).join(" | "))));
"""


def violations(browser: Browser) -> list[str]:
    """What axe-core has against the page that is shown now."""
    browser.driver.execute_script(AXE.read_text())
    found: list[str] = browser.driver.execute_async_script(RUN)
    return found


def opened(browser: Browser, url: str, scheme: str, width: int = 1200) -> None:
    """Open *url*, where the page's own policy would keep axe-core out."""
    browser.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
    browser.open(url, scheme=scheme, width=width)


@pytest.mark.parametrize("width", [1200, 390])
@pytest_twisted.ensureDeferred
async def test_status_page(pair: Pair, browser: Browser, scheme: str, width: int) -> None:
    """Empty, with errors, filtered, and with one of them opened."""

    def steps() -> None:
        opened(browser, pair.url, scheme, width)
        browser.until(browser.is_live)
        assert violations(browser) == []
        for wire in (BAD, b"GET /a b HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            pair.send(wire)
        browser.until(browser.has_rows(3))
        browser.all(".error .code button")[0].click()
        browser.choose("phase", "head")
        assert violations(browser) == []
        for details in browser.all("details summary"):
            details.click()
        assert violations(browser) == []

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_codes(pair: Pair, browser: Browser, scheme: str) -> None:
    """The page that says what the codes mean, to which the other links."""

    def steps() -> None:
        pair.send(BAD)
        opened(browser, pair.url, scheme)
        browser.until(browser.has_rows(1))
        browser.one(".error .code button").click()
        browser.one(".detail .facts a").click()
        browser.until(lambda: browser.text(":target") == "HPE_INVALID_HEADER_TOKEN")
        assert "no space before the colon" in browser.text("main") or browser.text("main")
        assert violations(browser) == []

    await use(steps)


#: WCAG 2.2, success criterion 1.4.11, of what axe-core does not look at.
CONTRASTS: Final = """
const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((value) => {
  const part = value / 255;
  return part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
});
const light = (colour) => {
  const [red, green, blue] = channels(colour);
  return .2126 * red + .7152 * green + .0722 * blue + .05;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const against = (colour) => Math.max(light(colour), paper) / Math.min(light(colour), paper);
const styles = (selector) => [...document.querySelectorAll(selector)].map(getComputedStyle);
return [...styles(".bar, .swatch").map((style) => against(style.backgroundColor)),
        ...styles("#chart [class^=c]").map((style) => against(style.fill)),
        ...styles("select, input[type=search]").map((style) => against(style.borderTopColor))];
"""


@pytest_twisted.ensureDeferred
async def test_contrast_of_bars(pair: Pair, browser: Browser, scheme: str) -> None:
    """What shows a number, or where to type, is seen: 3 to 1 against the page."""

    def steps() -> None:
        for code in range(10):
            pair.shown.site.journal.record(ParseError("reason", code=f"HPE_{code}", phase="head"))
        opened(browser, pair.url, scheme)
        browser.until(browser.has_rows(10))
        contrasts = browser.run(CONTRASTS)
        assert len(contrasts) > 20
        assert min(contrasts) >= 3

    await use(steps)


@pytest_twisted.ensureDeferred
async def test_sign_in(serve: Serve, browser: Browser, scheme: str) -> None:
    """The page where the token is typed."""
    pair = Pair(serve, token="t" * 20)

    def steps() -> None:
        opened(browser, pair.url, scheme)
        assert browser.one("#token")
        assert violations(browser) == []

    await use(steps)


@pytest.mark.parametrize("path", ["", "nix"])
@pytest_twisted.ensureDeferred
async def test_served_pages(serve: Serve, browser: Browser, scheme: str, path: str) -> None:
    """The welcome page, and a page for an error."""
    root: Any = Resource()
    root.putChild(b"", WelcomePage())
    root.getChild = WelcomePage().getChild
    served = serve(root)
    served.site.context.pages = ErrorPages()

    def steps() -> None:
        opened(browser, f"http://127.0.0.1:{served.port}/{path}", scheme)
        assert violations(browser) == []

    await use(steps)
