"""What happens when an HTTP client goes wrong, for Twisted.

Node's ``clientError`` and "socket hang up": every client that sends bytes that are not
HTTP, stalls, or hangs up becomes one `ClientError` with a stable code, the bytes, and the
offset where they broke.  It runs down a Deferred errback chain that may answer it; if
nobody does, the client gets the right status and can be sure to read it.
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
