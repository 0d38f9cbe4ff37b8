"""What a client that sends one byte per read costs, for heads of growing size.

    python -m benchmarks.heads

Each row doubles the head.  A parser that looks at each byte once doubles its time, too:
the last column stays near 2.  Also printed: what a whole head in one read costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import perf_counter

from twisted_hangup.limits import KIB, Limits
from twisted_hangup.parser import RequestParser

SIZES = [4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB]
ROUNDS = 5
_UNLIMITED = Limits(head_bytes=1 << 30, head_fields=0)

#: 16 fields and about 730 bytes, as a browser sends them.
BROWSER_GET = (
    b"GET /articles/2024/an-example?ref=home HTTP/1.1\r\n"
    b"Host: www.example.com\r\n"
    b"Connection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="124", "Not-A.Brand";v="99"\r\n'
    b"sec-ch-ua-mobile: ?0\r\n"
    b'sec-ch-ua-platform: "Linux"\r\n'
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/124.0 Safari/537.36\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"Sec-Fetch-User: ?1\r\n"
    b"Sec-Fetch-Dest: document\r\n"
    b"Referer: https://www.example.com/\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef; "
    b"theme=dark; seen=1700000000\r\n\r\n"
)


def one_line(size: int) -> bytes:
    """A head of *size* bytes, nearly all of them one value."""
    frame = b"GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n"
    return frame.replace(b"X: ", b"X: " + b"x" * (size - len(frame)))


def many_lines(size: int) -> bytes:
    """A head of *size* bytes in lines of 32."""
    start, line = b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-Field: " + b"x" * 21 + b"\r\n"
    count, rest = divmod(size - len(start) - 2, len(line))
    return start + line * (count - 1) + line.replace(b"xx", b"x" * (rest + 2), 1) + b"\r\n"


def bytewise(head: bytes) -> None:
    """Read *head* as if each of its bytes came alone."""
    parser = RequestParser(_UNLIMITED)
    for at in range(len(head)):
        parser.receive(head[at : at + 1])
        parser.next_event()
    assert parser.phase == "body"


def seconds(work: Callable[[], object]) -> float:
    """The time *work* takes, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = perf_counter()
        work()
        best = min(best, perf_counter() - start)
    return best


def table(label: str, make: Callable[[int], bytes]) -> None:
    """Print the cost of the heads that *make* gives, one size a row."""
    print(f"{label}, one byte per read:")
    print(f"{'head':>8} {'total':>10} {'per byte':>10} {'ratio':>7}")
    before = 0.0
    for size in SIZES:
        head = make(size)
        assert len(head) == size
        took = seconds(partial(bytewise, head))
        ratio = f"{took / before:7.2f}" if before else ""
        print(f"{size // KIB:4} KiB {took * 1e3:7.2f} ms {took / size * 1e6:7.3f} us {ratio}")
        before = took


def whole(label: str, parser_of: Callable[[], RequestParser], count: int = 20_000) -> None:
    """Print what head and end of `BROWSER_GET` cost, read in one piece."""

    def work() -> None:
        parser = parser_of()
        for _ in range(count):
            parser.receive(BROWSER_GET)
            parser.next_event()
            parser.next_event()

    print(f"{label:32} {seconds(work) / count * 1e6:6.2f} us")


class Forgetful(RequestParser):
    """A parser that meets every field block for the first time."""

    def receive(self, data: bytes) -> None:
        self._block = None
        super().receive(data)


def main() -> None:
    table("a head of one long line", one_line)
    table("a head of many lines", many_lines)
    print(f"a GET of {len(BROWSER_GET)} bytes and 16 fields in one read:")
    whole("  fields as in the request before", RequestParser)
    whole("  fields new", Forgetful)


if __name__ == "__main__":
    main()
