"""The tables of the outbox, and what they promise.

``hangup_outbox_requests``
    One row for each request that is queued or dead; a delivered one is deleted.  Nobody sees a
    queued row before its ``due_at``.  To claim a row is to set its ``due_at`` to the end of a
    lease, so a row whose process was killed comes back by itself.

``hangup_outbox_lanes``
    One row for each lane with queued requests: a destination, without an order or with one.
    ``next_at`` is never later than the first request is due.  So finding work costs the same
    whether a thousand or a million requests are queued for a destination that is down.

``hangup_outbox_destinations``
    One row for each destination whose last attempt failed, or that was paused by hand.

Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import Any, Final

from ..errors import OutboxUnavailable
from .database import VERSION_TABLE, Database

#: The version of the tables below.
VERSION: Final = 2

_TABLES: Final = """
CREATE TABLE hangup_outbox_requests (
    id {id},
    key {text} NOT NULL UNIQUE,
    lane {text} NOT NULL,
    ordered smallint NOT NULL,
    method {text} NOT NULL,
    url {text} NOT NULL,
    headers {text} NOT NULL,
    body {bytes} NOT NULL,
    stored_at {real} NOT NULL,
    expires_at {real} NOT NULL,
    due_at {real} NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    claim {text},
    problem {text},
    dead_at {real}{place_column}
);
CREATE INDEX hangup_outbox_due ON hangup_outbox_requests (lane, due_at)
    WHERE dead_at IS NULL AND ordered = 0;
CREATE INDEX hangup_outbox_first ON hangup_outbox_requests (lane, {place})
    WHERE dead_at IS NULL AND ordered = 1;
CREATE INDEX hangup_outbox_expiry ON hangup_outbox_requests (expires_at)
    WHERE dead_at IS NULL;
CREATE INDEX hangup_outbox_claimed ON hangup_outbox_requests (lane, due_at)
    WHERE claim IS NOT NULL;
CREATE INDEX hangup_outbox_dead ON hangup_outbox_requests (id)
    WHERE dead_at IS NOT NULL;
CREATE TABLE hangup_outbox_lanes (
    name {text} PRIMARY KEY,
    destination {text} NOT NULL,
    ordered smallint NOT NULL,
    next_at {real} NOT NULL
);
CREATE INDEX hangup_outbox_lanes_next ON hangup_outbox_lanes (next_at);
CREATE INDEX hangup_outbox_lanes_destination ON hangup_outbox_lanes (destination);
CREATE TABLE hangup_outbox_destinations (
    name {text} PRIMARY KEY,
    failures integer NOT NULL,
    paused_until {real} NOT NULL,
    problem {text} NOT NULL,
    held smallint NOT NULL DEFAULT 0
);
CREATE TABLE hangup_outbox_version (version integer NOT NULL);
INSERT INTO hangup_outbox_version VALUES (2)
"""

_FROM_VERSION_1: Final = """
ALTER TABLE hangup_outbox_destinations ADD COLUMN held smallint NOT NULL DEFAULT 0;
UPDATE hangup_outbox_version SET version = 2
"""
_PLACES_FROM_VERSION_1: Final = """
ALTER TABLE hangup_outbox_requests ADD COLUMN place bigint;
UPDATE hangup_outbox_requests SET place = id WHERE ordered = 1;
DROP INDEX hangup_outbox_first;
CREATE INDEX hangup_outbox_first ON hangup_outbox_requests (lane, {place})
    WHERE dead_at IS NULL AND ordered = 1
"""

# On PostgreSQL transactions insert at the same time, and ids are in the order of the inserts.  A
# place in an order is taken when a transaction is about to commit, so that an earlier commit has an
# earlier place; this takes no lock, and nobody waits.
_PLACES: Final = (
    "CREATE SEQUENCE hangup_outbox_places OWNED BY hangup_outbox_requests.place",
    "SELECT setval('hangup_outbox_places', 1 + coalesce(max(id), 0)) FROM hangup_outbox_requests",
    """
    CREATE OR REPLACE FUNCTION hangup_outbox_take_place() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
    BEGIN
        UPDATE hangup_outbox_requests SET place = nextval('hangup_outbox_places')
        WHERE id = NEW.id;
        RETURN NULL;
    END $$
    """,
    """
    CREATE CONSTRAINT TRIGGER hangup_outbox_take_place AFTER INSERT ON hangup_outbox_requests
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.ordered = 1)
    EXECUTE PROCEDURE hangup_outbox_take_place()
    """,
)

#: A delivering process listens to this channel: lanes in which `SEND_IN` has stored something.
CHANNEL: Final = "hangup_outbox"

#: Whether the tables exist in this version, for a transaction that is not ours: the statement
#: cannot fail.
HAS_PLACES: Final = """
SELECT 1 FROM pg_attribute
WHERE attrelid = to_regclass('hangup_outbox_requests') AND attname = 'place'
"""
# It touches no lane: waiting for one that a long transaction has locked would keep all others
# waiting.  The notice wakes the lane.
SEND_IN: Final = f"""
WITH stored AS (
    INSERT INTO hangup_outbox_requests
        (key, lane, ordered, method, url, headers, body, stored_at, expires_at, due_at)
    SELECT %(key)s, %(lane)s, %(ordered)s, %(method)s, %(url)s, %(headers)s, %(body)s,
        now, now + %(max_age_seconds)s, now
    FROM (SELECT extract(epoch FROM clock_timestamp())::double precision AS now) AS clock
    ON CONFLICT (key) DO NOTHING RETURNING lane
)
SELECT pg_notify('{CHANNEL}', CASE WHEN length(lane) < 7000 THEN lane ELSE '' END) FROM stored
"""
_WITH_KEY: Final = "SELECT 1 FROM hangup_outbox_requests WHERE key = %(key)s"
SAME_IS_STORED: Final = (
    _WITH_KEY
    + """
    AND lane = %(lane)s AND ordered = %(ordered)s AND method = %(method)s AND url = %(url)s
    AND headers = %(headers)s AND body = %(body)s
"""
)
KEY_IS_STORED: Final = _WITH_KEY

#: Whether the tables have these columns.
_FORMS: Final = (
    "SELECT id, key, lane, ordered, method, url, headers, body, stored_at, expires_at, due_at,"
    " attempts, claim, problem, dead_at FROM hangup_outbox_requests WHERE 1 = 0",
    "SELECT name, destination, ordered, next_at FROM hangup_outbox_lanes WHERE 1 = 0",
    "SELECT name, failures, paused_until, problem, held FROM hangup_outbox_destinations"
    " WHERE 1 = 0",
)

# The parameters begin with those of `NewRequest`, and have no names: a driver looks up each name
# again for each row.
_ROW: Final = "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
_INSERT: Final = """
INSERT INTO hangup_outbox_requests
    (key, lane, ordered, method, url, headers, body, stored_at, expires_at, due_at)
VALUES {} ON CONFLICT (key) DO NOTHING
"""
INSERT: Final = _INSERT.format(_ROW)

#: Of many requests, so many are stored with each statement.
TOGETHER: Final = 10
INSERT_TOGETHER: Final = _INSERT.format(", ".join([_ROW] * TOGETHER))

SAME_KEY: Final = """
SELECT lane, ordered, method, url, headers, body FROM hangup_outbox_requests
WHERE key = %(key)s
"""

# A row that exists is not locked unless it changes, so that processes which queue for the same
# destination do not wait for each other's commit.
ADD_LANE: Final = """
INSERT INTO hangup_outbox_lanes (name, destination, ordered, next_at)
VALUES (%(name)s, %(destination)s, %(ordered)s, %(at)s)
ON CONFLICT (name) DO NOTHING
"""
WAKE_LANE: Final = """
UPDATE hangup_outbox_lanes SET next_at = %(at)s WHERE name = %(name)s AND next_at > %(at)s
"""
WAKE_DESTINATION: Final = """
UPDATE hangup_outbox_lanes SET next_at = %(at)s
WHERE destination = %(name)s AND next_at > %(at)s
"""
DELAY_LANE: Final = "UPDATE hangup_outbox_lanes SET next_at = %(at)s WHERE name = %(name)s"
DROP_LANE: Final = "DELETE FROM hangup_outbox_lanes WHERE name = %(name)s"
LOCK_LANE: Final = """
SELECT next_at FROM hangup_outbox_lanes WHERE name = %(name)s {skip_locked}
"""

#: With what is known about their destinations.  Formatted with a condition on these.
DUE_LANES: Final = """
SELECT lane.name, destination, ordered, failures, paused_until, held
FROM hangup_outbox_lanes AS lane
LEFT JOIN hangup_outbox_destinations AS place ON place.name = destination
WHERE next_at <= %(now)s {condition} ORDER BY next_at LIMIT %(limit)s
"""
NEXT_LANE: Final = "SELECT min(next_at) FROM hangup_outbox_lanes WHERE next_at > %(now)s"

_COLUMNS: Final = "id, key, method, url, headers, body, attempts, expires_at, due_at"

DUE_ROWS: Final = f"""
SELECT {_COLUMNS} FROM hangup_outbox_requests
WHERE lane = %(lane)s AND ordered = 0 AND dead_at IS NULL AND due_at <= %(now)s
ORDER BY due_at LIMIT %(limit)s {{skip_locked}}
"""
FIRST_ROW: Final = f"""
SELECT {_COLUMNS} FROM hangup_outbox_requests
WHERE lane = %(lane)s AND ordered = 1 AND dead_at IS NULL ORDER BY {{place}} LIMIT 1
"""
RUNNING_IN_LANE: Final = """
SELECT max(due_at) FROM hangup_outbox_requests
WHERE lane = %(lane)s AND claim IS NOT NULL AND due_at > %(now)s
"""
CLAIM: Final = """
UPDATE hangup_outbox_requests
SET due_at = %(due_at)s, claim = %(claim)s, attempts = attempts + 1 WHERE id = %(id)s
"""
FIRST_DUE: Final = """
SELECT min(due_at) FROM hangup_outbox_requests
WHERE lane = %(lane)s AND ordered = 0 AND dead_at IS NULL
"""

#: The bound of a wait, which doubles with each attempt: see `DeliveryPolicy`.
_LONGEST: Final = "{least}(%(cap)s, %(base)s * (1 << {least}(attempts - 1, 30)))"

# After the clock was set back, nothing that was stored at the old time may wait longer than it
# otherwise could have.  A request that was never tried waits only for its lane.
WAIT_LESS: Final = f"""
UPDATE hangup_outbox_requests
SET due_at = %(now)s + CASE WHEN attempts = 0 THEN 0 ELSE {_LONGEST} END
WHERE dead_at IS NULL AND claim IS NULL AND due_at > %(now)s
    AND (attempts = 0 OR due_at > %(latest)s AND due_at > %(now)s + {_LONGEST})
"""
LEASE_LESS: Final = """
UPDATE hangup_outbox_requests SET due_at = %(latest)s
WHERE claim IS NOT NULL AND due_at > %(latest)s
"""
PAUSE_LESS: Final = """
UPDATE hangup_outbox_destinations SET paused_until = %(now)s WHERE paused_until > %(latest)s
"""
LOOK_AT_ALL: Final = "UPDATE hangup_outbox_lanes SET next_at = %(now)s WHERE next_at > %(now)s"
# After the clock was set forward, a lease is renewed while its request is still running.
RENEW: Final = "UPDATE hangup_outbox_requests SET due_at = %(due_at)s WHERE id = %(id)s"

# A file that was replaced by another one uses the same numbers again.
DELIVERED: Final = "DELETE FROM hangup_outbox_requests WHERE id = %(id)s AND key = %(key)s"
DELETE: Final = "DELETE FROM hangup_outbox_requests WHERE id = %(id)s"
# Only while the claim is ours: after the lease another process may have the row.
AGAIN: Final = """
UPDATE hangup_outbox_requests SET due_at = %(at)s, claim = NULL, problem = %(problem)s
WHERE id = %(id)s AND claim = %(claim)s
"""
DEAD: Final = """
UPDATE hangup_outbox_requests SET dead_at = %(now)s, claim = NULL, problem = %(problem)s
WHERE id = %(id)s AND claim = %(claim)s
"""
BURY: Final = """
UPDATE hangup_outbox_requests SET dead_at = %(now)s, claim = NULL,
    problem = %(why)s || coalesce('; ' || problem, '')
WHERE id = %(id)s AND dead_at IS NULL
"""
OVER_AGE: Final = """
SELECT id, lane, ordered FROM hangup_outbox_requests
WHERE dead_at IS NULL AND expires_at <= %(now)s AND (claim IS NULL OR due_at <= %(now)s)
ORDER BY expires_at LIMIT %(limit)s {skip_locked}
"""

# An attempt that was running when a destination asked for a pause does not end the pause.
GOT_THROUGH: Final = """
DELETE FROM hangup_outbox_destinations
WHERE name = %(name)s AND held = 0 AND (failures > 0 OR paused_until <= %(now)s)
"""
LEAVE_ALONE: Final = """
INSERT INTO hangup_outbox_destinations (name, failures, paused_until, problem)
VALUES (%(name)s, 0, %(until)s, %(problem)s)
ON CONFLICT (name) DO UPDATE SET
    paused_until = excluded.paused_until, problem = excluded.problem
WHERE hangup_outbox_destinations.paused_until < excluded.paused_until OR %(probe)s = 1
"""
# While a destination is paused only its probe counts: the attempts that were running when it went
# down say nothing new.
FAILED: Final = """
INSERT INTO hangup_outbox_destinations (name, failures, paused_until, problem)
VALUES (%(name)s, 1, 0, %(problem)s)
ON CONFLICT (name) DO UPDATE SET
    failures = hangup_outbox_destinations.failures + 1, problem = excluded.problem
WHERE hangup_outbox_destinations.paused_until <= %(now)s OR %(probe)s = 1
"""
DESTINATION: Final = """
SELECT failures, paused_until FROM hangup_outbox_destinations WHERE name = %(name)s
"""
LOCK_DESTINATION: Final = DESTINATION + " {skip_locked}"
PAUSE: Final = """
UPDATE hangup_outbox_destinations SET paused_until = %(until)s WHERE name = %(name)s
"""

#: Lanes with queued requests that nobody will look at soon: a jump in an index from each to the
#: next.  Formatted with 0 or 1 for unordered or ordered.
NEGLECTED_LANES: Final = """
WITH RECURSIVE used(lane) AS (
    SELECT min(lane) FROM hangup_outbox_requests WHERE dead_at IS NULL AND ordered = {ordered}
    UNION ALL
    SELECT (SELECT min(lane) FROM hangup_outbox_requests
            WHERE dead_at IS NULL AND ordered = {ordered} AND lane > used.lane)
    FROM used WHERE used.lane IS NOT NULL
)
SELECT lane FROM used LEFT JOIN hangup_outbox_lanes ON name = lane
WHERE lane IS NOT NULL AND (next_at IS NULL OR next_at > %(late)s)
"""


HOLD: Final = """
INSERT INTO hangup_outbox_destinations (name, failures, paused_until, problem, held)
VALUES (%(name)s, 0, 0, '', 1)
ON CONFLICT (name) DO UPDATE SET held = 1
"""
LET_GO: Final = """
UPDATE hangup_outbox_destinations SET held = 0, paused_until = 0 WHERE name = %(name)s
"""
TRY_NOW: Final = """
UPDATE hangup_outbox_destinations SET paused_until = 0 WHERE name = %(name)s
"""

# To show and change the queue by hand.  ``{where}`` is a condition on a request, with or without
# one on its destination.
QUEUED: Final = "dead_at IS NULL"
WAITING: Final = "dead_at IS NULL AND (claim IS NULL OR due_at <= %(now)s)"
DEAD_LETTER: Final = "dead_at IS NOT NULL"
ANY: Final = "1 = 1"
#: A destination's lanes: its name, or that and a tag after a space.
TO_DESTINATION: Final = " AND (lane = %(lane)s OR (lane >= %(first)s AND lane < %(last)s))"

COUNT_LANES: Final = "SELECT lane, count(*) FROM hangup_outbox_requests WHERE {where} GROUP BY lane"
COUNT_RUNNING: Final = """
SELECT count(*) FROM hangup_outbox_requests WHERE claim IS NOT NULL AND due_at > %(now)s
"""
OLDEST: Final = """
SELECT stored_at FROM hangup_outbox_requests WHERE dead_at IS NULL ORDER BY id LIMIT 1
"""
DESTINATIONS: Final = """
SELECT name, failures, paused_until, problem, held FROM hangup_outbox_destinations
"""

_LISTING: Final = """
SELECT id, key, method, url, headers, length(body), ordered, stored_at, due_at, expires_at,
    attempts, problem, dead_at, claim IS NOT NULL AND due_at > %(now)s
FROM hangup_outbox_requests
"""
PAGE: Final = _LISTING + "WHERE {where} AND id > %(after)s ORDER BY id LIMIT %(limit)s"
WITH_KEY: Final = _LISTING + "WHERE key = %(key)s"
BODY: Final = "SELECT body FROM hangup_outbox_requests WHERE id = %(id)s"

_LANES: Final = "SELECT id, lane FROM hangup_outbox_requests WHERE {where} "
LOCK_PAGE: Final = _LANES + "AND id > %(after)s ORDER BY id LIMIT %(limit)s {lock}"
LOCK_WITH_KEY: Final = _LANES + "AND key = %(key)s {lock}"
REQUEUE: Final = """
UPDATE hangup_outbox_requests SET dead_at = NULL, attempts = 0, claim = NULL,
    due_at = %(now)s, expires_at = %(now)s + (expires_at - stored_at), stored_at = %(now)s
WHERE id = %(id)s
"""
RETRY_NOW: Final = "UPDATE hangup_outbox_requests SET due_at = %(now)s WHERE id = %(id)s"


def create_tables(cursor: Any, database: Database) -> None:
    """Create the tables, or bring them up to date, in a transaction of its own.

    Raises:
        OutboxUnavailable: The tables have a version that this program does not know.
    """
    database.begin(cursor, write=False)
    if _missing(cursor, database):
        cursor.execute("COMMIT")
        database.begin(cursor)
        database.lock_tables(cursor)
        for statement in _missing(cursor, database):
            cursor.execute(database.sql(statement))
    check_tables(cursor, database)
    cursor.execute("COMMIT")


def _missing(cursor: Any, database: Database) -> list[str]:
    """The statements that create the tables or bring them up to date."""
    places = _PLACES if database.shared_writes else ()
    if not database.has_tables(cursor):
        return [*_TABLES.split(";"), *places]
    if _version(cursor) != 1:
        return []
    change = _FROM_VERSION_1
    if places:
        change = f"{_PLACES_FROM_VERSION_1};{change}"
    return [*change.split(";"), *places]


def _version(cursor: Any) -> int | None:
    cursor.execute(f"SELECT max(version) FROM {VERSION_TABLE}")
    (version,) = cursor.fetchone()
    return None if version is None else int(version)


def check_tables(cursor: Any, database: Database) -> None:
    """Check that the tables exist in this version.

    Raises:
        OutboxUnavailable: They do not.
    """
    if not database.has_tables(cursor):
        raise OutboxUnavailable(f"{database.name} is no outbox")
    version = _version(cursor)
    if version != VERSION:
        raise OutboxUnavailable(f"the tables are of version {version}, and this knows {VERSION}")
    try:
        for statement in _FORMS:
            cursor.execute(statement)
    except Exception as problem:
        if not database.is_stale(problem):
            raise
        text = f"the tables have another form: {database.explain(problem)}"
        raise OutboxUnavailable(text) from problem
