"""Who turns up most often among more names than there is memory for."""

from __future__ import annotations

from heapq import nsmallest


class Top:
    """The keys that were added most often: Space-Saving with a bucket for each count.

    Once there are *room* keys, a new one takes the place of one that has been added least,
    and inherits its count.  So every key that makes up more than one in *room* of all is
    there.  (Metwally, Agrawal, El Abbadi: "Efficient computation of frequent and top-k
    elements in data streams", 2005.)

    What is told of a key is without what it has inherited, so it may be less than the truth
    and is never more: a million peers with one error each are told as that, and not as a
    thousand with a thousand each.
    """

    __slots__ = ("_by_count", "_counts", "_inherited", "_least", "_room")

    def __init__(self, room: int) -> None:
        self._room = room
        self._counts: dict[str, int] = {}
        #: Where a count did not begin at 0: where it did.
        self._inherited: dict[str, int] = {}
        #: Dictionaries, because a set cannot give up its youngest member in no time.
        self._by_count: dict[int, dict[str, None]] = {}
        self._least = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: str) -> None:
        """Count *key* once more, in constant time."""
        counts, by_count = self._counts, self._by_count
        count = counts.get(key, 0)
        if count:
            del by_count[count][key]
        elif len(counts) < self._room:
            self._least = 1
        else:
            count = self._least
            replaced, _ = by_count[count].popitem()
            del counts[replaced]
            self._inherited.pop(replaced, None)
            self._inherited[key] = count
        if count and not by_count[count]:
            del by_count[count]
            if count == self._least:
                self._least = count + 1
        counts[key] = count + 1
        by_count.setdefault(count + 1, {})[key] = None

    def most(self, number: int) -> tuple[tuple[str, int], ...]:
        """The *number* of keys with the most, and how often each was added at least."""
        told = ((key, count - self._inherited.get(key, 0)) for key, count in self._counts.items())
        return tuple(nsmallest(number, told, key=lambda pair: (-pair[1], pair[0])))
