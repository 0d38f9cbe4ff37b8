"""Stop a long report when its reader has left: python examples/cancelled_report.py"""

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import deferLater

from twisted_hangup import AsyncResource, HangupSite, cancellable, hangup_endpoint


async def make_page(number):
    await deferLater(reactor, 0.2)
    return f"<p>page {number}</p>"


class Report(AsyncResource):
    isLeaf = True

    @cancellable
    async def render_GET(self, request):
        report = ""
        try:
            for number in range(50):
                report += await make_page(number)  # ends here when the client leaves
        finally:
            print(report.count("page"), "of 50 pages were made")
        return report


if __name__ == "__main__":
    site = HangupSite(Report())
    hangup_endpoint(serverFromString(reactor, "tcp:8000")).listen(site)
    reactor.run()
