"""Ask a real Node server about every case, over a socket, and keep what it said.

    python -m tests.oracle.record --node /usr/bin/node          # write tests/cases/node.json
    python -m tests.oracle.record --node /usr/bin/node --check  # compare with it

The tests compare our verdict with what is kept, so they need no Node.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from . import node, pages
from .node import Error
from .pages import Case

RECORDING: Final = pages.PAGES / "node.json"

#: A server that has said nothing for this long has nothing to say, in seconds.
_SILENCE: Final = 1.0
_AT_ONCE: Final = 128
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")

#: Our options -> Node's.
_NODE_OPTIONS: Final = {
    "head_bytes": "maxHeaderSize",
    "head_fields": "maxHeadersCount",
    "require_host": "requireHostHeader",
}


@dataclass
class Recorded:
    """What Node did with one case.

    Attributes:
        requests: How many requests were given to a handler.
        error: The parser's error, or None.
        statuses: The status codes on the wire, in order.
    """

    requests: int
    error: Error | None
    statuses: list[int]


class Recording(NamedTuple):
    """What one version of Node did with all cases, by their names."""

    version: str
    cases: dict[str, Recorded]


def recorded() -> Recording:
    """What is kept beside the pages."""
    record = json.loads(RECORDING.read_text())
    return Recording(
        record["version"], {name: _read(kept) for name, kept in record["cases"].items()}
    )


def _read(kept: dict[str, Any]) -> Recorded:
    error = kept.get("error")
    return Recorded(kept["requests"], Error(**error) if error else None, kept["statuses"])


def ask(command: str, cases: Sequence[Case]) -> Recording:
    """Let a server of the binary *command* read all *cases*."""
    version = ""
    answers: dict[str, Recorded] = {}
    groups: dict[str, list[Case]] = {}
    for case in cases:
        options = {_NODE_OPTIONS[o]: at for o, at in case.options.items() if o in _NODE_OPTIONS}
        groups.setdefault(json.dumps(options), []).append(case)
    for options_text, group in groups.items():
        with _server(command, options_text) as (server, hello):
            version = hello["version"]
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                talks = list(threads.map(lambda case: _talk(hello["port"], case), group))
            # All are open until here, so that no two had the same port.
            ports = [client.getsockname()[1] for client, _ in talks]
            for client, _ in talks:
                client.close()
            assert server.stdout is not None
            lines = [json.loads(server.stdout.readline()) for _ in group]
        ended = {line["peer"]: line for line in lines}
        for case, port, (_, answer) in zip(group, ports, talks, strict=True):
            line = ended[port]
            error = Error(**line["error"]) if line["error"] else None
            statuses = [int(status) for status in _STATUS.findall(answer)]
            answers[case.name] = Recorded(line["requests"], error, statuses)
    return Recording(version, {case.name: answers[case.name] for case in cases})


@contextmanager
def _server(command: str, options: str) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    script = str(pages.PAGES.parent / "oracle" / "server.js")
    with subprocess.Popen(
        [command, script, options], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        yield server, json.loads(server.stdout.readline())
        # Leaving closes its input, which ends it, and waits.


def _talk(port: int, case: Case) -> tuple[socket.socket, bytes]:
    """Send *case* in one piece; give back the connection and what came until silence."""
    client = socket.create_connection(("127.0.0.1", port))
    client.settimeout(_SILENCE)
    # To close is to reset: a FIN would be an end of input that the case does not have.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answer = b""
    try:
        client.sendall(case.stream)
        if case.end_of_input:
            client.shutdown(socket.SHUT_WR)
        while more := client.recv(65536):
            answer += more
    except (TimeoutError, ConnectionError):
        pass  # silence, or Node closed with input unread
    return client, answer


def write(recording: Recording) -> None:
    """Keep *recording*, a case per line, so that a change is a line in a diff."""
    lines = [f"{json.dumps(name)}: {_line(case)}" for name, case in recording.cases.items()]
    text = ",\n".join(lines)
    RECORDING.write_text(
        f'{{"version": {json.dumps(recording.version)}, "cases": {{\n{text}\n}}}}\n'
    )


def _line(case: Recorded) -> str:
    error = case.error
    record = asdict(case) | {"error": error and error._asdict()}
    return json.dumps({name: value for name, value in record.items() if value is not None})


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    options = argparse.ArgumentParser(description="Ask a real Node about every case.")
    options.add_argument("--node", help="a node binary (default: $NODE, or the one on PATH)")
    options.add_argument("--check", action="store_true", help="compare with what is kept")
    chosen = options.parse_args(arguments)
    command = chosen.node or node.find_node()
    if command is None:
        _say(f"skipped: no node {node.OLDEST} or newer (name one with --node or $NODE)")
        return 0
    answers = ask(command, pages.load())
    if not chosen.check:
        write(answers)
        _say(f"{len(answers.cases)} cases recorded from Node {answers.version}")
        return 0
    kept = recorded()
    other = [name for name in {**kept.cases, **answers.cases} if _differ(kept, answers, name)]
    for name in other:
        _say(f"{name}\n  {kept.version} {kept.cases.get(name)}")
        _say(f"  {answers.version} {answers.cases.get(name)}")
    _say(f"{len(answers.cases)} cases, {len(other)} differ")
    return 1 if other else 0


def _differ(one: Recording, other: Recording, name: str) -> bool:
    return one.cases.get(name) != other.cases.get(name)


if __name__ == "__main__":
    sys.exit(main())
