"""The programs in the pages of docs/ run, and do what stands beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, cast

import pytest
import pytest_twisted
from programs import programs
from support.documents import IMPORTED, PAGES, run
from support.upstreams import OK, RawServer, always
from support.wire import PATIENCE, Paths, Serve, statuses, talk
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.threadpool import ThreadPool

from twisted_hangup import HangupWSGIResource


@pytest.mark.parametrize("page", PAGES)
def test_programs_run(page: str) -> None:
    """Each program is whole: whoever copies that one has all that it uses."""
    run(page)


#: Programs that listen, but for those that want an argument or have a fixed port.
SERVERS: Final = {
    name: text
    for page in PAGES.values()
    for name, text in programs(page).items()
    if "reactor.run()" in text and not re.search(r"sys\.argv|listenTCP", text)
}


@pytest.mark.parametrize("name", SERVERS)
def test_programs_listen(name: str, tmp_path: Path) -> None:
    """Such a program starts and ends without a word of complaint."""
    for application in re.findall(IMPORTED, SERVERS[name], re.M):
        pytest.importorskip(application)
    (tmp_path / "public").mkdir()
    text = re.sub(r'"tcp:\d+', '"tcp:0', SERVERS[name])
    text = text.replace("reactor.run()", "reactor.callWhenRunning(reactor.stop); reactor.run()")
    (tmp_path / "program.py").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "program.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


@pytest.mark.parametrize("name", ["Report", "Export", "Search"])
@pytest_twisted.ensureDeferred
async def test_cancel(serve: Serve, name: str) -> None:
    """The work of a client that has left leaves no timer behind: the test's fixture looks."""
    served = serve(Paths(work=run("cancel")[name]()))
    await served.leave(GET % b"/work")
    assert served.codes == ["ECONNRESET"]


@pytest_twisted.ensureDeferred
async def test_cancel_answers(serve: Serve) -> None:
    """For a client that waits, the response is what the method returns."""
    served = serve(Paths(work=run("cancel")["Export"]()))
    wire = b"GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert (await talk(served.port, wire)).endswith(b"<p>page 1</p>")


@pytest_twisted.ensureDeferred
async def test_cancel_shield(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order is placed if that has begun when the client leaves, and only then."""
    orders_of_page = run("cancel")["Orders"]
    monkeypatch.setattr(sys.modules[orders_of_page.__module__], "reactor", clock := Clock())
    begun: list[bytes] = []

    class Orders(orders_of_page):  # type: ignore[misc, valid-type]
        async def place(self, order: bytes) -> None:
            begun.append(order)
            await super().place(order)

    def placing() -> list[bytes]:
        clock.advance(0.05)
        return begun

    orders = Orders()
    served = serve(Paths(orders=orders))
    await served.leave(POST % b"/orders" + b"early")
    assert clock.getDelayedCalls() == []
    await served.leave(POST % b"/orders" + b"later", placing)
    assert orders.placed == []
    clock.advance(0.2)
    assert orders.placed == [b"later"]


@pytest_twisted.ensureDeferred
async def test_cancel_klein(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of klein's routes, one ends and the other does not."""
    pytest.importorskip("klein")
    page = run("cancel")
    monkeypatch.setattr(sys.modules[page["report"].__module__], "reactor", clock := Clock())
    served = serve(Paths(klein=page["app"].resource()))
    await served.leave(GET % b"/klein/report")
    assert clock.getDelayedCalls() == []
    await served.leave(POST % b"/klein/orders" + b"order")
    clock.advance(0.2)
    assert page["placed"] == [b"order"]


@pytest_twisted.ensureDeferred
async def test_cancel_wsgi(serve: Serve) -> None:
    """The application ends when it looks."""
    from twisted.internet import reactor

    pool = ThreadPool(1, 1)
    pool.start()
    ticks: Any = HangupWSGIResource(cast(Any, reactor), pool, run("cancel")["application"])
    await serve(Paths(ticks=ticks)).leave(GET % b"/ticks")
    await deferToThread(pool.stop)  # would not return before the application does


@pytest_twisted.ensureDeferred
async def test_proxy(serve: Serve) -> None:
    """The site of the page has the server's part where the page says, and no more of it."""
    server = RawServer(always(OK))
    page = run("proxy", lambda text: text.replace(":9000/", f":{server.port}/"))
    served = serve(page["site"])
    asked = b"GET %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert (await talk(served.port, asked % b"/api/users?id=1")).endswith(b"ok")
    assert server.connections[0].received.startswith(b"GET /v1/users?id=1 HTTP/1.1\r\n")
    assert (await talk(served.port, asked % b"/")).endswith(b"hello\n")
    assert statuses(await talk(served.port, asked % b"/api/../v2")) == [400]
    assert statuses(await talk(served.port, asked % b"/reports/")) == [502]
    await page["root"].children[b"api"].pool.close()
    server.close()
