"""The GDB remote serial protocol without a stub: packets as bytes, and exchanges over a wire that a test scripts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.targets.rsp import (
    AS_EXPECTED,
    MOST_BYTES,
    Connection,
    ConnectionLostError,
    Decoder,
    Event,
    Found,
    frame,
    is_stop_reply,
    sum_of,
    unpack,
)
from tests.targets.clock import Clock

# As the GDB manual words it, "Overview": not the code under test.


def checksum(body: bytes) -> bytes:
    return b"%02x" % (sum(body) & 255)


def packed(body: bytes) -> bytes:
    return b"$" + body + b"#" + checksum(body)


def with_runs(payload: bytes) -> bytes:
    """Escaped, with runs of four and more equal bytes as a stub may write them."""
    out = b""
    at = 0
    while at < len(payload):
        run = 1
        while at + run < len(payload) and payload[at + run] == payload[at] and run < 98:
            run += 1
        byte = payload[at : at + 1]
        out += b"}" + bytes([byte[0] ^ 0x20]) if byte in b"#$}*" else byte
        repeats = run - 1
        if repeats >= 3 and repeats + 29 not in b"#$+-":
            out += b"*" + bytes([repeats + 29])
            at += run
        else:
            at += 1
    return out


@given(st.binary(max_size=300))
def test_a_frame_holds_its_payload(payload: bytes) -> None:
    framed = frame(payload)
    assert framed[:1] == b"$"
    assert framed[-3:] == b"#" + checksum(framed[1:-3])
    assert not set(framed[1:-3]) & set(b"#$*")
    assert unpack(framed[1:-3]) == payload


@given(st.lists(st.sampled_from(b"0af#$}* xy\x00\xff"), max_size=300).map(bytes))
def test_runs_and_escapes_are_undone(payload: bytes) -> None:
    assert unpack(with_runs(payload)) == payload


def test_runs_of_the_manual() -> None:
    assert unpack(b"0* ") == b"0000"
    assert unpack(b'X*"') == b"X" * 6
    assert unpack(b"0*~") == b"0" * 98
    assert unpack(b"}]*!") == b"}" * 5


@pytest.mark.parametrize("body", [b"*~", b"0*\x1f", b"0*\x1c", b"0*\x7f", b"0*", b"a}", b"0*\xff"])
def test_what_is_against_the_rules(body: bytes) -> None:
    assert unpack(body) is None
    assert Decoder().feed(packed(body)) == [Event("damaged")]


def test_runs_are_bounded() -> None:
    body = b"0" + b"*~" * (MOST_BYTES // 97 + 2)
    with pytest.raises(ConnectionLostError, match="more than"):
        unpack(body)
    with pytest.raises(ConnectionLostError, match="more than"):
        Decoder(1000).feed(b"$" + b"x" * 1100)
    decoder = Decoder(1000)
    for byte in b"$" + b"x" * 999:
        decoder.feed(bytes([byte]))
    with pytest.raises(ConnectionLostError, match="more than"):
        decoder.feed(b"x")


_PIECES = st.one_of(
    st.just(b"+"),
    st.just(b"-"),
    st.binary(max_size=20).map(frame),
    st.lists(st.sampled_from(b"0a#}*"), max_size=40).map(bytes).map(with_runs).map(packed),
    st.just(b"%Stop:T05thread:1;" + b"#" + checksum(b"Stop:T05thread:1;")),
    st.sampled_from([b"noise", b"\x00\xff\r\n", b"$12#00", b"$half"]),
)


@given(st.lists(_PIECES, max_size=12), st.data())
def test_how_bytes_are_cut_does_not_matter(pieces: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(pieces)
    whole = Decoder().feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder()
    found: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == whole


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_packets_come_out_in_order(payloads: list[bytes]) -> None:
    stream = b"+".join(frame(payload) for payload in payloads)
    events = Decoder().feed(b"noise" + stream)
    assert [event.payload for event in events if event.kind == "packet"] == payloads


@given(st.binary(max_size=400))
def test_no_bytes_confuse_the_decoder(stream: bytes) -> None:
    decoder = Decoder(limit=100)
    try:
        decoder.feed(stream)
    except ConnectionLostError:
        return
    assert Event("packet", b"OK") in decoder.feed(b"$#00" + packed(b"OK"))


def test_a_packet_that_lost_its_end_is_damaged_and_the_next_is_not() -> None:
    assert Decoder().feed(b"$m12,4" + packed(b"OK")) == [Event("damaged"), Event("packet", b"OK")]
    assert Decoder().feed(b"$OK#9b") == [Event("damaged")]
    assert Decoder().feed(b"$OK#-1") == [Event("damaged")]
    assert Decoder().feed(b"50% of it" + packed(b"OK")) == [Event("packet", b"OK")]


@pytest.mark.parametrize("reply", [b"S05", b"T02thread:p01.01;", b"T05", b"T05;", b"W00", b"X0b;process:1", b"N"])
def test_stop_replies(reply: bytes) -> None:
    assert is_stop_reply(reply)


@pytest.mark.parametrize("reply", [b"", b"OK", b"E01", b"TracepointSource+;x=1", b"S5", b"T", b"0011", b"QCp1.1", b"l"])
def test_what_is_no_stop_reply(reply: bytes) -> None:
    assert not is_stop_reply(reply)


Connect = Callable[[Callable[[bytes], Sequence[bytes]]], "tuple[Connection, ScriptedWire]"]


class ScriptedWire:
    """Gives what the script answers to what is sent; keeps what was sent."""

    lossless = True

    def __init__(self, script: Callable[[bytes], Sequence[bytes]], clock: Clock) -> None:
        self.sent: list[bytes] = []
        self.closed = False
        self.pending: list[bytes] = []
        self._script, self._clock = script, clock

    def send(self, data: memoryview) -> int:
        self.sent.append(bytes(data))
        self.pending += self._script(bytes(data))
        return len(data)

    def receive(self) -> bytes | None:
        return self.pending.pop(0) if self.pending else None

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        if self.pending or to_send:
            return True
        self._clock.wait_until(deadline)
        return False

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """A connection to what answers by a script. Time passes only while it waits."""
    clock = Clock()
    monkeypatch.setattr("a64patch.targets.rsp.time", clock)

    def made(script: Callable[[bytes], Sequence[bytes]]) -> tuple[Connection, ScriptedWire]:
        wire = ScriptedWire(script, clock)
        return Connection(wire, "gdb://test", 5.0), wire

    return made


def test_each_reply_is_acknowledged_before_the_next_request(connect: Connect) -> None:
    connection, wire = connect(lambda sent: [b"+" + packed(b"1") + b"+" + packed(b"2")] if b"m" in sent else [])
    connection.together = True
    assert connection.ask_all([b"m1,1", b"m2,1"]) == [b"1", b"2"]
    connection.resume(b"c")
    assert b"".join(wire.sent) == packed(b"m1,1") + b"+" + packed(b"m2,1") + b"+" + packed(b"c")


@pytest.mark.parametrize("acknowledge", [False, True])
@given(st.data())
def test_expected_replies_are_as_others_however_bytes_are_cut(acknowledge: bool, data: st.DataObject) -> None:
    """Each that is the expected one is said to be; the others, and what comes in between, are as ever."""
    replies = data.draw(st.lists(st.sampled_from([b"00", b"01", b"", b"E14", b"x}#", b"$"]), min_size=1, max_size=8))
    expected = [data.draw(st.sampled_from([b"00", b"01", b"E1", b"000"])) for _ in replies]
    plus, stop = b"+" * acknowledge, packed(b"T05thread:01;")
    between = [data.draw(st.sampled_from([b"", b"", stop, b"noise", b"%N#4e"])) for _ in replies]
    stream = b"".join(more + plus + frame(reply) for more, reply in zip(between, replies, strict=True))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8))), len(stream)]
    parts = [stream[start:end] for start, end in pairwise(cuts) if start < end]
    answers = {b"m": parts, b"H": [plus + packed(b"OK")]}
    wire = ScriptedWire(lambda sent: next((answers[key] for key in answers if key in sent), []), Clock())
    connection = Connection(wire, "gdb://test", 5.0)
    connection.acknowledge, connection.together = acknowledge, True
    got = connection.ask_expecting([packed(b"m0,1")] * len(replies), [packed(each) for each in expected])
    # Noise is no part of an expected packet, but does not hinder it.
    for reply, wanted, found, more in zip(replies, expected, got, between, strict=True):
        assert found == (AS_EXPECTED if found is AS_EXPECTED else reply)
        assert (found is AS_EXPECTED) <= (reply == wanted)
        if not more:
            assert (found is AS_EXPECTED) == (reply == wanted)
    assert list(connection.stops) == [b"T05thread:01;"] * between.count(stop)
    assert connection.ask(b"Hg1") == b"OK"
    assert b"".join(wire.sent).count(b"+") == acknowledge * len(replies) + between.count(stop) * acknowledge


def test_without_acknowledgements_none_is_sent(connect: Connect) -> None:
    connection, wire = connect(lambda _: [packed(b"OK")] * 2)
    connection.acknowledge, connection.together = False, True
    connection.ask_all([b"Hg1", b"Hg2"])
    assert b"".join(wire.sent) == packed(b"Hg1") + packed(b"Hg2")


def test_a_stub_gets_one_request_at_a_time_until_it_is_known_to_take_more(connect: Connect) -> None:
    connection, wire = connect(lambda _: [b"+" + packed(b"OK")])
    connection.ask_all([b"Hg1", b"Hg2"])
    assert wire.sent == [packed(b"Hg1"), b"+" + packed(b"Hg2")]


def test_stop_replies_and_notifications_may_come_anywhere(connect: Connect) -> None:
    replies = [packed(b"T02thread:01;"), b"+%Stop:T05#" + checksum(b"Stop:T05"), packed(b"00"), packed(b"S05")]
    connection, wire = connect(lambda sent: replies if b"m" in sent else [])
    assert connection.ask(b"m0,1") == b"00"
    connection.look()
    assert list(connection.stops) == [b"T02thread:01;", b"S05"]
    assert wire.sent[1] == b"+", "a stub may wait for that before it goes on"


def test_a_damaged_reply_is_asked_for_again(connect: Connect) -> None:
    def script(sent: bytes) -> list[bytes]:
        return [packed(b"00")] if sent == b"-" else [b"+$00#61"]

    connection, wire = connect(script)
    assert connection.ask(b"m0,1") == b"00"
    assert wire.sent == [packed(b"m0,1"), b"-"]


@pytest.mark.parametrize("answer", [b"-", b"+$00#61"])
def test_what_stays_damaged_is_given_up(connect: Connect, answer: bytes) -> None:
    connection, wire = connect(lambda _: [answer])
    with pytest.raises(ConnectionLostError, match="damaged"):
        connection.ask(b"m0,1")
    assert wire.closed
    assert len(wire.sent) == 4, "once, and three times again"


def test_a_request_that_came_damaged_is_sent_again(connect: Connect) -> None:
    answers = iter([[b"-"], [b"+" + packed(b"00")]])
    connection, wire = connect(lambda _: next(answers))
    assert connection.ask(b"m0,1") == b"00"
    assert wire.sent == [packed(b"m0,1")] * 2


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "did not answer"),
        ([b"$0"], "did not answer"),
        ([b""], "closed"),
        ([packed(b"00") * 2], "nobody had asked"),
        ([b"$" + b"0" * (MOST_BYTES + 9)], "more than"),
    ],
)
def test_a_connection_is_lost_once_and_for_all(connect: Connect, answers: list[bytes], message: str) -> None:
    connection, wire = connect(lambda _: answers)
    with pytest.raises(ConnectionLostError, match=message):
        connection.ask(b"m0,1")
    assert wire.closed
    assert not connection.usable
    with pytest.raises(ConnectionLostError, match=message):
        connection.ask(b"m0,1")
    assert len(wire.sent) == 1


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(connect: Connect) -> None:
    connection, wire = connect(lambda _: [packed(b"00")])
    assert connection.ask(b"m0,1") == b"00"
    wire.pending.append(packed(b"ff"))
    with pytest.raises(ConnectionLostError, match="nobody had asked"):
        connection.ask(b"m4,1")


def test_an_interrupted_exchange_ends_the_connection(connect: Connect) -> None:
    def script(_: bytes) -> list[bytes]:
        raise KeyboardInterrupt

    connection, wire = connect(script)
    with pytest.raises(KeyboardInterrupt):
        connection.ask(b"m0,1")
    assert wire.closed
    with pytest.raises(ConnectionLostError, match="interrupted"):
        connection.ask(b"m0,1")


def test_an_interrupt_is_not_sent_to_what_says_that_it_stopped(connect: Connect) -> None:
    connection, wire = connect(lambda sent: [packed(b"T05")] if sent.endswith(b"\x03") else [])
    assert connection.interrupt() == b"T05"
    connection.resume(b"c")
    wire.pending.append(packed(b"S02"))
    assert connection.interrupt() == b"S02"
    assert [sent for sent in wire.sent if b"\x03" in sent] == [b"\x03"]


def test_a_stub_that_hears_only_interrupts_is_interrupted(connect: Connect) -> None:
    machine = {"runs": True}

    def script(sent: bytes) -> list[bytes]:
        if b"\x03" in sent:
            machine["runs"] = False
            return [packed(b"T02")]
        return [] if machine["runs"] else answers(sent)

    connection, wire = connect(script)
    assert connection.greet(b"qSupported", 1.0) == b"PacketSize=400"
    assert connection.was_running
    assert wire.sent[:4] == [packed(b"qSupported"), b"\x03", b"+", packed(b"qSupported")]
    assert connection.ask(b"m0,1") == b"00"


def answers(sent: bytes) -> list[bytes]:
    """What an honest stub with a machine that stands says to requests."""
    replies = {b"qSupported": b"PacketSize=400", b"?": b"S05", b"m0,1": b"00"}
    return [b"+" + packed(replies[each]) for each in re.findall(rb"\$([^#]*)#", sent)]


def test_a_stub_that_is_only_slow_shows_nothing(connect: Connect) -> None:
    """The answer to the first request comes after the interrupt, which a machine that stands ignores."""
    kept: list[bytes] = []

    def script(sent: bytes) -> list[bytes]:
        if not kept:
            kept.append(sent)
            return []
        return answers(kept[0]) if b"\x03" in sent else answers(sent)

    connection, _ = connect(script)
    assert connection.greet(b"qSupported", 1.0) == b"PacketSize=400"
    assert not connection.was_running
    assert connection.found is Found.NOT_TOLD
    assert connection.ask(b"m0,1") == b"00"


def test_a_stub_that_keeps_what_came_while_it_did_not_listen_is_in_step(connect: Connect) -> None:
    kept: list[bytes] = []

    def script(sent: bytes) -> list[bytes]:
        if not kept:
            kept.append(sent)
            return []
        if b"\x03" in sent:
            return [packed(b"T02")]
        return [*(answers(kept[0]) if b"qSupported" in sent else []), *answers(sent)]

    connection, _ = connect(script)
    assert connection.greet(b"qSupported", 1.0) == b"PacketSize=400"
    assert connection.was_running
    assert connection.ask(b"m0,1") == b"00"


def test_the_console_is_bounded(connect: Connect) -> None:
    line = packed(b"O" + b"61" * 1000)
    connection, _ = connect(lambda sent: [line] * 100 + [packed(b"OK")] if b"q" in sent else [])
    assert connection.ask_console(b"help") == b"a" * 65536


@given(st.binary(max_size=3000))
def test_the_checksum_is_the_sum_of_the_bytes(body: bytes) -> None:
    assert sum_of(body) == sum(body) % 256


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65536])
def test_the_checksum_of_the_largest_bytes(size: int) -> None:
    assert sum_of(b"\xff" * size) == 255 * size % 256
