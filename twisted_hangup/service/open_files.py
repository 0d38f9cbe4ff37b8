"""How many files this process may have open: the soft limit, and what is left of it."""

from __future__ import annotations

import os

from twisted.logger import Logger

_log = Logger()

#: Share of the limit that connections leave to the files they are served from, to the
#: application's own connections and to logs; and the least that is left.
SPARE_SHARE = 16
LEAST_SPARE = 32


def raise_limit() -> int | None:
    """Raise the soft limit of open files to the hard one, and log it.

    Returns:
        The limit that holds now; None where the system has none.
    """
    try:
        import resource
    except ImportError:  # Windows has handles instead, some 16 million of them
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # macOS: "unlimited" is more than it allows
            _log.warn("Open files: the limit stays at {soft}, {error}", soft=soft, error=str(error))
            return soft
    _log.info("Open files: at most {hard} (the limit was {soft})", soft=soft, hard=hard)
    return None if hard == resource.RLIM_INFINITY else hard


def room_for_connections(limit: int) -> int:
    """How many connections leave room for everything else under a *limit* of open files.

    What is open now is taken for what stays open; at least one connection is allowed.
    """
    spare = max(LEAST_SPARE, limit // SPARE_SHARE)
    return max(1, limit - _open_now() - spare)


def any_left() -> bool:
    """Whether one more file can be opened, in this process and in the whole system."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return LEAST_SPARE
