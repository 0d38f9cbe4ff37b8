"""h2spec against a real ``twistd hangup`` over TLS: what fails is what `FAILURES` lists.

``$H2SPEC`` names the program, or it is on ``PATH``; skipped without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.certificates import pem
from support.processes import BIN, connect, free_port

FAILURES = Path(__file__).with_name("h2spec-failures.txt")
H2SPEC = os.environ.get("H2SPEC") or shutil.which("h2spec")

#: Of its 146 cases some wait for two seconds to see that nothing comes.
_LONGEST_RUN = 400.0

REPORT = """\
<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="8.1.2. HTTP Header Fields" package="http2/8.1.2" tests="1">
    <testcase package="http2/8.1.2" classname="one" time="0.1"><error>no &amp; no</error></testcase>
    <testcase package="http2/8.1.2" classname="&#34;two&#34;" time="0.1"></testcase>
    <testcase package="http2/8.1.2" classname="three" time="0.1"><skipped></skipped></testcase>
  </testsuite>
  <testsuite name="1. Starting HTTP/2" package="generic/1" tests="2">
    <testcase package="generic/1" classname="same" time="0.1"><failure>no</failure></testcase>
    <testcase package="generic/1" classname="same" time="0.1"><failure>no</failure></testcase>
  </testsuite>
</testsuites>
"""


def failures_of(report: str) -> Counter[str]:
    """The cases that fail in a JUnit report of h2spec; two of them may have one name."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    assert cases
    return Counter(
        f"{case.attrib['package']}: {case.attrib['classname']}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    )


def listed() -> Counter[str]:
    """The cases that `FAILURES` lists."""
    lines = FAILURES.read_text().splitlines()
    return Counter(line for line in lines if line and not line.startswith("#"))


def test_failures_are_read() -> None:
    """Whichever way they are written, and each as often as it is there."""
    assert failures_of(REPORT) == {"http2/8.1.2: one": 1, "generic/1: same": 2}


def test_each_has_a_reason() -> None:
    """The list begins with words, and has a reason above each group of lines."""
    head, *groups = FAILURES.read_text().split("\n\n")
    assert head.startswith("#")
    assert all(group.startswith("#") for group in groups)
    assert listed()


@pytest.mark.skipif(H2SPEC is None, reason="no h2spec: it is built with go (see .ci/run)")
def test_h2spec(tmp_path: Path) -> None:
    """A new failure fails here, and a mended one too, so that the list stays true."""
    keys, report, port = tmp_path / "both.pem", tmp_path / "report.xml", free_port()
    keys.write_bytes(pem())
    (tmp_path / "index.html").write_text("hello\n")
    endpoint = f"ssl:{port}:privateKey={keys}:certKey={keys}:interface=127.0.0.1"
    server = [str(BIN / "twistd"), "-n", f"--pidfile={tmp_path / 'pid'}", "hangup"]
    with (
        open(tmp_path / "log", "wb") as log,
        subprocess.Popen(
            [*server, f"--port={endpoint}", f"--path={tmp_path}"], stdout=log, stderr=log
        ) as process,
    ):
        try:
            connect(port).close()
            assert H2SPEC is not None
            command = [H2SPEC, "-t", "-k", "-h", "127.0.0.1", "-p", str(port), "-j", str(report)]
            run = subprocess.run(
                command, capture_output=True, text=True, timeout=_LONGEST_RUN, check=False
            )
        finally:
            process.kill()
    assert report.exists(), run.stdout + run.stderr
    assert failures_of(report.read_text()) == listed()
