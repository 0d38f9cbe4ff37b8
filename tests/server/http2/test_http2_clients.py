"""Real clients read the answer to a refused request, wherever that request had ended.

Needs curl, Node (see `oracle.node`), and Debian's packages chromium and chromium-driver with
selenium; the tests of one that is not there are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import pytest_twisted
from oracle import node
from support.wire import PATIENCE, Serve, Served, in_thread

from twisted_hangup import ClientSocket, Limits

#: More than the windows and the buffers on the way, so that the client is still sending.
UPLOAD: Final = 8_000_000

CURL: Final = shutil.which("curl")
CHROMIUM: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")


class Ask(NamedTuple):
    """A request that is refused."""

    why: str
    status: int
    path: str = "/fast"
    fields: dict[str, str] = {}
    body: int | None = None


ASKS: Final = [
    Ask("large head", 431, fields={"x-a": "b" * 17_000}),
    Ask("large head, empty body", 431, fields={"x-a": "b" * 17_000}, body=0),
    Ask("large head, small body", 431, fields={"x-a": "b" * 17_000}, body=100),
    Ask("large head, upload", 431, fields={"x-a": "b" * 17_000}, body=UPLOAD),
    Ask("long path", 414, path="/" + "p" * 17_000),
    Ask("long path, upload", 414, path="/" + "p" * 17_000, body=UPLOAD),
    Ask("body too large", 413, body=UPLOAD),
    Ask("form", 400, fields={"content-type": "multipart/form-data; boundary=x"}, body=100),
]


def refusing(serve_h2: Serve, text: bytes) -> Served:
    served = serve_h2(limits=Limits(body_bytes=1_000_000))

    @served.site.on_client_error
    def answer(failure: Any, socket: ClientSocket) -> Any:
        if failure.value.status is None:
            return failure  # the client has left
        return socket.respond(failure.value.status, text)

    return served


def by_curl(scratch: Path) -> Callable[[int, Ask], list[Any]]:
    def run(port: int, ask: Ask) -> list[Any]:
        command = ["-sSk", "--http2", "-o", "-", "-w", " %{http_code} %{http_version}"]
        for name, value in {"expect": "", **ask.fields}.items():
            command += ["-H", f"{name}: {value}" if value else f"{name}:"]
        if ask.body is not None:
            body = scratch / "body"
            body.write_bytes(bytes(ask.body))
            command += ["--data-binary", f"@{body}"]
        url = f"https://localhost:{port}{ask.path}"
        done = subprocess.run(
            ["curl", *command, url], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        text, status, version = done.stdout.rsplit(" ", 2)
        assert version == "2"
        return [int(status), text]

    return run


FETCH: Final = """
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
const [url, ask] = [process.argv[1], JSON.parse(process.argv[2])];
const body = ask.body === null ? undefined : Buffer.alloc(ask.body);
const method = ask.body === null ? 'GET' : 'POST';
(async () => {
  const answer = await fetch(url, {method, body, headers: ask.fields});
  console.log(JSON.stringify([answer.status, await answer.text()]));
  process.exit();
})();
"""

NODE_HTTP2: Final = """
const [url, ask] = [new URL(process.argv[1]), JSON.parse(process.argv[2])];
const session = require('http2').connect(url, {rejectUnauthorized: false});
const method = ask.body === null ? 'GET' : 'POST';
const request = session.request({':method': method, ':path': url.pathname, ...ask.fields});
let status, text = '';
request.on('response', fields => status = fields[':status']);
request.on('data', data => text += data);
request.on('end', () => { console.log(JSON.stringify([status, text])); process.exit(); });
if (ask.body !== null) request.end(Buffer.alloc(ask.body));
"""


def by_node(command: str, program: str) -> Callable[[int, Ask], list[Any]]:
    def run(port: int, ask: Ask) -> list[Any]:
        url = f"https://localhost:{port}{ask.path}"
        done = subprocess.run(
            [command, "-e", program, url, json.dumps(ask._asdict())],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        answer: list[Any] = json.loads(done.stdout or repr(done.stderr))
        return answer

    return run


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """A browser that knows no certificate."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("chromium and chromium-driver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    switches = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
    for switch in (*switches, "--ignore-certificate-errors"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
    driver.set_script_timeout(PATIENCE)
    yield driver
    driver.quit()


IN_PAGE: Final = """
const [ask, done] = arguments;
const body = ask.body === null ? undefined : new Blob([new Uint8Array(ask.body)]);
const method = ask.body === null ? 'GET' : 'POST';
fetch(ask.path, {method, body, headers: ask.fields})
  .then(async answer => done([answer.status, await answer.text()]))
  .catch(error => done(String(error)));
"""


def by_chromium(driver: Any) -> Callable[[int, Ask], list[Any]]:
    def run(port: int, ask: Ask) -> list[Any]:
        driver.get(f"https://localhost:{port}/fast")
        answer: list[Any] = driver.execute_async_script(IN_PAGE, ask._asdict())
        driver.get("about:blank")
        return answer

    return run


Client = Callable[[int, Ask], list[Any]]


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """The client that the test's parameter names."""
    name = request.param
    if name == "curl":
        if CURL is None:
            pytest.skip("curl is not installed")
        return by_curl(tmp_path)
    if name == "chromium":
        return by_chromium(request.getfixturevalue("driver"))
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    return by_node(command, FETCH if name == "node's fetch" else NODE_HTTP2)


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.why)
@pytest.mark.parametrize("text", [b"", b"mine"], ids=["empty", "text"])
@pytest.mark.parametrize(
    "client", ["curl", "node's fetch", "node's http2", "chromium"], indirect=True
)
@pytest_twisted.ensureDeferred
async def test_answer_is_read(serve_h2: Serve, client: Client, text: bytes, ask: Ask) -> None:
    """Status and text arrive whole, and the client sees no error."""
    served = refusing(serve_h2, text)
    assert await in_thread(lambda: client(served.port, ask)) == [ask.status, text.decode()]
    (error,) = (error for error in served.errors if error.status)
    assert error.request is not None and error.request.version == b"2"


@pytest.mark.parametrize("client", ["curl", "node's http2"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_answer_to_an_upload_that_is_no_error(serve_h2: Serve, client: Client) -> None:
    """An expectation that nobody knows is answered before the body has come."""
    served = serve_h2()
    ask = Ask("expectation", 417, fields={"expect": "x"}, body=UPLOAD)
    assert await in_thread(lambda: client(served.port, ask)) == [417, ""]
    assert served.codes == [] and served.root.fast.ran == []
