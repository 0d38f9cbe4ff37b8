"""Fixtures of every test."""

from cleanliness import expected_errors as expected_errors
from cleanliness import nothing_left_behind as nothing_left_behind
from cleanliness import small_heap as small_heap
