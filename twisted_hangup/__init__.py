"""What happens when an HTTP client goes wrong, for Twisted.

Node's ``clientError`` and "socket hang up": every client that sends bytes that are not
HTTP, stalls, or hangs up becomes one `ClientError` with a stable code, the bytes, and the
offset where they broke.  It runs down a Deferred errback chain that may answer it; if
nobody does, the client gets the right status and can be sure to read it.

All names:
    ANY: In ``Limits.methods``: every method.
    AsyncResource: A resource whose ``render`` methods may be coroutines, or return Deferreds.
    Attempt: How one attempt went.
    BodyTooLarge: ``ERR_HTTP_BODY_TOO_LARGE``: the body, or a form in it, is too long; 413.
    cancel_on_hangup: Cancel *work* when the client of *request* leaves before its response.
    cancellable: Let what *function* does for a request end when the client leaves.
    ChunkExtensionsOverflow: ``HPE_CHUNK_EXTENSIONS_OVERFLOW``: extensions too long; 413.
    ClientErrbacks: The handlers of one site, oldest first.
    ClientError: A client went wrong: it sent bytes that are not HTTP, stalled, or hung up.
    ClientFailure: The `Failure` that a handler gets; ``failure.value`` is the error.
    ClientHangUp: ``ECONNRESET``, ``EPIPE`` or ``ETIMEDOUT``: the client has left.
    ClientSocket: The client's connection, as `HangupChannel.client_error` and handlers get it.
    DeliveryPolicy: When a request of an outbox is tried again, and for how long.
    forward_client_errors: Give a site of your own what `HangupSite` has.
    ForwardedClients: Whom to believe who sent a request.
    Forwarding: What the upstream server is told of the client.
    Handler: What takes ``(failure, socket)`` for each client error.
    hangup_endpoint: Wrap *endpoint* so that a `HangupSite` on it hears all there is to hear.
    HangupAgent: An agent that says in one way how a server went away: `ServerHangUp`.
    HangupChannel: An `HTTPChannel` whose client errors reach the application.
    HangupError: Base of all errors this package raises on purpose.
    HangupSite: A `twisted.web.server.Site` whose client errors reach the application.
    HangupWSGIResource: Twisted's `WSGIResource`, for applications whose clients leave.
    HeaderOverflow: ``HPE_HEADER_OVERFLOW``: head or trailers too long, or too many fields; 431.
    HTTP2Error: ``ERR_HTTP2_*``: an HTTP/2 connection error.
    KeyInUse: A request was not stored: its key belongs to another request that is still queued.
    Lenience: What old clients send and HTTP/1.1 forbids, each behind a switch; all are off.
    Limits: Bounds on what one connection may cost, and what it may ask.
    log_attempts: Log what is sent again, and what came of it, for ``on_attempt``.
    MaskingPolicy: What an operator may choose about masking.
    OutboundTimeouts: How long a server that we ask may take, in seconds.
    Outbox: Stores requests and delivers them, as a service of any Twisted application.
    OutboxLimits: How much the outbox takes, keeps in memory and does at once.
    OutboxUnavailable: A request was not stored: the outbox's database is away, locked or full.
    ParseError: The bytes break RFC 9112, or a limit: ``HPE_*``, or ``ERR_HTTP_*`` of our own.
    ProxyResource: Everything at and below this resource is another server's.
    RequestParser: Reads the requests of one connection, one message at a time.
    RequestTimeout: ``ERR_HTTP_REQUEST_TIMEOUT``: head or request not complete in time; 408.
    ResponseHead: A status line and its field section (RFC 9112, sections 4 and 5).
    ResponseParseError: The bytes of a server's response break RFC 9112, or a limit.
    ResponseParser: Reads the responses of one connection, each to a request that was announced.
    RetryAgent: An agent that sends a request again where that is safe.
    RetryPolicy: Which requests are sent again, when, and how often.
    ServerHangUp: A server hung up on us, the client ("socket hang up").
    shield: Go on with *work* even when who waits for it is cancelled.
    SiteErrors: The client errors of one site: who answers them, and what is known of them.
    Timeouts: How long a connection may take, in seconds.
    TLSError: ``ERR_SSL_*`` or ``ERR_TLS_*``: the handshake failed, or a record was corrupt.
    UnexpectedEOF: ``HPE_INVALID_EOF_STATE``: the client ended its input inside a message; 400.
    UpstreamError: A server that a proxy asked for its client's sake has failed.
    Verdict: What is done with a request after an attempt.
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
