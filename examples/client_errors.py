"""Answer client errors: python examples/client_errors.py"""

import json

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.static import Data

from twisted_hangup import HangupSite, HeaderOverflow, hangup_endpoint

root = Resource()
root.putChild(b"", Data(b"hello\n", "text/plain"))
site = HangupSite(root)


@site.on_client_error
def note(failure, socket):
    print(failure.value.report())
    return failure  # not mine: the next handler gets it


@site.on_client_error
def too_large(failure, socket):
    failure.trap(HeaderOverflow)  # any other error goes to the next handler
    socket.respond(431, b"Your cookies are too large. Clear them and try again.\n")


@site.on_client_error
async def as_json(failure, socket):
    error = failure.value
    if error.status is None:  # no answer can reach the client
        return failure
    body = json.dumps({"code": error.code, "offset": error.offset}).encode()
    socket.respond(error.status, body, [("Content-Type", "application/json")])
    return None  # handled: no further handler is called


if __name__ == "__main__":
    hangup_endpoint(serverFromString(reactor, "tcp:8000")).listen(site)
    reactor.run()
