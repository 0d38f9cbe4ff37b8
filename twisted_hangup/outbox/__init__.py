"""A queue of requests that are delivered later if they cannot be delivered now."""

from .admin import DestinationStats as DestinationStats
from .admin import OutboxStats as OutboxStats
from .admin import QueuedRequest as QueuedRequest
from .policy import DeliveryPolicy as DeliveryPolicy
from .policy import Verdict as Verdict
from .request import OutboxLimits as OutboxLimits
from .service import Delivery as Delivery
from .service import Outbox as Outbox
from .service import Watcher as Watcher
