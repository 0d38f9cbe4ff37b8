"""Makes a broken PROXY header a client error like any other."""

from __future__ import annotations

from typing import Final

from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper

from ..errors import ParseError
from ..parser.proxy_header import cut_short, header_length
from .preamble import Preamble

_UNKNOWN: Final = b"PROXY UNKNOWN\r\n"
_UNKNOWN_FOR_TWISTED: Final = b"PROXY UNKNOWN \r\n"


class HangupProxyProtocol(Preamble, HAProxyProtocolWrapper):
    """Comes before the protocol class of an `HAProxyWrappingFactory`.

    It gives Twisted's parser only whole and valid headers.  Twisted closes without a word on broken
    headers and on the first part of one that is cut in two, and raises on some.
    """

    half_closes = True
    _begun: bytes | None = b""

    @property
    def preamble_begun(self) -> bool:
        return bool(self._begun)

    def dataReceived(self, data: bytes) -> None:
        if self._begun is None:
            super().dataReceived(data)
            return
        before = len(self._begun)
        self._begun += data
        try:
            length = header_length(self._begun)
        except ParseError as error:
            # The packet is the read that broke it; the offset counts from the header's first byte.
            error.raw_packet = data[:0x10000]
            error.bytes_parsed = max(0, (error.offset or 0) - before)
            if not self.fail(error):
                self.loseConnection()
            return
        if length is not None:
            whole, self._begun = self._begun, None
            if whole.startswith(_UNKNOWN):
                # Twisted refuses the shortest valid line, which health checks send.
                whole = _UNKNOWN_FOR_TWISTED + whole[len(_UNKNOWN) :]
            super().dataReceived(whole)

    def readConnectionLost(self) -> None:
        """The client has ended its input (FIN), perhaps in the middle of its header."""
        if self._begun:
            self.fail(cut_short(self._begun))
        super().readConnectionLost()
