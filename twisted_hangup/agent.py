"""The client half: agents for treq and for plain Twisted, one around the other::

    agent = RetryAgent(HangupAgent.from_reactor(reactor))
    client = treq.client.HTTPClient(agent)

Each is an ``IAgent``.
"""

from ._hangup_agent import HangupAgent as HangupAgent
from ._retry_agent import Attempt as Attempt
from ._retry_agent import RetryAgent as RetryAgent
from ._retry_agent import RetryPolicy as RetryPolicy
