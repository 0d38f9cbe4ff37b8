"""The two servers that the benchmarks compare, and a way to run them.

    python benchmarks/servers.py stock|hangup [ACCESS_LOG]

Serves one small resource on a free port of the loopback interface, prints the port, and
ends when its standard input does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KINDS = ("stock", "hangup")


@contextmanager
def running(kind: str, access_log: str | None = None) -> Iterator[int]:
    """Run the server *kind* in a process of its own; gives its port."""
    command = [sys.executable, __file__, kind, *([access_log] if access_log else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin and server.stdout
        try:
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()
            server.wait(10)


def main(kind: str, access_log: str | None = None) -> None:
    from twisted.internet import reactor, stdio
    from twisted.internet.protocol import Protocol
    from twisted.python.failure import Failure
    from twisted.web.resource import Resource
    from twisted.web.server import Request, Site

    from twisted_hangup import ClientSocket, HangupSite

    class Hello(Resource):
        isLeaf = True

        def render(self, request: Request) -> bytes:
            request.setHeader(b"Content-Length", b"6")
            return b"hello\n"

    class UntilEndOfInput(Protocol):
        def connectionLost(self, reason: object = None) -> None:
            if reactor.running:
                reactor.stop()

    errors = 0

    def count(failure: Failure, socket: ClientSocket) -> Failure:
        nonlocal errors
        errors += 1
        return failure

    if kind == "hangup":
        site: Any = HangupSite(Hello(), logPath=access_log)
        site.on_client_error(count)
    else:
        site = Site(Hello(), logPath=access_log)
    if access_log is None:
        site.log = lambda request: None  # a Site without logPath logs to twisted's log
    port: Any = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=1024)
    print(port.getHost().port, flush=True)
    stdio.StandardIO(UntilEndOfInput())
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
