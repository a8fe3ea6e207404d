"""What goes between consensus and storage comes out as it went in: every action, any history."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.anything import CHAINS, POSITIONS, U32, U64, WRITERS, batches, of_type
from tests.unit.making import W1
from walle.core import effects
from walle.core.effects import Action, Promise, Send
from walle.core.history import History, Run
from walle.core.member import State
from walle.core.node import Recovered
from walle.core.topology import StreamTopology
from walle.errors import Code, InvariantError
from walle.messages import Failure
from walle.process import mail, orders
from walle.process.mail import ArenaPayload, Destination, RingPayload
from walle.record import Batch, Bytes

ARENA = memoryview(bytes(64))
TO = Destination(1, 77)
HEAD = b"a frame's head"
SEND = Send("n2", 5, Failure(Code.OK, ""))
ACCEPTED = st.none() | st.builds(type(W1), st.integers(1, 2**64 - 1), U64)
SENDS = st.just(SEND)
OTHERS = st.lists(st.builds(effects.Recipient, U64, U64), max_size=3).map(tuple)
BITS = st.booleans()

ACTIONS: dict[type[Any], st.SearchStrategy[Any]] = {
    **{each: of_type(each) for each in orders._PLAIN},
    effects.Append: st.builds(effects.Append, U64, batches(), U32, ACCEPTED),
    effects.Jump: st.builds(effects.Jump, U64, batches(), U32, POSITIONS, ACCEPTED),
    effects.Fill: st.builds(effects.Fill, U64, batches()),
    effects.ReadRecords: st.builds(
        effects.ReadRecords, U64, U64, U64, U32, st.none() | U64, BITS, SENDS, OTHERS
    ),
    effects.ReadOldest: st.builds(effects.ReadOldest, U64, U64, U64, U64, SENDS),
}


def to_frame(send: Send) -> tuple[Destination, bytes]:
    assert send == SEND
    return TO, HEAD


def in_ring(parts: list[Any]) -> memoryview:
    return memoryview(b"".join(bytes(part) for part in parts))


def plain(action: Any) -> Any:
    """The action with its records copied, and its send as it looks behind the ring."""
    changes: dict[str, Any] = {}
    if "batch" in action._fields:
        batch: Batch = action.batch
        changes["batch"] = replace(batch, payload=Bytes(bytes(batch.payload.view())))
    if "send" in action._fields:
        changes["send"] = Send(TO, 0, HEAD)  # type: ignore[arg-type]
    return action._replace(**changes)


def test_every_action_has_a_number_and_a_test() -> None:
    every = set(get_args(Action)) - {effects.Forward}  # which is mail
    assert every == set(orders._NUMBERS) == set(ACTIONS)
    assert len(set(orders._NUMBERS.values())) == len(every)


@pytest.mark.parametrize("cls", ACTIONS, ids=lambda cls: cls.__name__)
@given(data=st.data(), sequence=U64)
def test_order_comes_out_as_it_went_in(cls: type[Any], data: st.DataObject, sequence: int) -> None:
    action = data.draw(ACTIONS[cls])
    view = in_ring(
        orders.pack_order(sequence, action, gives_place=lambda _: False, to_frame=to_frame)
    )
    assert view[0] == orders.ORDER
    found = orders.unpack_order(view, ARENA)
    assert found.sequence == sequence
    assert type(found.action) is cls
    assert plain(found.action) == plain(action)


def test_what_is_to_be_forwarded_is_mail() -> None:
    parts = orders.pack_order(
        1, effects.Forward(SEND), gives_place=lambda _: False, to_frame=to_frame
    )
    view = in_ring(parts)
    assert view[0] == orders.FORWARD
    assert mail.kind_of(view[1:]) == TO.kind
    expected = mail.Mail(TO, memoryview(HEAD), mail.NOWHERE, memoryview(b""))
    assert mail.unpack_mail(view[1:]) == expected


def test_order_without_its_records_ends_the_process() -> None:
    batch = Batch(1, 0, array("Q"), None, Bytes(b""))
    parts = orders.pack_order(
        1, effects.Fill(1, batch), gives_place=lambda _: False, to_frame=to_frame
    )
    with pytest.raises(InvariantError, match="Fill without records"):
        orders.unpack_order(in_ring(parts), ARENA)


def test_records_in_an_order_are_not_copied() -> None:
    batch = Batch(1, 0, array("Q", [5]), W1, Bytes(b"12345678"))
    parts = orders.pack_order(
        1, effects.Fill(1, batch), gives_place=lambda _: False, to_frame=to_frame
    )
    found = orders.unpack_order(in_ring(parts), ARENA).action
    assert isinstance(found, effects.Fill)
    assert isinstance(found.batch.payload, RingPayload)


def test_records_that_lie_in_the_arena_stay_there() -> None:
    payload = ArenaPayload(ARENA, 8, 16)
    batch = Batch(1, 0, array("Q", [5]), W1, payload)
    parts = orders.pack_order(
        1, effects.Append(7, batch, 0, None), gives_place=lambda _: True, to_frame=to_frame
    )
    found = orders.unpack_order(in_ring(parts), ARENA).action
    assert isinstance(found, effects.Append)
    assert isinstance(found.batch.payload, ArenaPayload)
    assert found.batch.payload == payload


@given(of_type(effects.Cut))
def test_damage_is_told_as_what_must_be_cut_out(cut: effects.Cut) -> None:
    view = in_ring(orders.pack_damaged(cut))
    assert view[0] == orders.DAMAGED
    assert orders.unpack_damaged(view) == cut


# --- what storage recovered -----------------------------------------------------------------------


RUNS = st.lists(st.builds(Run, U64, U64, POSITIONS), max_size=3)
HISTORIES = st.builds(
    History,
    POSITIONS,
    RUNS,
    RUNS,
    st.none() | RUNS.map(lambda runs: (*runs, None)[0]),
    POSITIONS,
    POSITIONS,
    CHAINS,
)
STATES = st.builds(
    State,
    U64,
    st.text(max_size=5),
    of_type(StreamTopology),
    HISTORIES,
    of_type(Promise),
    WRITERS,
    U64,
)


@given(
    of_type(effects.SetCluster),
    st.lists(STATES, max_size=3).map(tuple),
)
def test_what_was_recovered_comes_out_stream_by_stream(
    cluster: effects.SetCluster, states: tuple[State, ...]
) -> None:
    messages = orders.pack_recovered(Recovered(cluster, states))
    found: list[State] = []
    for index, parts in enumerate(messages):
        view = in_ring(parts)
        assert view[0] == orders.RECOVERED
        part, is_last = orders.unpack_recovered(view)
        assert part.cluster == cluster
        assert len(part.states) <= 1
        assert is_last == (index == len(messages) - 1)
        found += part.states
    assert tuple(found) == states


def test_nothing_recovered_is_one_message() -> None:
    (parts,) = orders.pack_recovered(Recovered())
    assert orders.unpack_recovered(in_ring(parts)) == (Recovered(), True)
