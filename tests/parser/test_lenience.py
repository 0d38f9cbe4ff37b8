"""Lenience: what each switch lets pass, what none of them does, and Node as the judge."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest
from oracle import fuzz, lenience, node
from support.parsing import CHUNKED, bytewise, events, get_with, head_of, refusal

from twisted_hangup.events import BodyData, EndOfMessage, Event
from twisted_hangup.limits import Lenience, Limits
from twisted_hangup.service.options import Options

DOCS: Final = Path(__file__).parents[2] / "docs"
SWITCHES: Final = [field.name for field in fields(Lenience)]
ALL: Final = Lenience(**dict.fromkeys(SWITCHES, True))
COUNT = 2_000


def lenient(*switches: str, **limits: int) -> Limits:
    """Limits with *switches* on, and no need of a Host."""
    return Limits(
        require_host=False,
        lenience=Lenience(**dict.fromkeys(switches, True)),
        **limits,  # type: ignore[arg-type]
    )


EVERYTHING: Final = Limits(require_host=False, lenience=ALL)
STRICT: Final = Limits(require_host=False)


def whole(out: list[Event]) -> list[Event]:
    """The same with all body data in one piece."""
    body = b"".join(event.data for event in out if isinstance(event, BodyData))
    return [*(event for event in out if not isinstance(event, BodyData)), BodyData(body)]


# --- what a switch lets pass --------------------------------------------------------------

VALUES: Final = [
    ("bare_lf", b"GET / HTTP/1.1\nX: a\n\n", b"a"),
    ("bare_lf", b"GET / HTTP/1.0\r\nX: \t\n\r\n", b""),
    ("bare_lf", b"GET / HTTP/1.1\r\nX:a \n\n", b"a"),
    ("control_bytes", get_with(b"X: \x01a\x1b[0m\x7f \x08"), b"\x01a\x1b[0m\x7f \x08"),
    ("obs_fold", get_with(b"X: a", b" b"), b"a b"),
    ("obs_fold", get_with(b"X: a \t", b"\t  b", b" c "), b"a b c"),
    ("obs_fold", get_with(b"X:", b" ", b"  a"), b"a"),
    ("obs_fold", get_with(b"X: a", b" ", b" b"), b"a  b"),
    ("obs_fold", get_with(b"X: a", b" "), b"a"),
    ("obs_fold", get_with(b"X:", b" "), b""),
]


@pytest.mark.parametrize("switch, stream, value", VALUES)
def test_values(switch: str, stream: bytes, value: bytes) -> None:
    """A switch lets its own kind of value pass, however it is cut, and no other does."""
    for reads in ([stream], bytewise(stream)):
        out = events(reads, lenient(switch))
        assert out == events(reads, EVERYTHING)
        assert isinstance(out[-1], EndOfMessage)
        refusal(reads, STRICT)
        refusal(reads, lenient(*(name for name in SWITCHES if name != switch)))
    assert head_of(stream, lenient(switch)).fields == [(b"X", value)]


BODIES: Final = [
    ("bare_lf", b"3\nabc\n0\n\n"),
    ("bare_lf", b"3;a\nabc\r\n0\r\n\r\n"),
    ("bare_lf", b"3;a=b\nabc\r\n0\r\n\n"),
    ("bare_lf", b'3;a="b"\nabc\r\n0\r\n\r\n'),
    ("bare_lf", b"3\r\nabc\n0\r\n\r\n"),
    ("spaces_after_chunk_size", b"3 \t\r\nabc\r\n0 \r\n\r\n"),
    ("spaces_after_chunk_size", b"3 ;a=b\r\nabc\r\n0\r\n\r\n"),
]


@pytest.mark.parametrize("switch, body", BODIES)
def test_bodies(switch: str, body: bytes) -> None:
    """The same for the lines of a chunked body."""
    stream = CHUNKED + body
    for reads in ([stream], bytewise(stream)):
        out = whole(events(reads, lenient(switch)))
        assert out[1:] == [EndOfMessage([]), BodyData(b"abc")]
        refusal(reads, STRICT)
        refusal(reads, lenient(*(name for name in SWITCHES if name != switch)))


def test_trailers_and_what_follows() -> None:
    """A trailer may be folded, too, and the next request starts where it should."""
    stream = CHUNKED + b"0\nT: a\n b\nU:\n\nGET /next HTTP/1.0\n\n"
    out = events([stream], EVERYTHING)
    assert out[1] == EndOfMessage([(b"T", b"a b"), (b"U", b"")])
    assert head_of(b"GET /next HTTP/1.0\n\n", EVERYTHING) in out
    assert events(bytewise(stream), EVERYTHING) == out


# --- what none of them does -----------------------------------------------------------------

NEVER: Final = [
    b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\rX: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\r\n\rG",
    b"GET / HTTP/1.1\r\nX:\rY: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n X: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection : close\r\n\r\n",
    b"GET / HTTP/1.1\r\nX : a\r\n\r\n",
    b"GET /\n\n",
    b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    CHUNKED + b"3\rabc\r\n",
    CHUNKED + b"3\r\nabc0\r\n\r\n",
    CHUNKED + b"3 3\r\nabc\r\n",
    CHUNKED + b" 3\r\nabc\r\n",
]


@pytest.mark.parametrize("stream", NEVER)
def test_never(stream: bytes) -> None:
    """With every switch on, what only serves to smuggle is refused as it is without."""
    ours, strict = refusal([stream], EVERYTHING), refusal([stream], STRICT)
    assert (ours.code, ours.reason, ours.offset) == (strict.code, strict.reason, strict.offset)


@pytest.mark.parametrize(
    "name",
    b"Connection Content-Length HOST Proxy-Connection Upgrade transfer-encoding".split(),
)
@pytest.mark.parametrize("value", [b"%b\x01", b"%b\r\n a", b"\r\n %b"])
def test_framing_stays_strict(name: bytes, value: bytes) -> None:
    """A field that says where a message ends or goes is never folded nor garbled."""
    good = {b"Content-Length": b"1", b"transfer-encoding": b"chunked"}.get(name, b"a")
    stream = get_with(name + b":" + value % good)
    ours, strict = refusal([stream], EVERYTHING), refusal([stream], STRICT)
    assert (ours.code, ours.reason, ours.offset) == (strict.code, strict.reason, strict.offset)


@pytest.mark.parametrize(
    "part, limits",
    [
        (b"\x01", {"head_bytes": 400}),
        (b"\r\n ", {"head_bytes": 400}),
        (b"\r\n" + b" " * 20, {"head_bytes": 400}),
    ],
)
def test_values_stay_bounded(part: bytes, limits: dict[str, int]) -> None:
    """What is let pass counts, line ends of folds included."""
    stream = b"GET / HTTP/1.1\r\nX: a" + part * 400
    for reads in ([stream], bytewise(stream)):
        error = refusal(reads, lenient("control_bytes", "obs_fold", **limits))
        assert error.code == "HPE_HEADER_OVERFLOW"
        assert error.offset is not None
        assert error.offset < 450


def test_spaces_stay_bounded() -> None:
    """Spaces after a chunk size count as a part of its extensions."""
    limits = lenient("spaces_after_chunk_size", chunk_extension_bytes=10)
    events([CHUNKED + b"3" + b" " * 10 + b"\r\n"], limits)
    error = refusal([CHUNKED + b"3" + b" " * 11], limits)
    assert error.code == "HPE_CHUNK_EXTENSIONS_OVERFLOW"


def test_a_folded_secret_stays_one() -> None:
    """A report hides all lines of a credential, also if one of them broke."""
    stream = b"GET / HTTP/1.1\r\nAuthorization: Basic abc\r\n secret\x00\r\n"
    for reads in ([stream], [stream[:-12], stream[-12:]], bytewise(stream)):
        report = refusal(reads, lenient("obs_fold")).report()
        assert "abc" not in report
        assert "secret" not in report


# --- Node as the judge, the command line, the pages -----------------------------------------


@pytest.mark.parametrize("switches", [*([name] for name in SWITCHES), SWITCHES], ids="+".join)
def test_decides_as_node_does(switches: list[str]) -> None:
    """With Node's flag of the same meaning, no verdict differs but by a deviation with a name."""
    command = node.find_node()
    if command is None:
        pytest.skip(f"no node {node.OLDEST} or newer: set NODE or put one on PATH")
    limits = lenient(*switches)
    streams = fuzz.lenient_mutants(COUNT, 26, limits.lenience)
    _, unexplained = fuzz.compare(command, streams, limits)
    assert not [(d.stream, d.ours, d.node) for d in unexplained]


def test_command_line() -> None:
    """``--lenient`` turns on what it names, may be repeated, and --help has every name."""
    options = Options()
    options.parseOptions(["--lenient", "bare-lf", "--lenient", "obs-fold"])
    assert options.limits.lenience == Lenience(bare_lf=True, obs_fold=True)
    names = ", ".join(name.replace("_", "-") for name in SWITCHES)
    assert f"Accept what HTTP/1.1 forbids (risky): {names}." in options.getUsage(width=1000)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_is_documented(name: str) -> None:
    """The page has a row for each switch, with all flags of Node's it stands for."""
    page = (DOCS / "lenience.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
    assert all(flag in row for flag in lenience.NODE_FLAGS[name])


def test_every_deviation_is_documented() -> None:
    """Names that explain a difference stand in the table of deviations."""
    page = (DOCS / "deviations.md").read_text()
    names = {rule[3] for rule in lenience.RULES} | {"fold-one-space", "lf-one-line-end"}
    assert all(f"| `{name}` |" in page for name in names)
