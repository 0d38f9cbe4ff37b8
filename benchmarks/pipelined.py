"""What a small request costs if the client sends 16 at a time and does not wait, beside stock.

    python benchmarks/pipelined.py [--rounds 8] [--seconds 1] [--before CHECKOUT]

Measured as in `compare.py`: the CPU time of the server process for each request, round by round.
More than 1 means that ours is cheaper.  Needs Linux and ``wrk``.

Exits with 1 where stock does not cost as many times ours as is aimed at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from compare import Load, gets
from compare import rows as compared
from measure import Options, Row, main

#: Requests that a client sends at a time.
DEPTH: Final = 16

#: What wrk sends: so many requests at once, then again when all are answered.
SCRIPT: Final = """
local all
init = function() all = string.rep(wrk.format(nil, "/"), {depth}) end
request = function() return all end
"""


def rows(options: Options) -> Iterator[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "wrk.lua")
        script.write_text(SCRIPT.format(depth=DEPTH))
        yield from compared(options, [Load(f"pipelined, {DEPTH} deep", gets({}, script=script))])


if __name__ == "__main__":
    main(__doc__, rows)
