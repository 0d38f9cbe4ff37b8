"""The addresses that a server is reached at: few, and one object each."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

AddressT = TypeVar("AddressT")


@lru_cache(maxsize=64)
def shared_address(address: AddressT) -> AddressT:
    """An address that equals *address*, the same one for connections to the same place.

    A transport makes an address each time that it is asked, of 200 bytes.
    """
    return address
