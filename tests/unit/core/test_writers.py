"""What a node does for writers elsewhere: claims, relayed puts and releases."""

from __future__ import annotations

import pytest

from tests.unit.core.served import Served
from tests.unit.making import W1, entries
from walle.core import writers as writers_module
from walle.errors import Code
from walle.ids import ORIGIN, WriterId
from walle.limits import ADDRESS_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN
from walle.messages import (
    UNCHANGED,
    Claim,
    ClaimReply,
    Failure,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    ReleaseReply,
    SetStream,
    StreamInfo,
    WriterStatus,
)
from walle.testing.cluster import client_hello

LEASE_MS = 1_000


def claim(served: Served, name: str = "n1", *, wait_ms: int = 5_000, force: int = 0) -> ClaimReply:
    request = Claim(served.stream_id, "app:1", LEASE_MS, wait_ms, force)
    answer = served.call(name, request)
    assert isinstance(answer, ClaimReply)
    return answer


def put(served: Served, writer: WriterId, number: int, *, name: str = "n1") -> PutReply:
    """Puts one entry through a relay."""
    batch = entries(1, ORIGIN, writer)
    answer = served.call(name, Put(served.stream_id, 1, writer, number, ORIGIN, relay=1), batch)
    assert isinstance(answer, PutReply)
    return answer


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease_ms", "address", "rule"),
    [
        (LEASE_MS_MIN - 1, "", f"a lease of 99 ms; /s allows {LEASE_MS_MIN} to {LEASE_MS_MAX}"),
        (LEASE_MS_MAX + 1, "", f"/s allows {LEASE_MS_MIN} to {LEASE_MS_MAX}"),
        (LEASE_MS, "x" * (ADDRESS_BYTES_MAX + 1), f"at most {ADDRESS_BYTES_MAX} bytes"),
    ],
)
def test_impossible_claim_is_refused_with_the_rule(lease_ms: int, address: str, rule: str) -> None:
    served = Served()
    answer = served.call("n1", Claim(served.stream_id, address, lease_ms, 1_000, 0))
    assert isinstance(answer, Failure)
    assert answer.code == Code.BAD_REQUEST
    assert rule in answer.text


def test_claim_outside_the_streams_own_bounds_is_refused() -> None:
    served = Served()
    unchanged = UNCHANGED._replace(lease_min_ms=500, lease_max_ms=LEASE_MS)
    assert isinstance(served.call("n1", SetStream("/s", unchanged)), StreamInfo)
    served.run(1_000)
    for lease_ms in (499, LEASE_MS + 1):
        answer = served.call("n1", Claim(served.stream_id, "", lease_ms, 1_000, 0))
        assert isinstance(answer, Failure)
        assert answer.text == f"a lease of {lease_ms} ms; /s allows 500 to {LEASE_MS}"
    claim(served)


def test_any_node_may_coordinate_a_claim() -> None:
    served = Served(4)
    (stranger,) = set(served.names) - set(served.members)
    claimed = claim(served, stranger)
    assert (claimed.stream_id, claimed.version, claimed.tail) == (served.stream_id, 1, ORIGIN)


def test_claim_brings_in_a_member_that_lags() -> None:
    served = Served()
    writer = claim(served).writer
    served.cut_off = {"n3"}
    last = put(served, writer, 40).held
    served.cut_off = {"n1"}
    assert claim(served, "n2", force=1).tail == last
    member = served.nodes["n3"].members[served.stream_id]
    assert member.history.tail == last
    assert member.accepted > writer


def test_claim_that_fails_says_why() -> None:
    served = Served()
    put(served, claim(served).writer, 40)
    answer = served.call("n2", Claim(served.stream_id, "app:2", LEASE_MS, LEASE_MS // 2, 0))
    assert isinstance(answer, Failure)
    assert answer.code == Code.UNAVAILABLE
    assert answer.text == "/s was not claimed: app:1 holds the lease"


def test_claims_under_way_are_bounded_and_end_with_their_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writers_module, "CLAIMS_COUNT_MAX", 2)
    served = Served()
    put(served, claim(served).writer, 40)
    served.nodes["n1"].open_session(9, client_hello())
    for request_id in (7, 8):
        request = Claim(served.stream_id, "app:2", LEASE_MS, 60_000, 0)
        served.ask("n1", request, request_id, session=9)
    served.run(10)
    answer = served.call("n1", Claim(served.stream_id, "app:3", LEASE_MS, 60_000, 0))
    assert isinstance(answer, Failure)
    assert answer.code == Code.BUSY
    served.nodes["n1"].close_session(9)
    served.run(5 * LEASE_MS)
    assert served.answers_to(7) == served.answers_to(8) == []
    assert claim(served).writer.ts > 0


# --- relayed puts ---------------------------------------------------------------------------------


def test_relayed_put_is_held_by_a_majority_when_it_is_answered() -> None:
    served = Served()
    writer = claim(served).writer
    answer = put(served, writer, 40)
    assert (answer.code, answer.transmission) == (Code.OK, 40)
    batch = entries(1, ORIGIN, writer)
    assert answer.held == batch.last
    held = [name for name in served.names if served.nodes[name].members[2].history.tail.entry_id]
    assert len(held) >= 2


def test_next_put_goes_by_the_same_relay() -> None:
    served = Served()
    writer = claim(served).writer
    first = put(served, writer, 40)
    relays = dict(served.nodes["n1"]._writers._relays)
    batch = entries(1, first.held, writer)
    relayed = Put(served.stream_id, 1, writer, 41, first.held, relay=1)
    answer = served.call("n1", relayed, batch)
    assert (answer.code, answer.held) == (Code.OK, batch.last)
    assert served.nodes["n1"]._writers._relays == relays


def test_put_of_a_writer_that_is_not_promised_here_is_busy_until_it_is_learned() -> None:
    served = Served()
    served.cut_off = {"n3"}
    writer = claim(served).writer
    served.cut_off = set()
    first = put(served, writer, 40, name="n3")
    assert first.code == Code.BUSY
    served.run(100)
    assert put(served, writer, 41, name="n3").code == Code.OK


def test_put_of_an_older_writer_is_refused_by_the_member_itself() -> None:
    served = Served()
    newest = claim(served).writer
    answer = put(served, WriterId(1, 1), 40)
    assert (answer.code, answer.promised, answer.address) == (Code.FENCED, newest, "app:1")


def test_records_of_another_writer_are_refused() -> None:
    served = Served()
    writer = claim(served).writer
    request = Put(served.stream_id, 1, writer, 1, ORIGIN, relay=1)
    assert served.call("n1", request, entries(1, ORIGIN, W1)).code == Code.BAD_REQUEST


def test_relay_ends_when_another_writer_takes_over() -> None:
    served = Served()
    old = claim(served).writer
    put(served, old, 40)
    relays = served.nodes["n1"]._writers._relays
    assert {each.writer for each in relays.values()} == {old}
    new = claim(served, "n2", force=1).writer
    assert relays == {}
    assert served.nodes["n1"].members[2].promise.writer == new


# --- relayed releases -----------------------------------------------------------------------------


def test_relayed_release_ends_the_lease_at_a_majority() -> None:
    served = Served()
    claimed = claim(served)
    put(served, claimed.writer, 40)
    last = entries(1, ORIGIN, claimed.writer).last
    release = Release(served.stream_id, 1, claimed.writer, last, relay=1)
    answer = served.call("n1", release)
    assert isinstance(answer, ReleaseReply)
    assert answer.code == Code.OK
    status = served.call("n2", WriterStatus(served.stream_id, 0, W1, 0))
    assert status.remaining_lease_ms == 0
    read = served.call("n1", Read(served.stream_id, 1, 1_000, 100, 0, 0))
    assert isinstance(read, ReadReply)
    assert read.committed == last
    assert claim(served, "n3", wait_ms=LEASE_MS // 2).tail == last


def test_release_of_an_older_writer_is_refused_by_the_member_itself() -> None:
    served = Served()
    claim(served)
    release = Release(served.stream_id, 1, WriterId(1, 1), ORIGIN, relay=1)
    assert served.call("n1", release).code == Code.FENCED


def test_second_release_while_the_first_is_under_way_is_busy() -> None:
    served = Served()
    release = Release(served.stream_id, 1, claim(served).writer, ORIGIN, relay=1)
    for request_id in (7, 8):
        served.ask("n1", release, request_id)
    served.run(100)
    codes = [
        [each.code for each in served.answers_to(request_id) if isinstance(each, ReleaseReply)]
        for request_id in (7, 8)
    ]
    assert codes == [[Code.OK], [Code.BUSY]]


def test_release_that_no_majority_hears_is_not_promised() -> None:
    served = Served()
    claimed = claim(served)
    served.cut_off = {"n2", "n3"}
    release = Release(served.stream_id, 1, claimed.writer, ORIGIN, relay=1)
    assert served.call("n1", release).code == Code.UNAVAILABLE


def test_release_to_one_member_is_obeyed_by_it_alone() -> None:
    served = Served()
    claimed = claim(served)
    put(served, claimed.writer, 40)
    release = Release(served.stream_id, 1, claimed.writer, ORIGIN, relay=0)
    assert served.call("n1", release).code == Code.OK
    left = [served.nodes[name].members[2].lease.promised_until_ns for name in ("n1", "n2")]
    assert left[0] == 0
    assert left[1] > 0
