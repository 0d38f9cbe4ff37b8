"""The server: a site, its connections and requests, and the one error of each connection."""

from .channel import HangupChannel as HangupChannel
from .client_socket import ClientSocket as ClientSocket
from .errbacks import ClientErrbacks as ClientErrbacks
from .errbacks import ClientFailure as ClientFailure
from .errbacks import Handler as Handler
from .site import HangupSite as HangupSite
from .site import SiteErrors as SiteErrors
from .site import forward_client_errors as forward_client_errors
