"""The command line: every number of ours has an option, every mistake one line."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
from twisted.internet.address import IPv6Address
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from twisted_hangup.limits import ANY, NODE_METHODS, Limits, Timeouts
from twisted_hangup.service.help import grouped
from twisted_hangup.service.options import LIMITS, TIMEOUTS, Options


def parse(*arguments: str) -> Options:
    options = Options()
    options.parseOptions([*arguments])
    return options


def numbers(record: type[Any]) -> set[str]:
    """The fields of a record that are numbers; the others have flags and lists."""
    return {
        field.name
        for field in dataclasses.fields(record)
        if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)
    }


def test_every_number_has_an_option() -> None:
    """What a program may change, an operator may change."""
    assert {setting.field for setting in LIMITS} == numbers(Limits)
    assert {setting.field for setting in TIMEOUTS} == numbers(Timeouts)


def test_defaults() -> None:
    """Without options, everything is as for a program that says nothing."""
    options = parse()
    assert options.limits == Limits()
    assert options.timeouts == Timeouts()
    assert list(options.ports) == ["port 8000"]


@pytest.mark.parametrize("setting", LIMITS + TIMEOUTS, ids=lambda setting: setting.option)
def test_each_number_can_be_set(setting: Any) -> None:
    """An option sets its own field and no other."""
    options = parse(f"--{setting.option}", "7")
    numbers = {**dataclasses.asdict(options.limits), **dataclasses.asdict(options.timeouts)}
    defaults = {**dataclasses.asdict(Limits()), **dataclasses.asdict(Timeouts())}
    assert {name for name in numbers if numbers[name] != defaults[name]} == {setting.field}
    assert numbers[setting.field] == 7


@pytest.mark.parametrize(
    "text, size", [("0", 0), ("512", 512), ("16k", 16384), ("2M", 2097152), ("1g", 1073741824)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    """A size is bytes, or has a unit of 1024."""
    assert parse("--max-body-size", text).limits.body_bytes == size


@pytest.mark.parametrize(
    "text, seconds", [("0", 0), ("1.5", 1.5), ("30s", 30), ("5m", 300), ("0.5h", 1800)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    """A time is seconds, or has a unit."""
    assert parse("--request-timeout", text).timeouts.request_seconds == seconds
    assert parse("--grace", text)["grace"] == seconds


def test_ports_that_are_any() -> None:
    """0 is no port, but the system's choice: another one for each."""
    options = parse("--port", "0", "--status", "0")
    assert options.status == ("port 0", "tcp:0:interface=127.0.0.1")


def test_switches_and_lists() -> None:
    """What is no number has a flag, or may be said several times."""
    limits = parse("--no-require-host", "--allow-half-open", "--method", "BREW").limits
    assert not limits.require_host
    assert limits.allow_half_open
    assert limits.methods == NODE_METHODS | {b"BREW"}
    assert parse("--any-method", "--method", "BREW").limits.methods is ANY
    assert parse("--mask-field", "X-Key", "--mask-field", "X-Pin").masking.extra_fields == {
        b"x-key",
        b"x-pin",
    }
    assert parse("--unmasked").masking.unmasked
    assert parse("--proxy", "http://a").forwarding.via == b"twisted_hangup"
    assert parse("--proxy", "http://a", "--proxy-via", "off").forwarding.via == b""
    assert parse().forwarded is None
    named = parse("--trust-forwarded", "unix", "--trust-forwarded=::1").forwarded
    assert named is not None
    assert named.field == b"X-Forwarded-For"
    assert str(named.client(IPv6Address("TCP", "::1", 1), [b"192.0.2.7"]).host) == "192.0.2.7"
    dropping = parse("--proxy", "http://a", "--proxy-drop-field=A", "--proxy-drop-field=B")
    assert dropping.forwarding.drop_fields == {b"A", b"B"}


def test_ports() -> None:
    """A number is a TCP port on all interfaces, anything else an endpoint of Twisted's."""
    ports = parse("--port", "80", "--port", "unix:/run/web.sock").ports
    assert ports == {"port 80": "tcp:80", "unix:/run/web.sock": "unix:/run/web.sock"}


MISTAKES = [
    (["--port", "abc"], "neither a port number nor an endpoint"),
    (["--port", "65536"], "not a port number"),
    (["--port", "haproxy:ssl:443"], "use haproxy:tcp:PORT"),
    (["--max-header-size", "16kb"], "--max-header-size: '16kb' is not a number of bytes"),
    (["--max-header-size", "-1"], "not a number of bytes"),
    (["--max-headers-count", "1.5"], "not a whole number"),
    (["--max-headers-count", "9" * 5000], "not a whole number"),
    (["--headers-timeout", "soon"], "--headers-timeout: 'soon' is not a number of seconds"),
    (["--headers-timeout", "-1"], "not a number of seconds"),
    (["--headers-timeout", "nan"], "not a number of seconds"),
    (["--headers-timeout", "inf"], "not a number of seconds"),
    (["--headers-timeout"], "requires argument"),
    (["--method", "GET /"], "is not a token"),
    (["--trusted-proxy", "lb.example"], "--trusted-proxy: 'lb.example' does not appear to be"),
    (["--trust-forwarded", "10.0.0.1/8"], "--trust-forwarded: 10.0.0.1/8 has host bits set"),
    (["--trust-forwarded", "unix", "--forwarded-field", "a b"], "is not a token"),
    (["--forwarded-field", "Forwarded"], "--forwarded-field needs --trust-forwarded"),
    (["--max-connections-per-address", "-1"], "is not a whole number"),
    (["--mask-field", ""], "is not a token"),
    (["--lenient", "all"], "not one of bare-lf, control-bytes, obs-fold, spaces-after-chunk-size"),
    (["--nonsense"], "not recognized"),
    (["--prot", "80"], "option --prot not recognized: did you mean --port?"),
    (["--PATH", "."], "option --PATH not recognized: did you mean --path?"),
    (["--header-timeout", "5"], "did you mean --headers-timeout?"),
    (["--port", "80", "--port", "80"], "--port: 80 is given twice"),
    (["--port", "80", "--port", "tcp:80"], "--port: tcp:80 is given twice"),
    (["--port", "80", "--status", "80"], "--status: port 80 is used by --port"),
    (["--method", "get"], "--method: method names are case-sensitive: write GET, not 'get'"),
    (["--headers-timeout", "5x"], "'5x' is not a number of seconds (such as 300 or 5m)"),
    (["--headers-timeout", "m"], "not a number of seconds"),
    (["--headers-timeout", "-1m"], "not a number of seconds"),
    (["--headers-timeout", "nanh"], "not a number of seconds"),
    (["./public"], "unexpected argument './public'"),
    (["--path", ".", "--wsgi", "a.b"], "--path and --wsgi cannot be used together"),
    (["--dotfiles"], "needs --path"),
    (["--follow-symlinks"], "needs --path"),
    (["--max-header-size", "0"], "--max-header-size: must be at least 1"),
    (["--proxy-drop-field", "X-User"], "--proxy-drop-field needs --proxy"),
    (["--proxy", "http://a", "--proxy-drop-field", "a b"], "is not a token"),
    (["--threads", "0"], "--threads: must be at least 1"),
    (["--threads", "5"], "--threads needs --wsgi"),
    (["--unmasked", "--mask-field", "x"], "cannot be used together"),
]


@pytest.mark.parametrize("arguments, complaint", MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes(arguments: list[str], complaint: str) -> None:
    """What cannot be meant is refused in one line that names it."""
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_has_units() -> None:
    """A default is shown as it may be typed, and what it is of."""
    usage = Options().getUsage(width=1000)
    assert "for each client error;" in usage
    shown = " ".join(usage.split())
    assert (
        "Bytes in the header of a request; a request with this many is answered 431. In the"
        " response of the --proxy server they are a 502. [default: 16k]"
    ) in shown
    assert "may then lose the answer. [default: 64m]" in shown
    assert (
        "Seconds for a client to send the header of a request. 0 = no limit. [default: 60]" in shown
    )


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """It has the options of most use, each as it is understood; --help-all has every one."""
    with pytest.raises(SystemExit):
        parse("--help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    with pytest.raises(SystemExit):
        parse("--help-all")
    every = capsys.readouterr().out
    named = [re.match(r"  --([a-z-]+)", line) for line in lines]
    options = {option.rstrip("=") for option in Options().longOpt}
    assert {match[1] for match in named if match} <= options
    assert set(re.findall(r"^ +--([a-z-]+)", every, re.MULTILINE)) == options
    assert every.count("times in seconds") == 1


def test_every_option_has_a_group() -> None:
    """None is left over, none is in two groups, and no group names what there is not."""
    options = [option.rstrip("=") for option in Options().longOpt]
    *groups, (_, others) = grouped(options)
    assert others == ["help", "version", "help-all"]
    assert sorted([*others, *(name for _, names in groups for name in names)]) == sorted(options)


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reports a bug is asked for these."""
    with pytest.raises(SystemExit):
        parse("--version")
    line = r"twisted_hangup [0-9.a-z]+ \(Twisted [0-9.]+, Python 3[0-9.]+, OpenSSL .*\)\n"
    assert re.fullmatch(line, capsys.readouterr().out)


@pytest.mark.parametrize("log", ["--access-log", "--error-log"])
@pytest.mark.parametrize(
    "settings, refused", [({"nodaemon": 0}, True), ({"nodaemon": 1}, False), ({}, False)]
)
def test_a_daemon_has_no_standard_output(log: str, settings: dict[str, int], refused: bool) -> None:
    """``-`` is refused where twistd goes into the background; ``twist`` never does."""
    options = Options()
    options.parent = UsageOptions()
    options.parent.update(settings)
    if refused:
        with pytest.raises(SystemExit, match="use twistd -n"):
            options.parseOptions([log, "-"])
    else:
        options.parseOptions([log, "-"])
