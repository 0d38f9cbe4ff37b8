"""How the cost of a request grows with what there is more of, as curves in docs/curves.svg.

    python benchmarks/curves.py [--rounds 3] [--only NAME] [--write FILE]

The CPU time of the server process for each request, by the size of its head, the number of its
fields, the connections that are open beside it, the handlers of a refusal, the requests that wait
on the same connection, and the streams of HTTP/2; beside stock Twisted.  Fields and heads are of
requests that differ from each other, as those of different clients do.

Needs Linux, ``wrk``, ``h2load`` and ``openssl``, and ``ulimit -n`` of 20,100 for all connections.
Exits with 1 where twice as much costs more than twice as much.
"""

from __future__ import annotations

import argparse
import resource
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from compare import refused
from measure import OURS, ROOT, Row, Server, compare, h2load, need, spread, wrk
from pipelined import SCRIPT as PIPELINED
from servers import KINDS, make_certificate, running

#: Files that a process has open beside its connections, at most.
OTHER_FILES: Final = 60

#: How far above proportion a curve may end, because of the machine's other users.  One that grows
#: with the square ends at 2 or more.
NOISE: Final = 1.5

#: What wrk asks: requests that differ in one field.
DIFFERENT: Final = """
local number, rest = 100000, [[
{rest}
]]
rest = rest:gsub("\\n", "\\r\\n") .. "\\r\\n"
request = function()
  number = number + 1
  return "GET / HTTP/1.1\\r\\nHost: localhost\\r\\nX-Number: " .. number .. "\\r\\n" .. rest
end
"""


class Curve(NamedTuple):
    """What was measured of one panel.

    Attributes:
        over: What there is more of, with its unit.
        rows: What each of *points* costs.
    """

    title: str
    over: str
    points: Sequence[int]
    rows: Sequence[Row]

    def costs(self, kind: str) -> list[float]:
        """The least for each point, as what else the machine does only adds; or empty."""
        return [min(row.costs[kind]) for row in self.rows if kind in row.costs]

    def growth(self) -> float:
        """How many times as much ours costs at the end as it would if it grew in proportion."""
        first, last = self.points[len(self.points) // 2], self.points[-1]
        costs = self.costs(OURS)
        return costs[-1] / costs[len(self.points) // 2] / (last / first)


def scripted(folder: Path, script: str) -> Callable[[int], int]:
    """Asks a port for a second what wrk's *script* says."""
    file = folder / "wrk.lua"

    def ask(port: int) -> int:
        file.write_text(script)
        return wrk(f"http://127.0.0.1:{port}/", 1, script=file).requests

    return ask


def with_fields(folder: Path, fields: Sequence[str]) -> Callable[[int], int]:
    return scripted(folder, DIFFERENT.format(rest="\n".join(fields)))


def streamed(streams: int) -> Callable[[int], int]:
    """GETs over HTTP/2, so many at a time on one connection."""
    arguments = ["-n", "3000", "-c", "1", "-m", str(streams)]
    return lambda port: h2load(f"https://127.0.0.1:{port}/", *arguments)


@contextmanager
def both(tls: Path | None = None) -> Iterator[dict[str, Server]]:
    """Stock and ours."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(running(kind, tls=tls)) for kind in KINDS}


@contextmanager
def idle(servers: Mapping[str, Server], count: int) -> Iterator[None]:
    """Keep so many connections to each server, from processes of their own."""
    with ExitStack() as stack:
        for server in servers.values():
            command = [sys.executable, __file__, "--hold", str(server.port), str(count)]
            holder = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert holder.stdin and holder.stdout
            stack.callback(holder.stdin.close)
            if holder.stdout.readline() != "held\n":
                sys.exit(f"no {count} connections")
        yield


def hold(port: int, count: int) -> None:
    """Open so many connections, and keep them until standard input ends."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for client in clients:  # by a reset, which leaves the port free for the next
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    print("held", flush=True)
    sys.stdin.read()
    del clients


def head_sizes(folder: Path, rounds: int) -> Curve:
    points = [1000, 2000, 4000, 8000, 12_000, 15_000]
    with both() as servers:
        rows = [
            compare(f"{size} bytes", servers, with_fields(folder, ["X: " + "x" * size]), rounds)
            for size in points
        ]
    return Curve("Size of the head", "bytes", points, rows)


def field_counts(folder: Path, rounds: int) -> Curve:
    points = [10, 50, 100, 200, 300, 400]
    with both() as servers:
        rows = [
            compare(
                f"{count} fields",
                servers,
                with_fields(folder, [f"X-Field-{number}: value" for number in range(count)]),
                rounds,
            )
            for count in points
        ]
    return Curve("Fields in the head", "fields", points, rows)


def connections(folder: Path, rounds: int) -> Curve:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_FILES
    points = [min(count, most) for count in (1, 2500, 5000, 10_000, 20_000)]
    rows = []
    with both() as servers:
        for count in points:
            with idle(servers, count):
                ask = scripted(folder, PIPELINED.format(depth=1))
                rows.append(compare(f"{count} idle connections", servers, ask, rounds))
    return Curve("Idle connections beside 16 busy ones", "connections", points, rows)


def handlers(folder: Path, rounds: int) -> Curve:
    points = [1, 5, 10, 20, 40]
    rows = []
    for count in points:
        with running(OURS, handlers=count) as server:
            ask = partial(refused, seconds=1)
            rows.append(compare(f"{count} handlers", {OURS: server}, ask, rounds))
    return Curve("Handlers of one refusal", "handlers", points, rows)


def backlogs(folder: Path, rounds: int) -> Curve:
    points = [1, 2, 4, 8, 16, 32, 64]
    with both() as servers:
        rows = [
            compare(
                f"{depth} deep", servers, scripted(folder, PIPELINED.format(depth=depth)), rounds
            )
            for depth in points
        ]
    return Curve("Requests that a client pipelines", "requests at a time", points, rows)


def streams(folder: Path, rounds: int) -> Curve:
    points = [1, 10, 25, 50, 100]
    with both(make_certificate(folder)) as servers:
        rows = [compare(f"{count} streams", servers, streamed(count), rounds) for count in points]
    return Curve("Streams of one HTTP/2 connection", "streams", points, rows)


CURVES: Final = [head_sizes, field_counts, connections, handlers, backlogs, streams]


# The picture: two columns of panels, each with both axes from nought and in proportion.

WIDTH, HEIGHT, LEFT, TOP, ACROSS, DOWN = 360, 250, 52, 40, 280, 160
STYLE: Final = """
text { font: 12px sans-serif; fill: #333 } .title { font-weight: bold }
rect { fill: #fff } .grid { stroke: #ddd } polyline { fill: none; stroke-width: 2 }
.hangup { stroke: #3f51b5; fill: #3f51b5 } .stock { stroke: #b35900; fill: #b35900 }
polyline.stock { stroke-dasharray: 6 3 } text.hangup, text.stock { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } rect { fill: #1e2129 } .grid { stroke: #444 }
  .hangup { stroke: #9fa8da; fill: #9fa8da } .stock { stroke: #ffb74d; fill: #ffb74d }
}
polyline.hangup, polyline.stock { fill: none }
"""


def picture(curves: Sequence[Curve]) -> str:
    """All panels as SVG; its description has the figures."""
    height = HEIGHT * ((len(curves) + 1) // 2)
    figures = "; ".join(
        f"{curve.title}: "
        + ", ".join(
            f"{point} {cost:.1f}"
            for point, cost in zip(curve.points, curve.costs(OURS), strict=True)
        )
        for curve in curves
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {height}" role="img">',
        f"<title>What a request costs, in µs</title><desc>{escape(figures)}</desc>",
        f"<style>{STYLE}</style>",
        f'<rect width="{2 * WIDTH}" height="{height}"/>',
    ]
    for number, curve in enumerate(curves):
        parts.append(f'<g transform="translate({number % 2 * WIDTH} {number // 2 * HEIGHT})">')
        parts += [*panel(curve), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(curve: Curve) -> Iterator[str]:
    """The SVG of one curve, with its left upper corner at nought."""
    top = round_above(max(max(curve.costs(kind), default=0) for kind in KINDS))
    bottom, most = TOP + DOWN, curve.points[-1]
    yield f'<text class="title" x="{LEFT}" y="18">{escape(curve.title)}</text>'
    for step in range(5):
        y = bottom - step * DOWN / 4
        yield f'<path class="grid" d="M{LEFT} {y}h{ACROSS}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{top * step / 4:g}</text>'
    for step in range(3):
        x = LEFT + step * ACROSS / 2
        yield f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{most * step / 2:,g}</text>'
    middle = LEFT + ACROSS / 2
    yield f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{curve.over}</text>'
    for kind in KINDS:
        places = [
            (LEFT + point / most * ACROSS, bottom - cost / top * DOWN)
            for point, cost in zip(curve.points, curve.costs(kind), strict=False)
        ]
        if places:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline class="{kind}" points="{line}"/>'
            yield from (
                f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
            )
    yield f'<text class="hangup" x="{LEFT}" y="34">this project</text>'
    if curve.costs("stock"):
        yield f'<text class="stock" x="{LEFT + 90}" y="34">stock Twisted</text>'
    yield f'<text x="{LEFT + ACROSS}" y="34" text-anchor="end">µs each</text>'


def round_above(value: float) -> float:
    """A round number that is not less, and can be divided by four."""
    step = 10.0 ** (len(str(int(value))) - 1)
    return next(step * times for times in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * times >= value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="curves whose function has this in its name")
    parser.add_argument("--write", type=Path, default=ROOT / "docs" / "curves.svg")
    parser.add_argument("--hold", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        hold(*options.hold)
        return
    need("wrk", "h2load", "openssl")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    curves = []
    with tempfile.TemporaryDirectory() as folder:
        for draw in CURVES:
            if options.only in draw.__name__:
                curves.append(draw(Path(folder), options.rounds))
                show(curves[-1])
    options.write.write_text(picture(curves))
    if steep := [curve.title for curve in curves if curve.growth() > NOISE]:
        sys.exit(f"grows faster than in proportion: {', '.join(steep)}")


def show(curve: Curve) -> None:
    """Print what each point costs."""
    print(
        f"{curve.title}: {curve.growth():.2f} of what growth in proportion would cost", flush=True
    )
    for row in curve.rows:
        each = "  ".join(f"{kind} {spread(costs, '.1f')}" for kind, costs in row.costs.items())
        print(f"  {row.load:<26}us {each}", flush=True)


if __name__ == "__main__":
    main()
