"""The text of ``--help``: the most used options in groups, one line each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

_HEAD: Final = "An HTTP server that reports every request it had to refuse."
#: The last lines of ``--help-all``.
UNITS: Final = (
    "Sizes are in bytes or with a unit (16k, 2m, 1g), times in seconds or with one (30s, 5m, 1h).\n"
)
_FOOT: Final = """\
Help:
  --help-all                 all options, with their defaults
  --version                  the versions of this, Twisted, Python and OpenSSL

The queue of requests for later:  python -m twisted_hangup outbox --help
The meaning of an error code:     python -m twisted_hangup code HPE_STRICT
"""


class Group(NamedTuple):
    """Options that belong together.

    Attributes:
        common: The most used ones, as they are typed -> what they do.
        more: The names of the others.
    """

    title: str
    common: dict[str, str]
    more: str


GROUPS: Final = [
    Group(
        "What to serve, one of these (without: a welcome page)",
        {
            "--path DIR": "the files of a directory",
            "--resource NAME": "a twisted.web resource, such as mysite.root",
            "--wsgi NAME": "a WSGI application, such as mysite.application",
            "--proxy URL": "the answers of the server at this URL",
        },
        "dotfiles follow-symlinks threads error-pages",
    ),
    Group(
        "Where to listen, and HTTPS",
        {
            "--port NUMBER": "this port (8000 by default), or a Twisted endpoint",
            "--port tls:DIR:port=8443": "HTTPS, with the certificates in this directory",
            "--workers NUMBER": "so many processes, or auto: one for each core",
        },
        "grace worker-boot-timeout worker-timeout max-connections max-connections-per-address",
    ),
    Group(
        "Limits, and your own answers",
        {
            "--max-header-size BYTES": "most bytes in the header of a request (16k)",
            "--max-body-size BYTES": "most bytes in a body (no limit)",
            "--on-client-error NAME": "call this for each client error: mysite.note",
        },
        "max-headers-count max-chunk-extensions-size max-form-size max-form-fields "
        "max-part-head-size max-empty-lines max-backlog-size linger-size method any-method "
        "no-require-host allow-half-open lenient",
    ),
    Group(
        "Timeouts",
        {
            "--headers-timeout SECONDS": "to send the header of a request (60)",
            "--request-timeout SECONDS": "to send a whole request (300)",
        },
        "handshake-timeout keep-alive-timeout handler-timeout send-timeout linger-timeout "
        "linger-silence",
    ),
    Group(
        "Proxies",
        {
            "--proxy-timeout SECONDS": "with --proxy: for the server to answer (60)",
            "--trust-forwarded ADDRESS": "trust the proxy at this address to name the client",
        },
        "proxy-host proxy-forwarded proxy-via proxy-drop-field proxy-connect-timeout "
        "proxy-silence-timeout proxy-keep-alive proxy-max-connections proxy-buffer-requests "
        "proxy-ca forwarded-field trusted-proxy",
    ),
    Group(
        "Logs and status",
        {
            "--access-log FILE": "one line per request (- is standard output)",
            "--error-log FILE": "one JSON object per client error",
            "--status PORT": "a page that shows client errors as they happen",
        },
        "access-log-format error-log-per-second log-idle mask-field unmasked status-token-file",
    ),
]


def names_of(group: Group) -> list[str]:
    """All options of *group*, without dashes, the most used ones first."""
    common = [typed.split()[0].removeprefix("--") for typed in group.common]
    return [*dict.fromkeys(common), *group.more.split()]


def grouped(options: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Title and names of each group of *options*; the last group has those of no other."""
    groups = [(group.title, names_of(group)) for group in GROUPS]
    known = {name for _, names in groups for name in names}
    return [*groups, ("Help, and others", [name for name in options if name not in known])]


def short_help(synopsis: str) -> str:
    """The most used options, one line each."""
    lines = [synopsis, "", _HEAD, ""]
    for group in GROUPS:
        lines += [f"{group.title}:"]
        lines += [f"  {typed:<26} {words}" for typed, words in group.common.items()]
        lines += [""]
    return "\n".join(lines) + "\n" + _FOOT
