"""Checks of arguments, so that a mistake is reported where it is made.

Each check raises TypeError or ValueError.  The message names the argument, shows what came, and
says after a colon what to write instead.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import Field, fields
from difflib import get_close_matches
from math import inf
from typing import Any, ClassVar, Final, Protocol

#: The longest value that a message shows, in characters.
_LONGEST_SHOWN: Final = 60

# RFC 9110, section 5.6.2: any VCHAR except delimiters.
_TOKEN: Final = re.compile(rb"[^\x00-\x20\x7f-\xff\"(),/:;<=>?@\[\\\]{}]+")

_TEXT: Final = {str, bytes}

#: Types whose name in a message is not "a" and the name.
_WORDS: Final = {type(None): "None", bool: "True or False", bytes: "bytes"}

#: Names that begin so take "an".
_VOWELS: Final = (*"AEIOU", "HTTP")


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def described(value: object) -> str:
    """*value* in few words for a message: its repr if that is short, else its type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        shown = repr(value)
        return shown if len(shown) <= _LONGEST_SHOWN else type(value).__name__
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    return type(value).__name__


def must_be(name: str, value: object, kinds: type | tuple[type, ...], cure: str = "") -> None:
    """Raise TypeError unless *value* is an instance of one of *kinds*."""
    if isinstance(value, kinds):
        return
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    # Text of the other kind may be a secret.
    came = type(value).__name__ if _TEXT & {*wanted} and type(value) in _TEXT else described(value)
    raise _wrong_type(name, " or ".join(map(_a, wanted)), came, cure)


def must_be_class(name: str, value: object, base: type) -> None:
    """Raise TypeError unless *value* is *base* or a subclass of it."""
    if isinstance(value, type) and issubclass(value, base):
        return
    came = described(value)
    if isinstance(value, base):
        raise _wrong_type(name, "a class", f"an object of it: {name}={type(value).__name__}")
    raise _wrong_type(name, f"{base.__name__} or a subclass of it", came)


def must_have(
    name: str, value: object, what: str, methods: Collection[str], cure: str = ""
) -> None:
    """Raise TypeError unless *value* has all of these *methods*, whatever its class.

    Args:
        what: What has these methods, for the message.
        cure: What to write instead.
    """
    if isinstance(value, type) or not all(callable(getattr(value, one, None)) for one in methods):
        if isinstance(value, type) and not cure:
            cure = f"{value.__name__}(...)"
        raise _wrong_type(name, what, described(value), cure)


def must_be_reactor(name: str, value: object) -> None:
    """Raise TypeError unless *value* has what we use of a reactor; a `Clock` has it too."""
    must_have(name, value, "a reactor", ("callLater", "seconds"))


def must_take(
    name: str, value: object, *parameters: str, classes: bool = False, yields: bool = False
) -> None:
    """Raise TypeError unless *value* can be called with *parameters*, in this order.

    Args:
        classes: Whether it may be a class.
        yields: Whether it may be a generator function.
    """
    wanted = f"({', '.join(parameters)})" if parameters else "no argument"
    signature = _signature(name, value, wanted, classes, yields)
    try:
        if signature is not None:
            signature.bind(*parameters)
    except TypeError:
        raise TypeError(
            f"{name} must take {wanted}, and {_called(value)} takes {signature}"
        ) from None


def must_take_some(name: str, value: object, one_of_them: str) -> None:
    """Raise TypeError unless *value* is a function with at least one parameter.

    Args:
        one_of_them: What one of its arguments is, for the message.
    """
    signature = _signature(name, value, one_of_them, classes=False, yields=False)
    if signature is not None and not signature.parameters:
        raise TypeError(f"{name} must take {one_of_them}, and {_called(value)} takes {signature}")


def must_be_one_of(name: str, value: object, choices: Collection[str]) -> None:
    """Raise TypeError unless *value* is a str, and ValueError unless it is one of *choices*."""
    must_be(name, value, str)
    if value not in choices:
        wanted = " or ".join(map(repr, choices))
        raise ValueError(
            f"{name} must be {wanted}, not {described(value)}{closest(value, choices)}"
        )


def closest(word: object, choices: Iterable[str], before: str = "") -> str:
    """``: did you mean ...?``, if one of *choices* is close to *word*; else ``""``.

    Args:
        before: What stands before that choice, such as ``--``.
    """
    meant = get_close_matches(str(word).lower(), [*choices], 1)
    return f": did you mean {before}{meant[0]}?" if meant else ""


def must_be_number(
    name: str, value: object, *, whole: bool = False, least: float = 0, endless: bool = False
) -> None:
    """Raise TypeError unless *value* is a number, and ValueError if it is below *least*.

    Args:
        whole: Whether it must be an int.
        endless: Whether it may be infinite.
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        cure = ".total_seconds()" if hasattr(value, "total_seconds") else ""
        raise _wrong_type(name, kind, described(value), cure)
    assert isinstance(value, (int, float))
    if not value >= least:
        wanted = f"be at least {least:g}" if least else "not be negative"
        raise ValueError(f"{name} must {wanted}, and is {value!r}")
    if value == inf and not endless:
        raise ValueError(f"{name} must not be infinite")


def must_be_positive(name: str, value: object, *, whole: bool = False) -> None:
    """Raise TypeError unless *value* is a number, and ValueError unless it is more than 0."""
    must_be_number(name, value, whole=whole, least=-inf, endless=True)
    if not value > 0:  # type: ignore[operator]  # it is a number
        raise ValueError(f"{name} must be more than 0, and is {value!r}")


def check_fields(
    record: _Record, least: Mapping[str, float] | None = None, *, endless: bool = False
) -> None:
    """Check each field of a dataclass that is declared as int, float or bool.

    Args:
        least: The smallest value of a field, by its name; 0 for the others.
        endless: Whether numbers may be infinite.
    """
    for name, kind in _declared(record):
        value = getattr(record, name)
        if kind == "bool":
            if not isinstance(value, bool):
                raise _wrong_type(name, "True or False", described(value))
        else:
            bound = (least or {}).get(name, 0)
            must_be_number(name, value, whole=kind == "int", least=bound, endless=endless)


def check_positive_fields(record: _Record) -> None:
    """Check that each int and float field of a dataclass is more than 0."""
    for name, kind in _declared(record):
        must_be_positive(name, getattr(record, name), whole=kind == "int")


def names_in(name: str, value: object) -> frozenset[bytes]:
    """The tokens (RFC 9110, section 5.6.2) in *value*, as bytes, without white space around them.

    Raises:
        TypeError: *value* is a single token, or holds something other than str and bytes.
        ValueError: One of them is not a token.
    """
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a set of names, not one name: {{{value!r}}}")
    if not isinstance(value, Iterable):
        raise _wrong_type(name, "a set of names", described(value))
    names = set()
    for one in value:
        if not isinstance(one, (str, bytes)):
            raise TypeError(f"{name} must have names in it, str or bytes, not {described(one)}")
        token = (one.encode("utf-8", "surrogateescape") if isinstance(one, str) else one).strip()
        if not _TOKEN.fullmatch(token):
            raise ValueError(f"{name}: {one!r} is not a token")
        names.add(token)
    return frozenset(names)


def statuses_in(name: str, value: object) -> frozenset[int]:
    """The status codes in *value*.

    Raises:
        TypeError: *value* is a single status, or holds something other than int.
        ValueError: One of them is not a status code (RFC 9110, section 15).
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        cure = f"{{{value!r}}}" if isinstance(value, int) else ""
        raise _wrong_type(name, "a set of status codes", described(value), cure)
    statuses = set()
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int):
            raise TypeError(f"{name} must have whole numbers in it, not {described(one)}")
        if not 100 <= one <= 599:
            raise ValueError(f"{name}: {one} is not a status code (100 to 599)")
        statuses.add(int(one))
    return frozenset(statuses)


def _declared(record: _Record) -> list[tuple[str, str]]:
    """The number and bool fields of *record*, each with the name of its type."""
    kinds = [(one.name, getattr(one.type, "__name__", str(one.type))) for one in fields(record)]
    return [(name, kind) for name, kind in kinds if kind in ("int", "float", "bool")]


def _signature(
    name: str, value: object, wanted: str, classes: bool, yields: bool
) -> inspect.Signature | None:
    """The signature of *value*; None for functions in C that have none."""
    if not callable(value) or (isinstance(value, type) and not classes):
        raise _wrong_type(name, f"a function that takes {wanted}", described(value))
    if inspect.isasyncgenfunction(value) or (inspect.isgeneratorfunction(value) and not yields):
        cure = "write async def without yield, or decorate it with inlineCallbacks"
        raise TypeError(f"{name} must not yield, as {_called(value)} does: {cure}")
    try:
        # The outermost function is called, whatever it wraps.
        return inspect.signature(value, follow_wrapped=False)
    except ValueError:
        return None


def _wrong_type(name: str, wanted: str, came: str, cure: str = "") -> TypeError:
    return TypeError(f"{name} must be {wanted}, not {came}" + (f": {cure}" if cure else ""))


def _a(kind: type) -> str:
    word = kind.__name__
    if kind in _WORDS:
        return _WORDS[kind]
    return f"{'an' if word.startswith(_VOWELS) else 'a'} {word}"


def _called(value: object) -> str:
    return getattr(value, "__qualname__", None) or type(value).__name__
