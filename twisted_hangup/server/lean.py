"""Twisted's request, made faster for the common case: no body, and a resource that returns bytes.

`LeanRequest` comes after the application's request class, in place of Twisted's own.  It makes
attributes that most applications never use when they are first read, and writes head and body in
one piece.  In every other case it calls Twisted's method.  Methods that a subclass overrides are
called as Twisted calls them.  docs/subclass.md lists the few differences that an application can
see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import inf
from operator import attrgetter
from time import monotonic, time
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote_to_bytes as unquote

from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.error import UnsupportedMethod
from twisted.web.http import NO_BODY_CODES, parse_qs
from twisted.web.http_headers import Headers
from twisted.web.resource import _IEncodingResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Request, Site

from ..events import Field, RequestHead
from ..limits import KIB
from ..parser.grammar import CR, LF
from .headers import HeadersCache

#: A body up to this size is sent in one piece with its head; copying a larger one costs more.
_SMALL_BODY: Final = 64 * KIB

#: The names in Twisted's modules.  Asking the modules is slow: they look for deprecated names.
_HTTP: Final = http.Request.getHeader.__globals__
_SERVER: Final = Site.getResourceFor.__globals__
_HTTPRequest: Final = http.Request
_NOT_GIVEN: Final = http._QUEUED_SENTINEL
_VERSION: Final = _SERVER["version"]
_NO_CONTENT: Final = Request.content
_GET_RESOURCE_FOR: Final = Site.getResourceFor

# A byte is looked for as its number: with bytes, `in` first raises a TypeError and catches it.
_QUESTION_MARK: Final = ord("?")

_CONTENT_TYPE: Final = b"Content-Type"
_CONTENT_LENGTH: Final = b"Content-Length"


class _AtFirstTouch:
    """An attribute that is made when it is first read, and is an ordinary one from then on."""

    def __init__(self, make: Callable[[Any], object]) -> None:
        self._make = make

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    def __get__(self, request: Any, owner: type[Any]) -> Any:
        name = self._name
        if request is None:
            return getattr(Request, name)
        if name not in request._hangup_unmade:
            made = _attributes_of(request).get(name)  # another thread may have made it meanwhile
            # It was deleted, or has no value yet: Twisted's class has a default.
            return getattr(Request, name) if made is None else made
        # Set before it leaves the unmade ones: another thread may ask at the same time.
        value = self._make(request)
        setattr(request, name, value)
        request._hangup_unmade -= {name}
        return value


class _Content(_AtFirstTouch):
    """The same, until the response is complete."""

    def __get__(self, request: Any, owner: type[Any]) -> Any:
        if request is None or request.finished:
            return _NO_CONTENT
        return super().__get__(request, owner)


def _request_headers(request: LeanRequest) -> Headers:
    fields, cache = request._hangup_fields, request._hangup_cache
    return Headers() if fields is None or cache is None else cache.headers(fields)


def _received_cookies(request: LeanRequest) -> dict[bytes, bytes]:
    """The cookies that the client sent, even if the application has changed the headers."""
    cookies: dict[bytes, bytes] = {}
    if request._hangup_has_cookies:
        headers = _request_headers(request)
        reader: Any = SimpleNamespace(requestHeaders=headers, received_cookies=cookies)
        Request.parseCookies(reader)
    return cookies


def _content(request: LeanRequest) -> Any:
    return http._getContentFile(0)


def _parses_forms(request: LeanRequest) -> Any:
    site: Any = request.site
    return site._parsePOSTFormSubmission


_AT_FIRST: Final = frozenset({"requestHeaders", "received_cookies"})
_CONTENT: Final = frozenset({"content"})
_RARE: Final = frozenset({"_adapterCache", "_parsePOSTFormSubmission", "sitepath"})
_WITHOUT_BODY: Final = _AT_FIRST | _CONTENT
_ALL: Final = _WITHOUT_BODY | _RARE
#: What is left of them after the response.
_AFTERWARDS: Final = {_WITHOUT_BODY: _AT_FIRST, _ALL: _AT_FIRST | _RARE}

#: The ``__dict__`` of an instance, without the attributes that are not made yet.
_dictionary: Final = next(
    vars(kind)["__dict__"] for kind in Request.__mro__ if "__dict__" in vars(kind)
)
_attributes_of: Final = _dictionary.__get__


class LeanRequest(Request):
    """Twisted's request, under the application's class.

    Its names may not collide with the application's: its attributes begin with ``_hangup``, and it
    calls its own methods through the class.
    """

    channel: Any
    begun_at: float | None  # of `HangupRequest`, as are the next two
    _hangup_refuse_method: Callable[[Iterable[bytes]], bool]
    _hangup_refuse_body: Callable[[object, object], bool]
    _hangup_body_left: float | None  # of `BodyRequest`

    requestHeaders = _AtFirstTouch(_request_headers)
    received_cookies = _AtFirstTouch(_received_cookies)
    content = _Content(_content)
    # Those that a request without a body hardly ever needs.
    _adapterCache: Any = _AtFirstTouch(lambda request: {})
    _parsePOSTFormSubmission = _AtFirstTouch(_parses_forms)
    sitepath: Any = _AtFirstTouch(lambda request: [])

    #: The header as received, and the cache that makes `Headers` of it.
    _hangup_fields: list[Field] | None = None
    _hangup_cache: HeadersCache | None = None
    #: Whether the header may hold cookies.
    _hangup_has_cookies = False
    #: The attributes that `_AtFirstTouch` has not made yet.
    _hangup_unmade: frozenset[str] = frozenset()

    def __init__(
        self, channel: Any, queued: object = _NOT_GIVEN, *args: Any, **options: Any
    ) -> None:
        if args or options:
            super().__init__(channel, queued, *args, **options)
            return
        LeanRequest._begin(self, channel, False if queued is _NOT_GIVEN else queued)
        self._parsePOSTFormSubmission = channel.site._parsePOSTFormSubmission
        self._adapterCache = {}
        self._hangup_unmade = _AT_FIRST

    def _begin(self, channel: Any, queued: object) -> None:
        """Set what every request has from the first."""
        self.notifications = []
        self.channel = channel
        self.client = channel.getPeer()
        self.host = channel.getHost()
        self.responseHeaders = Headers()
        self.cookies = []
        self.transport = channel.transport
        self.queued = queued

    @property
    def __dict__(self) -> dict[str, Any]:
        """All attributes, as Twisted's request has them."""
        attributes: dict[str, Any] = _attributes_of(self)
        for name in self._hangup_unmade - attributes.keys():
            getattr(self, name)
        return attributes

    @__dict__.setter
    def __dict__(self, attributes: dict[str, Any]) -> None:
        _dictionary.__set__(self, attributes)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For `copy`: the copy has all attributes."""
        vars(self)
        return super().__reduce_ex__(protocol)

    # Called by the channel.

    @staticmethod
    def run(
        request_class: type[LeanRequest],
        channel: Any,
        head: RequestHead,
        cache: HeadersCache,
        persistent: bool,
    ) -> None:
        """Make and answer a complete request without a body, whose target is a path.

        It does what the calls below do, one after the other, for a class that `is_plain`: nothing
        else may have touched the request before.  It tests no attribute for existence: that would
        make Python keep the attributes in a dictionary, where each takes longer to reach.

        Args:
            persistent: Whether the connection goes on after the response.
        """
        self = request_class.__new__(request_class)
        LeanRequest._begin(self, channel, len(channel.requests))
        channel.requests.append(self)
        self._hangup_fields, self._hangup_cache, self._hangup_has_cookies = head.fields, cache, True
        self._hangup_unmade = _ALL
        LeanRequest._take_target(self, head.method, head.target, b"HTTP/1.1")
        self.begun_at = monotonic()
        raw = self.responseHeaders._rawHeaders
        if not persistent:
            raw[b"Connection"] = [b"close"]
        version = _SERVER["version"]
        if version is _VERSION:
            raw[b"Server"] = [version]
        else:
            self.setHeader(b"Server", version)
        raw[b"Date"] = [_date(int(time()))]
        LeanRequest._ask_resource(self)

    def set_fields(self, fields: list[Field], cache: HeadersCache) -> None:
        """Take the header's *fields*; *cache* makes `Headers` of them when they are needed."""
        self._hangup_fields, self._hangup_cache = fields, cache
        if "requestHeaders" in _attributes_of(self):
            cache.give(self, fields)

    def parseCookies(self) -> None:
        """Note whether there are cookies; they are parsed when they are needed."""
        attributes = _attributes_of(self)
        if (
            self._hangup_unmade is _AT_FIRST
            and "requestHeaders" not in attributes
            and "received_cookies" not in attributes
        ):
            self._hangup_has_cookies = True
        else:
            super().parseCookies()

    def gotLength(self, length: int | None) -> None:
        """Make a file for the body, if there is a body, or if the site makes its own files."""
        if (
            length == 0
            and not hasattr(self.channel.site, "getContentFile")
            and "content" not in _attributes_of(self)
        ):
            unmade = self._hangup_unmade
            self._hangup_unmade = _WITHOUT_BODY if unmade is _AT_FIRST else unmade | _CONTENT
        else:
            super().gotLength(length)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is complete."""
        if "content" not in self._hangup_unmade or "content" in _attributes_of(self):
            super().requestReceived(command, path, version)
        else:
            LeanRequest._take_target(self, command, path, version)
            self.process()

    def _take_target(self, method: bytes, target: bytes, version: bytes) -> None:
        self.method, self.uri, self.clientproto = method, target, version
        if _QUESTION_MARK in target:
            self.path, query = target.split(b"?", 1)
            self.args = parse_qs(query, 1)
        else:
            self.path = target
            self.args = {}

    # What Twisted does between a request and its resource.

    def process(self) -> None:
        """Find the resource, and render it."""
        self.setHeader(b"Server", _SERVER["version"])
        self.setHeader(b"Date", _date(int(time())))
        if self.path == b"*":
            self.site, self.prepath, self.postpath = self.channel.site, [], [b""]
            self._handleStar()
        else:
            LeanRequest._ask_resource(self)

    def _ask_resource(self) -> None:
        site = self.site = self.channel.site
        self.prepath: list[bytes] = []
        path = self.path
        self.postpath = [b""] if path == b"/" else list(map(unquote, path[1:].split(b"/")))
        try:
            lookup = site.getResourceFor
            if getattr(lookup, "__func__", None) is _GET_RESOURCE_FOR:
                if self._hangup_unmade is not _ALL:
                    self.sitepath = []
                resource = site.resource
                if not resource.isLeaf:
                    resource = getChildForRequest(resource, self)
            else:
                resource = lookup(self)
            # The interface is asked for less often: that takes as long as to find the resource.
            if hasattr(resource, "getEncoder") and _IEncodingResource.providedBy(resource):
                encoder = resource.getEncoder(self)
                if encoder is not None:
                    self._encoder = encoder
            self.render(resource)
        except BaseException:
            self.processingFailed(Failure())

    def render(self, resource: Any) -> None:
        """Render *resource*, and write the response if it is bytes."""
        if self.method == b"HEAD":
            super().render(resource)
            return
        try:
            body = resource.render(self)
        except UnsupportedMethod as error:
            if not self._hangup_refuse_method(error.allowedMethods):
                super().render(_Rendered(resource, error))
            return
        if isinstance(body, bytes) and self.method != b"HEAD":
            self.setHeader(_CONTENT_LENGTH, _decimal(len(body)))
            self.write(body)
            self.finish()
        elif body is not NOT_DONE_YET and not self._hangup_refuse_body(resource, body):
            super().render(_Rendered(resource, body))

    # Called by applications.

    def setHeader(self, name: Any, value: Any) -> None:
        """Set a header of the response."""
        headers = self.responseHeaders
        if (
            name in _CANONICAL
            and value.__class__ is bytes
            and headers.__class__ is Headers
            and LF not in value
            and CR not in value
        ):
            headers._rawHeaders[name] = [value]
        else:
            super().setHeader(name, value)

    def write(self, data: bytes) -> None:
        """Send *data*, after the head if the head has not been sent yet."""
        if self.startedWriting:
            LeanRequest._write_on(self, data)
            return
        headers, code, phrase = self.responseHeaders, self.code, self.code_message
        if (
            self.finished
            or self._disconnected
            or self._inFakeHead
            or self._encoder
            or self.cookies
            or self.etag is not None
            or self.lastModified is not None
            or self.method == b"HEAD"
            or code in NO_BODY_CODES
            or data.__class__ is not bytes
            or phrase.__class__ is not bytes
            or headers.__class__ is not Headers
            or not self.channel.writes_whole_responses
        ):
            super().write(data)
            return
        raw = headers._rawHeaders
        length = raw.get(_CONTENT_LENGTH)
        if length and length[0] != _decimal(len(data)):
            if not length[0].isdigit() or len(data) > int(length[0]):
                super().write(data)
                return
            self._hangup_body_left = int(length[0]) - len(data)  # more comes
        if not raw.get(_CONTENT_TYPE) and not (length and length[0] == b"0"):
            content_type = self.defaultContentType
            if content_type == b"text/html":
                raw[_CONTENT_TYPE] = [content_type]
            elif content_type is not None:
                headers.setRawHeaders(_CONTENT_TYPE, [content_type])
        self.startedWriting = 1
        if not length:
            if self.clientproto == b"HTTP/1.1":
                raw[b"Transfer-Encoding"] = [b"chunked"]
                self.chunked = 1
            else:
                self._hangup_body_left = inf  # even if the headers change from now on
        pieces = [_status_line(self.clientproto, code, phrase)]
        for name, values in raw.items():
            for value in values:
                pieces += name, b": ", value, b"\r\n"
        pieces.append(b"\r\n")
        self.sentLength += len(data)
        if len(data) <= _SMALL_BODY:
            if data and self.chunked:
                pieces += _chunk(data)
            else:
                pieces.append(data)
            self.channel.write(b"".join(pieces))
        else:
            self.channel.write(b"".join(pieces))
            if self.chunked:
                self.channel.writeSequence(_chunk(data))
            else:
                self.channel.write(data)

    def _write_on(self, data: bytes) -> None:
        """Send *data*, a part of the body that comes after the first."""
        left = self._hangup_body_left
        if (
            left is None
            or data.__class__ is not bytes
            or not 0 < len(data) <= left
            or self.finished
            or self._disconnected
            or self._inFakeHead
            or self._encoder
        ):
            super().write(data)
            return
        self._hangup_body_left = left - len(data)
        self.sentLength += len(data)
        if self.chunked:
            self.channel.writeSequence(_chunk(data))
        else:
            self.channel.write(data)

    def finish(self) -> None:
        """The response is complete, or nobody waits for it any more."""
        if self._disconnected:
            return
        if self.finished or self._encoder or not self.startedWriting or self._hangup_body_left:
            super().finish()
            return
        channel = self.channel
        if self.chunked:
            channel.write(b"0\r\n\r\n")
        channel.deliver(self)
        self.finished = 1
        if not self.queued:
            self._cleanup()

    def _cleanup(self) -> None:
        """The response is complete; an attribute that was never made need not be closed."""
        unmade = self._hangup_unmade
        self._hangup_unmade = _AFTERWARDS.get(unmade) or unmade - _CONTENT
        if self.producer or self.content is not None:
            super()._cleanup()
            return
        self.channel.requestDone(self)
        del self.channel
        for waiter in self.notifications:
            waiter.callback(None)
        self.notifications = []


def untouched(request: Any) -> HeadersCache | None:
    """Where the header of *request* comes from, if nobody has touched it, and there is no body.

    Then `HeadersCache.looked_at` is the request's whole header.

    Returns:
        None as well over HTTP/2, where no header is kept for the next request.
    """
    if isinstance(request, LeanRequest):
        attributes, cache = _attributes_of(request), request._hangup_cache
        if (
            "requestHeaders" not in attributes
            and "content" not in attributes
            and cache is not None
            and cache.looked_at is request._hangup_fields
        ):
            return cache
    return None


class _Rendered:
    """A resource that was rendered already: Twisted's own ``render`` goes on from there."""

    def __init__(self, resource: object, outcome: object) -> None:
        self._resource = resource
        self._outcome = outcome

    def __repr__(self) -> str:
        return repr(self._resource)

    def render(self, request: Any) -> object:
        if isinstance(self._outcome, UnsupportedMethod):
            raise self._outcome
        return self._outcome


#: Header names in the form that `Headers` gives them; this spares a look-up.
_CANONICAL: Final = frozenset(
    {
        *(b"Accept-Ranges", b"Allow", b"Cache-Control", b"Connection", b"Content-Range"),
        *(_CONTENT_LENGTH, _CONTENT_TYPE, b"Date", b"ETag", b"Expires", b"Last-Modified"),
        *(b"Location", b"Server", b"Vary"),
    }
)


@lru_cache(maxsize=4)
def _date(second: int) -> bytes:
    date: bytes = http.datetimeToString(second)
    return date


def _chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A chunk of *data* (RFC 9112, section 7.1), in fewer pieces than Twisted's."""
    return b"%x\r\n" % len(data), data, b"\r\n"


@lru_cache(maxsize=256)
def _decimal(number: int) -> bytes:
    return b"%d" % number


@lru_cache(maxsize=64)
def _status_line(version: bytes, code: int, reason: bytes) -> bytes:
    return b"%b %d %b\r\n" % (version, code, reason)


# Whether Twisted's class still has the methods that the methods above replace.

_methods_of: Final = attrgetter(
    *("__init__", "_cleanup", "gotLength", "parseCookies", "requestReceived", "process", "render"),
    *("setHeader", "write", "finish"),
)
_inherited_methods_of: Final = attrgetter("__init__", "gotLength", "write", "finish")
_METHODS: Final = _methods_of(Request)
_INHERITED_METHODS: Final = _inherited_methods_of(_HTTPRequest)
_DATETIME_TO_STRING: Final = _SERVER["datetimeToString"]

#: Whether they were Twisted's own when this module was imported.
_ORIGINAL: Final = all(
    any(getattr(method, "__globals__", None) is names for names in (_HTTP, _SERVER))
    for method in (*_METHODS, *_INHERITED_METHODS, _DATETIME_TO_STRING)
)


def is_stock() -> bool:
    """Whether Twisted's methods that are replaced above are still its own.

    It is asked when a connection is made; a later change counts for the next connection.
    """
    return (
        _ORIGINAL
        and _methods_of(Request) == _METHODS
        and _inherited_methods_of(_HTTPRequest) == _INHERITED_METHODS
        and _SERVER["datetimeToString"] is _DATETIME_TO_STRING
    )


def fits(request_class: type[Any]) -> bool:
    """Whether a `LeanRequest` can come after *request_class*, if Twisted's is stock."""
    return issubclass(request_class, Request) and _ALL.isdisjoint(_own_names(request_class))


#: The methods that `LeanRequest.run` does not call.
_LEFT_OUT: Final = attrgetter(
    *("__init__", "__new__", "__getattribute__", "__setattr__", "__delattr__"),
    *("gotLength", "parseCookies", "requestReceived", "process", "setHeader"),
)
_TAKEN: Final = frozenset(
    {
        *("method", "uri", "clientproto", "path", "args", "responseHeaders", "channel"),
        *("site", "prepath", "postpath"),
    }
)


def left_out(factory: Any) -> object:
    """Those methods of *factory* that `LeanRequest.run` does not call; None if it is no class."""
    is_class = isinstance(factory, type) and issubclass(factory, Request)
    return _LEFT_OUT(factory) if is_class else None


def is_plain(factory: Any) -> bool:
    """Whether *factory* is a class that changes nothing in a request before its resource."""
    return (
        left_out(factory) == _LEFT_OUT(Request)
        and fits(factory)
        and _TAKEN.isdisjoint(_own_names(factory))
    )


def _own_names(request_class: type[Any]) -> Iterator[str]:
    own = (kind for kind in request_class.__mro__ if kind not in Request.__mro__)
    return (name for kind in own for name in vars(kind))
