"""Fixtures and hooks of every test."""

from __future__ import annotations

import compileall
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from support.cleanliness import ends_in_time as ends_in_time
from support.cleanliness import expected_errors as expected_errors
from support.cleanliness import nothing_left_behind as nothing_left_behind
from support.http2_client import serve_h2 as serve_h2
from support.outboxes import postgres as postgres
from support.wire import Paths, Served
from twisted.internet import defer
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.plugin import getCache
from twisted.web.server import Site

import twisted.plugins
import twisted_hangup
from twisted_hangup import HangupSite, hangup_endpoint

# A property is about bytes; how long an example takes says how busy the machine is.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package, once for all of the processes that tests start.

    Each of them would do it, where Python may write no bytecode.  And let Twisted write what
    plugins it has: to find that out it imports them all, and one of them warns.
    """
    if not hasattr(config, "workerinput"):  # once, and not in every worker of xdist
        compileall.compile_dir(Path(twisted_hangup.__file__).parent, quiet=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getCache(twisted.plugins)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a hypothesis test have parameters.

    pytest-twisted 1.14 wraps the function behind ``@given`` at each call and never unwraps
    it: the second parameter would run the reactor inside the reactor.
    """
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is None:
        return (yield)
    inner_test = given.inner_test
    try:
        return (yield)
    finally:
        given.inner_test = inner_test


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serve a resource or site on a free port of the loopback interface.

    Call it with a resource and `HangupSite`'s arguments, or with a whole site; ``tls=``
    takes a context factory, ``unix=`` the path of a UNIX socket to serve on instead,
    ``endpoint=`` an endpoint that is wrapped in `hangup_endpoint`.  When the test is over,
    everything is closed.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    ports: list[Any] = []
    sites: list[Any] = []

    def start(
        what: Any = None,
        *,
        tls: Any = None,
        unix: str | None = None,
        endpoint: IStreamServerEndpoint | None = None,
        **arguments: Any,
    ) -> Served:
        root = Paths() if what is None else what
        site = root if isinstance(root, Site) else HangupSite(root, **arguments)
        if endpoint is not None:
            listening: list[Any] = []
            hangup_endpoint(endpoint).listen(site).addCallback(listening.append)
            (port,) = listening  # those of Twisted's that tests use listen at once
        elif unix is not None:
            port = reactor.listenUNIX(unix, site)
        elif tls is None:
            port = reactor.listenTCP(0, site, backlog=512, interface="127.0.0.1")
        else:
            port = reactor.listenSSL(0, site, tls, interface="127.0.0.1")
        ports.append(port)
        sites.append(site)
        return Served(site, port, root)

    yield start
    for port in ports:
        pytest_twisted.blockon(defer.maybeDeferred(port.stopListening))
    for site in sites:
        if isinstance(site, HangupSite):
            site.hang_up_all()
            pytest_twisted.blockon(site.drain())
