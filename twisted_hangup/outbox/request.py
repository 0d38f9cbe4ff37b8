"""A request in the form in which the outbox stores it: checked and bounded."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from twisted.web.http_headers import Headers

from .._arguments import check_positive_fields
from ..client.url import request_url
from ..limits import KIB, MIB

Text: TypeAlias = "str | bytes"
HeadersArgument: TypeAlias = (
    "Headers | Mapping[str, Text | list[Text]] | Iterable[tuple[Text, Text]] | None"
)

# RFC 9110, section 5.6.2 (token) and section 5.5 (field-value, without obs-text folding)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

#: Where a URL goes, and the rest of it, all visible ASCII.
_URL: Final = re.compile(r"(?=[!-~]*\Z)([^/?#]*//[^/?#]*).*")

# The draft of the Idempotency-Key header has a string of printable ASCII.  We allow no spaces and
# no quotes, so that servers may compare it byte by byte.
_KEY: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,255}")
_TAG: Final = re.compile(r"[\x21-\x7e]{1,255}")
_KEY_FIELD: Final = "idempotency-key"

#: Headers of the connection, or that follow from the body: the agent sets them.
_NOT_YOURS: Final = frozenset(
    {
        *{"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer"},
        *{"transfer-encoding", "upgrade"},
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxLimits:
    """How much an `Outbox` accepts, keeps in memory and does at once.

    Attributes:
        url_bytes: Longest URL.
        header_bytes: Most bytes in all header names and values of one request.
        body_bytes: Largest body.  Up to *deliveries* bodies are in memory at the same time.
        unstored_bytes: Most bytes that wait to be stored, for example while the database is away;
            with more, ``send()`` fails at once.
        store_seconds: How long ``send()`` waits for a database that is locked or away.
        deliveries: Most attempts at the same time in this process.
        deliveries_per_destination: The same for one destination.
        poll_seconds: How often to look for requests that other processes have queued.
    """

    url_bytes: int = 8 * KIB
    header_bytes: int = 64 * KIB
    body_bytes: int = 1 * MIB
    unstored_bytes: int = 64 * MIB
    store_seconds: float = 10.0
    deliveries: int = 40
    deliveries_per_destination: int = 10
    poll_seconds: float = 1.0

    def __post_init__(self) -> None:
        """Raise TypeError if a field is not a number, and ValueError if it is not positive."""
        check_positive_fields(self)


_NO_LIMITS: Final = OutboxLimits()


class NewRequest(NamedTuple):
    """A request on its way into the store; all its fields but the last are columns of its row.

    Attributes:
        key: Its ``Idempotency-Key``.
        lane: The queue that it is in: the destination; for ordered requests with a tag after a
            space.
        ordered: 1 if it waits for those before it in its lane, else 0.
        method: The method, a token.
        url: Absolute, ASCII.
        headers: One line for each header; characters stand for bytes, as in ISO 8859-1.
        body: The bytes of its body.
        max_age_seconds: The age at which it is given up, counted from now.
    """

    key: str
    lane: str
    ordered: int
    method: str
    url: str
    headers: str
    body: bytes
    max_age_seconds: float

    @property
    def cost(self) -> int:
        """About how many bytes of memory it takes while it waits."""
        return len(self.body) + len(self.headers) + len(self.url) + KIB


def destination_of(lane: str) -> str:
    """Scheme, host and port of a lane's requests."""
    return lane.partition(" ")[0]


def destination_named(url: str) -> str:
    """The destination of requests to *url*; scheme and host are enough.

    Raises:
        ValueError: It is not an http or https URL, or has userinfo, which the message does not
            show.
    """
    return _checked_url(url, _NO_LIMITS, by_name=False)[1]


def new_request(
    method: Text,
    url: Text,
    headers: HeadersArgument,
    body: bytes,
    *,
    key: str | None,
    ordered: bool | str,
    max_age_seconds: float,
    limits: OutboxLimits,
    by_name: bool = True,
) -> NewRequest:
    """Check the arguments of ``send()``; *by_name* is the argument of `request_url`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The request cannot be sent as HTTP, or exceeds a limit.
    """
    name = _text(method, "the method")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a method: {name!r}")
    if name == "CONNECT":
        raise ValueError("CONNECT makes a tunnel, which cannot be queued")
    if not isinstance(body, bytes):
        raise TypeError(f"the body must be bytes, not {type(body).__name__}")
    if len(body) > limits.body_bytes:
        raise ValueError(f"the body has {len(body)} bytes, more than {limits.body_bytes}")
    if not isinstance(max_age_seconds, (int, float)):
        raise TypeError(f"max_age_seconds must be a number, not {type(max_age_seconds).__name__}")
    if not max_age_seconds > 0:
        raise ValueError("max_age_seconds must be more than 0")
    target, destination = _checked_url(_text(url, "the URL"), limits, by_name)
    lines, own_key = _checked_headers(headers, limits)
    if key is not None and own_key not in (None, key):
        raise ValueError(f"two keys: {key!r}, and {own_key!r} in the headers")
    key = own_key if key is None else key
    if key is None:
        key = new_key()
    elif not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(
            f"not a key: {key!r} (1 to 255 visible ASCII characters, neither quote nor backslash)"
        )
    lane = destination
    if ordered:
        tag = "" if ordered is True else ordered
        if not isinstance(tag, str) or (tag and not _TAG.fullmatch(tag)):
            raise ValueError(f"ordered must be a bool or a visible ASCII string: {ordered!r}")
        lane = f"{destination} {tag}"
    return NewRequest(key, lane, 1 if ordered else 0, name, target, lines, body, max_age_seconds)


def new_key() -> str:
    """A random UUID that begins with the time (RFC 9562, version 7).

    Keys of the same time are next to each other in the index of a large queue.
    """
    time_bits = f"{time.time_ns() // 1_000_000:012x}"
    # 72 random bits.  uuid.UUID would take twice as long for the same.
    random = os.urandom(9).hex()
    return f"{time_bits[:8]}-{time_bits[8:]}-7{random[:3]}-8{random[3:6]}-{random[6:]}"


def headers_from_text(text: str) -> list[tuple[str, str]]:
    """The names and values of `NewRequest.headers`."""
    lines = [line.partition(": ") for line in text.split("\n")[:-1]]
    return [(name, value) for name, _, value in lines]


def _text(value: Text, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise TypeError(f"{what} must be str or bytes, not {type(value).__name__}")


def _checked_url(url: str, limits: OutboxLimits, by_name: bool) -> tuple[str, str]:
    """*url* without its fragment, and its destination."""
    if len(url) > limits.url_bytes:
        raise ValueError(f"the URL has {len(url)} characters, more than {limits.url_bytes}")
    match = _URL.fullmatch(url)
    destination = _known_destination(match[1], by_name) if match else None
    # The message is about the whole URL: a password may hold a slash before the "@".
    return url.partition("#")[0], destination or _destination(url, by_name)


@lru_cache(maxsize=1024)
def _known_destination(origin: str, by_name: bool) -> str | None:
    with suppress(ValueError):
        return _destination(origin, by_name)
    return None


def _destination(url: str, by_name: bool) -> str:
    parts = request_url(url.encode(), by_name)
    host = b"[%b]" % parts.host if b":" in parts.host else parts.host
    return f"{parts.scheme.decode()}://{host.decode().lower()}:{parts.port}"


def _checked_headers(headers: HeadersArgument, limits: OutboxLimits) -> tuple[str, str | None]:
    """The headers without the key, as they are stored, and the key."""
    lines: list[str] = []
    key = None
    size = 0
    for pair in _pairs(headers):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("headers are Headers, a mapping, or pairs of a name and a value")
        name, value = _text(pair[0], "a field name"), _text(pair[1], "a field value")
        lower = _checked_name(name)
        if not _FIELD_VALUE.fullmatch(value):
            # The value itself may be a secret.
            raise ValueError(f"the field {name} has a character that no field may have")
        size += len(name) + len(value)
        if lower != _KEY_FIELD:
            lines.append(f"{name}: {value}\n")
        elif key is None:
            key = value
        else:
            raise ValueError("the headers have two keys")
    if size > limits.header_bytes:
        raise ValueError(f"the headers have {size} bytes, more than {limits.header_bytes}")
    return "".join(lines), key


@lru_cache(maxsize=256)
def _checked_name(name: str) -> str:
    """The name of a header in lower case."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a field name: {name!r}")
    lower = name.lower()
    if lower in _NOT_YOURS:
        raise ValueError(f"the field {name} is made when the request is sent")
    return lower


def _pairs(headers: HeadersArgument) -> Iterable[tuple[Text, Text]]:
    if headers is None:
        return ()
    if isinstance(headers, Headers):
        lines = headers.getAllRawHeaders()
        return [(name.decode("latin-1"), value) for name, values in lines for value in values]
    if not isinstance(headers, (dict, Mapping)):  # a dict is known sooner by its own name
        return headers
    return [
        (name, value)
        for name, values in headers.items()
        for value in (values if isinstance(values, (list, tuple)) else [values])
    ]
