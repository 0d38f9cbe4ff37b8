"""``python -m twisted_hangup outbox``: what it shows, and what it says when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.outboxes import database as database
from support.outboxes import postgres_dsn as postgres_dsn
from support.processes import running
from support.wire import PATIENCE

from twisted_hangup.__main__ import main
from twisted_hangup.outbox.database import database_named
from twisted_hangup.outbox.policy import Verdict
from twisted_hangup.outbox.request import OutboxLimits, new_request
from twisted_hangup.outbox.sql import create_tables
from twisted_hangup.outbox.store import Demand, Settlement, Work, run


@pytest.fixture
def filled(database: str) -> str:
    """A database with two dead letters, to here and there, and one request that is queued."""
    used = database_named(database)
    with closing(used.connect()) as connection:
        cursor = connection.cursor()
        create_tables(cursor, used)

        def put(key: str, host: str) -> Any:
            return new_request(
                *("POST", f"http://{host}.test/path?token=secret"),
                {"Authorization": "Bearer secret", "X-A": "caf\xe9"},
                b"\0body",
                key=key,
                ordered=False,
                max_age_seconds=1e6,
                limits=OutboxLimits(),
            )

        run(cursor, used, Work(requests=[put("a", "here"), put("b", "there")]))
        connection.commit()
        done = run(cursor, used, Work(demand=Demand(9, 9, {}, 60, 5)))
        connection.commit()
        assert done.claims is not None
        settlements = [
            Settlement(one, Verdict.DEAD, "answered 404", reached=True) for one in done.claims
        ]
        run(cursor, used, Work(settlements=settlements, requests=[put("c", "here")]))
        connection.commit()
    return database


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints, when it does what it was asked for."""
    assert main(["outbox", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_list(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What there is, a line each, without what may be secret."""
    first, second, third = output(capsys, filled, "list").splitlines()
    assert "  a  " in first and "POST http://here.test/path?******" in first
    assert first.endswith("dead after 1: answered 404") and "  b  " in second
    (queued,) = output(capsys, filled, "list", "--queued").splitlines()
    assert "  c  " in queued and queued.endswith("queued after 0") and queued == third
    assert output(capsys, filled, "list", "--dead") == f"{first}\n{second}\n"
    for name in ("http://here.test:80", "HTTP://here.test", "http://here.test/path"):
        here = output(capsys, filled, "list", "--dead", "--destination", name)
        assert here == f"{first}\n"
    assert output(capsys, filled, "list", "--limit", "1") == f"{first}\n"
    after = output(capsys, filled, "list", "--after", first.split()[0])
    assert after == f"{second}\n{third}\n"


def test_under_way(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A request that somebody delivers right now is listed, and is not tried once more."""
    used = database_named(filled)
    with closing(used.connect()) as connection:
        run(connection.cursor(), used, Work(demand=Demand(9, 9, {}, 60, 5)))
        connection.commit()
    (line,) = output(capsys, filled, "list", "--queued").splitlines()
    assert line.endswith("  under way after 1")
    assert "state     under way\n" in output(capsys, filled, "show", "c")
    assert output(capsys, filled, "retry-now", "--all-queued") == "0 will be tried now\n"


def test_list_json(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs, an object per line."""
    out = output(capsys, filled, "list", "--json")
    assert [json.loads(line)["key"] for line in out.splitlines()] == ["a", "b", "c"]
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["dead", "dead", "queued"]
    assert "secret" not in out


def test_show(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One request with its fields; secrets only for who asks for them."""
    out = output(capsys, filled, "show", "a")
    assert out.startswith("POST http://here.test/path?")
    assert "secret" not in out and "X-A: caf\\xe9\n" in out and "body      5 bytes\n" in out
    assert "Authorization: Bearer secret\n" in output(capsys, filled, "show", "a", "--secrets")
    assert output(capsys, filled, "show", "a", "--body") == "\0body"


def test_requeue_and_drop(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By key, or all dead letters."""
    assert output(capsys, filled, "requeue", "a") == "1 requeued\n"
    assert output(capsys, filled, "drop", "--all-dead") == "1 dropped\n"
    assert output(capsys, filled, "drop", "c") == "1 dropped\n"
    assert json.loads(output(capsys, filled, "stats", "--json"))["queued"] == 1


SECRETS = {
    "X-Api-Key": "1st",
    "Api-Key": "2nd",
    "X-Auth-Token": "3rd",
    "X-GitLab-Token": "4th",
    "X-Client-Secret": "5th",
    "X-Hub-Signature": "6th",
    "X-Hub-Signature-256": "7th",
    "Stripe-Signature": "8th",
    "X_API_KEY": "9th",
    "ApiKey": "10th",
    "Token": "11th",
}
SHOWN = {"X-Keyboard": "qwerty", "X-Tokens-Left": "12", "Content-Type": "text/plain"}


def test_credentials(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fields whose name says so are masked; paths of URLs where that is asked for."""
    used = database_named(database)
    request = new_request(
        *("POST", "https://hooks.test/services/T0/B0/hidden?token=too", {**SECRETS, **SHOWN}, b""),
        key="k",
        ordered=False,
        max_age_seconds=float("inf"),
        limits=OutboxLimits(),
    )
    with closing(used.connect()) as connection:
        create_tables(connection.cursor(), used)
        run(connection.cursor(), used, Work(requests=[request]))
        connection.commit()
        (claim,) = run(connection.cursor(), used, Work(demand=Demand(9, 9, {}, 60, 5))).claims or []
        connection.commit()
        problem = "answered 307 to https://hooks.test/hidden"
        run(connection.cursor(), used, Work(settlements=[Settlement(claim, Verdict.DEAD, problem)]))
        connection.commit()
    shown = output(capsys, database, "show", "k", "--mask-paths")
    for name, value in SECRETS.items():
        assert f"{name}: {'*' * len(value)}\n" in shown
    for name, value in SHOWN.items():
        assert f"{name}: {value}\n" in shown
    record = json.loads(output(capsys, database, "show", "k", "--mask-paths", "--json"))
    assert {*SHOWN.values()} == {value for _, value in record["headers"] if "*" not in value}
    assert record["expires_at"] is None
    for command in (["show", "k"], ["show", "k", "--json"], ["list"], ["list", "--json"]):
        assert "hidden" in output(capsys, database, *command)
        masked = output(capsys, database, *command, "--mask-paths")
        assert "hidden" not in masked and "//hooks.test/****" in masked
    assert "dies      never\n" not in shown
    output(capsys, database, "requeue", "k")
    assert "dies      never\n" in output(capsys, database, "show", "k")


def test_retry_now(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What waits for another attempt waits no longer, nor for a pause of its destination."""
    used = database_named(filled)
    with closing(used.connect()) as connection:

        def work(**options: Any) -> Any:
            result = run(connection.cursor(), used, Work(**options))
            connection.commit()
            return result

        (claim,) = work(demand=Demand(9, 9, {}, 60, 1)).claims
        failed = Settlement(claim, Verdict.RETRY, "no", 500.0, reached=False)
        work(settlements=[failed], pause=lambda failures: 600.0)
        assert work(demand=Demand(9, 9, {}, 60, 1)).claims == []
        assert output(capsys, filled, "retry-now", "c") == "1 will be tried now\n"
        (claim,) = work(demand=Demand(9, 9, {}, 60, 1)).claims
        assert claim.key == "c" and claim.probe


def test_pause_and_resume(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A destination is left alone until somebody says otherwise."""
    used = database_named(filled)
    with closing(used.connect()) as connection:

        def claims() -> list[Any]:
            result = run(connection.cursor(), used, Work(demand=Demand(9, 9, {}, 60, 5)))
            connection.commit()
            assert result.claims is not None
            return [claim.key for claim in result.claims]

        assert (
            output(capsys, filled, "pause", "http://here.test/x") == "http://here.test:80 paused\n"
        )
        assert claims() == []
        assert output(capsys, filled, "retry-now", "c") == "1 will be tried now\n"
        assert claims() == []
        assert "http://here.test:80  queued 1, dead 1, paused by hand\n" in output(
            capsys, filled, "stats"
        )
        out = output(capsys, filled, "resume", "http://here.test", "--json")
        assert json.loads(out) == {"destination": "http://here.test:80"}
        assert claims() == ["c"]
    assert "by hand" not in output(capsys, filled, "stats")


def test_counts_for_programs(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As an object."""
    for command in ("retry-now", "requeue", "drop"):
        key = "c" if command == "retry-now" else "a"
        assert json.loads(output(capsys, filled, command, key, "--json")) == {"count": 1}


def test_the_wrong_command(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Who wants the other one is told which."""
    for command, key, words in (
        ("requeue", "c", "c is queued: use retry-now to try it at once"),
        ("retry-now", "a", "a is dead: use requeue to deliver it again"),
    ):
        assert main(["outbox", filled, command, "b" if command == "requeue" else "c", key]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.endswith(f"{words}\n")


def test_stats(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    """How much there is, by destination."""
    out = output(capsys, filled, "stats")
    assert "queued    1, 0 of them under way\ndead      2\n" in out
    assert "http://here.test:80  queued 1, dead 1\nhttp://there.test:80  queued 0, dead 1\n" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["{file}", "show", "nobody"], "no request has the key nobody"),
        (["{file}", "requeue"], "either keys or --all-dead"),
        (["{file}", "drop", "a", "--all-dead"], "either keys or --all-dead"),
        (["{file}", "retry-now"], "either keys or --all-queued"),
        (["{file}", "pause", "there"], "not an absolute http or https URL"),
        (["{file}", "pause"], "required: ORIGIN"),
        (["{file}", "list", "--destination", "ftp://x"], "not an absolute http or https URL"),
        (["mysql://me:secret@db/x", "stats"], "neither the path of an SQLite file"),
        (["{file}", "requeue", "nobody"], "1 of the keys belong to no such request"),
        (["{file}", "list", "--limit", "0"], "not a number above 0"),
        (["{file}", "list", "--after", "x"], "not a number"),
        (["{file}", "explode"], "invalid choice"),
        (["{file}"], "required: ACTION"),
        (["{folder}/missing", "stats"], "no such file"),
        (["{folder}", "stats"], "no such file"),
        ([":memory:", "stats"], "not the name of a file"),
        (["{folder}/text", "stats"], "not a database"),
        (["{folder}/empty", "stats"], "is no outbox"),
        (["postgresql://[", "stats"], "not a PostgreSQL URL"),
        (["postgresql:///x?host=/nowhere", "stats"], "postgresql:///nowhere:5432/x: "),
    ],
)
def test_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done is said in one line, with status 2, and nothing is created."""
    file = database_named(str(tmp_path / "outbox"))
    with closing(file.connect()) as connection:
        create_tables(connection.cursor(), file)
    (tmp_path / "text").write_text("just text, " * 100)
    (tmp_path / "empty").touch()
    before = {*tmp_path.iterdir()}
    arguments = [one.format(file=tmp_path / "outbox", folder=tmp_path) for one in arguments]
    if arguments[0].startswith("postgresql"):
        pytest.importorskip("psycopg")
    try:
        status = main(["outbox", *arguments])
    except SystemExit as stopped:
        status = int(str(stopped.code))
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert words in error
    assert {path for path in tmp_path.iterdir() if "-" not in path.name} == before


def test_a_reader_that_has_enough(tmp_path: Path) -> None:
    """``... list | head`` ends without a word."""
    database = database_named(str(tmp_path / "outbox"))
    with closing(database.connect()) as connection:
        create_tables(connection.cursor(), database)
        requests = [
            new_request(
                *("POST", "http://there.test/", None, b""),
                key=None,
                ordered=False,
                max_age_seconds=1e6,
                limits=OutboxLimits(),
            )
            for _ in range(2000)
        ]
        run(connection.cursor(), database, Work(requests=requests))
        connection.commit()
    command = [sys.executable, "-m", "twisted_hangup", "outbox", str(tmp_path / "outbox"), "list"]
    command += ["--queued", "--limit", "2000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(tmp_path, *command, **pipes) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.communicate(timeout=PATIENCE)[1] == b""
        assert process.returncode == 0
