"""What we use of Twisted's transports and listening ports, and of its clock."""

from .endpoint import hangup_endpoint as hangup_endpoint
from .forwarded import ForwardedClients as ForwardedClients
