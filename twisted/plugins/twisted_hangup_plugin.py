"""Tells ``twistd`` and ``twist`` that there is a command ``hangup``.

The service module is named as a string, so listing the commands imports nothing of ours.
"""

from twisted.application.service import ServiceMaker

hangup = ServiceMaker(
    name="HTTP/1.1 that hangs up",
    module="twisted_hangup.service",
    description="An HTTP server that tells you about every request that was not HTTP.",
    tapname="hangup",
)
