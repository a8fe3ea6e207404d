"""What goes through the rings to and from the network process comes out as it went in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.anything import U8, U32, U64, batches, of_type
from walle.process import mail
from walle.process.mail import ArenaPayload, Destination, Mail, Peers, Place, RingPayload
from walle.record import Batch, Bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

ARENA = memoryview(bytearray(range(256)))
DESTINATIONS = st.builds(Destination, U8, U64)
PLACES = st.builds(Place, U64, U32)
HEADS = st.binary(max_size=60)


def in_ring(parts: Sequence[Any]) -> memoryview:
    """The message as the ring's reader sees it."""
    return memoryview(b"".join(bytes(part) for part in parts))


def in_arena(batch: Batch, place: Place) -> Batch:
    return Batch(
        batch.first_id, batch.prev_chain, batch.chains, batch.writer, ArenaPayload(ARENA, *place)
    )


def described(batch: Batch | None) -> tuple[Any, ...] | None:
    """All of a batch but where its records are."""
    if batch is None:
        return None
    view = bytes(batch.payload.view())
    assert batch.payload.size == len(view)
    assert bytes(batch.payload.detach().view()) == view
    return batch.first_id, batch.prev_chain, batch.chains, batch.writer, view


# --- batches --------------------------------------------------------------------------------------


@given(batches(), st.binary(max_size=9))
def test_records_that_never_were_in_the_arena_travel_in_the_ring(
    batch: Batch, before: bytes
) -> None:
    view = in_ring(mail.pack_batch(before, batch, gives_place=False))
    found = mail.unpack_batch(view, len(before), ARENA)
    assert described(found) == described(batch)
    assert found is not None
    assert isinstance(found.payload, RingPayload)


@given(batches(), st.integers(0, 200), st.integers(1, 50), st.booleans())
def test_records_in_the_arena_stay_there_unless_they_shall_travel(
    batch: Batch, offset: int, size: int, inline: bool
) -> None:
    place = Place(offset, size)
    lying = in_arena(batch, place)
    view = in_ring(mail.pack_batch(b"", lying, gives_place=not inline))
    found = mail.unpack_batch(view, 0, ARENA)
    assert described(found) == described(lying)
    assert found is not None
    assert isinstance(found.payload, RingPayload if inline else ArenaPayload)
    if isinstance(found.payload, ArenaPayload):
        assert found.payload == (ARENA, offset, size)


def test_payloads_are_views_until_they_are_detached() -> None:
    memory = bytearray(b"01234567")
    in_the_arena = ArenaPayload(memoryview(memory), 2, 3)
    in_a_ring = RingPayload(memoryview(memory)[2:5])
    for payload in (in_the_arena, in_a_ring):
        kept = payload.detach()
        assert kept == Bytes(b"234")
        memory[3] = ord("x")
        assert bytes(payload.view()) == b"2x4"
        assert kept == Bytes(b"234")
        memory[3] = ord("3")


# --- messages -------------------------------------------------------------------------------------


@given(DESTINATIONS, HEADS, st.none() | batches())
def test_arrived_frame(source: Destination, head: bytes, batch: Batch | None) -> None:
    view = in_ring(mail.pack_arrived(source, memoryview(head), batch))
    assert view[0] == mail.ARRIVED
    found_source, found_head, found_batch = mail.unpack_arrived(view, ARENA)
    assert (found_source, bytes(found_head)) == (source, head)
    assert described(found_batch) == described(batch)


@given(U64)
def test_closed_session(session: int) -> None:
    view = in_ring(mail.pack_closed(session))
    assert view[0] == mail.CLOSED
    assert mail.unpack_closed(view) == session


@given(DESTINATIONS, HEADS, PLACES)
def test_mail_whose_records_lie_in_the_arena(to: Destination, head: bytes, place: Place) -> None:
    view = in_ring(mail.pack_mail(to, head, place))
    assert view[0] == mail.MAIL
    expected = place if place.size else mail.NOWHERE
    assert mail.unpack_mail(view) == Mail(to, memoryview(head), expected, memoryview(b""))


@given(DESTINATIONS, HEADS, st.lists(st.binary(max_size=20), max_size=3))
def test_mail_whose_records_follow(to: Destination, head: bytes, records: list[bytes]) -> None:
    found = mail.unpack_mail(in_ring(mail.pack_mail(to, head, records=records)))
    assert found == Mail(to, memoryview(head), mail.NOWHERE, memoryview(b"".join(records)))


@given(st.lists(st.tuples(U64, U64), max_size=3), HEADS, st.lists(st.binary(), max_size=3))
def test_mail_to_many(recipients: list[tuple[int, int]], head: bytes, records: list[bytes]) -> None:
    view = in_ring(mail.pack_mail_to_many(recipients, head, records))
    assert view[0] == mail.MAIL_TO_MANY
    found = mail.unpack_mail_to_many(view)
    assert found == (recipients, memoryview(head), memoryview(b"".join(records)))


@given(st.lists(PLACES, max_size=3))
def test_places_that_are_given_back(places: list[Place]) -> None:
    offsets = [place.offset for place in places]
    view = in_ring(mail.pack_release(offsets))
    assert view[0] == mail.RELEASE
    assert list(mail.unpack_release(view)) == offsets


@given(DESTINATIONS)
def test_session_to_be_closed(to: Destination) -> None:
    view = in_ring(mail.pack_close(to))
    assert view[0] == mail.CLOSE
    assert mail.unpack_close(view) == to


@given(st.builds(Peers, st.binary(max_size=20), of_type(tuple[mail.Peer, ...])))
def test_nodes_to_be_connected_with(peers: Peers) -> None:
    view = in_ring(mail.pack_peers(peers))
    assert view[0] == mail.PEERS
    assert mail.unpack_peers(view) == peers


@pytest.mark.parametrize(
    "kind", ["ARRIVED", "CLOSED", "MAIL", "RELEASE", "CLOSE", "PEERS"], ids=str.lower
)
def test_kinds_are_told_apart(kind: str) -> None:
    kinds = [mail.ARRIVED, mail.CLOSED, mail.MAIL, mail.RELEASE, mail.CLOSE, mail.PEERS]
    assert kinds.count(getattr(mail, kind)) == 1
