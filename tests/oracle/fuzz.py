"""Mutate requests and hold our parser against Node's.

    python -m tests.oracle.fuzz --count 300000 --seed 1 --node /usr/bin/node
    python -m tests.oracle.fuzz --count 100000 --lenient obs_fold --lenient bare_lf

Every difference in what comes out of a stream, and in code, reason or offset of the error
that ends it, has to be one of the deviations by name; any other is printed and makes the
exit status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Final

from twisted_hangup.limits import Lenience, Limits

from . import lenience, node, ours, pages
from .deviations import Difference, name_of

_MOST_SEED_BYTES: Final = 2000  # limits are tested on their own; long streams cost time
_BATCH: Final = 5000
_SHOWN: Final = 10

#: Streams that the cases lack: many things at once, for one mutation to bring together.
_EXTRA_SEEDS: Final = [
    b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\nPOST /d HTTP/1.1\r\nHost: b:80\r\n"
    b"Content-Length: 3\r\n\r\nxyzGET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n"
    b'3;a=b;c="d\\e"\r\nxyz\r\n00A\r\n0123456789\r\n0;x\r\nT: u\r\nConnection: close\r\n\r\n'
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost:\r\nTE: x\r\nProxy-Connection: keep-alive, close\r\n\r\n",
    b"PUT http://u:p@h.example:80/p?q HTTP/1.1\r\nHost: h.example:80\r\nUpgrade: h2c\r\n"
    b"Connection: Upgrade , x\r\nContent-Length: 1\r\n\r\nx",
    b"POST / HTTP/1.1\r\nHost: a%20b\r\ntransfer-encoding:  Chunked \r\nupgrade:\r\n\r\n"
    b"ffffffffffffffff\r\nx",
    b"PATCH / HTTP/1.1\r\nHost: 1.2.3.4\r\nContent-Length: 18446744073709551615\r\n\r\nx",
    b"GET http://[1:2::3.4.5.6]:8080/?# HTTP/1.1\r\nhOST: [v1.x]\r\nConnection:close\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\r\n\r\n\nGET / HTTP/2.0\r\nA: b\r\n\r\n",
    b"\r\n" * 15 + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + b"\n" * 31 + b"GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0000000000000001\r\nx\r\n0\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nx",
]

_PIECES: Final = [
    *(bytes([byte]) for byte in b' \t\r\n\0\x01\x0b\x0c\x1f\x7f\x80\xff:;,="\\#?@[]%*/0aG'),
    *(b"\r\n", b"\r\n\r\n", b"  ", b"0\r\n\r\n", b"\r\n ", b"chunked", b"close", b"HTTP/1.1"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n"),
    *(b"Connection: close\r\n", b"Upgrade: x\r\n", b"identity, ", b"00000000000000000"),
    b"99999999999999999999",
]


def seeds() -> list[bytes]:
    """The streams to start from."""
    streams = [case.stream for case in pages.load()]
    return [seed for seed in streams if len(seed) <= _MOST_SEED_BYTES] + _EXTRA_SEEDS


def mutants(count: int, seed: int, more: Sequence[bytes] = ()) -> Iterator[list[bytes]]:
    """Give *count* streams, each cut into reads; the same ones for the same *seed*.

    Args:
        count: How many.
        seed: Which ones.
        more: Streams to start from, besides `seeds`.
    """
    chance = random.Random(seed)  # repeatable on purpose
    sources = [*seeds(), *more]
    for _ in range(count):
        stream = chance.choice(sources)
        for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 5])):
            stream = mutate(stream, chance, sources)
        yield _cut(stream, chance)


def lenient_mutants(count: int, seed: int, switches: Lenience) -> list[list[bytes]]:
    """The same as a list, with more of what *switches* let pass, and nothing Node dies of."""
    return [
        reads
        for reads in mutants(count, seed, lenience.seeds(seeds(), switches))
        if reads and lenience.node_returns(b"".join(reads), switches)
    ]


def mutate(stream: bytes, chance: random.Random, sources: Sequence[bytes]) -> bytes:
    """Change *stream* in one place, or put one of *sources* after it."""
    at = chance.randrange(len(stream) + 1)
    end = min(len(stream), at + chance.choice([1, 1, 1, 2, 4, 8, 20]))
    piece = stream[at:end]
    match chance.randrange(9):
        case 0:  # duplicate
            return stream[:end] + piece + stream[end:]
        case 1:  # delete
            return stream[:at] + stream[end:]
        case 2:  # swap with the next bytes
            other = stream[end : end + len(piece)]
            return stream[:at] + other + piece + stream[end + len(other) :]
        case 3:  # flip case
            return stream[:at] + piece.swapcase() + stream[end:]
        case 4:  # any byte
            return stream[:at] + bytes([chance.randrange(256)]) + stream[at + 1 :]
        case 5:  # end early
            return stream[:at]
        case 6:  # another stream after it
            return stream + chance.choice(sources)
        case 7:  # replace
            return stream[:at] + chance.choice(_PIECES) + stream[end:]
        case _:  # insert
            return stream[:at] + chance.choice(_PIECES) + stream[at:]


def _cut(stream: bytes, chance: random.Random) -> list[bytes]:
    if chance.random() < 0.1:
        return [stream[at : at + 1] for at in range(len(stream))]
    cuts = sorted(chance.randrange(len(stream) + 1) for _ in range(chance.choice([0, 0, 1, 2, 3])))
    edges = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    return [stream[start:end] for start, end in edges if start < end]


def compare(
    command: str, streams: list[list[bytes]], limits: Limits
) -> tuple[Counter[str], list[Difference]]:
    """Let both judge *streams*.

    Returns:
        How often each deviation came up, and the differences that none explains.
    """
    named: Counter[str] = Counter()
    unexplained = []
    flags = lenience.node_flags(limits.lenience)
    for reads, theirs in zip(streams, node.judge(command, streams, flags), strict=True):
        verdict = ours.judge(reads, limits)
        if ours.whole_disagrees(b"".join(reads), limits):
            unexplained.append(Difference(b"".join(reads), verdict, theirs))
        if verdict[:2] == theirs[:2]:
            continue
        difference = Difference(b"".join(reads), verdict, theirs)
        name = _explain(command, difference, limits)
        if name is None:
            unexplained.append(difference)
        else:
            named[name] += 1
    return named, unexplained


def _explain(command: str, difference: Difference, limits: Limits) -> str | None:
    """Name the deviation that explains *difference*; None where nothing does."""
    switches = limits.lenience
    if switches.obs_fold:
        difference = lenience.with_one_space(difference)
        if difference.ours[:2] == difference.node[:2]:
            return "fold-one-space"
    name = name_of(difference) or lenience.name_of(difference, switches)
    if name is None and switches.bare_lf and _took_two_lf(command, difference.stream, limits):
        return "lf-one-line-end"
    return name


def _took_two_lf(command: str, stream: bytes, limits: Limits) -> bool:
    """Whether Node took two LF of *stream* for one line end, and nothing else is amiss.

    With CR LF in the place of the first one, we decide the same, and so does Node.
    """
    verdict = ours.judge([stream], limits)
    for at in lenience.doubled_line_ends(stream):
        mended = stream[:at] + b"\r" + stream[at:]
        same = ours.judge([mended], limits)[:2] == lenience.moved(verdict, at)[:2]
        if same and not compare(command, [[mended]], limits)[1]:
            return True
    return False


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    options = argparse.ArgumentParser(description="Hold our parser against Node's.")
    options.add_argument("--count", type=int, default=20_000, help="how many mutants")
    options.add_argument("--seed", type=int, default=0, help="which ones")
    options.add_argument(
        "--lenient",
        action="append",
        default=[],
        choices=[field.name for field in fields(Lenience)],
        help="turn this switch on, in Node too (repeatable)",
    )
    options.add_argument("--node", help="a node binary (default: $NODE, or the one on PATH)")
    chosen = options.parse_args(arguments)
    command = node.find_node(chosen.node)
    if command is None:
        _say(f"skipped: no node {node.OLDEST} or newer (name one with --node or $NODE)")
        return 0
    switches = Lenience(**dict.fromkeys(chosen.lenient, True))
    total: Counter[str] = Counter()
    unexplained: list[Difference] = []
    for done in range(0, chosen.count, _BATCH):
        size = min(_BATCH, chosen.count - done)
        streams = lenient_mutants(size, chosen.seed + done, switches)
        # Every other batch with Host required, as every other stream would need it.
        limits = Limits(require_host=bool(done // _BATCH % 2), lenience=switches)
        named, open_questions = compare(command, streams, limits)
        total += named
        unexplained += open_questions
        if len(unexplained) > _SHOWN:
            break
    for difference in unexplained[:_SHOWN]:
        _say(f"{difference.stream!r}\n  ours {difference.ours}\n  node {difference.node}")
    for name, times in total.most_common():
        _say(f"{times:8} {name}")
    _say(f"{chosen.count} mutants, {len(unexplained)} unexplained differences")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
