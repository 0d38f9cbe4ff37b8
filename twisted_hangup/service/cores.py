"""How many cores this process may use, which is what ``--workers auto`` means."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The smaller one of the process's affinity and its container's quota, rounded up.

    Args:
        root: Where the file systems of the kernel are.
    """
    try:
        cores: float = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's group and of all groups around it, in cores."""
    groups = root / "sys/fs/cgroup"
    with suppress(OSError, ValueError, ZeroDivisionError):  # version 1
        period = int((groups / "cpu/cpu.cfs_period_us").read_text())
        quota = int((groups / "cpu/cpu.cfs_quota_us").read_text())
        if quota > 0:
            yield quota / period
    with suppress(OSError, StopIteration):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        name = next(line.removeprefix("0::/") for line in lines if line.startswith("0::/"))
        group = groups / name
        for one in (group, *group.parents):
            if one == groups.parent:
                return
            with suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no quota
                quota, period = map(int, (one / "cpu.max").read_text().split())
                yield quota / period
