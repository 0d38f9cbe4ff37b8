"""Lean TLS is Twisted's TLS: whatever comes and however it is cut, the same comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import groupby, pairwise
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from support.certificates import server_context
from support.cleanliness import LoggedErrors
from support.tls_records import (
    ALERT,
    APPLICATION_DATA,
    CLOSE_NOTIFY,
    HANDSHAKE,
    HEADER,
    KEY_UPDATE,
    KEY_UPDATE_REQUESTED,
    Conversation,
    Lines,
    joint_writes,
    reactor,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import (
    BufferingTLSTransport,
    TLSMemoryBIOFactory,
    TLSMemoryBIOProtocol,
)
from twisted.python.failure import Failure
from zope.interface import providedBy

from twisted_hangup.transport.endpoint import _wrapper
from twisted_hangup.transport.lean_tls import _TURN_BYTES, LARGEST_PIECE, LeanTLS, adopt_tls, lean
from twisted_hangup.transport.sockets import TellingSocket, adopted
from twisted_hangup.transport.tls import HangupTLS


class OverTwisted(HangupTLS, BufferingTLSTransport):
    """What an endpoint of ours makes of Twisted's class, but for the lean part."""


#: What is compared: Twisted's transport, and what ours is to begin with.
PAIRS: Final = {
    "bare port": (BufferingTLSTransport, BufferingTLSTransport),
    "hangup_endpoint": (OverTwisted, _wrapper(BufferingTLSTransport)),
}

pairs = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


class Sent(NamedTuple):
    """One record of a client of TLS 1.3."""

    data: bytes
    kind: int = APPLICATION_DATA
    padding: int = 0
    #: What becomes of it on its way.
    changed: Callable[[bytes], bytes] = bytes

    def __repr__(self) -> str:
        return f"{self.kind}:{self.data[:10]!r}*{len(self.data)}+{self.padding}"


def bit_flipped(record: bytes) -> bytes:
    return record[:-1] + bytes([record[-1] ^ 1])


def in_plain(record: bytes) -> bytes:
    """An alert that is not protected, in the place of *record*."""
    return b"\x15\x03\x03\x00\x02" + CLOSE_NOTIFY


def too_long(record: bytes) -> bytes:
    return b"\x17\x03\x03\xff\xff" + record


WHOLE: Final = st.sampled_from([0, 1, 5, 40, 300, 16_383, 16_384]).map(
    lambda size: Sent(b"x" * size)
)
ORDERS: Final = st.sampled_from([b"later", b"much", b"close", b"abort"]).map(Sent)
PADDED: Final = st.integers(0, 300).map(lambda padding: Sent(b"padded", padding=padding))
OF_TLS: Final = st.sampled_from(
    [Sent(KEY_UPDATE, HANDSHAKE), Sent(KEY_UPDATE_REQUESTED, HANDSHAKE), Sent(CLOSE_NOTIFY, ALERT)]
)
BROKEN: Final = st.sampled_from(
    [
        Sent(b"x", changed=bit_flipped),
        Sent(b"x", changed=in_plain),
        Sent(b"x", changed=too_long),
        Sent(b"\x02\x0a", ALERT),  # unexpected_message
        Sent(b"\x01\x5a", ALERT),  # user_canceled, which is no end
        Sent(b"\x04\x00\x00\x00", HANDSHAKE),  # a session ticket for the server
        Sent(b"x", 99),
        Sent(b"GET / HTTP/1.1\r\n\r\n", changed=lambda record: b"GET / HTTP/1.1\r\n\r\n"),
    ]
)
RECORDS: Final = st.lists(st.one_of(WHOLE, WHOLE, ORDERS, PADDED, OF_TLS, BROKEN), max_size=8)


def wire(conversation: Conversation, sent: Iterable[Sent]) -> list[bytes]:
    """What the client sends, record by record."""
    records = []
    for data, kind, padding, changed in sent:
        records.append(changed(conversation.protection.record(data, kind, padding)))
        if kind == HANDSHAKE and data in (KEY_UPDATE, KEY_UPDATE_REQUESTED):
            conversation.protection = conversation.protection.updated()
    return records


def cut(wire: bytes, cuts: Iterable[int]) -> list[bytes]:
    return [wire[a:b] for a, b in pairwise([0, *sorted({*cuts} - {0, len(wire)}), len(wire)])]


def outcome(conversation: Conversation, pieces: Iterable[bytes]) -> list[object]:
    """What came of each of *pieces*, and of the client's end: at the server and at the client."""
    steps: list[object] = []
    for piece in pieces:
        conversation.send(piece)
        steps.append(([*conversation.events], joined(conversation.opened())))
    conversation.socket.close()
    conversation.turn()
    return [*steps, conversation.events]


def joined(records: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """*records* with the data that one after the other carries put together.

    How it is cut into records depends on what else the turns of a reactor hold.
    """
    return [
        (kind, b"".join(data for _, data in group))
        for kind, group in groupby(records, key=itemgetter(0))
    ]


@pairs
@given(st.data())
def test_however_it_is_cut(pair: tuple[Any, Any], data: st.DataObject) -> None:
    """The protocol and the client get what they get from Twisted's class, read by read."""
    sent = data.draw(RECORDS)
    outcomes = []
    cuts: list[int] | None = None
    for kind, ours in zip(pair, (False, True), strict=True):
        with Conversation(kind, lean=ours) as conversation:
            records = wire(conversation, sent)
            ends = [sum(map(len, records[:n])) for n in range(len(records) + 1)]
            if cuts is None:  # most reads are whole records, and some end anywhere
                anywhere = st.lists(st.integers(0, ends[-1]), max_size=4)
                cuts = data.draw(st.lists(st.sampled_from(ends))) + data.draw(anywhere)
            outcomes.append(outcome(conversation, cut(b"".join(records), cuts)))
    assert outcomes[0] == outcomes[1]


LONG: Final = st.just(Sent(b"y" * 16_384))
IN_BODY: Final = st.lists(
    st.one_of(LONG, LONG, LONG, LONG, WHOLE, PADDED, OF_TLS, BROKEN), min_size=5, max_size=16
)


@given(st.data())
def test_bodies_however_they_are_cut(data: st.DataObject) -> None:
    """Of a body, which is delivered in larger pieces, it gets what it gets from Twisted's."""
    sent = data.draw(IN_BODY)
    outcomes = []
    cuts: list[int] | None = None
    for ours in (False, True):
        with Conversation(BufferingTLSTransport, lean=ours) as conversation:
            records = b"".join(wire(conversation, sent))
            if cuts is None:
                cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=3))
            for piece in cut(records, cuts):
                if piece and conversation.server._tlsConnection is not None:  # it is not lost
                    conversation.server.transport.in_body = True
                    conversation.server.dataReceived(piece)
                    conversation.turn()
            conversation.socket.close()
            conversation.turn()
            octets = [event for event in conversation.events if isinstance(event, bytes)]
            outcomes.append((b"".join(octets), conversation.events[len(octets) :]))
    assert outcomes[0] == outcomes[1]


class Case(NamedTuple):
    """Records by reads, what the server's protocol gets, and the records of the answer."""

    why: str
    reads: Sequence[Sequence[Sent]]
    events: list[object]
    answers: list[tuple[int, bytes]]


HELLO: Final = Sent(b"hello")
ANSWER: Final = (APPLICATION_DATA, b"5 bytes: hello")
NOTIFIED: Final = (ALERT, CLOSE_NOTIFY)
DONE: Final = ("ConnectionDone", ())
UPDATE, REQUEST = Sent(KEY_UPDATE, HANDSHAKE), Sent(KEY_UPDATE_REQUESTED, HANDSHAKE)

#: What TLS 1.3 adds to the data of a record: its content type, and the tag of AES-GCM.
OVERHEAD: Final = 17

CASES: Final = [
    Case("one record", [[HELLO], [HELLO]], [b"hello", b"hello"], [ANSWER, ANSWER]),
    Case(
        "answers to one read leave in one record",
        [[HELLO, HELLO]],
        [b"hello", b"hello"],
        [(APPLICATION_DATA, b"5 bytes: hello" * 2)],
    ),
    Case("one byte", [[Sent(b"x")]], [b"x"], [(APPLICATION_DATA, b"1 bytes: x")]),
    Case(
        "the longest record",
        [[Sent(b"x" * 16_384)]],
        [b"x" * 16_384],
        [(APPLICATION_DATA, b"16384 bytes: xxxxxxxxxx")],
    ),
    Case("an empty record", [[Sent(b"")], [HELLO]], [b"hello"], [ANSWER]),
    Case("padding", [[HELLO._replace(padding=99)]], [b"hello"], [ANSWER]),
    Case("a KeyUpdate", [[UPDATE], [HELLO]], [b"hello"], [ANSWER]),
    Case(
        "data and a KeyUpdate",
        [[HELLO, UPDATE, HELLO]],
        [b"hello"] * 2,
        [(APPLICATION_DATA, b"5 bytes: hello" * 2)],
    ),
    Case(
        "a KeyUpdate that wants one",
        [[REQUEST], [HELLO], [HELLO]],
        [b"hello", b"hello"],
        [(HANDSHAKE, KEY_UPDATE), ANSWER, ANSWER],
    ),
    Case("close_notify", [[Sent(CLOSE_NOTIFY, ALERT)]], [DONE], [NOTIFIED]),
    Case(
        "data and close_notify in one read",
        [[HELLO, Sent(CLOSE_NOTIFY, ALERT)]],
        [b"hello", DONE],
        [NOTIFIED],
    ),
    Case(
        "an order to close", [[Sent(b"close")]], [b"close"], [(APPLICATION_DATA, b"bye"), NOTIFIED]
    ),
    Case("written after the turn", [[Sent(b"later")]], [b"later"], [(APPLICATION_DATA, b"now")]),
    Case(
        "an order to abort",
        [[Sent(b"abort")], [HELLO]],
        [b"abort", ("ConnectionLost", ("Connection lost",))],
        [],
    ),
]


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Twisted's"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_reads(case: Case, lean: bool) -> None:
    """What comes of each kind of read; of Twisted's own class too, or it would be no promise."""
    with Conversation(lean=lean) as conversation:
        for read in case.reads:
            conversation.send(b"".join(wire(conversation, read)))
        assert (conversation.events, conversation.opened()) == (case.events, case.answers)


@pytest.mark.parametrize("cut", [2, 4, 5, 1_000])
def test_rest_that_looks_like_a_whole_record(cut: int) -> None:
    """Where a part of a record has come before, the rest is no record, whatever it looks like.

    Taken for one it would leave what comes after it in OpenSSL until the next read.
    """
    first, second = bytes(3_000), b"hello"
    with Conversation(lean=True) as conversation:
        protection = conversation.protection
        rest = HEADER + len(first) + OVERHEAD - cut + HEADER + len(second) + OVERHEAD
        length = (rest - HEADER).to_bytes(2, "big")
        records = protection.record_with(length, cut + 3, first) + protection.record(second)
        conversation.send(records[:cut], records[cut:])
        assert [len(data) for data in conversation.events] == [len(first), len(second)]


@pytest.mark.parametrize("cut", range(1, 60))
def test_what_is_no_record_has_no_end(cut: int) -> None:
    """After an SSLv2 ClientHello, which older versions of OpenSSL take, nothing is one record."""
    hello = b"\x80\x2e\x01\x03\x03" + bytes(43)
    transport: Any = lean(BufferingTLSTransport).__new__(lean(BufferingTLSTransport))
    for piece in (hello[:cut], hello[cut:], b"\x17\x03\x03\x00\x01x" * 20):
        transport._follow(piece)
    assert transport._missing > 1 << 60


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Twisted's"])
@pytest.mark.parametrize("over", ["_aborted", "_lostTLSConnection"])
def test_nothing_is_heard_after_the_end(over: str, lean: bool) -> None:
    """A transport that still delivers is not listened to."""
    with Conversation(lean=lean) as conversation:
        setattr(conversation.server, over, True)
        conversation.server.dataReceived(conversation.protection.record(b"hello"))
        assert conversation.events == []


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Twisted's"])
def test_what_waits_is_sent_first(lean: bool) -> None:
    """What OpenSSL would not take goes out with the next read, before the answer to that."""
    with Conversation(lean=lean) as conversation:
        conversation.server._bufferedWrite(b"waits")
        conversation.send(conversation.protection.record(b"hello"))
        assert conversation.opened() == [(APPLICATION_DATA, b"waits"), ANSWER]


# The handshake.


@pairs
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pytest.mark.parametrize("cut", [0, 1, 5, 6, 50])
def test_handshake_however_it_is_cut(pair: tuple[Any, Any], version: int, cut: int) -> None:
    """It is Twisted's to make, also where a read is one record: Finished without what is before."""
    with Conversation(pair[1], lean=True, version=version, cut=cut) as conversation:
        assert conversation.server._handshakeDone


@pairs
def test_handshake_leaves_at_once(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server has to say in it takes no turn of the reactor."""
    asked: Counter[str] = Counter()
    kind = type(reactor())
    monkeypatch.setattr(kind, "addWriter", counted(asked, kind.addWriter))
    with Conversation(pair[1], lean=True):
        assert not asked


def test_begins_as_twisteds() -> None:
    """Our short way to begin leaves what Twisted's leaves."""
    kinds = (BufferingTLSTransport, lean(BufferingTLSTransport))
    with Conversation(kinds[0], lean=False) as theirs, Conversation(kinds[1], lean=False) as ours:
        assert [*providedBy(theirs.server)] == [*providedBy(ours.server)]
        assert vars(theirs.server).keys() <= vars(ours.server).keys()
        assert ours.server.connected
        assert theirs.factory.protocols.keys() == {theirs.server}
        assert ours.factory.protocols.keys() == {ours.server}


@pytest.mark.parametrize(
    "name",
    [
        *("_aborted", "_aggregator", "_appSendBuffer", "_checkHandshakeStatus"),
        *("_connectWrapped", "_flushReceiveBIO", "_handshakeDone", "_lostTLSConnection"),
        *("_reason", "_tlsConnection", "_tlsShutdownFinished", "factory._creatorCallable"),
    ],
)
def test_private_names_of_twisted(name: str) -> None:
    """Twisted still has what is used of its insides here; a new one may call it otherwise."""
    with Conversation(lean=False) as conversation:
        attrgetter(name)(conversation.server)


def test_in_the_place_of_twisteds_buffer() -> None:
    """Ours has all that Twisted's buffer of small writes has, and takes as much."""
    with Conversation(lean=False) as theirs, Conversation(lean=True) as ours:
        buffer: Any = theirs.server._aggregator
        names = {name for name in dir(buffer) if not name.startswith("_")} - {"MAX_BUFFER_SIZE"}
        assert names >= {"write", "flush"}
        assert names <= {*dir(ours.server._aggregator)}
        assert buffer.MAX_BUFFER_SIZE == _TURN_BYTES


def test_client_of_tls_begins() -> None:
    """A port may play the client of TLS: it speaks first."""
    factory = TLSMemoryBIOFactory(
        optionsForClientTLS("localhost"), True, Factory.forProtocol(Protocol), Clock()
    )
    factory.protocol = lean(BufferingTLSTransport)
    transport = StringTransport()
    factory.buildProtocol(None).makeConnection(transport)
    assert transport.value()[0] == HANDSHAKE


def test_server_waits_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL makes no buffers for a client that may never send a byte."""
    asked: Counter[str] = Counter()
    do_handshake = counted(asked, SSL.Connection.do_handshake)
    monkeypatch.setattr(SSL.Connection, "do_handshake", do_handshake)
    factory = TLSMemoryBIOFactory(server_context(), False, Factory.forProtocol(Protocol), Clock())
    factory.protocol = lean(BufferingTLSTransport)
    transport = factory.buildProtocol(None)
    transport.makeConnection(StringTransport())
    assert not asked
    transport.dataReceived(b"\x16")
    assert asked


# TLS 1.2, where the content type is not protected.


def data(client: SSL.Connection) -> None:
    client.send(b"hello")


def longest(client: SSL.Connection) -> None:
    client.send(b"x" * 16_384)


def renegotiation(client: SSL.Connection) -> None:
    client.renegotiate()
    with suppress(SSL.WantReadError):
        client.do_handshake()


@pytest.mark.parametrize("cut", [None, 1, 5, 20])
@pytest.mark.parametrize("end", [SSL.Connection.shutdown, renegotiation])
def test_version_1_2(end: Callable[[SSL.Connection], object], cut: int | None) -> None:
    """Data, close_notify and a renegotiation, which is refused: as with Twisted's class."""
    outcomes = []
    for ours in (False, True):
        with Conversation(lean=ours, version=SSL.TLS1_2_VERSION) as conversation:
            steps: list[object] = []
            for send in (data, longest, data, end):
                send(conversation.client)
                record = conversation.output()
                conversation.send(*([record] if cut is None else [record[:cut], record[cut:]]))
                answers = conversation.records()
                steps.append(([*conversation.events], [(one[0], len(one)) for one in answers]))
            assert answers[-1][0] == ALERT
            outcomes.append(steps)
    assert outcomes[0] == outcomes[1]
    assert outcomes[1][0] == ([b"hello"], [(APPLICATION_DATA, 43)])


# How much is asked of OpenSSL and of the reactor.


class Counting:
    """A connection of OpenSSL that counts what it is asked."""

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self.connection, name)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pairs
def test_one_step(pair: tuple[Any, Any], version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request takes one call of OpenSSL for each thing that is to do, and one of the kernel.

    Twisted's class asks OpenSSL twice for data and twice for records, and the reactor for two
    turns: to encrypt in, and to send in.
    """
    with Conversation(pair[1], lean=True, version=version) as conversation:
        conversation.server._tlsConnection = counting = Counting(conversation.server.getHandle())
        asked: Counter[str] = Counter()
        for kind, name in (
            (TellingSocket, "send_joined"),
            (TellingSocket, "writeSomeData"),
            (type(reactor()), "addWriter"),
            (type(reactor()), "callLater"),
        ):
            monkeypatch.setattr(kind, name, counted(asked, getattr(kind, name)))
        if version == SSL.TLS1_2_VERSION:
            data(conversation.client)
            conversation.send(conversation.output())
        else:
            conversation.send(conversation.protection.record(b"hello"))
        assert len(conversation.records()) == 1
        assert counting.calls == {"bio_write": 1, "recv": 1, "send": 1, "bio_read": 1}
        assert asked == {"callLater": 1, "send_joined": 1, "writeSomeData": 1}


def test_records_that_wait() -> None:
    """No more is kept of a record than where it ends, and that until it is asked for."""
    with Conversation(PAIRS["hangup_endpoint"][1], lean=True) as conversation:
        written = conversation.server._aggregator
        assert not hasattr(written, "__dict__")
        assert type(written._marks) is list  # an empty deque takes 760 bytes
        for _ in range(3):
            conversation.send(conversation.protection.record(b"hello"))
        conversation.read()
        assert len(written._marks) == 1
        assert written.taken == 3 * len(b"5 bytes: hello")
        assert not written._marks and not written.unsent


@pairs
def test_nothing_is_sent_after_an_abort(pair: tuple[Any, Any]) -> None:
    """What TLS had to say is dropped with the rest, as by Twisted."""
    outcomes = []
    for kind, ours in zip(pair, (False, True), strict=True):
        with Conversation(kind, lean=ours) as conversation:
            messages = [Sent(KEY_UPDATE_REQUESTED, HANDSHAKE), Sent(KEY_UPDATE, HANDSHAKE)]
            sent = [Sent(b"abort"), *messages]
            outcomes.append(outcome(conversation, [b"".join(wire(conversation, sent))]))
    assert outcomes[0] == outcomes[1]


@pairs
def test_end_between_records(pair: tuple[Any, Any]) -> None:
    """What the end of the client's bytes means is clear, unless they end inside of a record."""
    for rest, asked in ((b"", set()), (b"\x17", {"bio_shutdown", "recv"})):
        with Conversation(pair[1], lean=True) as conversation:
            conversation.send(conversation.protection.record(b"hello"), rest)
            conversation.read()
            counting = Counting(conversation.server.getHandle())
            conversation.server._tlsConnection = counting
            conversation.socket.close()
            conversation.turn()
            assert conversation.events[-1][0] in ("ConnectionLost", "EndedWithoutNotify")
            assert asked <= counting.calls.keys() and bool(asked) is bool(counting.calls)


def test_protocol_is_asked_for_once() -> None:
    """OpenSSL is asked for the ALPN protocol once, even if there is none."""
    with Conversation(PAIRS["hangup_endpoint"][1], lean=True) as conversation:
        conversation.server._tlsConnection = counting = Counting(conversation.server.getHandle())
        assert conversation.server.negotiatedProtocol is None
        assert conversation.server.negotiatedProtocol is None
        assert counting.calls == {"get_alpn_proto_negotiated": 1}


def counted(calls: Counter[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls[function.__name__] += 1
        return function(*arguments)

    return call


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Twisted's"])
@pytest.mark.parametrize(("size", "sent"), [(64_000, 0), (64_001, 4)])
def test_much_in_one_turn(size: int, sent: int, lean: bool) -> None:
    """What was written does not wait for the end of the turn where it is too much to keep."""
    with Conversation(lean=lean) as conversation:
        server = conversation.server
        server._tlsConnection = counting = Counting(server.getHandle())
        server.write(b"x")
        server.write(bytes(size - 1))
        assert counting.calls["send"] == sent
        conversation.turn()
        assert sum(len(data) for _, data in conversation.opened()) == size


@pytest.mark.parametrize("name", ["flush", "close"])
def test_encrypted_before_the_end(name: str) -> None:
    """Twisted can have what was written encrypted before it goes on."""
    with Conversation(lean=True) as conversation:
        server = conversation.server
        server._tlsConnection = counting = Counting(server.getHandle())
        server.write(b"x")
        getattr(server._aggregator, name)()
        assert counting.calls["send"] == 1


def test_what_is_no_bytes() -> None:
    """Whoever writes it hears of it; with Twisted's from 26.10 on."""
    with Conversation(lean=True) as conversation, pytest.raises(TypeError):
        conversation.server.write("hello")


# Room.


def test_large_reads_are_decrypted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL's buffer would keep the size of the largest read while the connection is open."""
    sizes: list[int] = []
    with Conversation(lean=True) as conversation:
        write = conversation.server._tlsConnection.bio_write
        connection = conversation.server._tlsConnection

        def bio_write(data: bytes) -> int:
            sizes.append(len(data))
            return int(write(data))

        monkeypatch.setattr(connection, "bio_write", bio_write)
        records = b"".join(conversation.protection.record(b"x" * 9000) for _ in range(30))
        conversation.server.dataReceived(records)
        assert conversation.events == [b"x" * 9000] * 30
    assert max(sizes) == LARGEST_PIECE and sum(sizes) == len(records)


@pairs
def test_push_producer(pair: tuple[Any, Any]) -> None:
    """A producer is paused while the client reads nothing, and goes on when it does."""
    with Conversation(pair[1], lean=True) as conversation:
        conversation.send(conversation.protection.record(b"lines"))
        lines = conversation.server.transport.producer._producer
        assert isinstance(lines, Lines)
        assert lines.paused and lines.left > 50_000
        opened = conversation.opened()
        assert opened.pop() == (ALERT, CLOSE_NOTIFY)
        content = b"".join(data for _, data in opened)
        assert content == b"".join(b"%07d\n" % number for number in range(200_000, 0, -1))


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "Twisted's"])
def test_producer_that_writes_when_there_is_room(lean: bool) -> None:
    """What it writes while something is being sent is sent after that."""
    with Conversation(lean=lean) as conversation:
        conversation.send(conversation.protection.record(b"fills"))
        sent = b"".join(data for _, data in conversation.opened())
        assert sent == b"more than thatroom"


def test_producer_that_breaks(expected_errors: LoggedErrors) -> None:
    """It costs its own connection, as on a plain one, and no other."""
    with Conversation(lean=True) as conversation, Conversation(lean=True) as other:
        conversation.socket.sendall(conversation.protection.record(b"breaks"))
        other.send(other.protection.record(b"hello"))
        assert other.opened() == [ANSWER]
        assert conversation.events == [b"breaks", ("ZeroDivisionError", ())]
        assert not conversation.opened()
    assert len(expected_errors.flush(ZeroDivisionError)) == 1


# Which transports are lean.


class ReadsItself(BufferingTLSTransport):
    """An application's own way to read."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)


class BeginsItself(BufferingTLSTransport):
    """An application's own way to begin."""

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)


class Counts(BufferingTLSTransport):
    """Has more to do when a connection ends, and reads as Twisted does."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)


@pytest.mark.parametrize("kind", [BufferingTLSTransport, Counts])
def test_port_makes_lean_ones(kind: Any) -> None:
    """The first connection of a port is changed, and the port makes the others so itself."""
    with Conversation(kind, lean=True) as conversation:
        assert type(conversation.server) is conversation.factory.protocol is lean(kind)
        assert issubclass(lean(kind), LeanTLS) and issubclass(lean(kind), kind)
        assert lean(lean(kind)) is lean(kind)


@pytest.mark.parametrize("kind", [ReadsItself, BeginsItself, TLSMemoryBIOProtocol])
def test_others_are_left_as_they_are(kind: Any) -> None:
    """Those whose application reads or begins in a way of its own; those that do not buffer."""
    assert lean(kind) is kind
    with Conversation(kind, lean=True) as conversation:
        assert type(conversation.server) is conversation.factory.protocol is kind
        conversation.send(conversation.protection.record(b"hello"))
        assert b"".join(data for _, data in conversation.opened()) == b"5 bytes: hello"


class WritesItself(BufferingTLSTransport):
    """Has a `write` of its own, which Twisted's buffer is not to have."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.write = lambda data: TLSMemoryBIOProtocol.write(self, data)  # type: ignore[method-assign]


def test_write_of_an_application() -> None:
    """It stays; what comes is read in the lean way."""
    with Conversation(WritesItself, lean=True) as conversation:
        conversation.send(conversation.protection.record(b"hello"))
        assert conversation.opened() == [
            (APPLICATION_DATA, b"5 bytes: "),
            (APPLICATION_DATA, b"hello"),
        ]


def test_what_was_written_before() -> None:
    """What Twisted's buffer has already goes out before what is written to ours."""
    with Conversation(lean=False) as conversation:
        server = conversation.server
        server.write(b"first ")
        socket: Any = adopted(server.transport)
        adopt_tls(server, socket, joint_writes())
        server.write(b"second")
        server.loseConnection()
        conversation.turn()
        assert joined(conversation.opened()) == [(APPLICATION_DATA, b"first second"), NOTIFIED]


def test_start_tls() -> None:
    """A transport that is put beneath a protocol that has begun does not begin it anew."""
    begun: list[object] = []

    class Notes(Protocol):
        def connectionMade(self) -> None:
            begun.append(self)

    kind: Any = lean(BufferingTLSTransport)
    factory = TLSMemoryBIOFactory(server_context(), False, Factory(), Clock())
    transport = kind(factory, Notes(), False)
    transport.makeConnection(StringTransport())
    assert not begun
    assert transport.getHandle().get_state_string()
