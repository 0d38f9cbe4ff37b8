"""``python -m twisted_hangup outbox``: look at the queue, and change it."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import closing
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Final

from ..errors import OutboxUnavailable
from ..outbox import admin
from ..outbox.admin import QueuedRequest
from ..outbox.database import Database, SQLite, database_named
from ..outbox.request import destination_named
from ..outbox.sql import check_tables
from ..report.masking import DEFAULT_POLICY, mask_target
from ..report.text import shortened, visible
from .problem import CommandError

_URL_COLUMNS: Final = 60
_PROBLEM_COLUMNS: Final = 60

#: Headers whose name says that they hold a credential, and that the masking policy does not know.
_CREDENTIAL: Final = re.compile(
    r"(.*[-_])?(api|auth)?(key|token|secret|signature|password)([-_]?\d+)?", re.I
)

_PATH: Final = re.compile(r"(?<=://)([^/?#\s]*/)([^?#\s]*)")


def add_outbox_command(commands: Any) -> None:
    """Add ``outbox`` to argparse's subcommands; each sets ``run``, called with the options."""
    outbox = commands.add_parser(
        "outbox",
        help="list, retry or drop the requests in an outbox",
        description="List the requests in an outbox, retry or drop them, and pause destinations.",
    )
    outbox.add_argument(
        "database", metavar="FILE_OR_DSN", help="an SQLite file, or a postgresql:// URL"
    )
    actions = outbox.add_subparsers(metavar="ACTION", required=True)

    listing = _add_action(actions, "list", "list requests: queued, under way and dead", _list)
    only = listing.add_mutually_exclusive_group()
    only.add_argument(
        "--queued", action="store_true", help="only requests that are queued or under way"
    )
    only.add_argument("--dead", action="store_true", help="only dead letters")
    _add_destination(listing)
    listing.add_argument("--limit", type=_positive, default=100, help="at most this many (100)")
    listing.add_argument(
        "--after", type=_natural, default=0, help="only requests after this number"
    )
    _add_mask_paths(listing)

    show = _add_action(actions, "show", "show one request", _show)
    show.add_argument("key")
    show.add_argument("--body", action="store_true", help="write only its body")
    show.add_argument("--secrets", action="store_true", help="do not mask credentials")
    _add_mask_paths(show)

    for name, text, function, every in (
        ("requeue", "deliver dead letters again", _requeue, "--all-dead"),
        ("retry-now", "try queued requests at once", _retry_now, "--all-queued"),
        ("drop", "delete requests, queued or dead", _drop, "--all-dead"),
    ):
        action = _add_action(actions, name, text, function)
        action.add_argument("keys", metavar="KEY", nargs="*")
        what = every.replace("--all-", "")
        action.add_argument(every, dest="all", action="store_true", help=f"all {what} requests")
        action.set_defaults(every=every)
        _add_destination(action)

    for name, text, function in (
        ("pause", "deliver nothing to a destination until resume", _pause),
        ("resume", "deliver to a destination again, at once", _resume),
    ):
        action = _add_action(actions, name, text, function)
        action.add_argument("destination", metavar="ORIGIN", type=_destination)

    _add_action(actions, "stats", "count queued and dead requests", _stats)


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
        # A typing mistake would create an empty outbox.
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
        dead=True if options.dead else False if options.queued else None,
        destination=options.destination,
        limit=options.limit,
        after=options.after,
    )
    for row in rows:
        print(_as_json(row, options) if options.json else _as_line(row, options))


def _show(store: _Store, options: argparse.Namespace) -> None:
    pair = store.call(admin.find, key=options.key)
    if pair is None:
        raise CommandError(f"no request has the key {visible(options.key)}")
    request, body = pair
    if options.body:
        sys.stdout.flush()
        sys.stdout.buffer.write(body)
        return
    fields = [
        (name, "*" * len(value) if _is_secret(name) and not options.secrets else value)
        for name, value in request.headers
    ]
    if options.json:
        print(_as_json(request, options, headers=fields))
        return
    print(f"{request.method} {_shown_url(request.url, options)}")
    for name, value in fields:
        print(f"{name}: {visible(value.encode('latin-1'))}")
    print(f"Idempotency-Key: {request.key}")
    print()
    print(f"number    {request.id}")
    print(f"body      {request.body_bytes} bytes")
    print(f"order     {'after earlier requests' if request.ordered else 'any'}")
    print(f"stored    {_time(request.stored_at)}")
    print(f"state     {request.state}")
    print(f"attempts  {request.attempts}")
    print(f"problem   {_shown_problem(request, options) or 'none'}")
    if request.dead_at is None:
        print(f"due       {_time(request.due_at)}")
        print(f"dies      {_time(request.expires_at)}")
    else:
        print(f"dead      {_time(request.dead_at)}")


def _requeue(store: _Store, options: argparse.Namespace) -> None:
    _refuse(store, options.keys, {"queued", "under way"}, "use retry-now to try it at once")
    _change(store, options, admin.requeue, "requeued")


def _retry_now(store: _Store, options: argparse.Namespace) -> None:
    _refuse(store, options.keys, {"dead"}, "use requeue to deliver it again")
    _refuse(store, options.keys, {"under way"}, "wait until that attempt has ended")
    _change(store, options, admin.retry_now, "will be tried now")


def _drop(store: _Store, options: argparse.Namespace) -> None:
    _change(store, options, admin.drop, "dropped")


def _refuse(store: _Store, keys: list[str], states: set[str], hint: str) -> None:
    """Raise CommandError if the request of one of *keys* is in one of *states*."""
    for key in keys:
        pair = store.call(admin.find, key=key)
        if pair is not None and pair[0].state in states:
            raise CommandError(f"{visible(key)} is {pair[0].state}: {hint}")


def _change(store: _Store, options: argparse.Namespace, function: Any, done: str) -> None:
    if bool(options.keys) == options.all:
        raise CommandError(f"give either keys or {options.every}")
    keys = [*dict.fromkeys(options.keys)] if options.keys else None
    count = store.call(function, keys=keys, destination=options.destination)
    print(json.dumps({"count": count}) if options.json else f"{count} {done}")
    if keys is not None and count < len(keys):
        raise CommandError(f"{len(keys) - count} of the keys belong to no such request")


def _pause(store: _Store, options: argparse.Namespace) -> None:
    _hold(store, options, admin.hold, "paused")


def _resume(store: _Store, options: argparse.Namespace) -> None:
    _hold(store, options, admin.let_go, "resumed")


def _hold(store: _Store, options: argparse.Namespace, function: Any, done: str) -> None:
    store.call(function, destination=options.destination)
    text = f"{options.destination} {done}"
    print(json.dumps({"destination": options.destination}) if options.json else text)


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
        if one.held:
            print(", paused by hand", end="")
        print()


def _as_line(row: QueuedRequest, options: argparse.Namespace) -> str:
    url = shortened(_shown_url(row.url, options).encode(), _URL_COLUMNS)
    text = f"{row.id}  {row.key}  {_time(row.stored_at)}  {row.method} {url}"
    problem = shortened(_shown_problem(row, options).encode(), _PROBLEM_COLUMNS)
    return f"{text}  {row.state} after {row.attempts}" + (f": {problem}" if problem else "")


def _as_json(row: QueuedRequest, options: argparse.Namespace, **more: object) -> str:
    record = asdict(row) | {
        "url": _shown_url(row.url, options),
        "problem": _shown_problem(row, options) or None,
        "state": row.state,
        "expires_at": row.expires_at if isfinite(row.expires_at) else None,
    }
    del record["headers"], record["running"]
    return json.dumps(record | more)


def _shown_url(url: str, options: argparse.Namespace) -> str:
    shown = url if getattr(options, "secrets", False) else mask_target(url.encode()).decode()
    return _without_paths(shown) if options.mask_paths else shown


def _shown_problem(row: QueuedRequest, options: argparse.Namespace) -> str:
    problem = row.problem or ""
    return _without_paths(problem) if options.mask_paths else problem


def _without_paths(text: str) -> str:
    """*text* with ``*`` for each character of the paths of its URLs."""
    return _PATH.sub(lambda path: path[1] + "*" * len(path[2]), text)


def _is_secret(name: str) -> bool:
    return bool(DEFAULT_POLICY.is_secret(name.encode("latin-1")) or _CREDENTIAL.fullmatch(name))


def _time(seconds: float) -> str:
    try:
        time = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError):  # later than the year 9999
        return "never"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _add_action(actions: Any, name: str, text: str, function: Any) -> Any:
    action = actions.add_parser(name, help=text)
    action.add_argument("--json", action="store_true", help="write a JSON object per line")
    action.set_defaults(run=partial(_run, function))
    return action


def _add_mask_paths(parser: Any) -> None:
    parser.add_argument(
        "--mask-paths", action="store_true", help="mask the paths of URLs, which may be secret"
    )


def _add_destination(parser: Any) -> None:
    parser.add_argument(
        "--destination",
        metavar="ORIGIN",
        type=_destination,
        help="only requests to this scheme, host and port, such as https://example.com",
    )


def _destination(text: str) -> str:
    try:
        return destination_named(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"not a number above 0: {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a number: {text!r}")
    return int(text)
