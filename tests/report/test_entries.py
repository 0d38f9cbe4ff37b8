"""What there is to say about a code is said once, for the command line, the docs and the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from support.explaining import broken

from twisted_hangup.errors import ClientError
from twisted_hangup.limits import Lenience, Limits, Timeouts
from twisted_hangup.proxy import resource
from twisted_hangup.report import links
from twisted_hangup.report.entries import GROUPS, entry_named
from twisted_hangup.report.examples import REQUESTS, example_of
from twisted_hangup.report.links import link_of, url_of
from twisted_hangup.report.lookalikes import (
    BODY_ALONE,
    BODY_LONGER,
    BODY_UNANNOUNCED,
    LOOKALIKES,
)
from twisted_hangup.report.remedies import REASONS, REMEDIES
from twisted_hangup.service.options import Options
from twisted_hangup.testing import client_error

ROOT: Final = Path(__file__).parents[2]
BAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\nBad Name: 1\r\n\r\n"


def test_every_code_is_in_a_group() -> None:
    """Once, and in the order of the tables."""
    assert [code for group in GROUPS.values() for code in group] == [*REMEDIES]


@pytest.mark.parametrize("code", [*REMEDIES])
def test_meanings_are_short(code: str) -> None:
    """They stand beside the code in a list of 80 columns, and are no sentence."""
    one = entry_named(code)
    assert one is not None and one.name == code
    assert len(one.meaning) <= 42
    assert one.meaning.isascii() and not one.meaning.endswith(".")


@pytest.mark.parametrize("code", [*REQUESTS])
def test_example_is_refused_with_its_code(code: str) -> None:
    """What the example shows gets the answer that the entry names."""
    error, one = client_error(code), entry_named(code)
    assert one is not None and one.example
    assert (error.code, str(error.status)) == (code, one.answer[:3])


@pytest.mark.parametrize(
    "code, lines",
    [
        ("HPE_UNEXPECTED_SPACE", [" Host: example.org\\r\\n", "^ byte 16: 0x20 (space)"]),
        ("HPE_INVALID_URL", ["GET /\\x80 HTTP/1.1\\r\\n", "     ^^^^ byte 5: 0x80"]),
        ("ERR_HTTP_TOO_MANY_EMPTY_LINES", ["\\r\\n   (17 times)"]),
        ("HPE_INVALID_STATUS", ["HTTP/1.1 2x0 OK\\r\\n", "          ^ byte 10: 0x78 (x)"]),
        ("EPIPE", []),
    ],
)
def test_example_as_text(code: str, lines: list[str]) -> None:
    """A line for each of the bytes', and carets under the byte that is refused."""
    assert example_of(code)[-2:] == lines


def test_long_line_of_an_example_is_cut() -> None:
    """Its length is beside it."""
    line = example_of("HPE_HEADER_OVERFLOW")[-1]
    assert line.startswith("Cookie: aaa") and line.endswith("aaa   (16,392 bytes)")


@pytest.mark.parametrize("code", ["ERR_SSL_NO_SHARED_CIPHER", "ERR_HTTP2_PROTOCOL_ERROR"])
def test_family(code: str) -> None:
    """A code that is in no table has the entry of its family, with the family's rule."""
    one = entry_named(code)
    assert one is not None and one.rule is not None
    assert one.name.endswith("_*") and "RFC" in one.rule.source


ADVICE: Final = {
    text
    for remedy in (
        *(*REMEDIES.values(), *REASONS.values(), BODY_ALONE, BODY_LONGER, BODY_UNANNOUNCED),
        *(lookalike.remedy for lookalike in LOOKALIKES.values()),
    )
    for text in remedy
}


@pytest.mark.parametrize("text", sorted(ADVICE))
def test_advice_names_what_is_installed(text: str) -> None:
    """It names options and settings that exist, and no file that is not installed."""
    assert not re.search(r"\bdocs/|\.md\b", text)
    for option in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", text):
        known = option in Options().synonyms or option in ("cacert", "http2-prior-knowledge")
        assert known, option
    for record, name in re.findall(r"\b(Limits|Timeouts)\.(\w+)", text):
        assert hasattr({"Limits": Limits(), "Timeouts": Timeouts()}[record], name)
    for name in re.findall(r"--lenient ([a-z-]+)|Lenience\((\w+)", text):
        assert hasattr(Lenience(), "".join(name).replace("-", "_"))


def test_no_entry() -> None:
    """Nothing is said about what nobody knows."""
    assert entry_named("EOTHER") is None and url_of("EOTHER") is None and url_of(None) is None


def test_address_is_that_of_the_project() -> None:
    """It is where pyproject.toml says that the docs are; none as long as that names no host."""
    project = (ROOT / "pyproject.toml").read_text()
    [address] = re.findall(r'^Documentation = "(https://.*)"$', project, re.M)
    known = None if ".invalid" in address else f"{address.rstrip('/')}/"
    assert known == links.DOCS_URL


def test_link_is_a_command_without_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command works wherever the package is installed."""
    monkeypatch.setattr(links, "DOCS_URL", None)
    assert link_of("HPE_STRICT") == "python -m twisted_hangup code HPE_STRICT"
    assert url_of("HPE_STRICT") is None


def test_link_is_a_url_with_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then report and JSON have the address of the entry."""
    monkeypatch.setattr(links, "DOCS_URL", "https://docs.example/")
    url = "https://docs.example/codes.html#hpe_invalid_header_token"
    assert broken(BAD).report().splitlines()[-1] == url
    assert url_of("ERR_SSL_NO_SHARED_CIPHER") == "https://docs.example/codes.html#err_ssl_"
    assert url_of("tls-hello") == "https://docs.example/codes.html#tls-hello"


def test_urls_are_those_of_the_site() -> None:
    """mkdocs writes a file for each page, and no folder."""
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "use_directory_urls: false" in settings


@pytest.mark.parametrize("code", ["ERR_SSL_; rm -rf ~", "ERR_SSL_$(id)", "ERR_SSL_" + "A" * 60])
def test_command_can_be_typed(code: str) -> None:
    """A reader copies it: a forged or endless code stands for its family."""
    error = ClientError("r", code=code, phase="handshake")
    assert error.report().splitlines()[-1] == "python -m twisted_hangup code ERR_SSL_"


def test_answers_of_a_proxy() -> None:
    """They are those that the proxy sends."""
    assert {*GROUPS["Servers behind a proxy"]} == {*resource._FAILURES}
    for code, (status, _) in resource._FAILURES.items():
        one = entry_named(code)
        assert one is not None and one.answer[:3] == str(status)
