"""What a file costs, beside stock twisted.web's `File`, aiohttp and nginx where installed.

    python benchmarks/files.py [--rounds 8] [--seconds 1] [--only NAME] [--before CHECKOUT]

Measured is the CPU time of the server process: for each MB of a large file and of a range of it,
for each request of a small one, and for a 304 to a client that has the file.  See `compare.py`.
Ours is what ``twistd hangup --path`` serves; nginx has ``sendfile on``.  Needs Linux and ``wrk``.

A large file costs a client as much as its server: half of what a figure says is how cold the client
leaves the processor's caches, for which a program in Python pays more than nginx.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from measure import OURS, ROOT, Options, Row, compare, main, need, nginx, started, wrk
from servers import serve_site

MB = 1_000_000

#: The files that are served, by name.
SIZES = {"large": 8 * MB, "middle": 100 * 1024, "small": 1024}

#: A moment after that at which they were written.
TOMORROW = "Fri, 01 Jan 2100 00:00:00 GMT"


class Load(NamedTuple):
    """One kind of load.

    Attributes:
        by_bytes: Whether bytes count, and not requests.
    """

    name: str
    path: str
    connections: int
    fields: Mapping[str, str] = {}
    by_bytes: bool = False


LOADS = [
    Load("file of 8 MB", "/large", 4, by_bytes=True),
    Load("range of 4 MB", "/large", 4, {"Range": "bytes=1000000-4999999"}, by_bytes=True),
    Load("file of 100 KiB", "/middle", 16),
    Load("file of 1 KiB", "/small", 16),
    Load("304 to If-Modified-Since", "/small", 16, {"If-Modified-Since": TOMORROW}),
]


def asking(load: Load, seconds: int) -> Callable[[int], float]:
    """Asks a port, and returns how many requests were answered, or MB read."""

    def ask(port: int) -> float:
        address = f"http://127.0.0.1:{port}{load.path}"
        answered = wrk(address, seconds, load.connections, load.fields)
        return answered.megabytes if load.by_bytes else answered.requests

    return ask


def rows(options: Options) -> Iterator[Row]:
    """One row for each load."""
    need("wrk")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for name, size in SIZES.items():
            Path(folder, name).write_bytes(os.urandom(size))
        servers = {
            peer: stack.enter_context(serving(peer, folder, options)) for peer in peers(options)
        }
        for load in LOADS:
            if options.wants(load.name):
                unit, scale = ("ms/MB", 1e3) if load.by_bytes else ("us", 1e6)
                ask = asking(load, options.seconds)
                yield compare(load.name, servers, ask, options.rounds, unit, scale)


def peers(options: Options) -> list[str]:
    """Those who are asked; ours is the last."""
    others = ["aiohttp"] * bool(find_spec("aiohttp")) + ["nginx"] * bool(shutil.which("nginx"))
    before = ["before"] * bool(options.before)
    return ["stock", *(others if options.peers else []), *before, OURS]


def serving(peer: str, folder: str, options: Options) -> Any:
    """Runs the server *peer*, which serves *folder*."""
    if peer == "nginx":
        return nginx(f"root {folder};")
    root = options.before if peer == "before" and options.before else ROOT
    kind = OURS if peer == "before" else peer
    return started([sys.executable, __file__, "--serve", kind, folder], root)


def serve(kind: str, folder: str) -> None:
    """Serve *folder* until standard input ends."""
    if kind == "aiohttp":
        serve_with_aiohttp(folder)
        return
    from twisted.internet import reactor
    from twisted.web.server import Site
    from twisted.web.static import File

    from twisted_hangup import HangupSite
    from twisted_hangup.journal.flood import ThrottledWarning
    from twisted_hangup.service.content import directory

    if kind == OURS:
        warning = ThrottledWarning(reactor)
        files = directory(folder, dotfiles=False, follow_links=False, out_of_files=warning)
        site: Any = HangupSite(files)
    else:
        site = Site(File(folder))
    serve_site(kind, site)


def serve_with_aiohttp(folder: str) -> None:
    import asyncio

    from aiohttp import web

    async def run() -> None:
        application = web.Application()
        application.router.add_static("/", folder)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await runner.cleanup()

    asyncio.run(run())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main(__doc__, rows)
