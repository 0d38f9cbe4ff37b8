"""The options of ``twistd hangup``: their values, and which of them exclude each other."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, get_args

from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from .._arguments import closest
from ..commands.versions import versions
from ..journal.access_formats import Format, access_format
from ..limits import (
    ANY,
    KIB,
    MIB,
    NODE_METHODS,
    Lenience,
    Limits,
    OutboundTimeouts,
    Timeouts,
    method_names,
)
from ..parser.grammar import TOKEN
from ..proxy.forwarding import ForwardedChoice, Forwarding, HostChoice
from ..report.masking import MaskingPolicy
from ..transport.addresses import Network, network_of
from ..transport.forwarded import FORWARDED_FIELD, UNIX, ForwardedClients
from .cores import usable_cores
from .help import UNITS, grouped, short_help

DEFAULT_PORT: Final = "8000"

DEFAULT_GRACE_SECONDS: Final = 30.0
#: By default one address may have one in so many connections.
ADDRESS_SHARES: Final = 4
#: How long a worker may take to start: less than systemd waits.
DEFAULT_BOOT_SECONDS: Final = 60.0
#: As many as Twisted's reactor has for everything.
DEFAULT_THREADS: Final = 10
#: With the first errors of each code and the counts of a flood, a second has at most 50 lines.
DEFAULT_ERRORS_PER_SECOND: Final = 30

#: A value of ``--lenient`` -> the field of `Lenience`.
LENIENCE: Final = {field.name.replace("_", "-"): field.name for field in fields(Lenience)}

_UNITS: Final = {"": 1, "k": KIB, "m": MIB, "g": KIB * MIB}
_TIME_UNITS: Final = {"s": 1, "m": 60, "h": 3600}
_SIZE: Final = re.compile(r"([0-9]{1,15})([kmg]?)", re.ASCII)
_UNKNOWN: Final = re.compile(r"option --(\S+) not recognized")
#: Port 0: the system chooses a new one each time.
_ANY_PORT: Final = re.compile(r"(?:tcp6?|ssl|tls):(?:[^:]*:)?0(?::|\Z)")
_COUNT: Final = re.compile(r"[0-9]{1,15}", re.ASCII)

Coerce = Callable[[str], Any]


def size(option: str, least: int = 0) -> Coerce:
    """A number of bytes, *least* or more, with k, m or g for units of 1024."""

    def coerce(text: str) -> int:
        match = _SIZE.fullmatch(text.lower())
        if match is None:
            raise UsageError(f"--{option}: {text!r} is not a number of bytes (such as 16k)")
        return _at_least(least, int(match[1]) * _UNITS[match[2]], option)

    return coerce


def _at_least(least: int, number: int, option: str) -> int:
    if number < least:
        raise UsageError(f"--{option}: must be at least {least}")
    return number


def size_text(number: int) -> str:
    """*number* of bytes in the form that `size` reads, in the largest unit that fits."""
    for unit in ("g", "m", "k"):
        if number and number % _UNITS[unit] == 0:
            return f"{number // _UNITS[unit]}{unit}"
    return str(number)


def count(option: str, least: int = 0) -> Coerce:
    """A whole number, *least* or more."""

    def coerce(text: str) -> int:
        if not _COUNT.fullmatch(text):
            raise UsageError(f"--{option}: {text!r} is not a whole number")
        return _at_least(least, int(text), option)

    return coerce


def seconds(option: str) -> Coerce:
    """A number of seconds, 0 or more, with s, m or h for seconds, minutes or hours."""

    def coerce(text: str) -> float:
        number, unit = (text[:-1], text[-1]) if text[-1:] in _TIME_UNITS else (text, "s")
        try:
            value = float(number) * _TIME_UNITS[unit]
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            words = "is not a number of seconds (such as 300 or 5m)"
            raise UsageError(f"--{option}: {text!r} {words}")
        return value

    return coerce


def workers(option: str) -> Coerce:
    """A number of workers, 0 or more, or ``auto``."""
    number = count(option)

    def coerce(text: str) -> Any:
        if text == "auto":
            return usable_cores()
        try:
            return number(text)
        except UsageError as error:
            raise UsageError(f"{error}, nor auto") from error

    return coerce


def one_of(option: str, words: Sequence[str]) -> Coerce:
    """One of *words*."""

    def coerce(text: str) -> str:
        if text not in words:
            raise UsageError(f"--{option}: {text!r} is not one of {', '.join(words)}")
        return text

    return coerce


def access_log_format(option: str) -> Coerce:
    """A format of the access log; see `access_format`."""

    def coerce(text: str) -> Format | None:
        try:
            return access_format(text)
        except ValueError as error:
            raise UsageError(f"--{option}: {error}") from error

    return coerce


def token(option: str, name: str) -> bytes:
    """A token (RFC 9110, section 5.6.2): a method or the name of a header."""
    encoded = name.encode("utf-8", "surrogateescape")
    if not TOKEN.fullmatch(encoded):
        raise UsageError(f"{option}: {name!r} is not a token")
    return encoded


def network(option: str, text: str) -> Network:
    """An address, or a network such as 10.0.0.0/8."""
    try:
        return network_of(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def endpoint_text(option: str, port: str, interface: str = "") -> tuple[str, str]:
    """The operator's name of an endpoint, and its description for Twisted.

    Args:
        option: Such as ``--port``.
        port: A port number, or a description of an endpoint.
        interface: The IPv4 address for a port number; all addresses by default.
    """
    if port.isascii() and port.isdigit():
        if int(port) > 0xFFFF:
            raise UsageError(f"{option}: {port} is not a port number (0 to 65535)")
        return f"port {port}", f"tcp:{port}" + (f":interface={interface}" if interface else "")
    if ":" not in port:
        raise UsageError(f"{option}: {port!r} is neither a port number nor an endpoint")
    if re.match(r"haproxy:(ssl|tls)\b", port):
        # Twisted would expect the PROXY line inside TLS, where no proxy puts it.
        raise UsageError(
            f"{option}: {port!r}: the PROXY header comes before TLS, not inside it; let the "
            "proxy end TLS and use haproxy:tcp:PORT"
        )
    return port, port


class Setting(NamedTuple):
    """An option that sets one field of `Limits` or `Timeouts`; its name is Node's if Node has "
    "one."""

    option: str
    field: str
    coerce: Callable[[str], Coerce]
    help: str


LIMITS: Final = [
    Setting(
        "max-header-size",
        "head_bytes",
        partial(size, least=1),
        "Bytes in the header of a request; a request with this many is answered 431. In the "
        "response of the --proxy server they are a 502.",
    ),
    Setting(
        "max-headers-count",
        "head_fields",
        count,
        "Most header fields of a request; more is a 431. 0 = no limit.",
    ),
    Setting(
        "max-chunk-extensions-size",
        "chunk_extension_bytes",
        size,
        "Most bytes in the extensions of one chunk; more is a 413.",
    ),
    Setting(
        "max-body-size", "body_bytes", size, "Most bytes in a body; more is a 413. 0 = no limit."
    ),
    Setting(
        "max-form-size",
        "form_bytes",
        size,
        "With --resource: most bytes in a form; more is a 413. 0 = no limit.",
    ),
    Setting(
        "max-form-fields",
        "form_fields",
        count,
        "With --resource: most fields in a form; more is a 413. 0 = no limit.",
    ),
    Setting(
        "max-part-head-size",
        "part_head_bytes",
        partial(size, least=1),
        "With --resource: most bytes in the header of one part of a form; more is a 413.",
    ),
    Setting("max-empty-lines", "leading_crlf", count, "Most empty lines before a request."),
    Setting(
        "max-backlog-size",
        "backlog_bytes",
        size,
        "Most bytes of further requests that are read while one is being answered.",
    ),
    Setting(
        "linger-size",
        "linger_bytes",
        size,
        "After the answer to a refused request: most bytes to read and drop. 0 = none; the "
        "client may then lose the answer.",
    ),
]

TIMEOUTS: Final = [
    Setting(
        "headers-timeout",
        "head_seconds",
        seconds,
        "Seconds for a client to send the header of a request. 0 = no limit.",
    ),
    Setting(
        "request-timeout",
        "request_seconds",
        seconds,
        "Seconds for a client to send a whole request. 0 = no limit.",
    ),
    Setting(
        "handshake-timeout",
        "handshake_seconds",
        seconds,
        "Seconds for a TLS handshake. 0 = no limit.",
    ),
    Setting(
        "keep-alive-timeout",
        "keep_alive_seconds",
        seconds,
        "Seconds that a connection may be idle between two requests. 0 = no limit.",
    ),
    Setting(
        "handler-timeout",
        "handler_seconds",
        seconds,
        "Seconds for all handlers of one client error together. 0 = no limit.",
    ),
    Setting(
        "send-timeout",
        "send_seconds",
        seconds,
        "Seconds that a client may read no byte of its response. 0 = no limit.",
    ),
    Setting(
        "linger-timeout",
        "linger_seconds",
        seconds,
        "After the answer to a refused request: seconds to read and drop input, in all. 0 = "
        "none; the client may then lose the answer.",
    ),
    Setting(
        "linger-silence",
        "linger_silence_seconds",
        seconds,
        "After the answer to a refused request: seconds of silence after which the server closes. "
        "0 = at once.",
    ),
]

#: nginx calls these proxy_connect_timeout and so on; Node's and Twisted's clients differ.
PROXY_TIMEOUTS: Final = [
    Setting(
        "proxy-connect-timeout",
        "connect_seconds",
        seconds,
        "Seconds to connect to the --proxy server. 0 = no limit.",
    ),
    Setting(
        "proxy-timeout",
        "head_seconds",
        seconds,
        "Seconds for the --proxy server to begin its response. 0 = no limit.",
    ),
    Setting(
        "proxy-silence-timeout",
        "silence_seconds",
        seconds,
        "Seconds that the --proxy server may be silent in the middle of its response. 0 = no "
        "limit.",
    ),
    Setting(
        "proxy-keep-alive",
        "idle_seconds",
        seconds,
        "Seconds to keep an idle connection to the --proxy server. 0 = none is kept.",
    ),
]


def _parameters(
    settings: Sequence[Setting], defaults: Limits | Timeouts | OutboundTimeouts
) -> list[list[Any]]:
    return [
        [name, None, getattr(defaults, field), text, coerce(name)]
        for name, field, coerce, text in settings
    ]


class Options(UsageOptions):
    """The options of ``twistd hangup``.

    On a command line a mistake ends the program with one line on standard error; twistd would
    print its whole help first.  In a program of your own it raises `UsageError`.
    """

    synopsis = "[options]"
    longdesc = ""  # twistd would print it after each group

    optParameters = [
        ["path", None, None, "Serve the files of this directory."],
        [
            "resource",
            None,
            None,
            "Serve this IResource, or the one that this callable returns: a dotted Python name "
            "such as mysite.root. The current directory is on the path.",
        ],
        ["wsgi", None, None, "Serve this WSGI application, named as for --resource."],
        [
            "threads",
            None,
            DEFAULT_THREADS,
            "With --wsgi: most calls of the application at a time; others wait.",
            count("threads", least=1),
        ],
        [
            "proxy",
            None,
            None,
            "Pass every request on to the server at this URL, such as http://127.0.0.1:9000.",
        ],
        [
            "proxy-host",
            None,
            "pass",
            "With --proxy: which Host the server gets: the client's (pass) or its own (rewrite).",
            one_of("proxy-host", get_args(HostChoice)),
        ],
        [
            "proxy-forwarded",
            None,
            "replace",
            "With --proxy: what to do with Forwarded and X-Forwarded-*: replace them, append to "
            "them (only behind a proxy that you trust), or drop them (off).",
            one_of("proxy-forwarded", get_args(ForwardedChoice)),
        ],
        [
            "proxy-via",
            None,
            "on",
            "With --proxy: whether to add a Via header (on or off). With Via, nginx by default "
            "compresses nothing.",
            one_of("proxy-via", ("on", "off")),
        ],
        [
            "proxy-ca",
            None,
            None,
            "With --proxy https://...: trust the certificates in this PEM file, and no others.",
        ],
        [
            "proxy-max-connections",
            None,
            0,
            "With --proxy: most connections to the server at a time. As many requests again wait; "
            "more are answered 503. 0 = no limit.",
            count("proxy-max-connections"),
        ],
        *_parameters(PROXY_TIMEOUTS, OutboundTimeouts()),
        [
            "status-token-file",
            None,
            None,
            "With --status: read the token from this file, and ask for it on this machine, too.",
        ],
        [
            "error-pages",
            None,
            "plain",
            "The body of error answers: plain (a sentence, as a page for browsers), none (no "
            "body, as in Node), or a directory with pages named 404.html or 404.txt.",
        ],
        ["access-log", None, None, "Write one line per request to this file (- is stdout)."],
        [
            "access-log-format",
            None,
            None,
            "With --access-log: combined, json, or a format with Apache's directives, such as "
            """'%h %t "%r" %>s %B %D'.""",
            access_log_format("access-log-format"),
        ],
        ["error-log", None, None, "Write client errors as JSON to this file (- is stdout)."],
        [
            "error-log-per-second",
            None,
            DEFAULT_ERRORS_PER_SECOND,
            "With --error-log: most errors written each second. The first error of each new code "
            "(up to 10) and up to 10 lines with counts come in addition. 0 = all errors.",
            count("error-log-per-second"),
        ],
        [
            "max-connections",
            None,
            0,
            "Most connections at a time, with --workers of all workers together; others wait. "
            "0 = as many as the limit of open files allows.",
            count("max-connections"),
        ],
        [
            "max-connections-per-address",
            None,
            None,
            "Most connections of one address at a time (IPv6: of one /64); more are closed at "
            "once. By default a quarter of all that may be open. 0 = no limit per address.",
            count("max-connections-per-address"),
        ],
        [
            "grace",
            None,
            DEFAULT_GRACE_SECONDS,
            "Seconds for running requests to finish when the server stops.",
            seconds("grace"),
        ],
        [
            "workers",
            None,
            0,
            "How many processes serve, on the same ports; SIGHUP replaces them without a client's "
            "notice. auto = as many as there are cores. 0 = one process, which SIGHUP does not "
            "replace.",
            workers("workers"),
        ],
        [
            "worker-boot-timeout",
            None,
            DEFAULT_BOOT_SECONDS,
            "With --workers: seconds for a worker to start; then its stacks are logged, and it is "
            "ended. 0 = no limit.",
            seconds("worker-boot-timeout"),
        ],
        [
            "worker-timeout",
            None,
            0.0,
            "With --workers: seconds that a worker may be busy with one thing; then its stacks are "
            "logged, and it is replaced. 0 = no limit.",
            seconds("worker-timeout"),
        ],
        *_parameters(LIMITS, Limits()),
        *_parameters(TIMEOUTS, Timeouts()),
    ]

    optFlags = [
        [
            "dotfiles",
            None,
            "With --path: also serve files and directories whose names begin with a dot.",
        ],
        [
            "follow-symlinks",
            None,
            "With --path: also serve symbolic links that lead out of the directory.",
        ],
        [
            "proxy-buffer-requests",
            None,
            "With --proxy: pass no request on before its body is complete.",
        ],
        ["no-require-host", None, "Accept requests without a valid Host header, or with several."],
        ["any-method", None, "Accept any method; the content decides what it means."],
        [
            "allow-half-open",
            None,
            "Answer clients that half-close (send FIN) before they get their response.",
        ],
        [
            "log-idle",
            None,
            "Also log probes, resets between requests, and connections on which nothing was sent.",
        ],
        ["unmasked", None, "Show credentials in logs and reports."],
    ]

    def __init__(self) -> None:
        super().__init__()
        # Remove the indentation of the docstrings.
        self.docs = {option: " ".join(text.split()) for option, text in self.docs.items() if text}
        self.docs["lenient"] = (
            f"Accept what HTTP/1.1 forbids (risky): {', '.join(LENIENCE)}. Repeatable."
        )
        self._given_nothing = dict(self)
        # The defaults as text, for --help-all; the values themselves stay numbers.
        self.defaults.update(_default_texts())
        #: The operator's name -> endpoint.
        self.ports: dict[str, str] = {}
        #: The same for the status page; None without one.
        self.status: tuple[str, str] | None = None
        #: What was parsed.
        self.arguments: list[str] = []
        self.handlers: list[str] = []
        self._methods: set[bytes] = set()
        self._masked: set[bytes] = set()
        self._dropped: set[bytes] = set()
        self.trusted_proxies: list[Network] = []
        self._trust_forwarded: list[str] = []
        self._forwarded_field: str | None = None
        self._lenience: set[str] = set()

    def getUsage(self, width: int | None = None) -> str:
        """Every option with its default, in groups."""
        every, parts = self.longOpt, []
        for title, names in grouped(option.rstrip("=") for option in every):
            self.longOpt = [option for option in every if option.rstrip("=") in names]
            parts.append(super().getUsage(width).replace("Options:", f"{title}:", 1))
        self.longOpt = every
        return "\n".join([*parts, UNITS])

    def opt_help(self) -> NoReturn:
        """Display the most used options, and exit."""
        sys.stdout.write(short_help(self.getSynopsis()))
        sys.exit()

    def opt_help_all(self) -> NoReturn:
        """Display all options, and exit."""
        sys.stdout.write(str(self))
        sys.exit()

    def opt_version(self) -> NoReturn:
        """Display the versions of this, Twisted, Python and OpenSSL, and exit."""
        sys.stdout.write(versions())
        sys.exit()

    def opt_port(self, port: str) -> None:
        """Listen on this port number (IPv4, all interfaces) or Twisted endpoint: tcp6:8000,
        tcp:8000:interface=127.0.0.1, unix:/run/web.sock. Repeatable. [default: 8000]"""
        name, endpoint = endpoint_text("--port", port)
        if endpoint in self.ports.values() and not _ANY_PORT.match(endpoint):
            raise UsageError(f"--port: {port} is given twice")
        self.ports[name] = endpoint

    def opt_status(self, port: str) -> None:
        """Serve a page that shows client errors as they happen: on a port number, for this
        machine only, or on an endpoint as for --port, which asks for a token from the log."""
        if port.startswith("haproxy:"):
            # The page trusts addresses of this machine; in a PROXY header anybody can claim one.
            raise UsageError(
                "--status: cannot be used with the PROXY protocol: clients could claim any address"
            )
        self.status = endpoint_text("--status", port, interface="127.0.0.1")

    def opt_on_client_error(self, name: str) -> None:
        """Call this function, such as mysite.note, with (failure, socket) for each client
        error; the current directory is on the path. Repeatable."""
        self.handlers.append(name)

    def opt_method(self, name: str) -> None:
        """Accept this method, in addition to those that Node accepts. Repeatable."""
        method = token("--method", name)
        try:
            method_names("--method", [method])
        except ValueError as error:
            raise UsageError(str(error)) from error
        self._methods.add(method)

    def opt_lenient(self, name: str) -> None:
        """Accept what HTTP/1.1 forbids and old clients send. Repeatable."""
        if name not in LENIENCE:
            raise UsageError(f"--lenient: {name!r} is not one of {', '.join(LENIENCE)}")
        self._lenience.add(LENIENCE[name])

    def opt_mask_field(self, name: str) -> None:
        """Hide the values of this header, too, in logs and reports. Repeatable."""
        self._masked.add(token("--mask-field", name))

    def opt_trusted_proxy(self, address: str) -> None:
        """Allow any number of connections from this address or network (10.0.0.0/8), such as a
        load balancer. Not needed for --port haproxy:... Repeatable."""
        self.trusted_proxies.append(network("--trusted-proxy", address))

    def opt_trust_forwarded(self, address: str) -> None:
        """Trust the proxies at this address or network, or on UNIX sockets (unix), to name the
        client of a request; see --forwarded-field. Repeatable."""
        if address != UNIX:
            network("--trust-forwarded", address)
        self._trust_forwarded.append(address)

    def opt_forwarded_field(self, name: str) -> None:
        """With --trust-forwarded: the one header in which those proxies name the client.
        [default: X-Forwarded-For]"""
        self._forwarded_field = token("--forwarded-field", name).decode("ascii")

    def opt_proxy_drop_field(self, name: str) -> None:
        """With --proxy: also drop this request header, as the proxy does with headers that name
        the client. Repeatable."""
        self._dropped.add(token("--proxy-drop-field", name))

    def parseArgs(self, *rest: str) -> None:
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}: to serve a directory, use --path")

    def postOptions(self) -> None:
        """Refuse options that exclude or need each other, and a daemon that writes to stdout."""
        chosen = [name for name in ("path", "resource", "wsgi", "proxy") if self[name] is not None]
        if len(chosen) > 1:
            raise UsageError(f"--{chosen[0]} and --{chosen[1]} cannot be used together")
        for flag in ("dotfiles", "follow-symlinks"):
            if self[flag] and self["path"] is None:
                raise UsageError(f"--{flag} needs --path")
        proxying = (
            *("proxy-host", "proxy-forwarded", "proxy-via", "proxy-ca", "proxy-max-connections"),
            "proxy-buffer-requests",
        )
        for option in (*proxying, *(one.option for one in PROXY_TIMEOUTS)):
            if self[option] != self._given_nothing[option] and self["proxy"] is None:
                raise UsageError(f"--{option} needs --proxy")
        if self._dropped and self["proxy"] is None:
            raise UsageError("--proxy-drop-field needs --proxy")
        if self._forwarded_field is not None and not self._trust_forwarded:
            raise UsageError("--forwarded-field needs --trust-forwarded")
        if self["threads"] != DEFAULT_THREADS and self["wsgi"] is None:
            raise UsageError("--threads needs --wsgi")
        if self["status-token-file"] is not None and self.status is None:
            raise UsageError("--status-token-file needs --status")
        if self["access-log-format"] is not None and self["access-log"] is None:
            raise UsageError("--access-log-format needs --access-log")
        if self["unmasked"] and self._masked:
            raise UsageError("--unmasked and --mask-field cannot be used together")
        for log in ("access-log", "error-log"):
            if self[log] == "-" and self.daemonizes:
                raise UsageError(f"--{log} -: a daemon has no standard output; use twistd -n")
        for option in ("worker-boot-timeout", "worker-timeout"):
            if self[option] != self._given_nothing[option] and not self["workers"]:
                raise UsageError(f"--{option} needs --workers")
        if self["workers"] and self.parent is not None and self.parent.get("chroot"):
            raise UsageError("--workers: a worker starts Python anew, which --chroot would hide")
        if not self.ports:
            self.opt_port(DEFAULT_PORT)
        if self.status is not None:
            name, endpoint = self.status
            taken = {one for one in self.ports.values() if not _ANY_PORT.match(one)}
            if {endpoint, endpoint.partition(":interface=")[0]} & taken:
                raise UsageError(f"--status: {name} is used by --port")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        self.arguments = [*(sys.argv[1:] if options is None else options)]
        try:
            super().parseOptions(options)
        except UsageError as error:
            self.refuse(self._with_suggestion(error))

    def _with_suggestion(self, error: UsageError) -> UsageError:
        """*error*, with the closest option if it is about an unknown one."""
        unknown = _UNKNOWN.fullmatch(str(error))
        if unknown is None:
            return error
        known = [option.rstrip("=") for option in self.longOpt]
        return UsageError(f"{error}{closest(unknown[1], known, '--')}")

    def refuse(self, error: UsageError) -> NoReturn:
        """End the program with *error* as its one line.

        Raises:
            SystemExit: With the line, and status 1.
            UsageError: *error* itself, if a program made these options, not a command line.
        """
        if self.parent is None:
            raise error
        raise SystemExit(f"hangup: {error}")

    @property
    def daemonizes(self) -> bool:
        """Whether the program goes into the background; ``twist`` never does."""
        return self.parent is not None and not self.parent.get("nodaemon", True)

    @property
    def limits(self) -> Limits:
        return Limits(
            **{setting.field: self[setting.option] for setting in LIMITS},
            require_host=not self["no-require-host"],
            allow_half_open=bool(self["allow-half-open"]),
            methods=ANY if self["any-method"] else NODE_METHODS | self._methods,
            lenience=Lenience(**dict.fromkeys(self._lenience, True)),
        )

    @property
    def timeouts(self) -> Timeouts:
        return Timeouts(**{setting.field: self[setting.option] for setting in TIMEOUTS})

    @property
    def forwarding(self) -> Forwarding:
        forwarding = Forwarding(
            host=self["proxy-host"],
            forwarded=self["proxy-forwarded"],
            drop_fields=frozenset(self._dropped),
        )
        return forwarding if self["proxy-via"] == "on" else replace(forwarding, via=b"")

    @property
    def forwarded(self) -> ForwardedClients | None:
        if not self._trust_forwarded:
            return None
        return ForwardedClients(self._trust_forwarded, self._forwarded_field or FORWARDED_FIELD)

    @property
    def proxy_timeouts(self) -> OutboundTimeouts:
        return OutboundTimeouts(
            **{setting.field: self[setting.option] for setting in PROXY_TIMEOUTS}
        )

    @property
    def masking(self) -> MaskingPolicy:
        return MaskingPolicy(extra_fields=frozenset(self._masked), unmasked=bool(self["unmasked"]))


def _default_texts() -> dict[str, str]:
    sizes, times, proxy_times = Limits(), Timeouts(), OutboundTimeouts()
    return {
        **{setting.option: size_text(getattr(sizes, setting.field)) for setting in LIMITS},
        **{setting.option: f"{getattr(times, setting.field):g}" for setting in TIMEOUTS},
        **{
            setting.option: f"{getattr(proxy_times, setting.field):g}" for setting in PROXY_TIMEOUTS
        },
        "access-log-format": "combined",
        "grace": f"{DEFAULT_GRACE_SECONDS:g}",
        "worker-boot-timeout": f"{DEFAULT_BOOT_SECONDS:g}",
        "worker-timeout": "0",
    }
