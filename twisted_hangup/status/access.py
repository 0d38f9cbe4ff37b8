"""Decides who may see the page: requests to this machine's address, with the token.

It keeps three kinds of readers out.  A web page elsewhere whose name resolves to this machine (DNS
rebinding): its ``Host`` is a name.  A web page elsewhere that asks through the operator's browser:
``Sec-Fetch-Site`` shows it, and the cookie is SameSite=Strict.  Anybody on the network without the
token.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict
from math import inf
from typing import Any, Final

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IReactorTime

from ..journal.flood import ThrottledWarning
from ..report.text import peer_text
from ..transport.addresses import ip_of

#: How long a sign-in lasts (a working day), and how many may last at a time.
SESSION_SECONDS: Final = 12 * 3600.0
MOST_SESSIONS: Final = 64

#: After a wrong token, each token waits this long before it is checked, the right one too:
#: otherwise a guesser need not wait for the answer.  After this long without a wrong token, none
#: waits.
GUESS_SECONDS: Final = 1.0
GUESSED_SECONDS: Final = 60.0

_BEARER: Final = re.compile(rb"bearer +(\S+)", re.I)

# RFC 9110, section 7.2: Host = uri-host [ ":" port ].  The port does not matter: through "ssh -L"
# it is another one, and no name can be forged with it.
_HOST: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[^][:]+))(?::[0-9]*)?")


class Access:
    """Decides, request by request.

    Attributes:
        token: The token that readers need.
    """

    def __init__(self, clock: IReactorTime, token: str | None) -> None:
        """
        Args:
            clock: Gives the time, to end sign-ins.
            token: Everybody needs it.  None makes one up, which is needed only from other machines.
        """
        self.token = token or secrets.token_urlsafe(24)
        self._always = token is not None
        self._clock = clock
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._guessed_until = -inf
        self._warn = ThrottledWarning(clock, GUESSED_SECONDS)

    def asks_us(self, request: Any) -> bool:
        """Whether ``Host`` is the address that *request* came to, or means this machine.

        Names other than ``localhost`` are never right: anybody can let one resolve to us.
        """
        hosts = request.requestHeaders.getRawHeaders(b"host", [])
        host = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if host is None:
            return False
        listening = request.getHost()
        if host["name"] is not None and host["name"].lower() == "localhost":
            return is_local(listening)
        address = ip_of(host["ipv6"] or host["name"])
        if address is None:
            return False
        if address.is_loopback and is_local(listening):
            return True
        return address == ip_of(getattr(listening, "host", None))

    def is_foreign(self, request: Any) -> bool:
        """Whether a browser says that a page of another site made *request*.

        See W3C's Fetch Metadata.  Browsers since 2023 always say it to localhost and over TLS.
        """
        site = request.getHeader(b"sec-fetch-site")
        return site is not None and site not in (b"same-origin", b"none")

    def admits(self, request: Any) -> bool:
        """Whether *request* needs no token, has it, or has a cookie that was given for it."""
        if (
            not self._always
            and is_local(request.getHost())
            and is_local(request.getClientAddress())
        ):
            return True
        bearer = _BEARER.fullmatch(request.getHeader(b"authorization") or b"")
        if bearer is not None and self._is_token(bearer[1], request):
            return True
        cookie = request.getCookie(_cookie_name(request))
        ends = self._sessions.get((cookie or b"").decode("latin-1"), 0.0)
        return self._clock.seconds() < ends

    def sign_in(self, request: Any, token: bytes) -> bool:
        """Give the browser a cookie if *token* is right; returns whether it is."""
        if not self._is_token(token, request):
            return False
        session = secrets.token_urlsafe(24)
        self._sessions[session] = self._clock.seconds() + SESSION_SECONDS
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        request.addCookie(
            _cookie_name(request),
            session.encode(),
            path=b"/",
            max_age=b"%d" % SESSION_SECONDS,
            secure=request.isSecure(),
            httpOnly=True,
            sameSite=b"strict",
        )
        return True

    @property
    def is_guessed_at(self) -> bool:
        """Whether a wrong token has come lately."""
        return self._clock.seconds() < self._guessed_until

    def _is_token(self, candidate: bytes, request: Any) -> bool:
        if hmac.compare_digest(candidate, self.token.encode()):
            return True
        self._guessed_until = self._clock.seconds() + GUESSED_SECONDS
        peer = peer_text(request.getClientAddress())
        self._warn("A wrong token for the status page, from {peer}", peer=peer)
        return False


def url_of(request: Any) -> str:
    """The URL of the server that *request* came to, with the address that it came to."""
    listening = request.getHost()
    ip = ip_of(getattr(listening, "host", None))
    host = "localhost" if ip is None else f"[{ip}]" if ip.version == 6 else str(ip)
    port = getattr(listening, "port", None)
    return f"http{'s' * request.isSecure()}://{host}{'' if port is None else f':{port}'}/"


def is_local(address: Any) -> bool:
    """Whether a Twisted address is on this machine: loopback, or a UNIX socket."""
    if isinstance(address, UNIXAddress):
        return True
    ip = ip_of(getattr(address, "host", None))
    return ip is not None and ip.is_loopback


def _cookie_name(request: Any) -> bytes:
    # Cookies ignore ports: two servers on one machine must not sign each other out.
    return b"hangup_status_%d" % getattr(request.getHost(), "port", 0)
