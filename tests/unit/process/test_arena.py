"""The arena against a model: each session gets its own bytes, held places do not change under
their readers, and no chunk is lost."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from walle.errors import InvariantError
from walle.limits import ARENA_CHUNK_BYTES
from walle.process import arena as arena_module
from walle.process.arena import CHUNKS_FREE_MIN, Arena, Inbox
from walle.process.mail import Place

CHUNK = 128
"""Chunks are this small in the model, so that edges are met often."""
CHUNKS = 5
SIZE_BYTES = 2
SESSIONS = 3


class Session:
    """An endless stream of frames, each of which begins with its size."""

    def __init__(self, arena: Arena, number: int) -> None:
        self.inbox = Inbox(arena)
        self.coming = bytearray()
        self.unfinished = b""
        self._next = number

    def wanted(self) -> int:
        if len(self.unfinished) < SIZE_BYTES:
            return SIZE_BYTES
        return int.from_bytes(self.unfinished[:SIZE_BYTES], "little")

    def send(self, size: int) -> None:
        self._next = (self._next + SESSIONS) % 256
        self.coming += size.to_bytes(SIZE_BYTES, "little") + bytes([self._next] * (size - 2))


class ArenaMachine(RuleBasedStateMachine):
    """held: the places that another process still reads, with what it must find there."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.multiple(
            arena_module, ARENA_CHUNK_BYTES=CHUNK, RECEIVE_BYTES_MIN=8, RECEIVE_BYTES_MAX=48
        )
        self.patch.start()
        self.arena = Arena(memoryview(bytearray(CHUNK * CHUNKS)))
        self.sessions = [Session(self.arena, number) for number in range(SESSIONS)]
        self.held: list[tuple[Place, bytes]] = []

    def teardown(self) -> None:
        self.patch.stop()

    @rule(number=st.integers(0, SESSIONS - 1), size=st.integers(SIZE_BYTES, CHUNK))
    def send(self, number: int, size: int) -> None:
        self.sessions[number].send(size)

    @precondition(lambda self: not self.arena.is_short)
    @rule(number=st.integers(0, SESSIONS - 1), most=st.integers(1, 48), is_held=st.booleans())
    def receive(self, number: int, most: int, is_held: bool) -> None:
        session = self.sessions[number]
        room = session.inbox.room(session.wanted())
        assert len(room) >= 1
        arrived = bytes(session.coming[: min(most, len(room))])
        del session.coming[: len(arrived)]
        room[: len(arrived)] = arrived
        data = session.inbox.received(len(arrived))
        session.unfinished += arrived
        assert bytes(data) == session.unfinished
        handled = 0
        while SIZE_BYTES <= len(session.unfinished) >= (size := session.wanted()):
            if is_held:
                offset = session.inbox.offset_of(handled)
                place = Place(offset, size)
                self.arena.hold(offset)
                self.held.append((place, session.unfinished[:size]))
            session.unfinished = session.unfinished[size:]
            handled += size
        session.inbox.handled(handled)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1), label="index")
        self.arena.release(self.held.pop(index)[0].offset)

    @rule(number=st.integers(0, SESSIONS - 1))
    def end_session(self, number: int) -> None:
        self.sessions[number].inbox.drop()
        self.sessions[number] = Session(self.arena, number)

    @invariant()
    def held_places_do_not_change(self) -> None:
        for place, expected in self.held:
            found = self.arena.memory[place.offset : place.offset + place.size]
            assert bytes(found) == expected
            assert place.offset // CHUNK == (place.offset + place.size - 1) // CHUNK

    @invariant()
    def every_chunk_is_free_or_held_or_current(self) -> None:
        arena = self.arena
        held = {place.offset // CHUNK for place, _ in self.held}
        assert sorted(arena._free) == sorted(set(range(CHUNKS)) - held - {arena._chunk})

    @invariant()
    def unfinished_frames_are_counted(self) -> None:
        for session in self.sessions:
            assert session.inbox.size == len(session.unfinished)
        saved = sum(len(each.inbox._saved) for each in self.sessions)
        assert self.arena.saved_bytes == saved


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=100, stateful_step_count=40)


def arena_of(chunks: int) -> Arena:
    return Arena(memoryview(bytearray(chunks * ARENA_CHUNK_BYTES)))


def test_reading_pauses_while_few_chunks_are_free() -> None:
    arena = arena_of(CHUNKS_FREE_MIN + 1)
    seen = [arena.is_short]
    arena.hold(0)
    arena.next_chunk()
    seen.append(arena.is_short)
    arena.release(0)
    seen.append(arena.is_short)
    assert seen == [False, True, False]


def test_place_that_is_given_back_twice_is_a_bug() -> None:
    arena = arena_of(2)
    arena.hold(0)
    arena.release(0)
    with pytest.raises(InvariantError, match="a place is given back once"):
        arena.release(0)


def test_arena_that_runs_full_is_a_bug() -> None:
    arena = arena_of(1)
    arena.hold(0)
    with pytest.raises(InvariantError, match="reading pauses before the arena is full"):
        arena.next_chunk()
