"""Trims beside all else that happens to a stream: members that hear of them late, or in the middle
of a claim, a jump or a backfill, and managers that die.

A trim must not change whose history a claim chooses. `Trimmed` checks that after every step, as for
everything else: every majority's claim would keep what was acknowledged.
"""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.by_hand import JUMP_MS, STREAM, NoAnswer, Stage
from tests.core.test_claims import uneven
from tests.core.test_schedules import claimed
from walle.core.quorum import majority_size
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.messages import (
    Adopt,
    Claim,
    ClaimReply,
    Confirm,
    CreateStream,
    Failure,
    NewWriter,
    Put,
    PutReply,
    Read,
    Release,
    SetMembers,
    Stamp,
    StreamInfo,
    Sync,
    TrimStream,
)
from walle.record import Encoder
from walle.testing.cluster import Cluster
from walle.testing.violation import Violation

if TYPE_CHECKING:
    from tests.core.by_hand import Coordinator, Writer
    from walle.messages import Message
    from walle.testing.cluster import Mail


def play(claim: Coordinator, order: tuple[str, ...], count: int) -> None:
    """Delivers the first `count` messages of the claim, for each member in turn and step by step;
    those that are not sent are passed over."""
    steps = [(kind, name) for kind in (NewWriter, Sync, Stamp) for name in order]
    for kind, name in steps[:count]:
        letter = claim.letter(kind, name)
        if letter is not None:
            claim.stage.open(letter, object)


class Trimmed(Stage):
    """A stage whose stream is trimmed. What is trimmed needs no holders any more."""

    origin = ORIGIN

    def trim(self, origin_id: int) -> None:
        """The trim is committed in `/cluster`; nobody has heard of it yet."""
        self.origin = Position(origin_id, self.truth.chains[origin_id])
        assert self.origin.entry_id < self.committed_id, "one entry always remains"
        self.publish(self.newest.trimmed(self.origin))

    def tell(self, *names: str) -> None:
        for name in names:
            self.hand("test", name, Adopt(STREAM, "/s", *self.newest))

    @property
    def committed_id(self) -> int:
        """The highest commit point that a member knows."""
        return max(self[name].history.committed.entry_id for name in self.names)

    def check(self) -> None:
        streams = {name: place.disk.streams[STREAM] for name, place in self.places.items()}
        self.truth.check_members(streams)
        self.truth.check_foresight(streams, self.newest, self.newest.version)
        self.check_storage()
        held = [stream.held() for stream in streams.values()]
        for entry_id, chain in self.truth.chains.items():
            count = sum(chain in each.get(entry_id, ()) for each in held)
            if entry_id > self.origin.entry_id and count < majority_size(len(self.names)):
                raise Violation(f"coverage: entry {entry_id} is held by {count} members only")

    def end(self, number: int) -> None:
        """All have heard of the trim: a claim succeeds, puts commit, gaps close."""
        self.tell(*self.names)
        writer = claimed(self, number, *self.names[:2])
        entry_id = writer.tail.entry_id + 1
        for name in self.names:
            writer.put(entry_id, to=name)
        for name in self.names:
            writer.heartbeat_and_jump(entry_id, to=name)
        self.pass_ms(60_000)
        self.check()
        kept = list(range(self.origin.entry_id + 1, entry_id + 1))
        for name in self.names:
            history = self[name].history
            assert (history.gaps(), history.tail) == ([], writer.position(entry_id))
            assert sorted(self.places[name].disk.streams[STREAM].runs) == kept, name


def uneven_and_trimmed() -> tuple[Trimmed, Writer]:
    """Entries 1 to 3 are committed by n1 and n2, 4 is at n1, n3 holds 1 and knows of nothing; 1 and
    2 are trimmed."""
    stage = Trimmed()
    w1 = uneven(stage)
    w1.heartbeat(3, to="n1")
    stage.trim(2)
    return stage, w1


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [(), ("n3",), ("n1",), ("n2", "n3"), ("n1", "n2"), ("n1", "n3")])
@pytest.mark.parametrize("majority", list(permutations(("n1", "n2", "n3"), 2)))
def test_any_majority_claims_whoever_has_heard_of_the_trim(
    told: tuple[str, ...], majority: tuple[str, ...]
) -> None:
    """Only where all but one have trimmed what that one lacks, it must hear of the trim first."""
    stage, w1 = uneven_and_trimmed()
    stage.tell(*told)
    claim = stage.claim(2)
    play(claim, majority, 9)
    if claim.claimed is None:
        assert told == ("n1", "n2")
        assert majority in (("n2", "n3"), ("n3", "n2"))
        stage.tell("n3")
        claim = stage.claim(3)
        play(claim, majority, 9)
    w2 = claim.returns()
    assert w2.tail in (w1.position(3), w1.position(4))
    stage.end(9)


@pytest.mark.parametrize("count", range(10))
def test_trim_that_is_heard_of_in_the_middle_of_a_claim(count: int) -> None:
    for order in permutations(("n1", "n2", "n3")):
        stage, w1 = uneven_and_trimmed()
        claim = stage.claim(2)
        play(claim, order, count)
        stage.tell(order[count % 3])
        play(claim, order, 9)
        w3 = claimed(stage, 3, *order[:2]) if "n3" not in order[:2] else None
        assert w3 is None or w3.tail in (w1.position(3), w1.position(4))
        stage.end(9)


def test_suffix_that_was_never_committed_does_not_win_by_a_trim() -> None:
    """n3 holds two entries of w1 that nobody else has; w2 commits others, and those are trimmed.
    If n3 kept its suffix as though it built on the origin, it would be chosen."""
    stage = Trimmed()
    stage.writer(1).put(1, 5, to="n3")
    w2 = claimed(stage, 2, "n1", "n2")
    for name in ("n1", "n2"):
        w2.put(1, 4, to=name)
        w2.heartbeat(4, to=name)
    stage.trim(3)
    stage.tell("n3")
    assert stage["n3"].history.tail == w2.position(3)
    assert claimed(stage, 3, "n3", "n1").tail == w2.position(4)
    stage.end(9)


# --- everything at random -------------------------------------------------------------------------


class Walk:
    """Random steps on a stage; every one is checked."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.stage = Trimmed()
        self.writers = [self.stage.writer(1)]

    def name(self) -> str:
        return self.rng.choice(self.stage.names)

    def commit_of(self, writer: Writer) -> int:
        """The last entry of the writer's that is committed."""
        chains = self.stage.truth.chains
        entry_id = writer.tail.entry_id
        while chains.get(entry_id + 1) == writer.position(entry_id + 1).chain:
            entry_id += 1
        return entry_id

    def put(self) -> None:
        writer = self.rng.choice(self.writers[-2:])
        first_id = self.commit_of(writer) + self.rng.choice([0, 1, 1, 1, 2])
        first_id = max(first_id, writer.tail.entry_id + 1)
        ids = range(first_id, first_id + self.rng.randint(1, 3))
        names = self.rng.sample(self.stage.names, self.rng.randint(1, 3))
        for name in names:
            with suppress(NoAnswer):
                writer.put(ids[0], ids[-1], to=name, commit=self.commit_of(writer))

    def heartbeat(self) -> None:
        writer = self.writers[-1]
        with suppress(NoAnswer):
            writer.heartbeat(self.commit_of(writer), to=self.name())

    def jump(self) -> None:
        self.heartbeat()
        self.stage.pass_ms(JUMP_MS + 1)

    def claim(self) -> None:
        claim = self.stage.claim(self.writers[-1].id.ts + 1 + len(self.stage.coordinators))
        names = self.rng.sample(self.stage.names, 3)
        play(claim, (names[0], names[1], names[2]), self.rng.choice([2, 4, 6, 8, 9, 9, 9]))
        if claim.claimed is not None:
            self.writers.append(claim.returns())

    def trim(self) -> None:
        low, high = self.stage.origin.entry_id + 1, self.stage.committed_id - 1
        if low <= high:
            self.stage.trim(self.rng.randint(low, high))

    def tell(self) -> None:
        self.stage.tell(self.name())

    def crash(self) -> None:
        self.stage.crash(self.name())

    def run(self) -> None:
        steps = [self.put] * 8 + [self.heartbeat, self.jump, self.jump, self.claim, self.trim]
        steps += [self.trim, self.tell, self.tell, self.crash]
        for _ in range(60):
            self.rng.choice(steps)()
            self.stage.check()
        self.stage.end(1_000)


@pytest.mark.parametrize("seed", range(60))
def test_trims_among_puts_jumps_claims_and_crashes(seed: int) -> None:
    Walk(seed).run()


# --- the manager ----------------------------------------------------------------------------------


class Running(Cluster):
    """Real nodes with the stream `/s` on n1, n2, n3, and a thin client that puts through one."""

    def __init__(self, size: int = 3) -> None:
        super().__init__(size)
        self._request_id = 100
        self.run(1_000)
        info = self.call("n1", CreateStream("/s", ("n1", "n2", "n3")))
        assert isinstance(info, StreamInfo)
        self.stream_id = info.stream_id
        self.run(100)

    @property
    def boss(self) -> str:
        """The manager's node."""
        (name,) = (
            name
            for name, node in self.nodes.items()
            if node.manager is not None and node.manager.is_acting
        )
        return name

    def call(self, name: str, message: Message, batch: Any = None) -> Any:
        """Asks a node, as a client does: again while it is busy."""
        for _ in range(40):
            self._request_id += 1
            self.ask(name, message, self._request_id, batch)
            self.run_until(lambda: bool(self.answers_to(self._request_id)))
            answer = self.answer(self._request_id)
            if getattr(answer, "code", Code.OK) != Code.BUSY:
                return answer
            self.run(100)
        raise AssertionError(f"{name} is busy: {answer}")

    def put(self, count: int, at: str = "n1") -> Position:
        """A writer claims, puts through that node, tells the commit point and releases."""
        claimed = self.call(at, Claim(self.stream_id, "app", 100, 5_000, force=1))
        assert isinstance(claimed, ClaimReply)
        encoder = Encoder(claimed.writer, claimed.tail)
        for _ in range(count):
            encoder.add(b"data", self.now_ns // 1_000)
        batch = encoder.take()
        put = Put(self.stream_id, claimed.version, claimed.writer, 1, claimed.tail, relay=1)
        reply = self.call(at, put, batch)
        assert isinstance(reply, PutReply)
        assert (reply.code, reply.held) == (Code.OK, batch.last)
        release = Release(self.stream_id, claimed.version, claimed.writer, batch.last, relay=1)
        assert self.call(at, release).code == Code.OK
        return batch.last

    def trim(self, to: int, at: str = "n1") -> Any:
        return self.call(at, TrimStream("/s", to, 0))

    def history(self, name: str) -> Any:
        return self.nodes[name].members[self.stream_id].history

    def check_whole(self, first_id: int, last: Position) -> None:
        """All members hold the same, from the first entry on."""
        self.run(10_000)
        for name in self.names[:3]:
            history = self.history(name)
            assert (history.origin.entry_id + 1, history.gaps()) == (first_id, [])
            assert history.committed == history.tail == last
            assert history.origin == self.history("n1").origin
            stored = self.disks[name].streams[self.stream_id]
            assert sorted(stored.runs) == list(range(first_id, last.entry_id + 1))
            assert stored.topology == self.nodes[name].cluster.streams[self.stream_id].topology
        assert self.alarms == []


@pytest.mark.parametrize("at", ["n1", "n2", "n3", "n4"])
def test_any_node_takes_a_trim_and_all_members_carry_it_out(at: str) -> None:
    cluster = Running(4)
    last = cluster.put(9)
    info = cluster.trim(4, at)
    assert isinstance(info, StreamInfo)
    assert (info.version, info.first_entry_id) == (1, 4)
    cluster.check_whole(4, last)
    assert cluster.call("n1", Read(cluster.stream_id, 2, 100, 0, 0, 0)).first_entry_id == 4


def test_trim_goes_up_to_what_is_committed_and_never_back() -> None:
    cluster = Running()
    assert cluster.trim(5).first_entry_id == 1, "the stream is empty"
    last = cluster.put(9)
    for to, first_id in ((1, 1), (4, 4), (3, 4), (4, 4), (9, 9), (500, 9), (1 << 63, 9)):
        assert cluster.trim(to).first_entry_id == first_id
    cluster.check_whole(9, last)
    last = cluster.put(3)
    assert cluster.trim(500).first_entry_id == 12
    cluster.check_whole(12, last)


def test_trim_knows_what_was_acknowledged_before_it() -> None:
    """Though the members that it asks may not know yet that it is committed."""
    cluster = Running()
    cluster.lose = lambda mail: isinstance(mail.message, Put) and mail.target == "n3"
    cluster.put(9)
    cluster.lose = lambda _mail: False
    assert cluster.trim(9).first_entry_id == 9


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (TrimStream("/nope", 3, 0), Code.UNKNOWN_STREAM),
        (TrimStream("/cluster", 2, 0), Code.BAD_REQUEST),
        (TrimStream("/s", 0, 0), Code.BAD_REQUEST),
        (TrimStream("/s", 3, 3), Code.BAD_REQUEST),
    ],
)
def test_trim_that_makes_no_sense_is_refused(request_: TrimStream, code: Code) -> None:
    refused = Running().call("n1", request_)
    assert isinstance(refused, Failure)
    assert refused.code == code


def test_member_that_was_away_comes_back_behind_the_trim() -> None:
    cluster = Running()
    cluster.put(5)
    cluster.crash("n3")
    cluster.put(9)
    cluster.run(5_000)  # n3 may have been the manager
    assert cluster.trim(12).first_entry_id == 12
    last = cluster.put(4)
    cluster.start("n3")
    cluster.check_whole(12, last)


def test_trim_is_kept_over_a_restart_of_all() -> None:
    cluster = Running()
    cluster.put(9)
    cluster.trim(6)
    cluster.run(1_000)
    for name in cluster.names:
        cluster.crash(name)
    for name in cluster.names:
        cluster.start(name)
    for name in cluster.names:
        assert cluster.history(name).origin.entry_id == 5, "before it has read /cluster"
    cluster.check_whole(6, cluster.put(2))


def is_trim(mail: Mail) -> bool:
    """A put of the manager's that is not a heartbeat."""
    return isinstance(mail.message, Put) and mail.message.stream_id == 1 and mail.batch is not None


@pytest.mark.parametrize("reached", [0, 1, 2])
@pytest.mark.parametrize("kept_actions", [0, 1 << 30])
def test_manager_dies_in_the_middle_of_a_trim(reached: int, kept_actions: int) -> None:
    """Its entry has reached so many of the others: the trim happens for all, or for none. Then it
    may be asked for again."""
    cluster = Running()
    last = cluster.put(9)
    boss = cluster.boss
    others = [name for name in cluster.names if name != boss]
    cluster.lose = lambda mail: is_trim(mail) and mail.target not in others[:reached]
    cluster.ask(boss, TrimStream("/s", 6, 0), 7)
    cluster.run(20)
    cluster.crash(boss, kept_actions)
    cluster.lose = lambda _mail: False
    cluster.run(10_000)
    firsts = {cluster.history(name).origin.entry_id + 1 for name in others}
    assert firsts == ({6} if reached else {1})
    cluster.start(boss)
    assert cluster.trim(8, others[0]).first_entry_id == 8
    cluster.check_whole(8, last)


def test_trim_without_a_majority_of_the_members_fails() -> None:
    """What is acknowledged cannot be told; the manager has a majority of its own."""
    cluster = Running(5)
    cluster.put(9)
    boss = cluster.boss
    for name in [name for name in ("n1", "n2", "n3") if name != boss][:2]:
        cluster.crash(name)
    failure = cluster.trim(6, boss)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.text) == (
        Code.UNAVAILABLE,
        "no member of /s could tell where to trim it",
    )


# --- changes of members ---------------------------------------------------------------------------


def is_confirmation(mail: Mail) -> bool:
    return isinstance(mail.message, Confirm)


def test_trim_waits_for_a_change_of_members_and_the_other_way_round() -> None:
    cluster = Running(4)
    last = cluster.put(9)
    cluster.trim(3)
    boss = cluster.boss
    manager = cluster.nodes[boss].manager
    assert manager is not None
    cluster.lose = is_confirmation
    answers: list[Any] = []
    manager.change(SetMembers("/s", ("n1", "n2", "n4"), "", 0), answers.append)
    cluster.collect(boss)
    cluster.run(1_000)
    assert [each.version for each in answers] == [2]
    cluster.ask(boss, TrimStream("/s", 6, 0), 7)
    cluster.run(1_000)
    busy = cluster.answer(7)
    assert isinstance(busy, Failure)
    assert (busy.code, busy.text[:15]) == (Code.BUSY, "/s is being mov")
    cluster.lose = lambda _mail: False
    cluster.run(20_000)
    info = cluster.trim(6)
    assert (info.version, info.first_entry_id) == (3, 6)
    cluster.run(20_000)
    for name in ("n1", "n2", "n4"):
        history = cluster.history(name)
        assert (history.origin.entry_id, history.gaps(), history.tail) == (5, [], last)


def test_change_of_members_needs_nothing_of_what_is_trimmed() -> None:
    """n4 takes n3's place; it holds all there is though it has nothing of what was trimmed."""
    cluster = Running(4)
    cluster.put(9)
    cluster.trim(8)
    last = cluster.put(1)
    boss = cluster.boss
    manager = cluster.nodes[boss].manager
    assert manager is not None
    manager.change(SetMembers("/s", ("n1", "n4"), "", 0), lambda _answer: None)
    cluster.collect(boss)
    cluster.run(20_000)
    record = cluster.nodes[boss].cluster.streams[cluster.stream_id]
    assert record.topology.members == ("n1", "n4")
    assert record.topology.old_members == ()
    history = cluster.history("n4")
    assert (history.origin.entry_id, history.gaps(), history.tail) == (7, [], last)
