"""``python -m twisted_hangup outbox``: look at the queue, and change it."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..errors import OutboxUnavailable
from ..outbox import admin
from ..outbox.admin import QueuedRequest
from ..outbox.database import Database, SQLite, database_named
from ..outbox.sql import check_tables
from ..report.masking import DEFAULT_POLICY, mask_target
from ..report.text import shortened, visible

_URL_COLUMNS: Final = 60
_PROBLEM_COLUMNS: Final = 60


class CommandError(Exception):
    """What was asked for cannot be had.  The message is one line."""


def add_outbox_command(commands: Any) -> None:
    """Add ``outbox`` to argparse's subcommands; each sets ``run``, called with the options."""
    outbox = commands.add_parser(
        "outbox",
        help="look at the requests of an outbox, requeue or drop them",
        description="Look at the requests of an outbox, requeue or drop them.",
    )
    outbox.add_argument(
        "database", metavar="FILE_OR_DSN", help="an SQLite file, or a postgresql:// URL"
    )
    actions = outbox.add_subparsers(metavar="ACTION", required=True)

    listing = actions.add_parser("list", help="list dead letters, or what is queued")
    listing.add_argument("--queued", action="store_true", help="what is queued instead")
    _add_destination(listing)
    listing.add_argument("--limit", type=_positive, default=100, help="how many (100)")
    listing.add_argument("--after", type=_natural, default=0, help="only after this number")
    listing.add_argument("--json", action="store_true", help="an object per line")
    listing.set_defaults(run=partial(_run, _list))

    show = actions.add_parser("show", help="show one request")
    show.add_argument("key")
    show.add_argument("--body", action="store_true", help="write its body, and nothing else")
    show.add_argument("--secrets", action="store_true", help="do not mask credentials")
    show.set_defaults(run=partial(_run, _show))

    for name, text, function in (
        ("requeue", "deliver dead letters again", _requeue),
        ("drop", "delete requests, queued or dead", _drop),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("keys", metavar="KEY", nargs="*")
        action.add_argument("--all-dead", action="store_true", help="all dead letters")
        _add_destination(action)
        action.set_defaults(run=partial(_run, function))

    stats = actions.add_parser("stats", help="count what is queued and dead")
    stats.add_argument("--json", action="store_true", help="as one object")
    stats.set_defaults(run=partial(_run, _stats))


def _run(action: Any, options: argparse.Namespace) -> None:
    """Open the database and do *action*.

    Raises:
        CommandError: It cannot be done.
    """
    try:
        database = database_named(options.database)
    except (ValueError, ImportError) as problem:
        raise CommandError(str(problem)) from None
    if isinstance(database, SQLite) and not Path(options.database).is_file():
        # A slip of the finger would make an empty outbox.
        raise CommandError(f"no such file: {visible(options.database)}")
    try:
        with closing(database.connect()) as connection:
            check_tables(connection.cursor(), database)
            action(_Store(database, connection), options)
    except OutboxUnavailable as problem:
        raise CommandError(str(problem)) from None
    except Exception as problem:
        if not database.is_failing(problem):
            raise
        raise CommandError(f"{database.name}: {database.explain(problem)}") from None


class _Store:
    """The functions of `twisted_hangup.outbox.admin`, each in a transaction."""

    def __init__(self, database: Database, connection: Any) -> None:
        self._database = database
        self._connection = connection

    def call(self, function: Any, **arguments: Any) -> Any:
        result = admin.run(self._connection.cursor(), self._database, function, **arguments)
        self._connection.commit()
        return result


def _list(store: _Store, options: argparse.Namespace) -> None:
    rows = store.call(
        admin.requests,
        dead=not options.queued,
        destination=options.destination,
        limit=options.limit,
        after=options.after,
    )
    for row in rows:
        print(_as_json(row) if options.json else _as_line(row))


def _show(store: _Store, options: argparse.Namespace) -> None:
    pair = store.call(admin.find, key=options.key)
    if pair is None:
        raise CommandError(f"no request has the key {visible(options.key)}")
    request, body = pair
    if options.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        return
    url = request.url if options.secrets else _masked(request.url)
    print(f"{request.method} {url}")
    for name, value in request.headers:
        secret = DEFAULT_POLICY.is_secret(name.encode("latin-1")) and not options.secrets
        print(f"{name}: {'*' * len(value) if secret else visible(value.encode('latin-1'))}")
    print(f"Idempotency-Key: {request.key}")
    print()
    print(f"number    {request.id}")
    print(f"body      {request.body_bytes} bytes")
    print(f"order     {'after those before it' if request.ordered else 'any'}")
    print(f"stored    {_time(request.stored_at)}")
    print(f"attempts  {request.attempts}")
    print(f"problem   {request.problem or 'none'}")
    if request.dead_at is None:
        print(f"due       {_time(request.due_at)}")
        print(f"dies      {_time(request.expires_at)}")
    else:
        print(f"dead      {_time(request.dead_at)}")


def _requeue(store: _Store, options: argparse.Namespace) -> None:
    _change(store, options, admin.requeue, "requeued")


def _drop(store: _Store, options: argparse.Namespace) -> None:
    _change(store, options, admin.drop, "dropped")


def _change(store: _Store, options: argparse.Namespace, function: Any, done: str) -> None:
    if bool(options.keys) == options.all_dead:
        raise CommandError("give either keys or --all-dead")
    keys = [*dict.fromkeys(options.keys)] if options.keys else None
    count = store.call(function, keys=keys, destination=options.destination)
    print(f"{count} {done}")
    if keys is not None and count < len(keys):
        raise CommandError(f"{len(keys) - count} of the keys have no such request")


def _stats(store: _Store, options: argparse.Namespace) -> None:
    stats = store.call(admin.stats)
    if options.json:
        print(json.dumps(asdict(stats)))
        return
    print(f"queued    {stats.queued}, {stats.running} of them under way")
    print(f"dead      {stats.dead}")
    print(f"oldest    {stats.oldest_seconds:.0f} s")
    for name, one in stats.destinations.items():
        print(f"{name}  queued {one.queued}, dead {one.dead}", end="")
        if one.failures:
            print(f", {one.failures} failures in a row: {one.problem}", end="")
        if one.paused_seconds:
            print(f", paused for {one.paused_seconds:.0f} s", end="")
        print()


def _as_line(row: QueuedRequest) -> str:
    state = "dead" if row.dead_at is not None else "queued"
    url = shortened(_masked(row.url).encode(), _URL_COLUMNS)
    text = f"{row.id}  {row.key}  {_time(row.stored_at)}  {row.method} {url}"
    problem = shortened((row.problem or "").encode(), _PROBLEM_COLUMNS)
    return f"{text}  {state} after {row.attempts}" + (f": {problem}" if problem else "")


def _as_json(row: QueuedRequest) -> str:
    record = asdict(row) | {"url": _masked(row.url)}
    del record["headers"]
    return json.dumps(record)


def _masked(url: str) -> str:
    return mask_target(url.encode()).decode()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _add_destination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--destination",
        metavar="ORIGIN",
        help="only what goes there: scheme, host and port, like https://example.com:443",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number: {text!r}")
    return int(text)
