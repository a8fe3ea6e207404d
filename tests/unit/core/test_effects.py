"""The way out: what may go at once, and what waits for storage."""

from __future__ import annotations

import pytest

from tests.unit.making import W1, entries
from walle.core import effects
from walle.core.effects import Forward, Outbox, Send
from walle.errors import Code
from walle.ids import ORIGIN
from walle.messages import Failure

MESSAGE = Failure(Code.OK, "")


def test_actions_that_need_a_sync_are_counted() -> None:
    outbox = Outbox("n1")
    assert outbox.order(effects.SetAccepted(1, W1)) == 1
    assert outbox.order(effects.Commit(1, ORIGIN)) == 1
    assert outbox.order(effects.Append(1, entries(1), 0, None)) == 2
    _, actions = outbox.take()
    assert [type(each) for each in actions] == [
        effects.SetAccepted,
        effects.Commit,
        effects.Append,
    ]
    assert outbox.take() == ([], [])


@pytest.mark.parametrize(("synced", "is_sent"), [(0, False), (1, False), (2, True), (3, True)])
def test_message_that_speaks_of_something_durable_takes_its_place_in_the_order(
    synced: int, is_sent: bool
) -> None:
    outbox = Outbox("n1")
    outbox.synced = synced
    outbox.send_durable(7, MESSAGE, 5, sequence=2)
    send = Send(7, 5, MESSAGE)
    assert outbox.take() == (([send], []) if is_sent else ([], [Forward(send)]))
