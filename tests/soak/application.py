"""What the server of the soak serves, and the handler of its client errors that misbehaves.

``twistd hangup --resource soak.application.root --on-client-error soak.application.misbehave``
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from twisted_hangup import ClientError, ClientSocket

#: More than the kernel takes for a client that does not read.
LARGE: Final = b"0123456789abcdef" * 512 * 1024
#: How long the body of a response is in truth that announces `ANNOUNCED` bytes.
SHORT, ANNOUNCED, LONG = 9, 20, 60
#: What each bug of the soak's own raises: a traceback without it is somebody else's.
BUG: Final = "a bug of the soak"

#: How often `misbehave` was called, by target and code.
_calls: Counter[tuple[str, str]] = Counter()


def _later(seconds: float) -> Deferred[None]:
    from twisted.internet import reactor

    return deferLater(reactor, seconds, lambda: None)


# What a resource does, by the first segment of the path.


def _echo(request: Any) -> bytes:
    answer: bytes = request.uri + b"\n" + request.content.read()
    return answer


def _form(request: Any) -> bytes:
    return b"%d" % sum(map(len, request.args.values()))


def _large(request: Any) -> bytes:
    return LARGE


def _soon(request: Any) -> int:
    def finish(_: object) -> None:
        request.write(b"soon")
        request.finish()

    waiting = _later(0.05).addCallback(finish)
    waiting.addErrback(lambda failure: failure.trap(CancelledError))
    request.notifyFinish().addErrback(lambda _: waiting.cancel())
    return NOT_DONE_YET


def _begun(request: Any) -> int:
    request.write(b"begun")
    return NOT_DONE_YET


def _never(request: Any) -> int:
    return NOT_DONE_YET


def _raises(request: Any) -> bytes:
    raise ZeroDivisionError(BUG)


def _short(request: Any) -> int:
    return _misjudged(request, SHORT)


def _long(request: Any) -> int:
    return _misjudged(request, LONG)


def _misjudged(request: Any, length: int) -> int:
    request.setHeader(b"Content-Length", b"%d" % ANNOUNCED)
    request.write(b"x" * length)
    request.finish()
    return NOT_DONE_YET


def _state(request: Any) -> bytes:
    request.setHeader(b"Content-Type", b"application/json")
    return json.dumps(_of_process(request.site)).encode()


def _of_process(site: Any) -> dict[str, Any]:
    """What there is in this process now, and what its journal has counted."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    snapshot = site.journal.snapshot()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "timers": len(reactor.getDelayedCalls()),
        "threads": threading.active_count(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "connections": site.open_connections,
        "errors": dict(snapshot.by_code),
        "quiet": snapshot.quiet,
        "answers": sum(snapshot.by_status.values()),
        "outcomes": sum(site.context.errbacks.outcomes.values()),
        "calls": [[*key, count] for key, count in _calls.items()],
        "stream_resets": site.journal.stream_resets,
    }


_PATHS: Final[dict[bytes, Callable[[Any], Any]]] = {
    b"echo": _echo,
    b"form": _form,
    b"large": _large,
    b"soon": _soon,
    b"begun": _begun,
    b"never": _never,
    b"raises": _raises,
    b"short": _short,
    b"long": _long,
    b"state": _state,
}


class _Root(Resource):
    isLeaf = True

    def render(self, request: Any) -> Any:
        return _PATHS.get(request.path.split(b"/")[1], _echo)(request)


def root() -> Resource:
    """The resource."""
    return _Root()


# What a handler of client errors does, by the last segment of the path.


def _never_closes(client: ClientSocket) -> None:
    client.write(b"half an answer")


def _closes_twice(client: ClientSocket) -> None:
    client.end(b"once\n")
    client.end(b"twice\n")


def _has_a_bug(client: ClientSocket) -> None:
    raise ZeroDivisionError(BUG)


async def _has_a_bug_later(client: ClientSocket) -> None:
    await _later(0.01)
    raise ZeroDivisionError(BUG)


async def _answers_late(client: ClientSocket) -> bytes:
    try:
        await _later(30)
    except CancelledError:
        await _later(0.1)
    return b"too late\n"


def _waits_for_ever(client: ClientSocket) -> Deferred[None]:
    return Deferred()


def _writes_after_its_end(client: ClientSocket) -> None:
    client.end(b"bye\n")
    client.write(b"and\n")
    client.respond(400, b"another thing\n")


def _returns_nonsense(client: ClientSocket) -> int:
    return 42


#: What is called for ``/handler/NAME``, and how the response of its client begins.
HANDLERS: Final[dict[str, tuple[Callable[[ClientSocket], Any], bytes]]] = {
    "never-closes": (_never_closes, b"half an answer"),
    "closes-twice": (_closes_twice, b"once\n"),
    "bug": (_has_a_bug, b"HTTP/1.1 400 "),
    "bug-later": (_has_a_bug_later, b"HTTP/1.1 400 "),
    "late": (_answers_late, b"HTTP/1.1 400 "),
    "waits": (_waits_for_ever, b"HTTP/1.1 400 "),
    "goes-on": (_writes_after_its_end, b"bye\n"),
    "nonsense": (_returns_nonsense, b"HTTP/1.1 400 "),
}


def misbehave(failure: Failure, client: ClientSocket) -> Any:
    """Do what the path of the broken request names; else it is not mine."""
    error = failure.value
    assert isinstance(error, ClientError)
    target = "" if error.request is None else error.request.target.decode("latin-1")
    _calls[target, error.code] += 1
    handler, _ = HANDLERS.get(target.removeprefix("/handler/"), (None, None))
    return failure if handler is None else handler(client)
