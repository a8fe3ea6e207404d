"""One stream's member on this node: the rules of docs/protocol.md, "Put" and "ClaimWriter".

The member decides in memory and orders storage to follow; what it answers goes out only once
storage has caught up with what the answer tells (`answer`). Its parts have objects of their own:
`reading` serves readers, `watching` those who look for the writer, `adoption` learns of claims
that were missed, `syncing` gives this member the history that a claim has chosen, `backfill` closes
gaps, `orphan` commits what a vanished writer left, `joining` has the stream's members changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.core import effects
from walle.core.adoption import Adoption
from walle.core.backfill import Backfill
from walle.core.effects import NO_PROMISE, Promise
from walle.core.history import History
from walle.core.joining import Joining
from walle.core.lease import OwedLeases
from walle.core.orphan import Orphan
from walle.core.question import FETCH_MS, fetch_one
from walle.core.reading import Reading
from walle.core.reorder import EarlyPut, ReorderQueue
from walle.core.syncing import Syncing
from walle.core.watching import Watching
from walle.errors import Code, invariant
from walle.ids import NO_WRITER, ORIGIN, STREAM_CLUSTER, Position, WriterId, new_tuple
from walle.limits import (
    COMMITTED_LAG_ENTRIES_MAX,
    ENTRY_ID_MAX,
    JUMP_WAIT_MS_MAX,
    TAIL_PAGE_ENTRIES,
    UNCOMMITTED_ENTRIES_MAX,
)
from walle.messages import (
    NewWriter,
    NewWriterReply,
    Put,
    PutReply,
    ReadTail,
    ReadTailReply,
    Release,
    ReleaseReply,
    Stamp,
    StampReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.effects import Action, Address
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch

OK, FENCED, NOT_PROMISED = Code.OK, Code.FENCED, Code.NOT_PROMISED
"""What each put is compared with: finding a member of an enum takes as long as three functions."""
COMMIT_ORDER_ENTRIES = COMMITTED_LAG_ENTRIES_MAX // 4
COMMIT_ORDER_MS = 50
REPEAT_JUMP_MS = 200


class State(NamedTuple):
    """What a member knows when it starts: nothing, or what storage recovered.

    doubtful_id: entries up to this id may have been acknowledged and lost to damage; while the
        commit point is below it, the member may promise, but not answer for its tail, until a
        claim has synced it.
    """

    stream_id: int
    name: str
    topology: StreamTopology
    history: History
    promise: Promise = NO_PROMISE
    accepted: WriterId = NO_WRITER
    doubtful_id: int = 0


class Member:
    """Applies what writers and coordinators ask, in one order.

    on_change: called when the promise, the lease's end or the commit point has changed.
    on_stale: called when a request shows that the stream's topology here is outdated.
    """

    def __init__(
        self,
        context: Context,
        state: State,
        *,
        on_change: Callable[[Member], None],
        on_stale: Callable[[], None],
    ) -> None:
        self.context = context
        self.stream_id = state.stream_id
        self.name = state.name
        self.topology = state.topology
        self.history = state.history
        self.promise = state.promise
        self.accepted = state.accepted
        self.doubtful_id = state.doubtful_id
        self.lease = OwedLeases(
            now_ns=context.now_ns,
            lease_ms=state.promise.lease_ms,
            older_lease_ms=state.promise.older_lease_ms,
        )
        self.last_put_ns = context.now_ns
        self._on_change = on_change
        self.on_stale = on_stale
        self._sequence = 0
        self._ordered_id = self.history.committed.entry_id
        self._reordered = ReorderQueue(context)
        self._missing: Position | None = None
        self._learning = False
        self.reading = Reading(context, self)
        self.watching = Watching(context, self)
        self.backfill = Backfill(context, self)
        self.orphan = Orphan(context, self)
        self.syncing = Syncing(context, self)
        self.joining = Joining(self)
        self.adoption = Adoption(context, self)

    def start(self) -> None:
        """Takes up what was left undone: gaps, and a suffix without a writer; or to leave."""
        self.joining.leave_if_left_out()
        self.backfill.start()
        self.orphan.watch()

    def _changed(self) -> None:
        self.reading.on_commit()
        self.backfill.start()
        self.orphan.watch()
        self._on_change(self)

    # --- order and durability ---------------------------------------------------------------------

    def order(self, action: Action) -> None:
        """Has storage carry out the action; what is answered from now on waits for that."""
        self._sequence = self.context.outbox.order(action)

    def answer(self, to: Address, request_id: int, message: Message) -> None:
        """Sends once all that this member has ordered for the stream so far is durable."""
        self.context.outbox.send_durable(to, message, request_id, self._sequence)

    @property
    def is_damaged(self) -> bool:
        """Whether entries that this member may have acknowledged are missing behind its tail."""
        return self.doubtful_id > self.history.committed.entry_id

    @property
    def is_named(self) -> bool:
        """Whether the topology names this node; if not, it keeps its promise and does nothing."""
        return self.topology.has(self.context.node_id)

    @property
    def others(self) -> list[str]:
        """The other members, old and new."""
        return [node for node in self.topology.everyone if node != self.context.node_id]

    @property
    def has_space(self) -> bool:
        """Whether the disk has room for entries; a reserve is kept for those of `/cluster`."""
        return self.context.has_space or self.stream_id == STREAM_CLUSTER

    # --- admission --------------------------------------------------------------------------------

    def admit_version(self, version: int) -> Code:
        """Rule 3.1: every request carries the stream's version as its label."""
        if version > self.topology.version:
            self.on_stale()
            return Code.BUSY
        if version < self.topology.version:
            return Code.STALE_VERSION
        if not self.topology.has(self.context.node_id):
            return Code.NOT_A_MEMBER
        return OK

    def admit_writer(self, version: int, writer: WriterId) -> Code:
        """For all that only the promised writer's claim may ask: `writer == promised`."""
        code = self.admit_version(version)
        if code is not OK:
            return code
        if writer == NO_WRITER:
            return Code.BAD_REQUEST  # it equals the promise of a stream that was never claimed
        if writer == self.promise.writer:
            return OK
        return FENCED if writer < self.promise.writer else NOT_PROMISED

    # --- promise and topology ---------------------------------------------------------------------

    def set_promise(self, writer: WriterId, address: str, lease_ms: int) -> None:
        """Records a newer promise; from now on older writers are refused."""
        older_lease_ms = self.lease.supersede(self.context.now_ns, lease_ms)
        self.promise = Promise(writer, address, lease_ms, older_lease_ms)
        self.order(effects.SetPromise(self.stream_id, self.promise))
        self.context.outbox.note(f"{self.name}: promised writer {writer}, {address}")
        self._reordered.clear()
        if self._missing is not None:
            self._forget_missing(up_to=self._missing.entry_id)
        self.syncing.cancel()
        self.last_put_ns = self.context.now_ns
        self.watching.on_change()
        self._changed()

    def set_topology(self, topology: StreamTopology) -> None:
        """Records a newer topology. Where it begins later the commit point is at its origin."""
        if self.history.holds(topology.origin):
            self.advance(topology.origin)
        self.order_commit()  # storage learns by it that the live run holds the origin
        self.history.trim(topology.origin)
        self._ordered_id = self.history.committed.entry_id
        self._forget_missing(up_to=self._ordered_id)
        self.topology = topology
        self.order(effects.SetTopology(self.stream_id, self.name, topology))
        self.backfill.on_topology()
        self._take_reordered()
        self._changed()

    def leave(self) -> None:
        """The topology does not name this node any more. Others hold what it holds: that goes.
        Its promise stays, for the case that it becomes a member again, and the version."""
        self._reordered.clear()
        if self._missing is not None:
            self._forget_missing(up_to=self._missing.entry_id)
        self.context.timers.cancel(("commit", self.stream_id))
        self.syncing.cancel()
        self.reading.refuse_all(self.joining.refusal())
        self.watching.refuse_all(self.joining.refusal())
        origin = self.topology.origin
        self.history = History(origin, committed=origin, base=origin)
        self._ordered_id = origin.entry_id
        self.accepted, self.doubtful_id = NO_WRITER, 0
        self.order(effects.Leave(self.stream_id))

    # --- put --------------------------------------------------------------------------------------

    def put(
        self,
        sender: Address,
        request_id: int,
        put: Put,
        batch: Batch | None,
        *,
        may_wait: bool = True,
    ) -> None:
        """A put with its entries, or a heartbeat without.

        may_wait: whether it may wait for this member to learn of a claim that it has missed.
        """
        code = self.admit_writer(put.version, put.writer)
        if code is OK and put.committed.entry_id > ENTRY_ID_MAX:
            code = Code.BAD_REQUEST
        if code is NOT_PROMISED:
            if may_wait and self.adoption.wait(sender, request_id, put, batch):
                return
            code = Code.BUSY
        if code is OK:
            self.last_put_ns = self.context.now_ns
            self.lease.renew(self.context.now_ns)
            if batch is not None:
                code = self._put_entries(sender, request_id, put, batch)
        if code is OK:
            code = self._put_commit_point(put)
        if code is OK and self._missing is None:
            self.joining.took(put)
        self._reply_to_put(sender, request_id, put, code)

    def _reply_to_put(self, to: Address, request_id: int, put: Put, code: Code) -> None:
        promise, history = self.promise, self.history
        reply = (
            self.stream_id,
            code,
            self.topology.version,
            promise.writer,
            put.transmission,
            history.tail if self.accepted == put.writer else ORIGIN,
            history.committed,
            promise.address if code is FENCED else "",
            self.joining.mark,
        )
        self.answer(to, request_id, new_tuple(PutReply, reply))

    def _put_entries(self, sender: Address, request_id: int, put: Put, batch: Batch) -> Code:
        """Rule 3.4, for all entries of a batch at once."""
        if batch.writer != put.writer:
            return Code.BAD_REQUEST
        code = self._take_entries(put.writer, batch)
        if code is OK:
            if self._reordered.puts:
                self._take_reordered()
        elif code is Code.CONFLICT:
            # The predecessor is missing, even if another entry has its id.
            if not self.has_space:
                return Code.NO_SPACE
            self._reordered.add(EarlyPut(sender, request_id, put, batch))
            code = OK
        return code

    def _take_entries(self, writer: WriterId, batch: Batch) -> Code:
        """Appends what of the batch is new; CONFLICT when the predecessor is not held."""
        history = self.history
        tail, committed_id, last_id = history.tail, history.committed.entry_id, batch.last_id
        held, last_held = 0, tail
        if (batch.first_id - 1, batch.prev_chain) != tail:  # rarely
            held = history.matching(batch)
            if held == 0 and not history.holds(batch.before):
                if last_id > committed_id:
                    return Code.CONFLICT
                if history.chain_at(last_id) not in (None, batch.last.chain):
                    return self.adoption.contradicted(writer, batch.last)
                # Committed already, if the writer is not mistaken: nothing is to be done, and the
                # answer tells how far this member is.
                return OK
            last_held = batch.position_at(batch.first_id + held - 1)
        is_new, uncommitted = last_held.entry_id < last_id, last_held.entry_id >= committed_id
        if is_new:
            if not uncommitted or (self.accepted >= writer and last_held != tail):
                return self.adoption.contradicted(writer, batch.position_at(last_held.entry_id + 1))
            if last_id > committed_id + UNCOMMITTED_ENTRIES_MAX:
                return Code.BUSY
            if not self.has_space:
                return Code.NO_SPACE
        if self.accepted < writer and uncommitted:
            self.truncate(last_held)
        if is_new:
            self.append(batch, held, writer)
        elif uncommitted:
            self._accept(writer)
        return OK

    def diverged(self, told: Position) -> Code:
        """What was told contradicts what is committed here, and no lost claim explains it."""
        self.context.outbox.alarm(
            f"stream {self.name}: told of entry {told}, which contradicts what this member holds "
            f"(committed {self.history.committed}, tail {self.history.tail}); it was refused"
        )
        return Code.DIVERGED

    def append(self, batch: Batch, skip: int, writer: WriterId | None) -> None:
        """Appends to the live run, under `writer` if it is newer than what was accepted."""
        self.history.append(batch, skip)
        append = (self.stream_id, batch, skip, self._newly_accepted(writer))
        self.order(new_tuple(effects.Append, append))
        self.orphan.watch()

    def truncate(self, tail: Position) -> None:
        if tail != self.history.tail:
            self.history.truncate(tail)
            self.order(effects.Truncate(self.stream_id, tail))

    def _accept(self, writer: WriterId) -> None:
        if self._newly_accepted(writer) is not None:
            self.order(effects.SetAccepted(self.stream_id, writer))

    def _newly_accepted(self, writer: WriterId | None) -> WriterId | None:
        """Raises `accepted` to `writer`; returns it if that is a change to be made durable.

        What was lost to damage no longer matters then: it was acknowledged under an older writer,
        and what of it was committed is in the newer one's history, held by a majority that was
        stamped for it.
        """
        if writer is None or writer <= self.accepted:
            return None
        self.accepted = writer
        self.doubtful_id = 0
        return writer

    def _take_reordered(self) -> None:
        """Appends what is queued and now has its predecessor, with both checks made again."""
        progress = True
        while progress:
            ready = self._reordered.beginning_up_to(self.history.tail.entry_id + 1)
            progress = any(self._take_early(early) for early in ready)

    def _take_early(self, early: EarlyPut) -> bool:
        """Whether the put could leave the queue."""
        put = early.put
        code = self.admit_writer(put.version, put.writer)
        if code is OK:
            code = self._take_entries(put.writer, early.batch)
        if code is Code.CONFLICT:
            return False
        self._reordered.remove(early)
        self._reply_to_put(early.sender, early.request_id, put, code)
        return True

    # --- the commit point -------------------------------------------------------------------------

    def _put_commit_point(self, put: Put) -> Code:
        """Rule 3.5."""
        committed = put.committed
        if committed.entry_id < self.history.committed.entry_id:
            return OK
        if self.history.holds(committed):
            self._commit_held(committed, put.writer)
            return OK
        if committed.entry_id == self.history.committed.entry_id:
            return self.diverged(committed)
        if self._missing is None or committed.entry_id > self._missing.entry_id:
            self._missing = committed
        # What is only late comes soon; to a new member nobody has sent what it lacks.
        wait_ms = 0 if self.history.is_empty else min(JUMP_WAIT_MS_MAX, self.promise.lease_ms / 4)
        if not self.context.timers.is_set(("jump", self.stream_id)):
            self._set_jump_alarm(wait_ms)
        return OK

    def _commit_held(self, committed: Position, writer: WriterId | None) -> None:
        """The commit point is `committed`, which is held. writer: as for `jump_to`."""
        if writer is not None and self.accepted < writer:
            self.truncate(committed)
            self._accept(writer)
        self.advance(committed)

    def advance(self, committed: Position) -> None:
        """The commit point is `committed`, an entry of the live run."""
        if committed.entry_id <= self.history.committed.entry_id:
            return
        self.history.commit(committed)
        if self._missing is not None:
            self._forget_missing(up_to=committed.entry_id)
        timers, key = self.context.timers, ("commit", self.stream_id)
        if committed.entry_id - self._ordered_id >= COMMIT_ORDER_ENTRIES:
            self.order_commit()
        elif not timers.is_set(key):
            timers.set(key, self.context.after_ms(COMMIT_ORDER_MS), self.order_commit)
        self.reading.on_commit()  # no gap has come of it, and nothing to commit
        self._on_change(self)

    def order_commit(self) -> None:
        """Tells storage the commit point, unless it knows."""
        self.context.timers.cancel(("commit", self.stream_id))
        if self.history.committed.entry_id > self._ordered_id:
            self._ordered_id = self.history.committed.entry_id
            self.history.drop_covered_aside()
            self.context.outbox.order(effects.Commit(self.stream_id, self.history.committed))

    # --- jump -------------------------------------------------------------------------------------

    def _jump(self) -> None:
        """The commit point's entry has not arrived in time: start a new run at it."""
        missing, writer = self._missing, self.promise.writer
        invariant(missing is not None, "the alarm of a jump ends with what is missing")
        assert missing is not None  # noqa: S101 - for the type checker
        if not self.has_space:
            self.reading.on_full()
            self._set_jump_alarm(REPEAT_JUMP_MS)
            return
        early = self._reordered.holding(missing)
        if early is not None:
            self.jump_to(missing, early.batch, writer)
            return

        def on_record(batch: Batch) -> None:
            if self.promise.writer == writer:
                self.jump_to(missing, batch, writer)
            on_end()

        def on_end() -> None:
            if self._missing is not None:
                self._set_jump_alarm(REPEAT_JUMP_MS)

        self._set_jump_alarm(2 * FETCH_MS)  # nothing else sets it while the fetch is under way
        fetch_one(self, missing, on_record, on_end)

    def _set_jump_alarm(self, ms: float) -> None:
        self.context.timers.set(("jump", self.stream_id), self.context.after_ms(ms), self._jump)

    def _forget_missing(self, *, up_to: int) -> None:
        """The commit point has come to that entry, or a newer writer tells another one."""
        if self._missing is not None and self._missing.entry_id <= up_to:
            self._missing = None
            self.context.timers.cancel(("jump", self.stream_id))

    def jump_to(self, committed: Position, batch: Batch, writer: WriterId | None) -> None:
        """Makes `committed`, an entry of the batch, the commit point, on a new run if need be.

        writer: the writer whose put told the commit point; its history this is from now on. None:
            a claim or another member told it, and `accepted` does not change.
        """
        history = self.history
        if committed.entry_id <= history.committed.entry_id or not self.is_named:
            return
        if history.holds(committed):  # it has arrived meanwhile
            self._commit_held(committed, writer)
            return
        skip = max(history.committed.entry_id + 1 - batch.first_id, 0)
        if batch.first_id + skip == history.committed.entry_id + 1:
            # No gap: the suffix merely conflicts. What the batch shares with it is kept.
            skip = max(skip, history.matching(batch))
            last_held = batch.position_at(batch.first_id + skip - 1)
            if not history.holds(last_held):
                self._forget_missing(up_to=committed.entry_id)
                self.diverged(last_held)
                return
            self.truncate(last_held)
            self.append(batch, skip, writer)
            self.advance(committed)
        else:
            self.order_commit()  # storage must know where the old run ends
            history.jump(batch, skip, committed)
            accepted = self._newly_accepted(writer)
            self._ordered_id = committed.entry_id
            self._forget_missing(up_to=committed.entry_id)
            self.order(effects.Jump(self.stream_id, batch, skip, committed, accepted))
            gap = history.gaps()[-1]
            self.context.outbox.note(f"{self.name}: jumped to {committed}, leaving the gap {gap}")
            self._changed()
        self._take_reordered()

    def learn_committed(self, committed: Position) -> None:
        """Another member's commit point, told without a writer's word: `accepted` stays."""
        if not self.history.committed.entry_id < committed.entry_id <= ENTRY_ID_MAX:
            return
        if self.history.holds(committed):
            self.advance(committed)
        elif not self.has_space:
            self.reading.on_full()
        elif not self._learning:
            self._learning = True

            def on_record(batch: Batch) -> None:
                self._learning = False
                self.jump_to(committed, batch, None)

            def on_end() -> None:
                self._learning = False

            fetch_one(self, committed, on_record, on_end)

    # --- claim ------------------------------------------------------------------------------------

    def new_writer(self, sender: Address, request_id: int, message: NewWriter) -> None:
        """Step 1 of a claim: promises at once, and answers when all older leases have run out."""
        code = self.admit_version(message.version)
        if (
            code is OK
            and self.promise.writer < message.writer
            and (self.promise.writer <= message.over)
        ):
            self.set_promise(message.writer, message.address, message.lease_ms)
        if code is OK and message.writer != self.promise.writer:
            code = FENCED
        wait_until_ns = self.lease.older_until_ns
        if code is OK and wait_until_ns > self.context.now_ns:
            self.context.timers.set(
                ("promise", self.stream_id, sender),
                wait_until_ns,
                lambda: self.new_writer(sender, request_id, message),
            )
            return
        reply = NewWriterReply(self.stream_id, code, self.topology.version, self.promise.writer)
        self.answer(sender, request_id, reply)

    def read_tail(self, sender: Address, request_id: int, message: ReadTail) -> None:
        """Step 2 of a claim: the chains from the commit point to the tail, a page at a time."""
        history = self.history
        code = self.admit_writer(message.version, message.writer)
        if code is OK and self.is_damaged:
            code = Code.DAMAGED
        first = max(message.start, history.committed.entry_id)
        chains = b""
        if code is OK and first <= history.tail.entry_id:
            chains = history.chains_from(first, TAIL_PAGE_ENTRIES)
        reply = ReadTailReply(
            self.stream_id,
            code,
            self.topology.version,
            self.promise.writer,
            history.committed,
            self.accepted,
            history.tail,
            first,
            chains,
        )
        self.answer(sender, request_id, reply)

    def stamp(self, sender: Address, request_id: int, message: Stamp) -> None:
        """Step 5 of a claim: this member holds the whole chosen history, and nothing behind it."""
        code = self.admit_writer(message.version, message.writer)
        if code is OK:
            if self.accepted < message.writer and self.history.tail == message.tail:
                self._accept(message.writer)
            elif self.accepted < message.writer or not self.history.holds(message.tail):
                code = Code.CONFLICT
        reply = StampReply(self.stream_id, code, self.topology.version, self.promise.writer)
        self.answer(sender, request_id, reply)

    def release(self, sender: Address, request_id: int, message: Release) -> None:
        """The writer ended in good order; obeyed only while it is the promised one."""
        code = self.admit_writer(message.version, message.writer)
        if code is OK:
            self.lease.release()
            if self.accepted == message.writer and self.history.holds(message.committed):
                self.advance(message.committed)
            self._changed()
        reply = ReleaseReply(self.stream_id, code, self.topology.version, self.promise.writer)
        self.answer(sender, request_id, reply)
