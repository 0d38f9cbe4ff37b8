"""Fixtures and hooks of every test."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from cleanliness import expected_errors as expected_errors
from cleanliness import nothing_left_behind as nothing_left_behind
from cleanliness import small_heap as small_heap


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let a hypothesis test have parameters.

    pytest-twisted 1.14 wraps the function behind ``@given`` at each call and never unwraps
    it: the second parameter would run the reactor inside the reactor.
    """
    given = getattr(pyfuncitem.obj, "hypothesis", None)
    if given is None:
        return (yield)
    inner_test = given.inner_test
    try:
        return (yield)
    finally:
        given.inner_test = inner_test
