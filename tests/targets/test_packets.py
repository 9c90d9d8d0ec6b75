"""Reads and writes of memory as packets, against a memory that answers honestly and against replies of any kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a64patch.errors import MappingError
from a64patch.targets.frames import Piece
from a64patch.targets.packets import Reading, Refusal, Writing, read_stacks
from a64patch.targets.rsp import Connection, ConnectionLostError

PAGE = 0x8000
HIGH = 0xFFFF800000000000
"""An address of as many digits as there are."""
SIZES = (64, 80, 100, 400, 512, 4096)


class Wire:
    """The other end of a connection: `answer` gives the reply to each request."""

    lossless = True

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.requests: list[bytes] = []
        self._answer = answer
        self._came = b""

    def send(self, data: memoryview) -> int:
        for request in re.findall(rb"\$([^#]*)#..", bytes(data), re.DOTALL):
            self.requests.append(request)
            reply = self._answer(request)
            self._came += b"+$%b#%02x" % (reply, sum(reply) % 256)
        return len(data)

    def receive(self) -> bytes | None:
        came, self._came = self._came, b""
        return came or None

    def wait(self, deadline: float, *, to_send: bool) -> bool:
        return True

    def close(self) -> None:
        pass


def connect(answer: Callable[[bytes], bytes], packet_size: int = 512) -> tuple[Connection, Wire]:
    wire = Wire(answer)
    connection = Connection(wire, "test", 5.0)
    connection.together, connection.packet_size = True, packet_size
    return connection, wire


def byte_at(address: int) -> int:
    return address * 7 % 251


def memory(*, hole: range = range(0), limit: int = 1 << 16) -> Callable[[bytes], bytes]:
    """Answers `m`, for at most so many bytes, and refuses what touches the hole."""

    def answer(request: bytes) -> bytes:
        if request[:1] != b"m":
            return b"OK"
        address, size = (int(number, 16) for number in request[1:].split(b","))
        if size > limit or any(each in hole for each in range(address, address + size)):
            return b"E14"
        return bytes(byte_at(each) for each in range(address, address + size)).hex().encode()

    return answer


def packets_for(*requests: tuple[int, int]) -> list[bytes]:
    connection, wire = connect(memory())
    Reading(requests, 4096).results(connection)
    return wire.requests


def test_a_gap_is_read_along_up_to_64_bytes() -> None:
    assert packets_for((PAGE, 4), (PAGE + 4 + 64, 4)) == [b"m8000,48"]
    assert packets_for((PAGE, 4), (PAGE + 4 + 65, 4)) == [b"m8000,4", b"m8045,4"]


def test_no_gap_reaches_over_the_end_of_a_page() -> None:
    """The next page may not be mapped. Without a gap somebody wants both pages."""
    assert packets_for((PAGE - 8, 4), (PAGE - 3, 4)) == [b"m7ff8,9"]
    assert packets_for((PAGE - 8, 8), (PAGE + 1, 4)) == [b"m7ff8,8", b"m8001,4"]
    assert packets_for((PAGE - 8, 4), (PAGE, 4)) == [b"m7ff8,4", b"m8000,4"]
    assert packets_for((PAGE - 8, 8), (PAGE, 4)) == [b"m7ff8,c"]


def spans() -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(st.integers(PAGE - 600, PAGE + 600), st.integers(0, 300)), max_size=8)


@given(spans(), st.integers(PAGE - 700, PAGE + 700), st.integers(0, 40), st.sampled_from(SIZES))
def test_each_request_gets_its_own_bytes(requests: list[tuple[int, int]], at: int, size: int, packet_size: int) -> None:
    """Those beside a hole, too; and a hole fails those alone that want it."""
    hole = range(at, at + size)
    connection, wire = connect(memory(hole=hole, limit=packet_size // 2), packet_size)
    reading = Reading(requests, packet_size)
    if any(start < hole.stop and hole.start < start + length for start, length in requests if length and hole):
        with pytest.raises(MappingError, match="name a mapped address"):
            reading.results(connection)
    else:
        wanted = [bytes(byte_at(each) for each in range(start, start + length)) for start, length in requests]
        assert reading.results(connection) == wanted
    assert all(len(request) <= packet_size for request in wire.requests)


@given(spans(), st.sampled_from(SIZES), st.booleans())
def test_what_is_written_fits_into_packets_and_nothing_else_is_written(
    places: list[tuple[int, int]], packet_size: int, binary: bool
) -> None:
    requests = [(HIGH + start, bytes(byte_at(start + at) for at in range(size))) for start, size in places]
    written: dict[int, int] = {}

    def answer(request: bytes) -> bytes:
        head, _, data = request.partition(b":")
        address, size = (int(number, 16) for number in head[1:].split(b","))
        plain = re.sub(rb"}(.)", lambda escaped: bytes([escaped[1][0] ^ 0x20]), data, flags=re.DOTALL)
        values = plain if binary else bytes.fromhex(data.decode())
        assert len(values) == size
        written.update(enumerate(values, address))
        return b"OK"

    connection, wire = connect(answer, packet_size)
    assert Writing(requests, packet_size, binary=binary).refusals(connection) == []
    assert written == {start + at: byte for start, data in requests for at, byte in enumerate(data)}
    assert all(len(request) <= packet_size for request in wire.requests)


def test_words_that_follow_each_other_are_written_together() -> None:
    requests = [(PAGE, b"abcd"), (PAGE + 4, b"efgh"), (PAGE + 12, b"ijkl"), (PAGE + 8, b"mnop")]
    assert Writing(requests, 512).pieces == [(PAGE, b"abcdefgh"), (PAGE + 12, b"ijkl"), (PAGE + 8, b"mnop")]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"E0d", "E0d (permission denied)"),
        (b"E14", "E14 (bad address)"),
        (b"E99", "E99"),
        (b"E.no such memory", "E.no such memory"),
        (b"", "it does not know how"),
    ],
)
def test_a_refusal_says_which_piece_and_why(reply: bytes, reason: str) -> None:
    connection, wire = connect(lambda request: reply if request.startswith(b"M8010") else b"OK")
    writing = Writing([(PAGE, b"abcd"), (PAGE + 16, b"efgh"), (PAGE + 32, b"ijkl")], 512)
    assert writing.refusals(connection) == [Refusal(PAGE + 16, 4, reason)]
    assert len(wire.requests) == 3
    assert connection.usable


@pytest.mark.parametrize("reply", [b"O", b"ok", b"OKOK", b"0", b"garbage", b"\xff", b"m8000", b"F-1"])
@pytest.mark.parametrize("number", range(3))
def test_a_reply_that_is_neither_success_nor_an_error_ends_the_connection(reply: bytes, number: int) -> None:
    """Who answers so may have done anything: no reply of it is believed any more."""
    place = PAGE + 16 * number
    connection, _ = connect(lambda request: reply if request.startswith(b"M%x" % place) else b"OK")
    writing = Writing([(PAGE + 16 * each, b"abcd") for each in range(3)], 512)
    with pytest.raises(ConnectionLostError, match="to a write"):
        writing.refusals(connection)
    assert not connection.usable


@pytest.mark.parametrize("reply", [b"00", b"0011223344", b"001122", b"zz112233", b"OK", b"b0011"])
def test_a_reply_to_a_read_is_as_many_bytes_as_were_asked_for(reply: bytes) -> None:
    connection, _ = connect(lambda _: reply)
    with pytest.raises((MappingError, ConnectionLostError)):
        Reading([(PAGE, 4)], 512).results(connection)
    assert connection.usable == (reply in (b"00", b"001122"))


@given(spans(), st.sampled_from(SIZES), st.data())
def test_expected_bytes_change_no_result(
    requests: list[tuple[int, int]], packet_size: int, data: st.DataObject
) -> None:
    connection, _ = connect(memory(limit=packet_size // 2), packet_size)
    wanted = [bytes(byte_at(each) for each in range(start, start + size)) for start, size in requests]
    expected = [each[::-1] if data.draw(st.booleans()) else each for each in wanted]
    assert Reading(requests, packet_size, expected=expected).results(connection) == wanted
    others = [each + b"x" for each in wanted]
    assert Reading(requests, packet_size, expected=others).results(connection) == wanted


def test_expected_bytes_are_no_reply_of_another_size() -> None:
    connection, _ = connect(lambda _: b"0011")
    with pytest.raises(MappingError):
        Reading([(PAGE, 4)], 512, expected=[b"\x00\x11"]).results(connection)


@pytest.mark.parametrize(("address", "size"), [(-4, 4), ((1 << 64) - 3, 4), (0, -1)])
def test_what_no_address_space_holds(address: int, size: int) -> None:
    with pytest.raises(MappingError, match="64 bits"):
        Reading([(address, size)], 512)
    if size > 0:
        with pytest.raises(MappingError, match="64 bits"):
            Writing([(address, bytes(size))], 512)
    assert Reading([((1 << 64) - 4, 4)], 512).requests == [((1 << 64) - 4, 4)]


@pytest.mark.parametrize("packet_size", SIZES)
def test_stacks_are_read_as_their_cpus_see_them_whatever_a_packet_takes(packet_size: int) -> None:
    selected = [b""]

    def answer(request: bytes) -> bytes:
        if request.startswith(b"Hg"):
            selected[0] = request[2:]
            return b"OK"
        reply = memory(limit=packet_size // 2)(request)
        return reply if selected[0] == b"2" else reply.translate(bytes.maketrans(b"0123456789", b"1234567890"))

    connection, _ = connect(answer, packet_size)
    honest = bytes(byte_at(each) for each in range(PAGE, PAGE + 272))
    first, second = read_stacks(connection, [b"1", b"2"], [Piece(1, PAGE, 272), Piece(0, PAGE, 272)])
    assert first == honest
    assert len(second) == 272
    assert second != honest


@pytest.mark.parametrize(("unmapped", "read"), [(0, 0), (239, 0), (240, 240), (271, 240), (272, 272)])
def test_of_a_stack_that_ends_the_beginning_is_given(unmapped: int, read: int) -> None:
    """A packet holds 240 bytes."""
    hole = range(PAGE + unmapped, PAGE + unmapped + 1)
    connection, _ = connect(memory(hole=hole))
    [stack] = read_stacks(connection, [b""], [Piece(0, PAGE, 272)])
    assert stack == bytes(byte_at(each) for each in range(PAGE, PAGE + read))


def test_a_stack_is_not_longer_than_it_was_asked_for() -> None:
    connection, _ = connect(lambda request: b"00" * 200 if request[:1] == b"m" else b"OK")
    assert read_stacks(connection, [b"1"], [Piece(0, PAGE, 48)]) == [bytes(48)]


@pytest.mark.parametrize(("packet_size", "most"), [(8192, 4080), (8207, 4080), (8208, 4096), (1 << 16, 4096)])
def test_no_packet_asks_for_more_than_a_slow_line_carries_in_time(packet_size: int, most: int) -> None:
    asked: list[int] = []

    class Counting:
        def ask_built(self, frames: Sequence[bytes]) -> list[bytes]:
            sizes = [int(re.match(rb"\$m[0-9a-f]+,([0-9a-f]+)#", each)[1], 16) for each in frames]  # type: ignore[index]
            asked.extend(sizes)
            return [b"00" * size for size in sizes]

    [data] = Reading([(0x10000, 3 * 4096 + 4)], packet_size).results(Counting())  # type: ignore[arg-type]
    assert (len(data), max(asked), sum(asked)) == (3 * 4096 + 4, most, 3 * 4096 + 4)
