"""Bodies: where a request's body is kept, whether it is a form, how long a response's is.

Twisted asks a resource when a request is complete.  A resource that can use a body while it is
still arriving is asked as soon as that body is known to be large.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from math import inf
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import NO_BODY_CODES, Request
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from ..errors import NO_RESPONSE
from ..limits import KIB, MIB
from ..parser.body import Buffer
from ..parser.target import host_and_path
from ..transport.sockets import JointWrites
from .forms import Form, FormRefused, TooManyForms

#: The largest body that is kept in memory, in bytes; Twisted's number.
LARGEST_IN_MEMORY: Final = 100_000

#: Most pieces of a body that wait in memory to be written to its file: one of a byte weighs two
#: hundred.
_MOST_PIECES: Final = 256

#: The largest body that is held until it is complete, in bytes, if a resource takes bodies as
#: they arrive.
LARGEST_HELD: Final = 64 * KIB

#: Calls that `BodyRequest.finish` replaces, if they are Twisted's.
_FINISH: Final = (Request.finish, server.Request.finish)

#: Most bytes of bodies in memory, for a connection that carries many requests at a time.
MOST_IN_MEMORY: Final = MIB


class BodiesInMemory:
    """Counts the bodies that the requests of one connection hold in memory: *most* bytes together.

    Each request reports its own size, and is forgotten when it is over.  If the bodies are larger
    than *most* together, the largest ones go to files.
    """

    __slots__ = ("_most", "_sizes", "bytes")

    def __init__(self, most: int = MOST_IN_MEMORY) -> None:
        self.bytes = 0
        self._most = most
        self._sizes: dict[BodyRequest, int] = {}

    def grew(self, request: BodyRequest, size: int) -> None:
        """The body of *request* now has *size* bytes, all in memory."""
        self.bytes += size - self._sizes.get(request, 0)
        self._sizes[request] = size
        while self.bytes > self._most:
            largest = max(self._sizes, key=self._sizes.__getitem__)
            self.forget(largest)
            largest.move_body_to_file()

    def forget(self, request: BodyRequest) -> None:
        """*request* has no body in memory any more; harmless if it never had one."""
        self.bytes -= self._sizes.pop(request, 0)


class GatheredBody:
    """Writes a body to its file in large pieces, most of them at the end of a turn of the reactor.

    Args:
        file: The file; it is written past its buffer, so `seek` comes before its next use.
        joint: What waits for the end of a turn.
        failed: Called if the file cannot be written then.
    """

    __slots__ = ("_failed", "_file", "_in_line", "_joint", "_pieces", "_weight")

    def __init__(self, file: Any, joint: JointWrites, failed: Callable[[OSError], object]) -> None:
        self._file = file
        self._joint = joint
        self._failed = failed
        self._in_line = False
        self._pieces: list[Buffer] = []
        self._weight = 0

    def take(self, pieces: list[Buffer], weight: int) -> None:
        """Keep *pieces* until they are written.

        Args:
            weight: How many bytes they keep in memory; fewer than `LARGEST_IN_MEMORY` may wait for
                more.
        """
        if len(pieces) > _MOST_PIECES:
            pieces = [b"".join(pieces)]
        self._pieces += pieces
        self._weight += weight
        if len(self._pieces) > _MOST_PIECES:
            self._write_or_fail()
        elif self._weight >= LARGEST_IN_MEMORY and not self._in_line:
            self._in_line = True
            self._joint.add(self)

    def send_joined(self) -> None:
        """The turn is over."""
        self._in_line = False
        self._write_or_fail()

    def finish(self) -> None:
        """The body is complete: write the rest of it.

        Raises:
            OSError: The file cannot be written.
        """
        self._write()
        self._file.seek(0, os.SEEK_END)  # or the file would take itself for empty

    def _write_or_fail(self) -> None:
        try:
            self._write()
        except OSError as error:
            self._failed(error)

    def _write(self) -> None:
        pieces, self._pieces, self._weight = self._pieces, [], 0
        if not pieces or self._file.closed:
            return
        file = self._file.fileno()
        written = os.writev(file, pieces)
        if written < sum(map(len, pieces)):
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(file, rest) :]


@implementer(IBodyProducer)
class StreamedBody:
    """The body of a request whose resource is asked while it arrives.

    It is read no faster than the consumer takes it.  Before `startProducing`, and while paused,
    the client has to wait.

    Args:
        source: The `Carrier` that it arrives on, to pause and resume it.
        length: Bytes that the client has announced; None for chunks.
        held: What has arrived so far.

    Attributes:
        length: As `IBodyProducer` has it: ``UNKNOWN_LENGTH`` for chunks.
        complete: Whether all of it has arrived.
        paused: Whether nothing more of it is read for now.
    """

    def __init__(self, source: Any, length: int | None, held: bytes) -> None:
        self.length: Any = UNKNOWN_LENGTH if length is None else length
        self.complete = self.paused = False
        self._source = source
        self._held = [held]
        self._consumer: Any = None
        #: Whether the consumer wants no more for now.
        self._full = True
        self._unwanted = False
        self._done: Deferred[None] = Deferred(lambda _: self.stopProducing())

    def __repr__(self) -> str:
        return f"<StreamedBody length={self.length} complete={self.complete}>"

    # What the source calls.

    def data(self, data: bytes) -> None:
        """Some more of it has arrived."""
        if self._unwanted:
            return
        if self._consumer is None:
            self._held.append(data)
            self.pauseProducing()
        else:
            self._consumer.write(data)

    def end(self) -> None:
        """All of it has arrived."""
        self.complete = True
        self._finish()

    # What the consumer calls.

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write all of it to *consumer*.

        Returns:
            A Deferred that fires with None after the last byte.  It never fires if the body is
            stopped, or the client leaves.
        """
        self._consumer = consumer
        self._full = False
        held, self._held = self._held, []
        for data in held:
            consumer.write(data)
        if not self._full:
            self.resumeProducing()
        self._finish()
        return self._done

    def pauseProducing(self) -> None:
        """Read no more of it for now."""
        self._full = True
        if not (self.paused or self.complete or self._unwanted):
            self.paused = True
            self._source.pause_body()

    def resumeProducing(self) -> None:
        """Read on."""
        self._full = False
        if self.paused:
            self.paused = False
            self._source.resume_body()

    def stopProducing(self) -> None:
        """Drop what still arrives: nobody wants it any more."""
        self._unwanted = True
        self._held = []
        self.resumeProducing()

    def _finish(self) -> None:
        wanted = self._consumer is not None and not self._unwanted
        if self.complete and wanted and not self._done.called:
            self._done.callback(None)


def takes_bodies(site: Any, target: bytes) -> bool:
    """Whether *target* is sure to lead to a resource that takes bodies while they arrive.

    Such a resource has a true attribute ``takes_bodies``.  Only the way is followed that Twisted
    goes without asking application code: `Resource.getChildWithDefault` and ``putChild``.
    """
    lookup = getattr(site, "getResourceFor", None)
    if getattr(lookup, "__func__", None) is not Site.getResourceFor:
        return False
    absolute = None if target.startswith(b"/") else host_and_path(target)
    path = target.partition(b"?")[0] if absolute is None else absolute[1]
    resource: Any = site.resource
    for segment in path.split(b"/")[1:]:
        if resource.isLeaf:
            break
        if getattr(type(resource), "getChildWithDefault", None) is not Resource.getChildWithDefault:
            return False
        resource = resource.children.get(unquote_to_bytes(segment))
        if resource is None:
            return False
    return bool(resource.isLeaf and getattr(resource, "takes_bodies", False))


class BodyRequest(Request):
    """A base class that comes before `twisted.web.http.Request` and after the application's
    classes.

    Its methods so replace Twisted's, and not the application's: an application that takes the body
    itself goes on doing so.
    """

    channel: Any
    content: Any

    #: Whether *content* is our file, and not one of the application's.
    __keeps_body = False
    #: Whether no class of the application has a say in the request before its resource.
    _hangup_may_stream = False
    #: The body, if the resource takes it while it arrives.
    _hangup_streamed: StreamedBody | None = None
    #: What writes the body to our file, if no class of the application may have a say in that.
    _hangup_gathered: GatheredBody | None = None
    #: The body as a form; None if Twisted would not look for one.
    _hangup_form: Form | None = None
    #: Bytes of the response's body that its head announced and that are not written yet.  Infinite
    #: if the head announced no length; None before the first write, unless `LeanRequest` did it.
    _hangup_body_left: float | None = None
    _encoder: Any = None
    _inFakeHead = False
    __dropped = False
    __length: int | None = None

    def gotLength(self, length: int | None) -> None:
        """Keep the body in memory, whatever its announced length: a file costs a descriptor."""
        self.__length = length
        self.__keeps_body = not hasattr(getattr(self.channel, "site", None), "getContentFile")
        small = length is not None and length < LARGEST_IN_MEMORY
        super().gotLength(length if small or not self.__keeps_body else 0)

    def handleContentChunk(self, data: bytes) -> None:
        """Keep *data*, or pass it on.

        If there is no room for it, the request is answered 503.
        """
        if self._hangup_streamed is not None:
            self._hangup_streamed.data(data)
            return
        if self._hangup_gathered is not None:
            self._hangup_gathered.take([data], len(data))
            return
        try:
            super().handleContentChunk(data)
        except OSError as error:
            if not self.__keeps_body:
                raise
            self.__no_file(error)
            return
        content = self.content
        if self.__keeps_body and content.__class__ is BytesIO:
            size = content.tell()
            bodies: BodiesInMemory | None = self.channel.bodies
            if (size > LARGEST_HELD or (self.__length or 0) > LARGEST_HELD) and self.__is_taken():
                self.__stream()
            elif size >= LARGEST_IN_MEMORY:
                self.move_body_to_file()
            elif bodies is not None:
                bodies.grew(self, size)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is complete: read its form, if it has one, in place of Twisted."""
        if self._hangup_streamed is not None:
            self._hangup_streamed.end()
            return
        if self.__keeps_body and self.content.__class__ is not BytesIO:
            gathered, self._hangup_gathered = self._hangup_gathered, None
            try:
                if gathered is None:
                    self.content.flush()
                else:
                    gathered.finish()
            except OSError as error:
                self.__no_file(error)
                return
        if command == b"POST" and self._parsePOSTFormSubmission:
            size = self.content.tell()
            content_type = self.requestHeaders.getRawHeaders(b"Content-Type", [b""])[0]
            context = self.channel.context
            self.content.seek(0)
            self._hangup_form = Form(self.content, size, content_type, context.limits)
            self._parsePOSTFormSubmission = False  # nor does Twisted judge the content type
            done = self._hangup_form.read(context.forms) if size else None
            if done is not None:
                done.addCallback(self.__cb_form_read, command, path, version)
                done.addErrback(self.__eb_form)
                return
        super().requestReceived(command, path, version)

    def __is_taken(self) -> bool:
        """Whether the resource takes the body while it arrives, and nobody reads it before."""
        method, target, _ = self.channel.request_line
        is_form = method == b"POST" and self._parsePOSTFormSubmission
        return self._hangup_may_stream and not is_form and takes_bodies(self.channel.site, target)

    def __stream(self) -> None:
        """Ask the resource now; it gets what has arrived and what arrives from now on."""
        self.__forget_body()
        held, self.content = self.content.getvalue(), BytesIO()
        self._hangup_streamed = StreamedBody(self.channel, self.__length, held)
        self.channel.streaming(self)
        super().requestReceived(*self.channel.request_line)

    def take_form(self, form: Form) -> None:
        """Put the fields of *form* into ``args``, as Twisted does."""
        self._parsePOSTFormSubmission = True
        self.args.update(form.fields)

    def __cb_form_read(self, _: object, command: bytes, path: bytes, version: bytes) -> None:
        if self.content is not None and not self._disconnected:  # somebody waits for the answer
            super().requestReceived(command, path, version)

    def __eb_form(self, failure: Failure) -> None:
        if failure.check(FormRefused):
            refused: Any = failure.value
            self.drop_body()
            self.channel.refuse_form(refused.why)
        elif failure.check(TooManyForms):
            self.__refuse_body("No room for another form, which is answered 503")
        else:
            self.channel.request_failed(failure)

    def move_body_to_file(self) -> None:
        """Move the body to a file.  If no file can be made, the request is answered 503."""
        content = self.content
        self.__forget_body()
        try:
            self.content = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the request
            self.content.write(content.getbuffer())
            if self._hangup_may_stream and self.channel.bodies is None:
                self.content.flush()
                joint = self.channel.context.joint_writes
                self._hangup_gathered = GatheredBody(self.content, joint, self.__no_file)
        except OSError as error:
            self.__no_file(error)

    def __no_file(self, error: OSError) -> None:
        self.__refuse_body(
            "No room for the body of a request, which is answered 503: {error}", error=str(error)
        )

    def __refuse_body(self, words: str, **values: str) -> None:
        carrier = self.channel
        carrier.context.warn_of_bodies(words, **values)
        self.drop_body()
        carrier.refuse_request(self, 503)

    def drop_body(self) -> None:
        """Release the memory or file of the body: nothing will read it."""
        self.__forget_body()
        self._hangup_gathered = None
        content, self.content = self.content, None
        if content is not None:
            with suppress(OSError):  # what could not be written before
                content.close()

    def __forget_body(self) -> None:
        """Stop counting the body."""
        bodies = getattr(self.channel, "bodies", None)
        if bodies is not None:
            bodies.forget(self)
        if self._hangup_form is not None:
            self._hangup_form.close()

    # The response may not be longer than its head says: the client would take the rest for the next
    # response.  If it is shorter, the client would take the missing bytes from the next one.

    def write(self, data: bytes) -> None:
        """Send *data*, up to the announced length."""
        left = self._hangup_body_left
        if left is None:
            left = self.__announced() - self.sentLength
        if len(data) > left:
            self.__note_dropped()
            data = data[: int(left)]
        self._hangup_body_left = left - len(data)
        super().write(data)

    def _hangup_body_sent(self, count: int) -> None:
        """The carrier has sent *count* bytes of the body from a file; the head has a length."""
        assert self._hangup_body_left is not None
        self.sentLength += count
        self._hangup_body_left -= count

    @property
    def _hangup_whole(self) -> bool:
        """Whether all that the head of the response announced was written."""
        if not self.startedWriting or self._inFakeHead:
            return False
        if self.method == b"HEAD" or self.code in NO_BODY_CODES:
            return True
        left = self._hangup_body_left
        return (self.__announced() - self.sentLength if left is None else left) == 0

    def finish(self) -> None:
        """Complete the response, or cut it short if bytes of it are missing.

        As Twisted's, except that the access log waits until all of it has been sent.
        """
        if self.finished or self._disconnected:
            super().finish()
            return
        if not (self.startedWriting or self._encoder):
            self.write(b"")  # the head, as Twisted does
        if self._hangup_body_left and self._hangup_body_left < inf:
            self.channel.context.warn_of_lengths(
                "The response to {method} {target} is {left} bytes short of its Content-Length",
                method=self.method,
                target=self.path,
                left=self._hangup_body_left,
            )
            self.code = NO_RESPONSE
            self.channel.cut_response(self)
            return
        if (Request.finish, server.Request.finish) != _FINISH:
            super().finish()  # something has replaced Twisted's method
            return
        if self._encoder and (rest := self._encoder.finish()):
            Request.write(self, rest)
        if self.chunked:
            self.channel.write(b"0\r\n\r\n")
        self.channel.deliver(self)
        self.finished = 1
        if not self.queued:
            self._cleanup()

    def __announced(self) -> float:
        """The announced length, while the head goes out or after it went with the whole body."""
        if (
            self.chunked
            or self._encoder  # it takes the length away
            or self._inFakeHead
            or self.method == b"HEAD"
            or self.code in NO_BODY_CODES
        ):
            return inf
        values = self.responseHeaders.getRawHeaders(b"Content-Length")
        return int(values[0]) if values and values[0].isdigit() else inf

    def __note_dropped(self) -> None:
        if not (self.__dropped or self._disconnected):
            self.__dropped = True
            self.channel.context.warn_of_lengths(
                "The response to {method} {target} is longer than its Content-Length;"
                " the rest is dropped",
                method=self.method,
                target=self.path,
            )

    # The request is over.

    def _cleanup(self) -> None:
        self.__forget_body()
        super()._cleanup()

    def connectionLost(self, reason: Failure) -> None:
        self.__forget_body()
        super().connectionLost(reason)


class SiteBodyRequest(BodyRequest, server.Request):
    """The same before `twisted.web.server.Request`, which calls `http.Request` by name."""
