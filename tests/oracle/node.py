"""Node's verdict on streams of bytes: a real ``node`` is the judge of our parser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

#: Older ones have an older llhttp, which is laxer.
OLDEST: Final = 24
_JUDGE: Final = Path(__file__).with_name("judge.js")
_BATCH: Final = 500

#: The longest that Node may take for a batch, or to say who it is.
PATIENCE_SECONDS: Final = 120.0


class Error(NamedTuple):
    """A refusal; *offset* counts from the stream's first byte, None at the end of input."""

    code: str
    reason: str
    offset: int | None


@dataclass(slots=True)
class Message:
    """What came out of one request; its body and trailers as far as they came."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]]
    keep_alive: bool
    upgrade: bool
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] | None = None
    complete: bool = False


class Verdict(NamedTuple):
    """All that a parser made of a stream.

    Attributes:
        messages: What came out, also of a message that is not complete.
        error: What ended it.
        broken_at: Where the message that broke starts; only our parser tells.
    """

    messages: list[Message]
    error: Error | None
    broken_at: int | None = None


def find_node(path: str | None = None) -> str | None:
    """Say where there is a node that may judge: *path*, ``$NODE``, or the one on ``PATH``."""
    node = path or os.environ.get("NODE") or shutil.which("node")
    if node is None:
        return None
    try:
        version = subprocess.run(
            [node, "--version"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    major = re.match(r"v(\d+)\.", version.stdout)
    return node if major and int(major[1]) >= OLDEST else None


def judge(
    node: str, streams: Sequence[Sequence[bytes]], flags: Sequence[str] = ()
) -> list[Verdict]:
    """Let *node* read each of *streams*, which are cut into reads.

    Args:
        node: The binary.
        streams: What it reads.
        flags: How lenient it is: names of constants of Node's HTTPParser.
    """
    verdicts: list[Verdict] = []
    command = [node, "--expose-internals", "--no-warnings", str(_JUDGE), *flags]
    for start in range(0, len(streams), _BATCH):
        lines = [b" ".join(map(b64encode, reads)) for reads in streams[start : start + _BATCH]]
        done = subprocess.run(
            command,
            input=b"\n".join(lines) + b"\n",
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=True,
        )
        verdicts += [_verdict(json.loads(line)) for line in done.stdout.splitlines()]
    return verdicts


def _verdict(record: dict[str, Any]) -> Verdict:
    messages = [
        Message(
            method=_bytes(message["method"]),
            target=_bytes(message["target"]),
            version=_bytes(message["version"]),
            fields=_pairs(message["fields"]),
            keep_alive=message["keepAlive"],
            upgrade=message["upgrade"],
            body=b"" if message["upgrade"] else _bytes(message["body"]),
            # Node hands out many trailers before it has seen the last of them.
            trailers=_pairs(message["trailers"]) if message["complete"] else [],
            complete=message["complete"] and not message["upgrade"],
        )
        for message in record["messages"]
    ]
    return Verdict(messages, Error(**record["error"]) if record["error"] else None)


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


def _pairs(flat: list[str]) -> list[tuple[bytes, bytes]]:
    texts = [_bytes(text) for text in flat]
    return list(zip(texts[::2], texts[1::2], strict=True))
