"""Node's ``clientError`` and "socket hang up", for Twisted.

Each client that sends bytes that are not HTTP, stalls, or hangs up becomes one `ClientError`: a
stable code, the bytes, and the offset of the byte that is wrong.  Your handlers get it and may
answer.  If none does, the client gets the right status, and can be sure to read it.

    site = HangupSite(resource)

    @site.on_client_error
    def note(failure, socket):
        print(failure.value.report())
        return failure  # on to the next handler, and in the end the default answer

All names:
    ANY: The value of ``Limits.methods`` that accepts every method.
    AsyncResource: A resource whose ``render`` methods may be coroutines, or return Deferreds.
    Attempt: One attempt of a `RetryAgent`, for ``on_attempt``.
    BodyTooLarge: ``ERR_HTTP_BODY_TOO_LARGE``: the body, or a form in it, is too long; 413.
    cancel_on_hangup: Cancel *work* when the client of *request* leaves before its response.
    cancellable: Decorate a function so that its work for a request ends when the client leaves.
    ChunkExtensionsOverflow: ``HPE_CHUNK_EXTENSIONS_OVERFLOW``: extensions too long; 413.
    ClientErrbacks: The handlers of one site, oldest first.
    ClientError: A client went wrong: it sent bytes that are not HTTP, stalled, or hung up.
    ClientFailure: The `Failure` that a handler gets; ``failure.value`` is the `ClientError`.
    ClientHangUp: ``ECONNRESET``, ``EPIPE`` or ``ETIMEDOUT``: the client has left.
    ClientSocket: The client's connection, for handlers and `HangupChannel.client_error`.
    DeliveryPolicy: When a request of an `Outbox` is tried again, and for how long.
    forward_client_errors: Give a site of your own what `HangupSite` has.
    ForwardedClients: Which proxies may say who sent a request, and in which header.
    Forwarding: What the upstream server is told about the client.
    Handler: The type of a handler: it takes ``(failure, socket)``; see `ClientErrbacks.add`.
    hangup_endpoint: Wrap *endpoint* so that a `HangupSite` on it learns more about its connections.
    HangupAgent: An `IAgent` that reports every way in which a server goes away as `ServerHangUp`.
    HangupChannel: An `HTTPChannel` whose client errors reach the application.
    HangupError: Base of all errors that this package raises on purpose.
    HangupSite: A `twisted.web.server.Site` whose client errors reach the application.
    HangupWSGIResource: Twisted's `WSGIResource`, for applications whose clients may leave.
    HeaderOverflow: ``HPE_HEADER_OVERFLOW``: header or trailers too long, or too many fields; 431.
    HTTP2Error: ``ERR_HTTP2_*``: a connection error of HTTP/2 (RFC 9113, section 5.4.1).
    KeyInUse: A request was not stored: its key belongs to another request that is still queued.
    Lenience: What old clients send although HTTP/1.1 forbids it: a switch for each, all off.
    Limits: What one connection may send, and what it may cost.
    log_attempts: Log each retry and its result; give it to `RetryAgent` as ``on_attempt``.
    MaskingPolicy: Which secrets are hidden where an error is shown.
    OutboundTimeouts: How long another server may take, in seconds; 0 turns a deadline off.
    Outbox: Stores requests and delivers them; a service for any Twisted application.
    OutboxLimits: How much an `Outbox` accepts, keeps in memory and does at once.
    OutboxUnavailable: A request was not stored: the outbox's database is away, locked or full.
    ParseError: The request breaks RFC 9112, or a limit: ``HPE_*`` or ``ERR_HTTP_*``; 400.
    ProxyResource: A resource that passes all requests at and below it on to another server.
    RequestParser: Reads the requests of one connection, one message at a time.
    RequestTimeout: ``ERR_HTTP_REQUEST_TIMEOUT``: head or request not complete in time; 408.
    ResponseHead: A status line and its header (RFC 9112, sections 4 and 5).
    ResponseParseError: A server's response breaks RFC 9112, or a limit.
    ResponseParser: Reads the responses of one connection, each to a request that you announce.
    RetryAgent: An `IAgent` that sends a request again if that is safe.
    RetryPolicy: Which requests are sent again, when, and how often.
    ServerHangUp: A server hung up on us, the client: Node's "socket hang up".
    shield: Finish *work* even if the Deferred that waits for it is cancelled.
    SiteErrors: The client errors of one site: its handlers, its journal, its limits.
    Timeouts: How long a client may take, in seconds; 0 turns a deadline off (except ``linger_*``).
    TLSError: ``ERR_SSL_*`` or ``ERR_TLS_*``: the handshake failed, or a record was corrupt.
    UnexpectedEOF: ``HPE_INVALID_EOF_STATE``: the client sent FIN inside a message; 400.
    UpstreamError: A server that the proxy forwards to has failed.
    Verdict: What happens with a request after an attempt.
"""

from .async_resource import AsyncResource as AsyncResource
from .cancel import cancel_on_hangup as cancel_on_hangup
from .cancel import cancellable as cancellable
from .cancel import shield as shield
from .client import Attempt as Attempt
from .client import HangupAgent as HangupAgent
from .client import RetryAgent as RetryAgent
from .client import RetryPolicy as RetryPolicy
from .client import log_attempts as log_attempts
from .errors import BodyTooLarge as BodyTooLarge
from .errors import ChunkExtensionsOverflow as ChunkExtensionsOverflow
from .errors import ClientError as ClientError
from .errors import ClientHangUp as ClientHangUp
from .errors import HangupError as HangupError
from .errors import HeaderOverflow as HeaderOverflow
from .errors import HTTP2Error as HTTP2Error
from .errors import KeyInUse as KeyInUse
from .errors import OutboxUnavailable as OutboxUnavailable
from .errors import ParseError as ParseError
from .errors import RequestTimeout as RequestTimeout
from .errors import ResponseParseError as ResponseParseError
from .errors import ServerHangUp as ServerHangUp
from .errors import TLSError as TLSError
from .errors import UnexpectedEOF as UnexpectedEOF
from .errors import UpstreamError as UpstreamError
from .events import ResponseHead as ResponseHead
from .limits import ANY as ANY
from .limits import Lenience as Lenience
from .limits import Limits as Limits
from .limits import OutboundTimeouts as OutboundTimeouts
from .limits import Timeouts as Timeouts
from .outbox import DeliveryPolicy as DeliveryPolicy
from .outbox import Outbox as Outbox
from .outbox import OutboxLimits as OutboxLimits
from .outbox import Verdict as Verdict
from .parser import RequestParser as RequestParser
from .parser import ResponseParser as ResponseParser
from .proxy import Forwarding as Forwarding
from .proxy import ProxyResource as ProxyResource
from .report import MaskingPolicy as MaskingPolicy
from .server import ClientErrbacks as ClientErrbacks
from .server import ClientFailure as ClientFailure
from .server import ClientSocket as ClientSocket
from .server import Handler as Handler
from .server import HangupChannel as HangupChannel
from .server import HangupSite as HangupSite
from .server import SiteErrors as SiteErrors
from .server import forward_client_errors as forward_client_errors
from .transport import ForwardedClients as ForwardedClients
from .transport import hangup_endpoint as hangup_endpoint
from .wsgi import HangupWSGIResource as HangupWSGIResource

__version__ = "1.0.0"

__all__ = [
    "ANY",
    "AsyncResource",
    "Attempt",
    "BodyTooLarge",
    "ChunkExtensionsOverflow",
    "ClientErrbacks",
    "ClientError",
    "ClientFailure",
    "ClientHangUp",
    "ClientSocket",
    "DeliveryPolicy",
    "ForwardedClients",
    "Forwarding",
    "HTTP2Error",
    "Handler",
    "HangupAgent",
    "HangupChannel",
    "HangupError",
    "HangupSite",
    "HangupWSGIResource",
    "HeaderOverflow",
    "KeyInUse",
    "Lenience",
    "Limits",
    "MaskingPolicy",
    "OutboundTimeouts",
    "Outbox",
    "OutboxLimits",
    "OutboxUnavailable",
    "ParseError",
    "ProxyResource",
    "RequestParser",
    "RequestTimeout",
    "ResponseHead",
    "ResponseParseError",
    "ResponseParser",
    "RetryAgent",
    "RetryPolicy",
    "ServerHangUp",
    "SiteErrors",
    "TLSError",
    "Timeouts",
    "UnexpectedEOF",
    "UpstreamError",
    "Verdict",
    "cancel_on_hangup",
    "cancellable",
    "forward_client_errors",
    "hangup_endpoint",
    "log_attempts",
    "shield",
]
