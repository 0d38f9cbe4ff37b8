"""The client side: agents for treq and for plain Twisted, one around the other.

    agent = RetryAgent(HangupAgent.from_reactor(reactor))
    client = agent.treq_client()

Each is an ``IAgent``.
"""

from .agent import HangupAgent as HangupAgent
from .retry import Attempt as Attempt
from .retry import RetryAgent as RetryAgent
from .retry import RetryPolicy as RetryPolicy
from .retry import log_attempts as log_attempts
