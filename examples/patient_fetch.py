"""Fetch a price, again where the server hangs up: python examples/patient_fetch.py URL"""

import sys

from twisted.internet import reactor
from twisted.internet.task import react

from twisted_hangup import HangupAgent, RetryAgent, ServerHangUp

agent = HangupAgent.from_reactor(reactor)
client = RetryAgent(agent).treq_client()


async def price_of(url):
    response = await client.get(url)
    return await response.json()


async def main(reactor, url):
    try:
        print(await price_of(url))
    except ServerHangUp as error:
        sys.exit(f"{error.reason} ({error.code})")


if __name__ == "__main__":
    react(main, sys.argv[1:])
