"""Tell URL of each paid order, now or later: python examples/queued_orders.py URL [ORDER ...]"""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from twisted_hangup import Outbox

outbox = Outbox("outbox.sqlite")


async def order_paid(url, order):
    await outbox.send(
        "POST",
        url,
        {"Content-Type": "application/json"},
        b'{"order": %d}' % order,
        ordered=True,
    )


async def main(reactor, url, *orders):
    reactor.addSystemEventTrigger("before", "shutdown", outbox.stopService)
    outbox.startService()
    for order in orders:
        await order_paid(url, int(order))
        print("stored", order, flush=True)
    await Deferred()  # until Ctrl-C; what is not delivered by then is at the next start


if __name__ == "__main__":
    react(main, sys.argv[1:])
