"""``python -m twisted_hangup explain`` tells what the server would say to some bytes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from textwrap import dedent
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import pages
from support.explaining import broken, broken_by, log_lines
from support.processes import running
from support.wire import PATIENCE

from twisted_hangup.__main__ import main
from twisted_hangup.commands.hexdump import Paint, picture
from twisted_hangup.errors import ClientHangUp, UpstreamError
from twisted_hangup.report.links import link_of
from twisted_hangup.report.remedies import REMEDIES

GOOD: Final = (
    b"POST /a?q=1 HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2\r\nde\r\n0\r\nDigest: x\r\n\r\n"
)
BROKEN: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Name: 1\r\n\r\n"


class Explain:
    """What the command has written, and its exit status."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, data: bytes, *options: str) -> tuple[int, str]:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        status = main(["explain", *options])
        out, err = self._capsys.readouterr()
        return status, out + err


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Explain:
    return Explain(capsys, monkeypatch)


def text(lines: str) -> str:
    return dedent(lines).lstrip("\n")


def test_good_requests_are_shown(explain: Explain) -> None:
    """Each request with its fields, credentials hidden, its body counted, its trailers named."""
    closing = b"GET /last HTTP/1.0\r\n\r\nwhatever"
    assert explain(GOOD + closing) == (
        0,
        text("""
            POST /a?*** HTTP/1.1
              Host: a
              Cookie: ******
              Transfer-Encoding: chunked
              body: 5 bytes
              trailer: Digest
              complete
            GET /last HTTP/1.0
              complete; the server closes the connection and ignores the rest
        """),
    )


def test_broken_request_is_explained_with_a_picture(explain: Explain) -> None:
    """The report of the server, the packet with a caret, cause and cure, and where to read on."""
    assert explain(BROKEN) == (
        1,
        text(r"""
            HPE_INVALID_HEADER_TOKEN: Invalid header token  (default answer 400)
              GET / HTTP/1.1
              Bad\x20
                 ^^^^ byte 36: 0x20 (space)
            In the header field "Bad": a field is a name, a colon and a value; the name may
            hold letters, digits and !#$%&'*+-.^_`|~, with no space before the colon; an
            empty line (CR LF) ends the fields. RFC 9112, section 5.

            00000000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  |GET / HTTP/1.1..|
            00000010  48 6f 73 74 3a 20 6c 6f  63 61 6c 68 6f 73 74 0d  |Host: localhost.|
            00000020  0a 42 61 64 20 4e 61 6d  65 3a 20 31 0d 0a 0d 0a  |.Bad Name: 1....|
                                  ^^                                         ^
              byte 36 of this packet: 0x20 (space)

            Cause: A header name contains a space or another forbidden character, or a line
                   has no colon: often it is the rest of a value that contains a line end.
                   Or a value contains a control character or goes on in the next line.
            Cure:  Correct the program that writes this header. Remove CR, LF and NUL from
                   values that users enter. For old clients, --lenient control-bytes and
                   --lenient obs-fold accept some of this.
            python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN
        """),
    )


def test_what_precedes_the_error_is_explained(explain: Explain) -> None:
    """Of a pipeline, what the server would serve comes first."""
    status, output = explain(GOOD + BROKEN)
    assert status == 1
    assert output.index("POST /a?***") < output.index("  complete\n") < output.index("HPE_INVALID")


@pytest.mark.parametrize(
    "wire, status, line",
    [
        (b"", 0, "no request in 0 bytes; the server answers nothing"),
        (b"\r\n", 0, "no request in 2 bytes; the server answers nothing"),
        (b"GET", 1, "HPE_INVALID_EOF_STATE: Invalid EOF state  (default answer 400)"),
        (
            b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            1,
            "  answered 501: this server does not serve CONNECT",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: luck\r\n\r\n",
            1,
            "  answered 417: this server does not do what Expect asks for",
        ),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", 0, "  complete"),
    ],
)
def test_verdict(explain: Explain, wire: bytes, status: int, line: str) -> None:
    """The exit status is 1 for all that the server does not serve, at the end of input too."""
    got, output = explain(wire)
    assert got == status
    assert line in output.splitlines()


@pytest.mark.parametrize("digits", ["160301", "16 03 01", "0x16, 0x03, 0x01", r"\x16\x03:01"])
def test_hexadecimal_input(explain: Explain, digits: str) -> None:
    """Digits may stand as other tools write them."""
    status, output = explain(digits.encode(), "--hex")
    assert status == 1
    assert "byte 0: 0x16" in output


@pytest.mark.parametrize("digits", ["1", "16 0", "xy", "\xff"])
def test_what_is_not_hexadecimal_is_explained_in_one_line(explain: Explain, digits: str) -> None:
    """A slip of the finger is no verdict about a request."""
    assert explain(digits.encode("latin-1"), "--hex") == (
        2,
        "python -m twisted_hangup: -: not an even number of hexadecimal digits\n",
    )


def test_missing_file_is_explained_in_one_line(explain: Explain, tmp_path: Path) -> None:
    """The line names the file, and is printable whatever its name is."""
    path = tmp_path / "no\nsuch"
    status, output = explain(b"", str(path))
    assert (status, output) == (
        2,
        f"python -m twisted_hangup: {tmp_path}/no\\nsuch: No such file or directory\n",
    )


def test_bad_options_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage is a line on standard error, and the status 2."""
    with pytest.raises(SystemExit) as caught:
        main(["explain", "--colour"])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_file_is_read(explain: Explain, tmp_path: Path) -> None:
    """The bytes may be in a file."""
    (tmp_path / "packet").write_bytes(BROKEN)
    assert explain(b"", str(tmp_path / "packet")) == explain(BROKEN)


def test_json_is_an_object_per_line(explain: Explain) -> None:
    """Programs get requests, ends, and errors with the names of the error log."""
    status, output = explain(GOOD + BROKEN, "--json")
    request, end, error = map(json.loads, output.splitlines())
    assert status == 1
    assert request == {
        "event": "request",
        "method": "POST",
        "target": "/a?***",
        "version": "1.1",
        "fields": [["Host", "a"], ["Cookie", "******"], ["Transfer-Encoding", "chunked"]],
        "status": None,
    }
    assert end == {"event": "end", "body_bytes": 5, "trailers": ["Digest"], "keep_alive": True}
    assert error["event"] == "error"
    assert (error["code"], error["status"], error["offset"]) == (
        "HPE_INVALID_HEADER_TOKEN",
        400,
        36,
    )
    assert error["source"] == "RFC 9112, section 5"
    assert error["cure"] == REMEDIES["HPE_INVALID_HEADER_TOKEN"].cure
    assert error["docs"] is None


def test_unmasked(explain: Explain) -> None:
    """Credentials are shown to who asks for them."""
    _, output = explain(GOOD + b"GET /?token=t HTTP/1.1\r\nCookie: two\x01\r\n", "--unmasked")
    assert "POST /a?q=1 HTTP/1.1\n  Host: a\n  Cookie: secret\n" in output
    assert "Cookie: two\\x01" in output
    assert "token=t" in output


@pytest.mark.parametrize("code", [*REMEDIES])
def test_code_is_explained_without_bytes(explain: Explain, code: str) -> None:
    """Cause and cure of each code are there where no page of the documentation is."""
    status, output = explain(b"", "--code", code)
    assert status == 0
    assert output.splitlines()[0] == code
    assert "Cause: " in output
    assert output.splitlines()[-1] == link_of(code)


def test_unknown_code(explain: Explain) -> None:
    """A code that nobody has is told as a mistake."""
    assert explain(b"", "--code", "E\x1b") == (
        2,
        "python -m twisted_hangup: no code is called E\\x1b; python -m twisted_hangup code lists"
        " them all\n",
    )


def test_line_of_the_error_log_is_a_picture(explain: Explain) -> None:
    """What a line holds is shown as if the bytes had come just now."""
    assert explain(log_lines(broken(BROKEN))) == (
        1,
        text("""
            HPE_INVALID_HEADER_TOKEN: Invalid header token  (answered 400)
              2001-09-09T01:46:40.000Z from 192.0.2.7:51410
              GET /
              phase head, field "Bad", byte 36

            00000000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  |GET / HTTP/1.1..|
            00000010  48 6f 73 74 3a 20 6c 6f  63 61 6c 68 6f 73 74 0d  |Host: localhost.|
            00000020  0a 42 61 64 20 4e 61 6d  65 3a 20 31 0d 0a 0d 0a  |.Bad Name: 1....|
                                  ^^                                         ^
              byte 36 of this packet: 0x20 (space)

            Rule:  a field is a name, a colon and a value; the name may hold letters, digits
                   and !#$%&'*+-.^_`|~, with no space before the colon; an empty line (CR
                   LF) ends the fields. RFC 9112, section 5.
            Cause: A header name contains a space or another forbidden character, or a line
                   has no colon: often it is the rest of a value that contains a line end.
                   Or a value contains a control character or goes on in the next line.
            Cure:  Correct the program that writes this header. Remove CR, LF and NUL from
                   values that users enter. For old clients, --lenient control-bytes and
                   --lenient obs-fold accept some of this.
            python -m twisted_hangup code HPE_INVALID_HEADER_TOKEN

        """),
    )


def test_excerpt_of_a_large_packet_keeps_its_numbers(explain: Explain) -> None:
    """The rows are numbered as in the whole packet, of which the log has 4 KiB."""
    wire = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 900 + b"X: \x01\r\n\r\n"
    _, output = explain(log_lines(broken(wire)))
    place = len(wire) - 5
    assert f"byte {place:,} of this packet, or the one before it: 0x01" in output
    assert re.search(r"^  \([0-9,]+ bytes before\)$", output, re.M)
    [row] = [line for line in output.splitlines() if re.search("^[0-9a-f]{8} .* 01 ", line)]
    assert int(row[:8], 16) <= place < int(row[:8], 16) + 16


def test_log_with_several_lines(explain: Explain) -> None:
    """A whole log can be explained; in a flood, the lines that count are told as such."""
    hang_up = ClientHangUp("socket hang up", code="ECONNRESET", phase="response")
    errors = [hang_up] * 3
    status, output = explain(log_lines(*errors, per_second=1))
    assert status == 1
    assert output.startswith("ECONNRESET: socket hang up  (not answered)\n")
    assert output.endswith("2001-09-09T01:46:40.000Z  and 2 more ECONNRESET in that second\n\n")


def test_error_of_a_server_behind_a_proxy(explain: Explain) -> None:
    """The picture says which server it was."""
    error = UpstreamError("connect ECONNREFUSED", code="ERR_UPSTREAM_REFUSED", phase="response")
    error.upstream = "http://127.0.0.1:9000"
    status, output = explain(log_lines(error))
    assert status == 1
    assert "\n  the server behind the proxy: http://127.0.0.1:9000\n" in output
    assert output.endswith("python -m twisted_hangup code ERR_UPSTREAM_REFUSED\n\n")


def test_log_in_json(explain: Explain) -> None:
    """Each line gets what explains it; the names of the log stay."""
    _, output = explain(log_lines(broken(BROKEN), broken(BROKEN), per_second=1), "--json")
    error, suppressed = map(json.loads, output.splitlines())
    assert error["time"] == "2001-09-09T01:46:40.000Z"
    assert error["rule"].startswith("a field is a name")
    assert suppressed["suppressed"] == 1
    assert suppressed["cure"]


@pytest.mark.parametrize(
    "spoil",
    [
        {"raw_packet": "?"},
        {"raw_packet": 7},
        {"raw_packet": "AAAA", "raw_packet_offset": "x"},
    ],
)
def test_spoiled_log_line_is_explained_in_one_line(explain: Explain, spoil: dict[str, Any]) -> None:
    """A line that cannot be read is no verdict."""
    line = json.dumps({**json.loads(log_lines(broken(BROKEN))), **spoil})
    assert explain(line.encode()) == (
        2,
        "python -m twisted_hangup: -: raw_packet is not base64, or its offset is not a number\n",
    )


def test_line_that_is_none_of_a_log(explain: Explain) -> None:
    """A log that was cut is told so."""
    status, output = explain(log_lines(broken(BROKEN)) + b'{"code": "HPE_')
    assert status == 2
    assert output.endswith(
        "python -m twisted_hangup: -: a line in the middle is not one of an error log\n"
    )


@pytest.mark.parametrize("wire", [b"{", b'{"code": 1}', b'{"code": "a"}', b'{"a":' * 100_000])
def test_json_that_is_no_log_is_bytes_of_a_client(explain: Explain, wire: bytes) -> None:
    """Whatever is no line of the log was sent by a client."""
    status, output = explain(wire)
    assert (status, output.split(":")[0]) == (1, "HPE_INVALID_METHOD")


@pytest.mark.parametrize("case", pages.load(), ids=lambda case: case.name)
def test_log_and_bytes_point_at_the_same_byte(explain: Explain, case: pages.Case) -> None:
    """The picture made of a log line has its caret where that made of the bytes has it.

    Where what is hidden makes that uncertain, it is said.
    """
    error = broken_by(case.stream)
    if error is None or error.raw_packet is None or case.stream.startswith(b"CONNECT"):
        return
    shown = [pointed(explain(wire)[1]) for wire in (case.stream, log_lines(error))]
    if "or the one before it" in shown[1][1]:
        assert 0 <= shown[1][0] - shown[0][0] <= 1
    else:
        assert shown[0] == shown[1]


def pointed(output: str) -> tuple[int, str]:
    """The byte that a picture points at, and all that it says of it."""
    [line] = [row for row in output.splitlines() if " of this packet" in row] or ["  byte -1"]
    return int(line.split()[1].replace(",", "")), line


HOSTILE: Final = st.text(
    st.sampled_from("\x1b[31m\x07\x00\r\n\u202e\x9b\xffaB:{}%\ud800"), min_size=1, max_size=30
)


@given(st.binary(max_size=60))
def test_no_byte_of_a_client_reaches_the_terminal(data: bytes) -> None:
    """Escape sequences stay text, wherever in a request they stand."""
    for wire in (data, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + data, BROKEN + data):
        output = piped(wire)
        assert all(" " <= letter <= "~" or letter == "\n" for letter in output)


@given(st.dictionaries(st.sampled_from([*json.loads(log_lines(broken(BROKEN)))]), HOSTILE))
def test_forged_log_does_not_reach_the_terminal(forged: dict[str, str]) -> None:
    """Who can write into a log cannot write to the terminal of who reads it."""
    record = {**json.loads(log_lines(broken(BROKEN))), **forged}
    output = piped(json.dumps(record).encode())
    assert all(" " <= letter <= "~" or letter == "\n" for letter in output)


def piped(data: bytes) -> str:
    """All that the command writes for *data*, in this process."""
    out, kept = io.StringIO(), (sys.stdin, sys.stdout, sys.stderr)
    sys.stdin, sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(data)), out, out
    try:
        main(["explain"])
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept
    return out.getvalue()


def on_a_terminal(data: bytes, **environment: str) -> str:
    """What the command writes to a terminal."""
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "twisted_hangup", "explain"]
    variables = {**os.environ, "TERM": "xterm", **environment}
    if "NO_COLOR" not in environment:
        variables.pop("NO_COLOR", None)
    subprocess.run(command, input=data, stdout=its, env=variables, timeout=PATIENCE, check=False)
    os.close(its)
    output = b""
    with suppress(OSError):  # the end
        while more := os.read(mine, 65536):
            output += more
    os.close(mine)
    return output.decode().replace("\r\n", "\n")


def test_colours_on_a_terminal() -> None:
    """The byte to blame is red; nothing but colours is added."""
    output = on_a_terminal(BROKEN)
    assert "\x1b[1;31m20\x1b[0m" in output
    assert re.sub(r"\x1b\[[0-9;]*m", "", output) == on_a_terminal(BROKEN, NO_COLOR="1")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours(environment: dict[str, str]) -> None:
    """Nobody gets colours who does not want them."""
    assert "\x1b" not in on_a_terminal(BROKEN, **environment)


def test_empty_no_color_is_none() -> None:
    """As https://no-color.org has it, an empty NO_COLOR says nothing."""
    assert "\x1b" in on_a_terminal(BROKEN, NO_COLOR="")


def test_lines_are_explained_as_they_come(tmp_path: Path) -> None:
    """``tail -f errors.log | ... explain`` shows a line without waiting for the end."""
    line = log_lines(broken(BROKEN))
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with running(
        tmp_path,
        *(sys.executable, "-m", "twisted_hangup", "explain", "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as program:
        assert program.stdin and program.stdout
        for _ in range(2):
            program.stdin.write(line)
            program.stdin.flush()
            assert select.select([program.stdout], [], [], PATIENCE)[0]
            assert json.loads(program.stdout.readline())["code"] == "HPE_INVALID_HEADER_TOKEN"
        program.communicate(timeout=PATIENCE)  # the end of its input
        assert program.returncode == 1


@given(st.integers(0, 400), st.none() | st.integers(0, 450), st.integers(0, 1 << 30), st.randoms())
def test_picture_fits_and_points(
    length: int, caret: int | None, offset: int, random: Random
) -> None:
    """No line is wider than 80 columns; the carets stand under the byte and its letter."""
    data = random.randbytes(length)
    lines = [*picture(data, caret, offset=offset, paint=Paint(False))]
    assert all(len(line) <= 80 for line in lines)
    pointers = [number for number, line in enumerate(lines) if set(line) == {" ", "^"}]
    if caret is None or caret >= len(data):
        assert not pointers
        return
    (number,) = pointers
    row, pointer = lines[number - 1], lines[number]
    assert int(row[pointer.index("^") :][:2], 16) == data[caret]
    letter = chr(data[caret]) if 0x20 <= data[caret] <= 0x7E else "."
    assert row[pointer.rindex("^")] == letter
    assert int(row[:8], 16) == offset + caret // 16 * 16
