"""``python -m twisted_hangup code`` says what a code means, wherever the package is installed."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from textwrap import dedent

import pytest
from support.wire import PATIENCE

from twisted_hangup.__main__ import main
from twisted_hangup.report import links
from twisted_hangup.report.lookalikes import LOOKALIKES
from twisted_hangup.report.remedies import REMEDIES
from twisted_hangup.report.report import WIDTH


def code(capsys: pytest.CaptureFixture[str], *codes: str) -> tuple[int, str]:
    """The exit status, and what was written."""
    status = main(["code", *codes])
    out, err = capsys.readouterr()
    return status, out + err


def test_entry(capsys: pytest.CaptureFixture[str]) -> None:
    """What it means, what the client gets, the rule, cause and cure, and an example."""
    status, output = code(capsys, "ERR_HTTP_HOST_REQUIRED")
    assert status == 0
    first, second, _, *rest = output.splitlines()
    assert (first, second) == ("ERR_HTTP_HOST_REQUIRED: no Host header", "The client gets 400.")
    assert [line.split(":")[0] for line in rest if line[:1].isupper()] == [
        *("Rule", "Cause", "Cure", "Example")
    ]
    assert rest[-2:] == [r"  GET / HTTP/1.1\r\n", r"  \r\n"]


def test_reason_with_a_cure_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """It comes after what stands for the other reasons."""
    _, output = code(capsys, "HPE_INVALID_METHOD")
    assert output.endswith(
        dedent("""
        Reason: "Expected space after method"
        Rule:  one space has to follow the method, and then the target. RFC 9112,
               section 3.
        """)
        + output[output.rindex("Cause: ") :]
    )


@pytest.mark.parametrize("name", [*REMEDIES, *LOOKALIKES])
def test_every_name_is_answered(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """All codes, families and lookalikes have an entry, in lines of printable ASCII."""
    status, output = code(capsys, name)
    assert status == 0
    assert output.startswith(f"{name}: ")
    assert "\nCause: " in output and "\nCure:  " in output
    for line in output.splitlines():
        assert line.isascii() and line.isprintable()
        assert len(line) <= WIDTH or line.startswith("  ")


@pytest.mark.parametrize(
    "name, words",
    [
        ("ECONNRESET", "the client hung up"),
        ("ERR_SSL_NO_SHARED_CIPHER", "another TLS failure"),
        ("ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN", "another TLS failure"),
        ("ERR_TLS_OF_TOMORROW", "another failed TLS handshake"),
        ("ERR_HTTP2_FLOW_CONTROL_ERROR", "another broken rule of HTTP/2"),
        ("ERR_SSL_", "another TLS failure"),
        ("EHOSTUNREACH", os.strerror(113)),
        ("ENOTFOUND", "not known"),
    ],
)
def test_codes_that_vary_are_answered(
    capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    """The words of OpenSSL, of HTTP/2 and of the operating system are in no table of ours."""
    status, output = code(capsys, name)
    assert status == 0
    assert output.startswith(f"{name}: ")
    assert words in output


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("hpe_strict", "HPE_STRICT"),
        ("Hpe_Invalid_Url", "HPE_INVALID_URL"),
        ("HPE_INVALID_HEADER_TOKN", "HPE_INVALID_HEADER_TOKEN"),
        ("HPE_HEADER_TOKEN", "HPE_INVALID_HEADER_TOKEN"),
        ("INVALID_HEADER_TOKEN", "HPE_INVALID_HEADER_TOKEN"),
        ("ERR_SSL_HTTP_REQEST", "ERR_SSL_HTTP_REQUEST"),
        ("err_ssl_no_shared_cipher", "ERR_SSL_NO_SHARED_CIPHER"),
        ("ERR_HTTP2_ENHANCE_YOUR_KALM", "ERR_HTTP2_ENHANCE_YOUR_CALM"),
        ("econnreset", "ECONNRESET"),
        ("ECONRESET", "ECONNRESET"),
        ("ehostunreach", "EHOSTUNREACH"),
        ("tls_hello", "tls-hello"),
        ("Proxy-V1", "proxy-v1"),
    ],
)
def test_slip_gets_a_suggestion(capsys: pytest.CaptureFixture[str], typed: str, meant: str) -> None:
    """Wrong case or a wrong letter: one line says what may be meant."""
    assert code(capsys, typed) == (
        2,
        f"python -m twisted_hangup: no code is called {typed}: did you mean {meant}?\n",
    )


def test_no_code_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is like it, one line says how to list them; nothing reaches the terminal."""
    assert code(capsys, "E\x1b") == (
        2,
        "python -m twisted_hangup: no code is called E\\x1b; python -m twisted_hangup code lists"
        " them all\n",
    )


def test_several_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has its entry, and one that is wrong takes none from the others."""
    status, output = code(capsys, "EPIPE", "hpe_strict", "ssh")
    assert status == 2
    assert re.findall("^(EPIPE|ssh|python -m .*: did)\\b", output, re.M) == [
        *("EPIPE", "ssh", "python -m twisted_hangup: no code is called hpe_strict: did")
    ]


def test_list_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a code each has a line with a few words, in groups."""
    status, output = code(capsys)
    assert status == 0
    rows = [line.split(None, 1) for line in output.splitlines() if line and line[-1] != ":"]
    assert [name for name, _ in rows] == [*REMEDIES, *LOOKALIKES]
    assert "\n\nTLS:\nERR_SSL_HTTP_REQUEST  " in output
    assert all(len(line) <= WIDTH for line in output.splitlines())


def test_url_where_a_host_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry on the web comes last, as in a report."""
    monkeypatch.setattr(links, "DOCS_URL", "https://docs.example/")
    _, output = code(capsys, "ERR_SSL_NO_SHARED_CIPHER")
    assert output.endswith("\nhttps://docs.example/codes.html#err_ssl_\n")


@pytest.mark.parametrize("plain", ["", "1"])
def test_colours_on_a_terminal(plain: str) -> None:
    """A terminal gets colours unless NO_COLOR is set; a pipe gets the same text without."""
    command = [sys.executable, "-m", "twisted_hangup", "code", "HPE_INVALID_URL"]
    mine, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": plain}
    subprocess.run(command, stdout=its, env=environment, check=True, timeout=PATIENCE)
    os.close(its)
    shown = b""
    try:
        while more := os.read(mine, 65536):
            shown += more
    except OSError:  # the end
        os.close(mine)
    output = shown.decode().replace("\r\n", "\n")
    assert ("\x1b[1mHPE_INVALID_URL" in output) is (not plain)
    piped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert re.sub(r"\x1b\[[0-9;]*m", "", output) == piped.stdout
