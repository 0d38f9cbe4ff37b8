"""What a request leaves behind on its way through the proxy."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
from support.proxying import ServerInMemory, proxy_in_memory
from twisted.web.server import Request

from twisted_hangup import HangupSite, ProxyResource
from twisted_hangup.testing import feed

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without a garbage collector, what is part of a cycle stays."""
    gc.disable()
    yield
    gc.enable()


class Notes(ProxyResource):
    """Notes its requests, without keeping them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.requests: list[ref[Request]] = []

    def render(self, request: Request) -> int:
        self.requests.append(ref(request))
        return super().render(request)

    @property
    def left(self) -> int:
        return sum(request() is not None for request in self.requests)


@pytest.mark.usefixtures("uncollected")
def test_nothing_is_left_of_a_request() -> None:
    """Nor is a Deferred made for it."""
    server = ServerInMemory(answers=False)
    proxy: Any = proxy_in_memory(server, kind=Notes)
    client = feed(HangupSite(proxy))
    for _ in range(3):
        client.feed(GET)
        assert proxy.left == 1
        assert not proxy.requests[-1]().notifications
        server.answer()
        client.advance(0)
        assert proxy.left == 0


@pytest.mark.parametrize("leave", ["fin", "reset"])
def test_client_that_leaves(leave: str) -> None:
    """The request to the server is given up, before the application hears of it."""
    server = ServerInMemory(answers=False)
    heard: list[int] = []

    class Hears(ProxyResource):
        def render(self, request: Request) -> int:
            request.notifyFinish().addErrback(lambda _: heard.append(server.aborted))
            return super().render(request)

    client = feed(HangupSite(proxy_in_memory(server, kind=Hears)), GET)
    getattr(client, leave)()
    assert (server.aborted, heard) == (1, [1])


def test_client_that_leaves_after_its_response() -> None:
    """There is nothing to give up."""
    server = ServerInMemory()
    feed(HangupSite(proxy_in_memory(server)), GET).reset()
    assert (len(server.asked), server.aborted) == (1, 0)
