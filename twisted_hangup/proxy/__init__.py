"""A reverse proxy whose upstream requests end when their clients leave."""

from .forwarding import Forwarding as Forwarding
from .resource import ProxyResource as ProxyResource
