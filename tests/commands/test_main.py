"""``python -m twisted_hangup``: what all its commands have in common."""

from __future__ import annotations

import pytest

from twisted_hangup.__main__ import main
from twisted_hangup.commands.versions import versions


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [("explian", "explain"), ("outbx", "outbox"), ("outbox file lst", "list")],
)
def test_command_that_is_none(
    arguments: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    problem = capsys.readouterr().err
    assert end.value.code == 2
    assert problem.endswith(f": did you mean {meant}?\n")
    assert problem.count("\n") == 1


def test_command_like_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve"])
    assert "did you mean" not in capsys.readouterr().err


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    """They are those of ``twistd hangup --version``."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert not end.value.code
    assert capsys.readouterr().out == versions()


def test_help_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "``" not in capsys.readouterr().out
