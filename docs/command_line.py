"""The page of all options, made of what the commands themselves understand."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, cast

from twisted_hangup.__main__ import command_parser
from twisted_hangup.service.help import GROUPS, UNITS, grouped
from twisted_hangup.service.options import LIMITS, PROXY_TIMEOUTS, TIMEOUTS, Options

_HEAD: Final = f"""\
# Command line

Every option of `twistd hangup`, and of the other commands.

```sh
# The files of a directory
twistd -n hangup --port 8000 --path ./public
# A resource over HTTPS, with the certificates in a directory
twistd -n hangup --port tls:./certificates:port=8443 --resource mysite.root
# A WSGI application, with bodies of at most 1 GiB
twistd -n hangup --port 8000 --wsgi mysite.application --max-body-size 1g
# Another server, which may take two minutes to answer
twistd -n hangup --port 8000 --proxy http://127.0.0.1:9000 --proxy-timeout 2m
# A log of client errors, and a page that shows them as they happen
twistd -n hangup --port 8000 --path . --error-log errors.log --status 9000
```

`-n` belongs to `twistd`: the server stays in the foreground. `twistd hangup --help` shows the
options of most use, `--help-all` shows all of them. A mistake ends the program with one line that
names it.

{UNITS}
## twistd hangup
"""

_OTHERS: Final = """
## python -m twisted_hangup

Commands besides serving. `--help` after any of them shows the same.

```sh
# What does this code mean?
python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN
# What would the server say to these bytes?
python -m twisted_hangup explain packet.bin
# What is in the outbox?
python -m twisted_hangup outbox outbox.sqlite list
```
"""

#: Option -> the attribute that sets the same in a program.
_IN_PYTHON: Final = {
    setting.option: f"[`{record}.{setting.field}`][twisted_hangup.{record}]"
    for record, settings in (
        ("Limits", LIMITS),
        ("Timeouts", TIMEOUTS),
        ("OutboundTimeouts", PROXY_TIMEOUTS),
    )
    for setting in settings
}

#: What reads the value of an option -> the word for such a value.
_KINDS: Final = {"size": "BYTES", "count": "NUMBER", "seconds": "SECONDS", "one_of": "WORD"}

#: Option -> the word for its value: that of the short help, or one for its kind.
_VALUES: Final = {
    **{
        name: _KINDS.get(reader[0].__qualname__.split(".")[0], "FORMAT")
        for name, _, _, _, *reader in cast("list[list[Any]]", Options.optParameters)
        if reader
    },
    **{
        words[0].removeprefix("--"): words[1]
        for group in GROUPS
        for words in map(str.split, reversed(group.common))
    },
    "error-pages": "WORD_OR_DIR",
    "status-token-file": "FILE",
    "trusted-proxy": "ADDRESS",
}

#: Words in brackets belong together where a usage is broken into lines.
_OPTIONAL: Final = re.compile(r"\[[^\]]*\]")
_OPTION: Final = re.compile(r"--([a-z][a-z-]*[a-z])")
_DEFAULT: Final = re.compile(r" \[default: (.*)\]$")


def page() -> str:
    """The whole page."""
    return "".join([_HEAD, *_of_twistd(), _OTHERS, *_of_parser(command_parser())])


def _of_twistd() -> Iterator[str]:
    """The options of ``twistd hangup``, in the groups of its help."""
    options = Options()
    names = [name.rstrip("=") for name in options.longOpt]
    taking = {name.rstrip("=") for name in options.longOpt if name.endswith("=")}
    for title, group in grouped(names):
        yield f"\n### {title}\n"
        for name in group:
            value = f" {_VALUES.get(name, 'NAME')}" if name in taking else ""
            text, default = options.docs[name], options.defaults.get(name)
            if match := _DEFAULT.search(text):
                text, default = text[: match.start()], match[1]
            yield f"\n#### `--{name}{value}` {{ #--{name} }}\n\n{_prose(text, names)}\n"
            yield from _facts(default if name in taking else None, _IN_PYTHON.get(name))


def _facts(default: object, in_python: str | None) -> Iterator[str]:
    facts = [f"Default: `{default}`."] if default is not None else []
    facts += [f"In a program: {in_python}."] if in_python else []
    if facts:
        yield f"\n{' '.join(facts)}\n"


def _of_parser(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[str]:
    """Each command that *parser* understands, with its arguments.

    Args:
        prefix: The commands before it, each with a space.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from _of_command(prefix + name, command)


def _of_command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    usage = " ".join(command.format_usage().removeprefix("usage: ").replace("[-h] ", "").split())
    usage = _OPTIONAL.sub(lambda words: words[0].replace(" ", "\0"), usage)
    lines = textwrap.fill(usage, 80, subsequent_indent="    ", break_on_hyphens=False)
    yield f"\n### {name} {{ #{name.replace(' ', '-')} }}\n\n```text\n{lines}\n```\n".replace(
        "\0", " "
    )
    if command.description:
        yield f"\n{_prose(command.description, [])}\n"
    rows = [row for action in command._actions for row in _rows(name, action)]
    if rows:
        yield f"\n| argument | meaning |\n|---|---|\n{''.join(rows)}"
    yield from _of_parser(command, f"{name} ")


def _rows(name: str, action: argparse.Action) -> Iterator[str]:
    """A row for what *action* takes, with an anchor such as ``explain--json``."""
    if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
        return
    typed = action.option_strings[-1] if action.option_strings else ""
    value = action.metavar or action.dest.upper() if action.nargs != 0 else ""
    anchor = f"{{ #{name.replace(' ', '-')}{typed} }}" if typed else ""
    yield f"| `{f'{typed} {value}'.strip()}`{anchor} | {_prose(action.help or '', [])} |\n"


def _prose(text: str, names: list[str]) -> str:
    """*text* as Markdown, with a link where it names an option."""
    text = re.sub(r"([\\`*_<>\[\]#|~^])", r"\\\1", text)
    return _OPTION.sub(
        lambda option: f"[`{option[0]}`](#{option[0]})" if option[1] in names else option[0], text
    )
