"""Where the exact reader stands in one response; its states are those of `status_line`,
then those that read requests, too."""

from __future__ import annotations

from typing import Final

from ..events import BodyData, Break, Part, ResponseHead
from ..limits import Limits
from .refusals import Refusal
from .scan import Methods, Scan, State

_NO_METHODS: Final = Methods(frozenset())


class ResponseScan(Scan):
    """One response being read by the exact reader.

    ``request_line`` is its status line.

    Attributes:
        head: The response from its status on.
        method: That of the request it answers.
        asked_upgrade: Whether that one asked for another protocol.
    """

    __slots__ = ("asked_upgrade", "method")

    # What the states of fields and bodies touch is the same in heads of both kinds.
    head: ResponseHead | None  # type: ignore[assignment]
    event: ResponseHead | BodyData | None  # type: ignore[assignment]

    def __init__(self, limits: Limits, state: State, method: bytes, asked_upgrade: bool) -> None:
        super().__init__(limits, _NO_METHODS, state)
        self.method = method
        self.asked_upgrade = asked_upgrade

    def broke_at(self, data: bytes, refusal: Refusal, message_at: int) -> Break:
        broke = super().broke_at(data, refusal, message_at)
        if message_at or broke.packet_part is Part.REQUEST_LINE:
            broke.packet_part = Part.STATUS_LINE
        return broke

    def _request_line(self, line: bytes) -> bytes:
        return line if self.part is Part.STATUS_LINE else self.request_line
