"""Client errors in Twisted's log: one line each; in a flood a few lines and a count.

Each line is a structured event of Twisted's Logger.  Bytes from a peer are values of the event,
never a part of its format, and are printable ASCII.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .._arguments import must_be, must_be_number, must_be_reactor
from ..errors import ClientHangUp, RecordedError
from ..report.lookalikes import lookalike_of
from ..report.masking import DEFAULT_POLICY, MaskingPolicy
from ..report.report import opening_text, request_line_of
from ..report.text import peer_text, shortened, visible
from .flood import FloodGate

_REQUEST_COLUMNS: Final = 60
_REQUEST_TAIL: Final = 20

#: Bytes that are not HTTP: 32 of them, all escaped, and ``...``.
_OPENING_COLUMNS: Final = 32 * len(r"\x00") + len("...")


class ConsoleLog:
    """Writes each `RecordedError` to a Twisted logger, once it has been answered.

    ``twistd hangup`` has one.  In your own program, connect it to a site's journal:

        site.journal.watch(ConsoleLog(reactor))

    The events have the values ``code``, ``reason``, ``status``, ``phase``, ``offset``, ``peer``,
    ``request`` (the request line so far, or the first bytes if it is not HTTP) and ``looks_like``
    (a name in `twisted_hangup.report.lookalikes`), all fit to show.  Lines that end a flood have
    ``code`` and ``suppressed``.  The level is warn; info for a client that left during a response.
    """

    waits_for_answers: Final = True

    def __init__(
        self,
        clock: IReactorTime,
        *,
        per_second: int = 10,
        log_idle: bool = False,
        policy: MaskingPolicy = DEFAULT_POLICY,
        logger: Logger | None = None,
    ) -> None:
        """
        Args:
            clock: Gives the time and timers, to notice floods.
            per_second: Most lines in each second, for each of the two levels; 0 = no limit.  The
                first line of each new code (up to 10) and up to 10 lines with counts come in
                addition.  In all, that is fewer than 50 lines.
            log_idle: Also log errors with `RecordedError.quiet`, such as probes, at level info.
            policy: Which secrets are hidden.
            logger: Where the lines go; by default a logger with the namespace
                ``twisted_hangup.console``.
        """
        must_be_reactor("clock", clock)
        must_be_number("per_second", per_second, whole=True)
        must_be("policy", policy, MaskingPolicy, "MaskingPolicy(extra_fields=...)")
        must_be("logger", logger, (Logger, type(None)), "Logger(namespace=...) of twisted.logger")
        logger = logger or Logger(namespace="twisted_hangup.console")
        self._policy = policy
        self._log_idle = log_idle
        # Two gates: clients that leave must not use up the lines of other errors.
        self._warning = _Level(logger.warn, clock, per_second)
        self._info = _Level(logger.info, clock, per_second)

    def __call__(self, error: RecordedError) -> None:
        """Log *error*, or count it in a flood."""
        if error.quiet and not self._log_idle:
            return
        left = isinstance(error, ClientHangUp) and error.phase == "response"
        level = self._info if left or error.quiet else self._warning
        if not level.gate.admit(error.code):
            return
        request, lookalike = self._request(error), lookalike_of(error)
        level.log(
            '{answer} {code} "{reason}"{place} from {peer}{quoted}',
            answer=error.shown_status or "-",
            code=visible(error.code),
            reason=visible(error.reason),
            place=_place(error),
            peer=peer_text(error.peer),
            quoted=(f' "{request}"' if request else "")
            + (f" (looks like {lookalike.words})" if lookalike else ""),
            status=error.shown_status,
            phase=error.phase,
            offset=error.offset,
            request=request,
            looks_like=lookalike and lookalike.name,
        )

    def _request(self, error: RecordedError) -> str:
        """The request line so far, or the first bytes if it is not HTTP."""
        opening = opening_text(error, self._policy)
        if opening is not None:
            return shortened(opening, _OPENING_COLUMNS)
        line = request_line_of(error, self._policy)
        return shortened(line, _REQUEST_COLUMNS, tail=_REQUEST_TAIL)

    def close(self) -> None:
        """Log the counts of a flood so far, and stop its timer."""
        self._warning.gate.close()
        self._info.gate.close()


class _Level:
    """One level of the logger, with its own gate."""

    def __init__(self, log: Callable[..., object], clock: IReactorTime, per_second: int) -> None:
        self.log = log
        self.gate = FloodGate(clock, per_second, self._suppressed)

    def _suppressed(self, code: str, count: int) -> None:
        self.log(
            "... and {count} more {code} in the last second",
            count=f"{count:,}",
            code=visible(code),
            suppressed=count,
        )


def _place(error: RecordedError) -> str:
    """Where it went wrong: the byte if one is to blame, else the phase."""
    if error.offset is None:
        return f" ({error.phase})"
    where = error.broke_at
    culprit = where.line[where.caret : where.caret + 1] if where else b""
    return f" at byte {error.offset}" + (f" (0x{culprit[0]:02x})" if culprit else "")
