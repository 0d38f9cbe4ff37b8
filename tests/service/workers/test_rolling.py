"""SIGHUP after SIGHUP under load: no client loses a request."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.wire import PATIENCE

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "rolling.py"


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux")
def test_no_request_is_lost() -> None:
    """The benchmark in short: clients of many kinds, and two replacements."""
    command = [sys.executable, str(BENCHMARK), "--rolls=2"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=4 * PATIENCE)
    assert run.returncode == 0, run.stdout + run.stderr
