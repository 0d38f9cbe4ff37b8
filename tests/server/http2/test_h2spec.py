"""h2spec itself, where there is one, against a real ``twistd hangup`` over TLS.

``$H2SPEC`` names the program, or it is on ``PATH``.  `test_conformance.py` has its cases without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from support.h2spec import h2_server
from support.h2spec_cases import FAILURES

H2SPEC = os.environ.get("H2SPEC") or shutil.which("h2spec")

#: Some of its cases wait for two seconds to see that nothing comes.  Shorter than what pytest
#: gives a test (``faulthandler_timeout``).
_LONGEST_RUN = 250.0

REPORT = """\
<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="8.1.2. HTTP Header Fields" package="http2/8.1.2" tests="1">
    <testcase package="http2/8.1.2" classname="one" time="0.1"><error>no &amp; no</error></testcase>
    <testcase package="http2/8.1.2" classname="&#34;two&#34;" time="0.1"></testcase>
    <testcase package="http2/8.1.2" classname="three" time="0.1"><skipped></skipped></testcase>
  </testsuite>
  <testsuite name="1. Starting HTTP/2" package="generic/1" tests="2">
    <testcase package="generic/1" classname="same" time="0.1"></testcase>
    <testcase package="generic/1" classname="same" time="0.1"><failure>no</failure></testcase>
  </testsuite>
</testsuites>
"""


def failures_of(report: str) -> set[str]:
    """The ids of the cases that fail in a JUnit report of h2spec, which has them in order."""
    failures, cases = set(), Counter[str]()
    for case in ElementTree.fromstring(report).iter("testcase"):
        package = case.attrib["package"]
        cases[package] += 1
        if case.find("failure") is not None or case.find("error") is not None:
            failures.add(f"{package}/{cases[package]}")
    assert cases
    return failures


def test_failures_are_read() -> None:
    """Whichever way they are written, and though two cases may have one name."""
    assert failures_of(REPORT) == {"http2/8.1.2/1", "generic/1/2"}


if H2SPEC is not None:

    def test_h2spec(tmp_path: Path) -> None:
        """A new failure fails here, and a mended one too, so that the list stays true."""
        report = tmp_path / "report.xml"
        with h2_server(tmp_path) as port:
            options = ["-t", "-k", "-h", "127.0.0.1", "-p", str(port), "-j", str(report)]
            run = subprocess.run(
                [str(H2SPEC), *options],
                capture_output=True,
                text=True,
                timeout=_LONGEST_RUN,
                check=False,
            )
        assert report.exists(), run.stdout + run.stderr
        assert failures_of(report.read_text()) == FAILURES
