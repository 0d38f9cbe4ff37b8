"""What ``--help`` shows: the options in groups, of each the most used ones with a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_HEAD: Final = "Serve HTTP, and tell about every request that was not."
#: What stands below all options.
UNITS: Final = (
    "Sizes are bytes or have a unit (16k, 2m, 1g); times are seconds or have one (30s, 5m, 1h).\n"
)
_FOOT: Final = """\
Help:
  --help-all                 all options, with their defaults
  --version                  of this, Twisted, Python and OpenSSL

Requests that are queued for later: python -m twisted_hangup outbox --help
"""


class Group(NamedTuple):
    """Options that belong together.

    Attributes:
        common: Those of most use, as they are typed -> what they do.
        more: The names of the others.
    """

    title: str
    common: dict[str, str]
    more: str


GROUPS: Final = [
    Group(
        "What is served, one of these (a welcome page without)",
        {
            "--path DIR": "the files of a directory",
            "--resource NAME": "a twisted.web resource, such as mysite.root",
            "--wsgi NAME": "a WSGI application, such as mysite.application",
            "--proxy URL": "what the server at this URL answers",
        },
        "dotfiles follow-symlinks threads error-pages",
    ),
    Group(
        "Where, and HTTPS",
        {
            "--port NUMBER": "the port (8000), or any endpoint of Twisted's",
            "--port tls:DIR:port=8443": "HTTPS, with the certificates in a directory",
        },
        "grace max-connections max-connections-per-address",
    ),
    Group(
        "Limits, and what they refuse",
        {
            "--max-header-size BYTES": "of a head (16k, 2m and 1g are understood)",
            "--max-body-size BYTES": "of a body",
            "--on-client-error NAME": "a function to call for what is refused: mysite.note",
        },
        "max-headers-count max-chunk-extensions-size max-form-size max-form-fields "
        "max-part-head-size max-empty-lines max-backlog-size linger-size method any-method "
        "no-require-host allow-half-open lenient",
    ),
    Group(
        "Timeouts",
        {
            "--headers-timeout SECONDS": "for a head",
            "--request-timeout SECONDS": "for a whole request",
        },
        "handshake-timeout keep-alive-timeout handler-timeout send-timeout linger-timeout "
        "linger-silence",
    ),
    Group(
        "Proxies",
        {
            "--proxy-timeout SECONDS": "with --proxy: for the answer of the server",
            "--trust-forwarded ADDRESS": "a proxy in front of this, which names the client",
        },
        "proxy-host proxy-forwarded proxy-via proxy-drop-field proxy-connect-timeout "
        "proxy-silence-timeout forwarded-field trusted-proxy",
    ),
    Group(
        "Logs and status",
        {
            "--access-log FILE": "a line for each request (- is standard output)",
            "--error-log FILE": "a JSON object for each client error",
            "--status PORT": "a page that shows client errors as they happen",
        },
        "access-log-format error-log-per-second log-idle mask-field unmasked status-token-file",
    ),
]


def names_of(group: Group) -> list[str]:
    """All options of *group*, without their dashes, the most used first."""
    common = [typed.split()[0].removeprefix("--") for typed in group.common]
    return [*dict.fromkeys(common), *group.more.split()]


def grouped(options: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Title and names of each group of *options*; those that are in none are the last one."""
    groups = [(group.title, names_of(group)) for group in GROUPS]
    known = {name for _, names in groups for name in names}
    return [*groups, ("Help, and others", [name for name in options if name not in known])]


def short_help(synopsis: str) -> str:
    """The options of most use, with a line each."""
    lines = [synopsis, "", _HEAD, ""]
    for group in GROUPS:
        lines += [f"{group.title}:"]
        lines += [f"  {typed:<26} {words}" for typed, words in group.common.items()]
        lines += [""]
    return "\n".join(lines) + "\n" + _FOOT
