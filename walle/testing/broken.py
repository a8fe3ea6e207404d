"""The protocol with one rule left out, for each rule that looks superfluous: the simulator must
find out. The wrong variants replace methods of the product's own objects while they are in force.

Each rule's schedule, step by step, is in docs/protocol.md, "Why each rule is there".
"""

from __future__ import annotations

import random
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from weakref import WeakKeyDictionary

from walle.core import backfill, quorum
from walle.core.backfill import Backfill
from walle.core.change import Change
from walle.core.effects import NO_PROMISE, Jump, Outbox, Send
from walle.core.history import History, Run
from walle.core.lease import OwedLeases, exclusive_until_ns
from walle.core.member import Member
from walle.core.pipeline import Pipeline
from walle.core.syncing import Syncing
from walle.errors import Code
from walle.limits import FETCH_BYTES_MAX
from walle.messages import AskWriter, AskWriterReply, Fetch, ReleaseReply, StampReply
from walle.testing.disk import Stream
from walle.testing.faults import Faults
from walle.testing.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.core.effects import Action, Address
    from walle.core.member import State
    from walle.core.topology import StreamTopology
    from walle.ids import IdRange, Position, WriterId
    from walle.messages import Message, Put, PutReply, Release, Stamp, Sync
    from walle.record import Batch

Wrong = tuple[type[Any], str, Any]
"""A class, and what is replaced in it by what."""


@dataclass(frozen=True)
class Rule:
    """says: what is left out. wrong: the methods that replace the right ones.
    finds: a pattern of what is then found. seed: one that finds it.
    faults: what the workload is biased towards; nodes, replicas, steps: its size.
    """

    says: str
    wrong: list[Wrong]
    finds: str
    seed: int = 1
    faults: dict[str, Any] = field(default_factory=dict)
    nodes: int = 3
    replicas: int = 3
    steps: int = 300

    @contextmanager
    def broken(self) -> Iterator[None]:
        """While this holds, the rule is left out."""
        with ExitStack() as stack:
            for cls, name, replacement in self.wrong:
                stack.enter_context(patch.object(cls, name, replacement))
            yield

    def make(self, seed: int) -> Simulation:
        """A run of the kind that finds it soon."""
        return Simulation(
            seed,
            size=self.nodes,
            replicas=self.replicas,
            faults=Faults.draw(random.Random(f"{seed} faults"), **self.faults),
            steps=range(self.steps),
        )


# --- claims ---------------------------------------------------------------------------------------

_append = Member.append


def _append_stamped(self: Member, batch: Batch, skip: int, writer: WriterId | None) -> None:
    _append(self, batch, skip, self.promise.writer if writer is None else writer)


def _admit_sync_after_stamp(self: Syncing, message: Sync) -> Code:
    return self._member.admit_writer(message.version, message.writer)


def _stamp_anyone(self: Member, sender: Address, request_id: int, message: Stamp) -> None:
    code = self.admit_version(message.version)
    if code is Code.OK:
        if self.accepted < message.writer and self.history.tail == message.tail:
            self._accept(message.writer)
        elif self.accepted < message.writer or not self.history.holds(message.tail):
            code = Code.CONFLICT
    reply = StampReply(self.stream_id, code, self.topology.version, message.writer)
    self.answer(sender, request_id, reply)


# --- versions and members -------------------------------------------------------------------------

_admit_version = Member.admit_version


def _admit_older_version(self: Member, version: int) -> Code:
    if version == self.topology.version - 1 and self.is_named:
        return Code.OK
    return _admit_version(self, version)


def _reply_under_the_puts_version(
    self: Member, to: Address, request_id: int, put: Put, code: Code
) -> None:
    topology = self.topology
    if code is Code.OK:
        self.topology = topology._replace(version=put.version)
    _reply_to_put(self, to, request_id, put, code)
    self.topology = topology


_reply_to_put = Member._reply_to_put


def _add_versions_up(self: Pipeline, topology: StreamTopology, now_ns: int) -> None:
    if topology.version <= self.topology.version:
        return
    links, version = self._links, self.topology.version
    _adopt(self, topology, now_ns)
    for node, link in links.items():
        if node in self._links and version:
            self._links[node].held_id = link.held_id
            self._links[node].transmission = link.transmission
    self._advance()


_adopt = Pipeline.adopt


def _confirm_anything(self: Change, _tail_id: int) -> None:
    topology = self._topology
    confirmed: dict[str, int] = {}

    def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
        if isinstance(reply, AskWriterReply) and reply.code == Code.OK:
            confirmed[node] = reply.committed.entry_id
            if quorum.is_majority(topology, confirmed):
                self._finish_call()
                self._cover(quorum.majority_value(topology, confirmed), {})

    question = AskWriter(self._stream_id, topology.version)
    self._ask(topology.everyone, question, on_reply, self._read_tails)


def _cover_nothing(self: Change, _committed_id: int, _missing: dict[str, list[IdRange]]) -> None:
    self.stop()
    self._on_end()


_leave = Member.leave
_leave_stored = Stream._leave


def _leave_with_accepted(self: Member) -> None:
    accepted = self.accepted
    _leave(self)
    self.accepted = accepted


def _leave_stored_with_accepted(self: Stream) -> None:
    accepted = self.accepted
    _leave_stored(self)
    self.accepted = accepted


# --- puts and jumps -------------------------------------------------------------------------------

_jump = History.jump
_execute = Stream.execute


def _jump_discarding(self: History, batch: Batch, skip: int, committed: Position) -> None:
    kept = list(self.aside)
    _jump(self, batch, skip, committed)
    self.aside = kept


def _execute_discarding(self: Stream, action: Action, journal_lag_entries: int) -> None:
    kept = list(self.aside)
    _execute(self, action, journal_lag_entries)
    if isinstance(action, Jump):
        self.aside = kept


def _commit_unchecked(self: Member, put: Put) -> Code:
    committed = put.committed
    own = self.history.chain_at(committed.entry_id)
    if own is not None and committed.entry_id > self.history.committed.entry_id:
        self._commit_held(committed._replace(chain=own), put.writer)
        return Code.OK
    return _put_commit_point(self, put)


_put_commit_point = Member._put_commit_point


def _send_before_sync(
    self: Outbox, to: Address, message: Message, request_id: int, _sequence: int
) -> None:
    self.sends.append(Send(to, request_id, message))


# --- backfill and damage --------------------------------------------------------------------------


def _add_fill_trusting(self: History, batch: Batch) -> None:
    """Appends whatever it is, and takes it to meet what is above."""
    gap = self.lowest_gap()
    if self.fill is None:
        self.fill = Run(batch.first_id, batch.prev_chain, batch.last)
    self.fill.last = batch.last
    if gap is not None and self.fill.end == gap[1].start:
        self.fill.last = gap[1].before


def _backfill_trusting(self: Backfill) -> None:
    history = self._member.history
    gap = history.lowest_gap()
    if self._is_fetching or gap is None or not self._member.is_named:
        return
    self._is_fetching = True
    start, end = gap[0].entry_id + 1, gap[1].start
    if history.fill is not None:
        start = history.fill.end

    def on_reply(_node: str, _reply: Message, batch: Batch | None) -> None:
        call.finish()
        position = history.fill_position()
        if (
            batch is not None
            and batch.first_id == start
            and batch.last_id < end
            and history.lowest_gap() == gap
            and position is not None
            and position.entry_id == start - 1
        ):
            self._add(batch)
            go_on(is_useful=True)
        else:
            go_on(is_useful=False)

    def go_on(*, is_useful: bool) -> None:
        self._is_fetching = False
        self._go_on(is_useful=is_useful)

    index = int(self._context.random.random() * len(self._sources))
    call = self._context.calls.ask(
        [self._sources[index]],
        Fetch(self._member.stream_id, start, end, 0, 0, FETCH_BYTES_MAX),
        on_reply,
        until_ns=self._context.after_ms(backfill.FETCH_MS),
        on_end=lambda: go_on(is_useful=False),
    )


# --- leases ---------------------------------------------------------------------------------------


def _release_anyone(self: Member, sender: Address, request_id: int, message: Release) -> None:
    code = self.admit_version(message.version)
    if code is Code.OK:
        self.lease.release()
        self._changed()
    reply = ReleaseReply(self.stream_id, code, self.topology.version, self.promise.writer)
    self.answer(sender, request_id, reply)


def _supersede_last_only(self: OwedLeases, now_ns: int, lease_ms: int) -> int:
    before = self._lease_ms if self.promised_until_ns > now_ns else 0
    self._older_lease_ms, self._lease_ms = before, lease_ms
    self.older_until_ns = self.promised_until_ns
    self.promised_until_ns = 0
    self._is_released = False
    return before


def _owe_nothing_at_boot(
    self: OwedLeases, *, now_ns: int, lease_ms: int, older_lease_ms: int
) -> None:
    _owe(self, now_ns=now_ns, lease_ms=lease_ms, older_lease_ms=older_lease_ms)
    self.promised_until_ns = self.older_until_ns = now_ns


_owe = OwedLeases.__init__


def _note_when_answered(self: Pipeline, node: str, reply: PutReply, now_ns: int) -> None:
    before = self.acknowledged_transmission
    _receive(self, node, reply, now_ns)
    if self.acknowledged_transmission > before:
        _answered_ns[self] = now_ns


def _exclusive_from_answer(self: Pipeline) -> int:
    answered_ns = _answered_ns.get(self)
    return 0 if answered_ns is None else exclusive_until_ns(answered_ns, self.lease_ms)


_answered_ns: WeakKeyDictionary[Pipeline, int] = WeakKeyDictionary()
_receive = Pipeline.receive


def _recover_without_promise(self: Stream, stream_id: int) -> State:
    return _state(self, stream_id)._replace(promise=NO_PROMISE)


_state = Stream.state


# --- the rules ------------------------------------------------------------------------------------

BUSY: dict[str, Any] = {
    "lost": 0.1,
    "late": 0.3,
    "late_ms": 50.0,
    "replay": 0.0,
    "crash": 0.0,
    "cut_off": 0.0,
    "links": 0.0,
    "blocked": 0.1,
    "pause": 0.0,
    "stall": 0.0,
    "slow": 0.0,
    "sync_error": 0.0,
    "mask": 0.0,
    "rot": 0.0,
    "ruin": 0.0,
    "full": 0.0,
    "trim": 0.0,
    "rates": (1.0, 1.15, 1.32),
    "change": 0.0,
    "claim": 0.1,
    "force": 1.0,
    "leases_ms": (100, 200, 800),
    "journal_lag_entries": 1,
    "sync_ms": 0.0,
}
"""Claims that take over from each other, over a network that loses and delays."""
BRIEF = BUSY | {"leases_ms": (20,)}
"""Leases so short that claims and jumps wait for nothing."""
CRASHING = BUSY | {"crash": 0.02, "sync_ms": 10.0}
CHANGING = BUSY | {"change": 0.05, "force": 0.3}
DAMAGED = BUSY | {"crash": 0.02, "rot": 1.0, "sync_ms": 1.0, "journal_lag_entries": 8}
LEASED = BUSY | {"force": 0.3, "leases_ms": (200, 800), "claim": 0.5}
"""Leases so long that much happens in one."""

RULES: dict[str, Rule] = {
    "restamp-while-copying": Rule(
        "a claim's Sync raises `accepted` with every entry it copies",
        [(Member, "append", _append_stamped)],
        "exclusivity|foresight|agreement",
        seed=25,
        faults=BRIEF,
    ),
    "accept-older-version": Rule(
        "a member accepts requests under the version below its own",
        [
            (Member, "admit_version", _admit_older_version),
            (Member, "_reply_to_put", _reply_under_the_puts_version),
        ],
        "exclusivity|foresight|agreement|durability",
        seed=5,
        faults=CHANGING,
        nodes=5,
    ),
    "discard-on-jump": Rule(
        "a jump discards the suffix that it overtakes",
        [(History, "jump", _jump_discarding), (Stream, "execute", _execute_discarding)],
        "coverage",
        seed=75,
        faults=BRIEF
        | {"lost": 0.05, "late": 0.05, "blocked": 0.3, "links": 0.5, "force": 0.0, "claim": 0.3},
    ),
    "drop-without-coverage": Rule(
        "a change ends though too few of the new members hold what is committed",
        [(Change, "_cover", _cover_nothing)],
        "coverage|closing of gaps",
        seed=2,
        faults=CHANGING | {"change": 0.1},
        replicas=1,
    ),
    "any-commit-point-ends-joint": Rule(
        "a commit point from before the tails were read ends a change",
        [(Change, "_confirm", _confirm_anything)],
        "exclusivity|foresight|agreement",
        seed=1,
        faults=CHANGING,
        nodes=5,
    ),
    "mix-version-acks": Rule(
        "acknowledgements given under different versions are added up",
        [(Pipeline, "adopt", _add_versions_up)],
        "exclusivity|foresight|agreement|durability",
        seed=12,
        faults=CHANGING,
        nodes=5,
    ),
    "keep-accepted-when-leaving": Rule(
        "a node that is left out, and loses its entries, keeps its `accepted`",
        [
            (Member, "leave", _leave_with_accepted),
            (Stream, "_leave", _leave_stored_with_accepted),
        ],
        "exclusivity|foresight|agreement|durability",
        seed=78,
        faults=CHANGING | {"change": 0.2},
        nodes=4,
    ),
    "sync-after-stamp": Rule(
        "a member that is stamped already obeys a late Sync",
        [(Syncing, "_admit", _admit_sync_after_stamp)],
        "exclusivity|foresight|agreement",
        seed=140,
        faults=BRIEF | {"replay": 0.5, "replayed": ("Sync",), "lost": 0.2, "cut_off": 0.05},
    ),
    "stamp-without-promise": Rule(
        "a member obeys a Stamp of a writer that it has not promised",
        [(Member, "stamp", _stamp_anyone)],
        "exclusivity|foresight|agreement",
        seed=29,
        faults=BRIEF
        | {"replay": 0.5, "replayed": ("Stamp",), "claim": 0.3, "late": 0.5}
        | {"lost": 0.05, "blocked": 0.05},
    ),
    "release-without-promise": Rule(
        "a member obeys a Release of another writer than the promised one",
        [(Member, "release", _release_anyone)],
        "lease: ",
        seed=37,
        faults=LEASED | {"replay": 0.5, "replayed": ("Release",), "blocked": 0.01},
    ),
    "last-lease-only": Rule(
        "a member waits for the lease of the last promised writer only",
        [(OwedLeases, "supersede", _supersede_last_only)],
        "lease: ",
        seed=24,
        faults=BUSY,
    ),
    "exclusive-from-ack": Rule(
        "a writer counts its lease from the acknowledgement, not from the sending",
        [
            (Pipeline, "receive", _note_when_answered),
            (Pipeline, "exclusive_until_ns", _exclusive_from_answer),
        ],
        "lease: ",
        seed=46,
        faults=BUSY | {"pause": 0.1, "leases_ms": (100,), "claim": 0.5, "blocked": 0.01},
    ),
    "ack-before-sync": Rule(
        "a member answers before what it tells is on stable storage",
        [(Outbox, "send_durable", _send_before_sync)],
        "exclusivity|foresight|agreement",
        seed=1,
        faults=CRASHING,
    ),
    "forget-promise": Rule(
        "a member forgets its promise when it restarts",
        [(Stream, "state", _recover_without_promise)],
        "exclusivity|foresight|agreement|accepted is above promised",
        seed=6,
        faults=BRIEF | {"crash": 0.1, "restart": 1.0},
    ),
    "lease-not-renewed-at-boot": Rule(
        "a member that restarts owes no lease",
        [(OwedLeases, "__init__", _owe_nothing_at_boot)],
        "lease: ",
        seed=27,
        faults=LEASED | {"crash": 0.2, "restart": 1.0, "pause": 0.05},
    ),
    "commit-without-chain-check": Rule(
        "a commit point advances over an entry with another chain",
        [(Member, "_put_commit_point", _commit_unchecked)],
        "exclusivity|foresight|agreement|alarm",
        seed=162,
        faults=BRIEF,
    ),
    "trust-backfill": Rule(
        "a gap is called closed whatever a peer has sent",
        [
            (Backfill, "start", _backfill_trusting),
            (History, "add_fill", _add_fill_trusting),
        ],
        "agreement: .* holds another entry",
        seed=70,
        faults=BRIEF | {"lost": 0.2, "links": 0.3},
    ),
    "tail-of-damaged-member": Rule(
        "a member whose suffix is damaged answers for its tail",
        [(Member, "is_damaged", property(lambda _self: False))],
        "exclusivity|foresight|agreement|linearizability",
        seed=13,
        faults=DAMAGED,
    ),
}
