"""What is wrong with a call is said where it is called, and what to write instead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from functools import wraps
from inspect import isclass
from io import StringIO
from math import inf, nan
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Site

from twisted_hangup import (
    ANY,
    AsyncResource,
    ClientSocket,
    DeliveryPolicy,
    ForwardedClients,
    Forwarding,
    HangupAgent,
    HangupChannel,
    HangupSite,
    HangupWSGIResource,
    HeaderOverflow,
    Lenience,
    Limits,
    MaskingPolicy,
    OutboundTimeouts,
    Outbox,
    OutboxLimits,
    ProxyResource,
    RetryAgent,
    RetryPolicy,
    Timeouts,
    cancel_on_hangup,
    cancellable,
    forward_client_errors,
    hangup_endpoint,
    shield,
)
from twisted_hangup._arguments import names_in
from twisted_hangup.journal import ConsoleLog, ErrorLog
from twisted_hangup.journal.access_log import AccessLog
from twisted_hangup.journal.files import LogFile
from twisted_hangup.metrics import Metrics
from twisted_hangup.parser.grammar import TOKEN
from twisted_hangup.service.files import StaticFiles
from twisted_hangup.status import StatusSite

#: What is called wrongly here, for any argument.
W: Any = {
    each.__name__: each
    for each in (
        *(AccessLog, ConsoleLog, DeliveryPolicy, ErrorLog, Forwarding, ForwardedClients),
        *(HangupAgent, HangupSite, HangupWSGIResource, Lenience, Limits, LogFile, MaskingPolicy),
        *(Metrics, OutboundTimeouts, Outbox, OutboxLimits, ProxyResource, RetryAgent, RetryPolicy),
        *(StaticFiles, StatusSite, Timeouts, cancel_on_hangup, cancellable),
        *(forward_client_errors, hangup_endpoint, shield),
    )
}


def site() -> Any:
    return HangupSite(Resource(), reactor=Clock())


def forwarding_site() -> Site:
    own = Site(Resource())
    forward_client_errors(own)
    return own


def reactor() -> Any:
    return MemoryReactorClock()


def agent() -> Agent:
    return Agent(reactor())


def one(failure: Failure) -> None: ...


def three(failure: Failure, socket: ClientSocket, more: object) -> None: ...


def by_name(*, failure: Failure, socket: ClientSocket) -> None: ...


def yields(failure: Failure, socket: ClientSocket) -> Iterator[None]:
    yield


async def yields_later(failure: Failure, socket: ClientSocket) -> AsyncIterator[None]:
    yield


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


class Application:
    """ASGI, as frameworks have it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def of_nothing() -> None: ...


class Method:
    def takes_two(self, failure: Failure, socket: ClientSocket) -> None: ...


class Threads:
    """A reactor, as far as threads know it."""

    def callFromThread(self, function: Any, *args: Any) -> None: ...


class RequestOnly:
    def request(self, method: str, url: str, *, params: Any = None) -> None: ...


def wsgi_of(application: Any) -> object:
    return W["HangupWSGIResource"](Threads(), ThreadPool(), application)


def console(**kwargs: Any) -> object:
    return W["ConsoleLog"](Clock(), **kwargs)


def proxy(url: Any = "http://127.0.0.1:9000", **kwargs: Any) -> object:
    return W["ProxyResource"](url, reactor=reactor(), **kwargs)


def add(handler: Any) -> object:
    return site().on_client_error(handler)


def listen(factory: Any) -> object:
    endpoint: Any = TCP4ServerEndpoint(reactor(), 0)
    return hangup_endpoint(endpoint).listen(factory)


def hangup_site(resource: Any = None, **kwargs: Any) -> Any:
    return W["HangupSite"](resource or Resource(), **kwargs)


class WrongChannel(HangupSite):
    channel: Any = HTTPChannel


#: What is done, in words -> the type of the error, a part of what it says, and the doing.
Row = tuple[str, type[Exception], str, Callable[[], object]]

SITES: Final[list[Row]] = [
    (
        "a directory",
        TypeError,
        "resource must be an IResource, not 'public': File('public')",
        lambda: hangup_site("public"),
    ),
    (
        "a class of resources",
        TypeError,
        "resource must be an IResource, not the class Resource: Resource(...)",
        lambda: hangup_site(Resource),
    ),
    (
        "no resource",
        TypeError,
        "resource must be an IResource, not None",
        lambda: W["HangupSite"](None),
    ),
    (
        "a reactor for a resource",
        TypeError,
        "resource must be an IResource, not MemoryReactorClock",
        lambda: hangup_site(reactor()),
    ),
    (
        "a WSGI function for a resource",
        TypeError,
        "not the function wsgi",
        lambda: hangup_site(wsgi),
    ),
    (
        "limits of a dict",
        TypeError,
        "limits must be a Limits or None, not dict: Limits(body_bytes=...)",
        lambda: hangup_site(limits={"head_bytes": 1}),
    ),
    (
        "an empty dict for limits",
        TypeError,
        "limits must be a Limits or None, not dict",
        lambda: hangup_site(limits={}),
    ),
    (
        "times for limits",
        TypeError,
        "limits must be a Limits or None, not Timeouts",
        lambda: hangup_site(limits=Timeouts()),
    ),
    (
        "limits for times",
        TypeError,
        "timeouts must be a Timeouts or None, not Limits",
        lambda: hangup_site(timeouts=Limits()),
    ),
    (
        "a number for times",
        TypeError,
        "timeouts must be a Timeouts or None, not 60",
        lambda: hangup_site(timeouts=60),
    ),
    (
        "0 for times",
        TypeError,
        "timeouts must be a Timeouts or None, not 0",
        lambda: hangup_site(timeouts=0),
    ),
    ("the class of limits", TypeError, "not the class Limits", lambda: hangup_site(limits=Limits)),
    (
        "times of another place",
        TypeError,
        "timeouts must be a Timeouts or None, not OutboundTimeouts",
        lambda: hangup_site(timeouts=OutboundTimeouts()),
    ),
    (
        "a channel for its class",
        TypeError,
        "channel must be a class, not an object of it: channel=HangupChannel",
        lambda: hangup_site(channel=HangupChannel()),
    ),
    (
        "another class",
        TypeError,
        "channel must be HangupChannel or a subclass of it, not the class object",
        lambda: hangup_site(channel=object),
    ),
    (
        "Twisted's channel",
        TypeError,
        "not the class HTTPChannel",
        lambda: hangup_site(channel=HTTPChannel),
    ),
    (
        "Twisted's channel, in the class",
        TypeError,
        "not the class HTTPChannel",
        lambda: WrongChannel(Resource()),
    ),
    (
        "no masking",
        TypeError,
        "masking must be a MaskingPolicy, not False",
        lambda: hangup_site(masking=False),
    ),
    (
        "names for masking",
        TypeError,
        "MaskingPolicy(extra_fields=...)",
        lambda: hangup_site(masking={"x-token"}),
    ),
    (
        "a proxy's address",
        TypeError,
        "forwarded must be a ForwardedClients or None, not '10.0.0.1'",
        lambda: hangup_site(forwarded="10.0.0.1"),
    ),
    (
        "limits by position",
        TypeError,
        "requestFactory must be a class of requests, or a function that makes them, not Limits",
        lambda: W["HangupSite"](Resource(), Limits()),
    ),
    (
        "a number that makes requests",
        TypeError,
        "requestFactory must be a class of requests, or a function that makes them, not 5",
        lambda: hangup_site(requestFactory=5),
    ),
    (
        "a time of text",
        TypeError,
        "timeout must be a number, not '60'",
        lambda: hangup_site(timeout="60"),
    ),
    (
        "a negative time",
        ValueError,
        "timeout must not be negative, and is -1",
        lambda: hangup_site(timeout=-1),
    ),
    (
        "forward_client_errors of nothing",
        TypeError,
        "site must be an HTTPFactory, not None",
        lambda: W["forward_client_errors"](None),
    ),
    (
        "forward_client_errors of a resource",
        TypeError,
        "site must be an HTTPFactory, not Resource: HangupSite(resource)",
        lambda: W["forward_client_errors"](Resource()),
    ),
    (
        "forward_client_errors of a reactor",
        TypeError,
        "site must be an HTTPFactory, not MemoryReactorClock",
        lambda: W["forward_client_errors"](reactor()),
    ),
    (
        "forward_client_errors of a class",
        TypeError,
        "not the class Site",
        lambda: W["forward_client_errors"](Site),
    ),
    (
        "forward_client_errors of a HangupSite",
        ValueError,
        "HangupSite forwards its client errors already: use site.errors",
        lambda: forward_client_errors(site()),
    ),
    (
        "forward_client_errors twice",
        ValueError,
        "Site forwards its client errors already: use what the first call returned",
        lambda: forward_client_errors(forwarding_site()),
    ),
    (
        "forward_client_errors with a dict",
        TypeError,
        "limits must be a Limits",
        lambda: W["forward_client_errors"](Site(Resource()), limits={}),
    ),
    (
        "forward_client_errors with a channel",
        TypeError,
        "channel must be a class",
        lambda: W["forward_client_errors"](Site(Resource()), channel=HangupChannel()),
    ),
    (
        "adopting a class",
        TypeError,
        "channel must be a HangupChannel, not the class HangupChannel",
        lambda: W["HangupSite"](Resource()).errors.adopt(HangupChannel),
    ),
    (
        "an endpoint's words",
        TypeError,
        "endpoint must be an IStreamServerEndpoint, not 'tcp:8000'"
        ": serverFromString(reactor, 'tcp:8000')",
        lambda: W["hangup_endpoint"]("tcp:8000"),
    ),
    (
        "no endpoint",
        TypeError,
        "endpoint must be an IStreamServerEndpoint, not None",
        lambda: W["hangup_endpoint"](None),
    ),
    (
        "a site for an endpoint",
        TypeError,
        "not HangupSite: hangup_endpoint(endpoint).listen(site)",
        lambda: W["hangup_endpoint"](site()),
    ),
    ("a port for an endpoint", TypeError, "not 8000", lambda: W["hangup_endpoint"](8000)),
    (
        "a resource that listens",
        TypeError,
        "protocolFactory must be an IProtocolFactory, not Resource: HangupSite(resource)",
        lambda: listen(Resource()),
    ),
    (
        "nothing that listens",
        TypeError,
        "protocolFactory must be an IProtocolFactory, not None",
        lambda: listen(None),
    ),
    (
        "the class of sites that listens",
        TypeError,
        "not the class HangupSite",
        lambda: listen(HangupSite),
    ),
    (
        "a client's endpoint",
        TypeError,
        "not TCP4ClientEndpoint",
        lambda: W["hangup_endpoint"](TCP4ClientEndpoint(reactor(), "a", 1)),
    ),
    (
        "metrics of Twisted's site",
        TypeError,
        "site must be a HangupSite or a SiteErrors, not Site: forward_client_errors(site)",
        lambda: W["Metrics"](Site(Resource())),
    ),
    (
        "metrics of nothing",
        TypeError,
        "site must be a HangupSite or a SiteErrors, not None",
        lambda: W["Metrics"](None),
    ),
    (
        "metrics in a class",
        TypeError,
        "registry must be a CollectorRegistry or None",
        lambda: W["Metrics"](site(), registry=CollectorRegistry),
    ),
    (
        "an outbox's path for an outbox",
        TypeError,
        "outbox must be an Outbox, not 'o.db'",
        lambda: W["Metrics"](site()).watch_outbox("o.db"),
    ),
    (
        "the status of Twisted's site",
        TypeError,
        "site must be a HangupSite or a SiteErrors, not Site",
        lambda: W["StatusSite"](Site(Resource()), Clock()),
    ),
    (
        "the status of a site that forwards",
        TypeError,
        "forward_client_errors(site)",
        lambda: W["StatusSite"](forwarding_site(), Clock()),
    ),
    (
        "a token for the reactor",
        TypeError,
        "reactor must be a reactor, not 'token'",
        lambda: W["StatusSite"](site(), "token"),
    ),
    (
        "a token of bytes",
        TypeError,
        "token must be a str or None, not bytes",
        lambda: W["StatusSite"](site(), Clock(), token=b"secret"),
    ),
    (
        "an empty token",
        ValueError,
        "token must not be empty",
        lambda: W["StatusSite"](site(), Clock(), token=""),
    ),
    (
        "metrics for their resource",
        TypeError,
        "metrics must be an IResource, not Metrics: metrics.resource()",
        lambda: W["StatusSite"](site(), Clock(), metrics=Metrics(site())),
    ),
]

HANDLERS: Final[list[Row]] = [
    (
        "text",
        TypeError,
        "handler must be a function that takes (failure, socket), not 'x'",
        lambda: add("x"),
    ),
    (
        "nothing",
        TypeError,
        "handler must be a function that takes (failure, socket), not None",
        lambda: add(None),
    ),
    ("an error", TypeError, "not the class HeaderOverflow", lambda: add(HeaderOverflow)),
    (
        "one argument",
        TypeError,
        "handler must take (failure, socket), and one takes (failure: 'Failure')",
        lambda: add(one),
    ),
    ("one argument, lambda", TypeError, "<lambda> takes (f)", lambda: add(lambda f: f)),
    (
        "three arguments",
        TypeError,
        "handler must take (failure, socket), and three takes",
        lambda: add(three),
    ),
    ("no positions", TypeError, "by_name takes (*, failure", lambda: add(by_name)),
    (
        "no instance",
        TypeError,
        "Method.takes_two takes (self, failure",
        lambda: add(Method.takes_two),
    ),
    (
        "a generator",
        TypeError,
        "handler must not yield, as yields does: write async def",
        lambda: add(yields),
    ),
    (
        "an asynchronous generator",
        TypeError,
        "handler must not yield, as yields_later does",
        lambda: add(yields_later),
    ),
    ("what it has returned", TypeError, "not Deferred", lambda: add(Deferred())),
    (
        "on a site of one's own",
        TypeError,
        "handler must take (failure, socket)",
        lambda: W["forward_client_errors"](Site(Resource())).add(one),
    ),
    (
        "a watcher of two",
        TypeError,
        "watcher must take (error)",
        lambda: site().journal.watch(three),
    ),
    (
        "a watcher that is none",
        TypeError,
        "watcher must be a function that takes (error), not 'x'",
        lambda: site().journal.watch("x"),
    ),
    (
        "a watcher of answers",
        TypeError,
        "watcher must take (error, status)",
        lambda: site().journal.watch_settled(one),
    ),
    (
        "a watcher of servers",
        TypeError,
        "watcher must take (error)",
        lambda: site().journal.watch_upstream(three),
    ),
    ("a follower", TypeError, "follower must be a function", lambda: site().journal.follow(None)),
    (
        "cancellable of a number",
        TypeError,
        "function must be a function that takes a request, not 5",
        lambda: W["cancellable"](5),
    ),
    (
        "cancellable of a class",
        TypeError,
        "not the class AsyncResource",
        lambda: W["cancellable"](AsyncResource),
    ),
    (
        "cancellable without a request",
        TypeError,
        "function must take a request, and of_nothing takes ()",
        lambda: W["cancellable"](of_nothing),
    ),
    (
        "cancellable of a generator",
        TypeError,
        "function must not yield, as yields does",
        lambda: W["cancellable"](yields),
    ),
    (
        "a request that is none",
        TypeError,
        "request must be a request, not None",
        lambda: W["cancel_on_hangup"](None, None),
    ),
    (
        "a request and its work exchanged",
        TypeError,
        "request must be a request, not Deferred",
        lambda: W["cancel_on_hangup"](Deferred(), Site(Resource())),
    ),
    (
        "shielding a number",
        TypeError,
        "work must be a Deferred or a coroutine, not 5",
        lambda: W["shield"](5),
    ),
    (
        "shielding a function",
        TypeError,
        "work must be a Deferred or a coroutine, not the function asgi: asgi(...)",
        lambda: W["shield"](asgi),
    ),
    (
        "ASGI",
        TypeError,
        "application must be a WSGI application, not a coroutine function: ASGI is not supported",
        lambda: wsgi_of(asgi),
    ),
    ("ASGI, an object", TypeError, "ASGI is not supported", lambda: wsgi_of(Application())),
    (
        "WSGI of one argument",
        TypeError,
        "application must take (environ, start_response), and one takes",
        lambda: wsgi_of(one),
    ),
    (
        "WSGI of text",
        TypeError,
        "application must be a function that takes (environ, start_response), not 'mysite.wsgi'",
        lambda: wsgi_of("mysite.wsgi"),
    ),
    (
        "WSGI without threads",
        TypeError,
        "threadpool must be a ThreadPool, not None",
        lambda: W["HangupWSGIResource"](Threads(), None, wsgi),
    ),
    (
        "WSGI, exchanged",
        TypeError,
        "reactor must be a reactor, not ThreadPool",
        lambda: W["HangupWSGIResource"](ThreadPool(), reactor(), wsgi),
    ),
]

AGENTS: Final[list[Row]] = [
    (
        "a reactor",
        TypeError,
        "agent must be an IAgent, not MemoryReactorClock: HangupAgent.from_reactor(reactor)",
        lambda: W["HangupAgent"](reactor()),
    ),
    (
        "a reactor to send again",
        TypeError,
        "agent must be an IAgent, not MemoryReactorClock: RetryAgent.from_reactor(reactor)",
        lambda: W["RetryAgent"](reactor()),
    ),
    (
        "a reactor for the outbox",
        TypeError,
        "HangupAgent.from_reactor(reactor)",
        lambda: W["Outbox"]("o.db", agent=reactor()),
    ),
    (
        "a policy",
        TypeError,
        "agent must be an IAgent, not RetryPolicy",
        lambda: W["RetryAgent"](RetryPolicy()),
    ),
    (
        "a class",
        TypeError,
        "agent must be an IAgent, not the class Agent",
        lambda: W["HangupAgent"](Agent),
    ),
    ("nothing", TypeError, "agent must be an IAgent, not None", lambda: W["HangupAgent"](None)),
    (
        "what asks otherwise",
        TypeError,
        "agent.request must take (method, uri, headers, bodyProducer)",
        lambda: W["HangupAgent"](RequestOnly()),
    ),
    (
        "a policy of a dict",
        TypeError,
        "policy must be a RetryPolicy or None, not dict",
        lambda: W["RetryAgent"](agent(), {}),
    ),
    (
        "another policy",
        TypeError,
        "policy must be a RetryPolicy or None, not DeliveryPolicy",
        lambda: W["RetryAgent"](agent(), DeliveryPolicy()),
    ),
    (
        "another policy for one request",
        TypeError,
        "policy must be a RetryPolicy, not 3",
        lambda: W["RetryAgent"](agent(), clock=Clock()).with_policy(3),
    ),
    (
        "a clock that is none",
        TypeError,
        "clock must be a reactor, not 5",
        lambda: W["RetryAgent"](agent(), clock=5),
    ),
    (
        "no function for attempts",
        TypeError,
        "on_attempt must be a function that takes (attempt), not 'log'",
        lambda: W["RetryAgent"](agent(), on_attempt="log"),
    ),
    (
        "an agent for a reactor",
        TypeError,
        "reactor must be a reactor, not Agent",
        lambda: W["HangupAgent"].from_reactor(agent()),
    ),
    (
        "times of a site",
        TypeError,
        "timeouts must be an OutboundTimeouts or None, not Timeouts"
        ": OutboundTimeouts(head_seconds=...)",
        lambda: W["HangupAgent"].from_reactor(reactor(), timeouts=Timeouts()),
    ),
    (
        "an endpoint for a function",
        TypeError,
        "endpoint must be a function that takes (uri)",
        lambda: W["HangupAgent"].from_reactor(reactor(), endpoint="tcp:a:1"),
    ),
    (
        "the class of a policy",
        TypeError,
        "not the class BrowserLikePolicyForHTTPS: BrowserLikePolicyForHTTPS(...)",
        lambda: W["HangupAgent"].from_reactor(reactor(), policy=BrowserLikePolicyForHTTPS),
    ),
    (
        "part of a connection",
        TypeError,
        "most_idle must be a whole number, not 1.5",
        lambda: W["HangupAgent"].from_reactor(reactor(), most_idle=1.5),
    ),
    (
        "no attempt",
        ValueError,
        "attempts must be at least 1, and is 0",
        lambda: RetryPolicy(attempts=0),
    ),
    (
        "attempts of text",
        TypeError,
        "attempts must be a whole number, not '3'",
        lambda: W["RetryPolicy"](attempts="3"),
    ),
    (
        "one method",
        TypeError,
        "methods must be a set of names, not one name: {'POST'}",
        lambda: W["RetryPolicy"](methods="POST"),
    ),
    (
        "methods of numbers",
        TypeError,
        "methods must have names in it, str or bytes, not 1",
        lambda: W["RetryPolicy"](methods=[1]),
    ),
    (
        "no methods",
        TypeError,
        "methods must be a set of names, not None",
        lambda: W["RetryPolicy"](methods=None),
    ),
    (
        "a method in lower case",
        ValueError,
        "methods: method names are case-sensitive: write POST, not 'post'",
        lambda: W["RetryPolicy"](methods={"post"}),
    ),
    (
        "one status",
        TypeError,
        "statuses must be a set of status codes, not 503: {503}",
        lambda: W["RetryPolicy"](statuses=503),
    ),
    (
        "statuses of text",
        TypeError,
        "statuses must have whole numbers in it, not '503'",
        lambda: W["RetryPolicy"](statuses={"503"}),
    ),
    (
        "a status that is none",
        ValueError,
        "statuses: 5030 is not a status code",
        lambda: W["RetryPolicy"](statuses={5030}),
    ),
    (
        "a negative delay",
        ValueError,
        "first_delay_seconds must not be negative, and is -1",
        lambda: RetryPolicy(first_delay_seconds=-1),
    ),
    ("a URL of bytes", TypeError, "url must be a str, not bytes", lambda: proxy(b"http://u:p@a")),
    (
        "no URL",
        TypeError,
        "url must be a str, not None",
        lambda: W["ProxyResource"](None, reactor=Clock()),
    ),
    (
        "no scheme",
        ValueError,
        "'localhost:9000' is not the URL of a server",
        lambda: proxy("localhost:9000"),
    ),
    (
        "a dict for forwarding",
        TypeError,
        "forwarding must be a Forwarding or None, not dict",
        lambda: proxy(forwarding={}),
    ),
    (
        "a proxy with times of a site",
        TypeError,
        "timeouts must be an OutboundTimeouts",
        lambda: proxy(timeouts=Timeouts()),
    ),
    (
        "a proxy with limits of a dict",
        TypeError,
        "limits must be a Limits or None, not dict",
        lambda: proxy(limits={}),
    ),
    (
        "a proxy's endpoint in words",
        TypeError,
        "endpoint must be an IStreamClientEndpoint, not 'unix:/s'"
        ": clientFromString(reactor, 'unix:/s')",
        lambda: proxy(endpoint="unix:/s"),
    ),
    (
        "a word for Host",
        ValueError,
        "host must be 'pass' or 'rewrite', not 'keep'",
        lambda: W["Forwarding"](host="keep"),
    ),
    (
        "a word in capitals",
        ValueError,
        "forwarded must be 'replace' or 'append' or 'off', not 'Append': did you mean append?",
        lambda: W["Forwarding"](forwarded="Append"),
    ),
    (
        "a switch for a word",
        TypeError,
        "host must be a str, not True",
        lambda: W["Forwarding"](host=True),
    ),
    (
        "one field",
        TypeError,
        "drop_fields must be a set of names, not one name",
        lambda: W["Forwarding"](drop_fields="x-user"),
    ),
    ("Via of text", TypeError, "via must be bytes, not str", lambda: W["Forwarding"](via="us")),
    (
        "a proxy, not in a list",
        TypeError,
        "trusted must be a list of addresses and networks, not '10.0.0.1': ['10.0.0.1']",
        lambda: W["ForwardedClients"]("10.0.0.1"),
    ),
    (
        "no proxy",
        TypeError,
        "trusted must be a list of addresses and networks, not None",
        lambda: W["ForwardedClients"](None),
    ),
    (
        "a proxy of bytes",
        TypeError,
        "each of trusted must be a str, not bytes",
        lambda: W["ForwardedClients"]([b"10.0.0.1"]),
    ),
    (
        "a field of bytes",
        TypeError,
        "field must be a str, not bytes",
        lambda: W["ForwardedClients"](["10.0.0.1"], b"Forwarded"),
    ),
]

RECORDS: Final[list[Row]] = [
    (
        "a size of text",
        TypeError,
        "head_bytes must be a whole number, not '16k'",
        lambda: W["Limits"](head_bytes="16k"),
    ),
    (
        "a negative size",
        ValueError,
        "head_bytes must be at least 1, and is -1",
        lambda: Limits(head_bytes=-1),
    ),
    (
        "no head",
        ValueError,
        "head_bytes must be at least 1, and is 0",
        lambda: Limits(head_bytes=0),
    ),
    (
        "no size",
        TypeError,
        "body_bytes must be a whole number, not None",
        lambda: W["Limits"](body_bytes=None),
    ),
    (
        "a negative body",
        ValueError,
        "body_bytes must not be negative, and is -1",
        lambda: Limits(body_bytes=-1),
    ),
    (
        "part of a byte",
        TypeError,
        "body_bytes must be a whole number, not 1.5",
        lambda: W["Limits"](body_bytes=1.5),
    ),
    (
        "a switch for a size",
        TypeError,
        "body_bytes must be a whole number, not True",
        lambda: Limits(body_bytes=True),
    ),
    (
        "a word for a switch",
        TypeError,
        "require_host must be True or False, not 'no'",
        lambda: W["Limits"](require_host="no"),
    ),
    (
        "one method",
        TypeError,
        "methods must be a set of names, not one name: {'GET'}",
        lambda: W["Limits"](methods="GET"),
    ),
    (
        "a method that is no token",
        ValueError,
        "methods: 'BAD METHOD' is not a token",
        lambda: W["Limits"](methods={"BAD METHOD"}),
    ),
    (
        "an empty method",
        ValueError,
        "methods: '' is not a token",
        lambda: W["Limits"](methods=[""]),
    ),
    (
        "a method in lower case",
        ValueError,
        "methods: method names are case-sensitive: write GET, not 'get'",
        lambda: W["Limits"](methods={"get"}),
    ),
    (
        "lenience of text",
        TypeError,
        "lenience must be a Lenience, not 'bare-lf': Lenience(bare_lf=True)",
        lambda: W["Limits"](lenience="bare-lf"),
    ),
    (
        "a word for lenience",
        TypeError,
        "bare_lf must be True or False, not 'yes'",
        lambda: W["Lenience"](bare_lf="yes"),
    ),
    (
        "a time of text",
        TypeError,
        "head_seconds must be a number, not '60'",
        lambda: W["Timeouts"](head_seconds="60"),
    ),
    (
        "a negative time",
        ValueError,
        "head_seconds must not be negative, and is -1",
        lambda: Timeouts(head_seconds=-1),
    ),
    (
        "no time",
        TypeError,
        "head_seconds must be a number, not None",
        lambda: W["Timeouts"](head_seconds=None),
    ),
    (
        "an endless time",
        ValueError,
        "head_seconds must not be infinite",
        lambda: Timeouts(head_seconds=inf),
    ),
    (
        "a time that is no number",
        ValueError,
        "head_seconds must not be negative, and is nan",
        lambda: Timeouts(head_seconds=nan),
    ),
    (
        "a time of Python's",
        TypeError,
        "head_seconds must be a number, not timedelta: .total_seconds()",
        lambda: W["Timeouts"](head_seconds=timedelta(minutes=1)),
    ),
    (
        "a time for a server, of text",
        TypeError,
        "connect_seconds must be a number, not '5s'",
        lambda: W["OutboundTimeouts"](connect_seconds="5s"),
    ),
    (
        "one field to hide",
        TypeError,
        "extra_fields must be a set of names, not one name: {'X-Token'}",
        lambda: W["MaskingPolicy"](extra_fields="X-Token"),
    ),
    (
        "a field that is no token",
        ValueError,
        "extra_fields: 'a b' is not a token",
        lambda: W["MaskingPolicy"](extra_fields={"a b"}),
    ),
    (
        "a word for unmasked",
        TypeError,
        "unmasked must be True or False, not 'no'",
        lambda: W["MaskingPolicy"](unmasked="no"),
    ),
    (
        "attempts of text",
        TypeError,
        "max_attempts must be a number, not '3'",
        lambda: W["DeliveryPolicy"](max_attempts="3"),
    ),
    (
        "no wait",
        ValueError,
        "base_seconds must be more than 0, and is 0",
        lambda: DeliveryPolicy(base_seconds=0),
    ),
    (
        "half a failure",
        TypeError,
        "failures_to_pause must be a whole number, not 1.5",
        lambda: W["DeliveryPolicy"](failures_to_pause=1.5),
    ),
    (
        "no delivery",
        ValueError,
        "deliveries must be more than 0, and is 0",
        lambda: OutboxLimits(deliveries=0),
    ),
    (
        "deliveries of text",
        TypeError,
        "deliveries must be a whole number, not '4'",
        lambda: W["OutboxLimits"](deliveries="4"),
    ),
    (
        "another database",
        ValueError,
        "neither the path of an SQLite file nor a postgresql:// URL, but mysql:",
        lambda: Outbox("mysql://x/y"),
    ),
    ("SQLAlchemy's words", ValueError, "but sqlite:", lambda: Outbox("sqlite:///x.db")),
    (
        "a path",
        TypeError,
        "database must be a str, not PosixPath",
        lambda: W["Outbox"](Path("o.db")),
    ),
    (
        "a path of bytes",
        TypeError,
        "database must be a str, not bytes",
        lambda: W["Outbox"](b"o.db"),
    ),
    (
        "another policy",
        TypeError,
        "policy must be a DeliveryPolicy, not RetryPolicy",
        lambda: W["Outbox"]("o.db", policy=RetryPolicy()),
    ),
    (
        "other limits",
        TypeError,
        "limits must be an OutboxLimits, not Limits: OutboxLimits(body_bytes=...)",
        lambda: W["Outbox"]("o.db", limits=Limits()),
    ),
    (
        "no policy",
        TypeError,
        "policy must be a DeliveryPolicy, not None",
        lambda: W["Outbox"]("o.db", policy=None),
    ),
    (
        "a word for a switch",
        TypeError,
        "deliver must be True or False, not 'no'",
        lambda: W["Outbox"]("o.db", deliver="no"),
    ),
    (
        "grace of text",
        TypeError,
        "grace_seconds must be a number, not '5'",
        lambda: W["Outbox"]("o.db", grace_seconds="5"),
    ),
    (
        "a reactor that is none",
        TypeError,
        "reactor must be a reactor, not 'o'",
        lambda: W["Outbox"]("o.db", reactor="o"),
    ),
    (
        "a draw that is none",
        TypeError,
        "jitter must be a function that takes (bound), not 0.5",
        lambda: W["Outbox"]("o.db", jitter=0.5),
    ),
    (
        "a watcher of an outbox",
        TypeError,
        "watcher must take (delivery)",
        lambda: W["Outbox"]("o.db").watch(of_nothing),
    ),
    (
        "a site for a clock",
        TypeError,
        "clock must be a reactor, not HangupSite",
        lambda: W["ConsoleLog"](site()),
    ),
    (
        "lines of text",
        TypeError,
        "per_second must be a whole number, not '10'",
        lambda: console(per_second="10"),
    ),
    (
        "less than no line",
        ValueError,
        "per_second must not be negative, and is -1",
        lambda: console(per_second=-1),
    ),
    (
        "another policy for the log",
        TypeError,
        "policy must be a MaskingPolicy, not set",
        lambda: console(policy={"x"}),
    ),
    (
        "Python's logger",
        TypeError,
        "logger must be a Logger or None, not RootLogger: Logger(namespace=...) of twisted.logger",
        lambda: console(logger=logging.getLogger()),
    ),
    (
        "no file",
        TypeError,
        "file must be a path, or a file that takes bytes, not None",
        lambda: W["ErrorLog"](None, Clock()),
    ),
    (
        "a file of text",
        TypeError,
        "file must take bytes, and this one takes text: open it with mode 'ab'",
        lambda: W["ErrorLog"](StringIO(), Clock()),
    ),
    (
        "errors without a clock",
        TypeError,
        "clock must be a reactor, not 30",
        lambda: W["ErrorLog"]("e.log", 30),
    ),
    (
        "a path for a log",
        TypeError,
        "file must be a LogFile, not 'a.log': LogFile(path, 'access log')",
        lambda: W["AccessLog"]("a.log"),
    ),
    (
        "a format in words",
        TypeError,
        "line_of must be a format, not '%h': access_format('%h')",
        lambda: W["AccessLog"](LogFile(open_null(), "log"), line_of="%h"),
    ),
    (
        "a directory of bytes",
        TypeError,
        "path must be a str, not bytes",
        lambda: W["StaticFiles"](b"public"),
    ),
]


def open_null() -> Any:
    from io import BytesIO

    return BytesIO()


ROWS: Final = [*SITES, *HANDLERS, *AGENTS, *RECORDS]


@pytest.mark.parametrize(
    "kind, words, call",
    [row[1:] for row in ROWS],
    ids=[f"{row[0]}-{number}" for number, row in enumerate(ROWS)],
)
def test_wrong_use(
    kind: type[Exception], words: str, call: Callable[[], object], tmp_path: Path, monkeypatch: Any
) -> None:
    """It is refused at once, with the name of the argument and what came; no file is left."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_site_of_twisteds_on_our_endpoint() -> None:
    """It works, and whoever wonders why nothing is told has been."""
    endpoint: Any = TCP4ServerEndpoint(reactor(), 0)
    with pytest.warns(UserWarning, match="Site does not forward its client errors: call forw"):
        hangup_endpoint(endpoint).listen(Site(Resource()))
    hangup_endpoint(endpoint).listen(forwarding_site())


def test_what_is_long_or_secret_is_not_shown() -> None:
    """A value may be anything; its type says enough."""
    with pytest.raises(TypeError, match=r"not str:"):
        hangup_site(limits="secret" * 20)
    with pytest.raises(TypeError, match=r"not bytes$"):
        proxy(b"http://user:password@server")


class Duck:
    """A resource that does not say that it is one."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        return b""

    def getChildWithDefault(self, name: bytes, request: Any) -> Any: ...


def test_right_uses_of_every_kind() -> None:
    """What quacks is taken, and whatever can be called with two arguments."""

    def wrapper(function: Callable[[Failure], None]) -> Callable[[Failure, ClientSocket], None]:
        @wraps(function)
        def call(failure: Failure, socket: ClientSocket) -> None:
            function(failure)

        return call

    class Callable2:
        def __call__(self, failure: Failure, socket: ClientSocket) -> None: ...

    class WSGIClass:
        def __init__(self, environ: Any, start_response: Any) -> None: ...

    @inlineCallbacks
    def waits(failure: Failure, socket: ClientSocket) -> Any:
        yield None

    quacking = hangup_site(Duck(), timeout=None)
    any_number: Callable[..., None] = lambda *args: None  # noqa: E731
    for handler in (Method().takes_two, wrapper(one), Callable2(), waits, any_number, print):
        assert quacking.on_client_error(handler) is handler
    for application in (wsgi, WSGIClass, yields):
        assert not isclass(wsgi_of(application))
    assert Limits(methods=ANY).methods is ANY
    assert W["Limits"](methods=["GET", b"MINE"]).methods == {b"GET", b"MINE"}
    assert W["MaskingPolicy"](extra_fields={"X-Token"}).is_secret(b"x-token")
    assert isinstance(RetryAgent.from_reactor(reactor()), RetryAgent)
    quacking.journal.watch([].append)
    assert hangup_endpoint(hangup_endpoint(TCP4ServerEndpoint(reactor(), 0)))


def test_work_of_asyncio() -> None:
    """It is not ours, and Twisted has a word for it."""
    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match=r"not Future: Deferred.fromFuture\(future\)"):
        W["shield"](loop.create_future())
    loop.close()


@pytest.mark.parametrize("byte", range(256))
def test_tokens_are_those_of_the_parser(byte: int) -> None:
    """Two ways to say what a token is (RFC 9110, section 5.6.2) say the same."""
    token = b"a%ca" % byte
    try:
        names_in("names", [token])
    except ValueError:
        assert not TOKEN.fullmatch(token)
    else:
        assert TOKEN.fullmatch(token)
