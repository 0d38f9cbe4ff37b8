"""Give scanners no answer: python examples/quiet_channel.py"""

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource
from twisted.web.static import Data

from twisted_hangup import HangupChannel, HangupSite, hangup_endpoint


class Quiet(HangupChannel):
    def client_error(self, failure, socket):
        if failure.value.code == "HPE_INVALID_METHOD":
            socket.destroy()  # no answer
            return None
        return super().client_error(failure, socket)


resource = Resource()
resource.putChild(b"", Data(b"hello\n", "text/plain"))
site = HangupSite(resource, channel=Quiet)

if __name__ == "__main__":
    hangup_endpoint(serverFromString(reactor, "tcp:8000")).listen(site)
    reactor.run()
