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
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            top = root / "sys/fs/cgroup"
            if controllers:  # version 1
                top /= "cpu"
                if "cpu" not in controllers.split(","):
                    continue
            group = top / name.lstrip("/")
            for one in (group, *group.parents):
                with suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no quota
                    quota, period = _quota(one, not controllers)
                    if quota > 0:
                        yield quota / period
                if one == top:
                    break


def _quota(group: Path, is_version_2: bool) -> tuple[int, int]:
    """The microseconds that *group* may run, and in how many."""
    if is_version_2:
        quota, period = (group / "cpu.max").read_text().split()
    else:
        files = (group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us")
        quota, period = (file.read_text() for file in files)
    return int(quota), int(period)
