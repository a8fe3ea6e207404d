"""Strategies for any value of a type whose annotations are its layout."""

from __future__ import annotations

from array import array
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from walle.ids import Position, WriterId
from walle.record import Batch, Bytes

U8 = st.integers(0, 2**8 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
WRITERS = st.builds(WriterId, U64, U64)
POSITIONS = st.builds(Position, U64, U64)
CHAINS = st.lists(U64, max_size=4).map(lambda chains: array("Q", chains))

_SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "B": U8,
    "I": U32,
    "Q": U64,
    "16s": st.binary(min_size=16, max_size=16),
}


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of that type."""
    if hint is str:
        return st.text(max_size=8)
    if hint in (WriterId, Position):
        return st.builds(hint, U64, U64)
    if get_origin(hint) is tuple:
        return st.lists(of_type(get_args(hint)[0]), max_size=3).map(tuple)
    if get_args(hint):
        return _SCALARS[get_args(hint)[1]]
    hints = get_type_hints(hint, include_extras=True)
    return st.builds(hint, **{name: of_type(hints[name]) for name in hint._fields})


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A batch whose records are any bytes: between processes nobody looks at them."""
    chains = array("Q", draw(st.lists(U64, min_size=1, max_size=4)))
    writer = draw(st.none() | WRITERS)
    payload = Bytes(draw(st.binary(min_size=1, max_size=60)))
    return Batch(draw(U64), draw(U64), chains, writer, payload)
