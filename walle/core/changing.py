"""Changing the members of streams, and deleting streams, on request: the manager's side.

    request ─► entry of `/cluster`: the joint version ─► `Change` ─► entry: the new members alone

docs/protocol.md, "Membership". What a former manager has begun is gone on with. A stream that is
deleted has no members any more; what was a member of it leaves, as when others take its place.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from walle.core.change import TELL_MS, Change, tell
from walle.core.cluster import Refusal, StreamRecord, encode_delete_stream, encode_members
from walle.core.topology import DELETED
from walle.limits import GAPS_LISTED_MAX
from walle.messages import ChangeInfo, Failure, Gap

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.messages import DeleteStream, DescribeChange, RecoverStream, SetMembers, StreamInfo


class Changing:
    """put: puts an entry of `/cluster` that changes the stream of that name, and calls its last
        argument with the stream when the entry is applied, or with why that will not be.
    publish: puts an entry on this node's own account.
    changes: those under way, by stream.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        put: Callable[[str, bytes, Callable[[StreamInfo | Failure], None]], None],
        publish: Callable[[bytes], object],
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._put = put
        self._publish = publish
        self.changes: dict[int, Change] = {}

    # --- on request -------------------------------------------------------------------------------

    def set_members(
        self, request: SetMembers, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        """Begins to change a stream's members; answers once the joint version is committed."""
        plan = self._cluster.plan_members(request)
        if isinstance(plan, Refusal):
            answer(Failure(*plan))
            return

        def on_begun(result: StreamInfo | Failure) -> None:
            change = self.changes.get(plan.stream_id)
            if request.force and change is not None:
                self._context.outbox.alarm(
                    f"{plan.name}: its change of members ends by force, whoever holds its entries"
                )
                change.force()
            answer(result)

        if plan == self._cluster.streams[plan.stream_id]:
            on_begun(self._cluster.info(plan))
        else:
            self._put(plan.name, encode_members(plan.stream_id, plan.topology), on_begun)

    def recover(
        self, request: RecoverStream, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        """Leaves the stream to what is left of its members, whatever is under way with it."""
        plan = self._cluster.plan_recovery(request)
        if isinstance(plan, Refusal):
            answer(Failure(*plan))
        elif plan == self._cluster.streams[plan.stream_id]:
            answer(self._cluster.info(plan))
        else:
            left = ", ".join(plan.topology.members)
            self._context.outbox.alarm(
                f"{plan.name}: recovered by force with {left} alone; what only others had is lost"
            )
            self._put(plan.name, encode_members(plan.stream_id, plan.topology), answer)

    def describe(
        self, request: DescribeChange, answer: Callable[[ChangeInfo | Failure], None]
    ) -> None:
        """Tells how far the change of a stream's members is."""
        record = self._cluster.look_up(request.name)
        if isinstance(record, Refusal):
            answer(Failure(*record))
            return
        change = self.changes.get(record.stream_id)
        waits_for, ranges = ("", []) if change is None else (change.waits_for, change.lacking)
        told = tuple(Gap(*each) for each in ranges[:GAPS_LISTED_MAX])
        answer(ChangeInfo(self._cluster.info(record), waits_for, told))

    def delete(self, request: DeleteStream, answer: Callable[[StreamInfo | Failure], None]) -> None:
        """Deletes a stream, whatever is under way with it; answers once that is committed."""
        plan = self._cluster.plan_deletion(request)
        if isinstance(plan, Refusal):
            answer(Failure(*plan))
            return

        def on_applied(result: StreamInfo | Failure) -> None:
            deleted = StreamRecord(plan.stream_id, plan.name, DELETED)
            is_deleted = self._cluster.is_deleted(plan.stream_id)
            answer(self._cluster.info(deleted) if is_deleted else result)

        if plan.topology.everyone:
            self._put(plan.name, encode_delete_stream(plan.stream_id), on_applied)
        else:
            answer(self._cluster.info(plan))

    # --- what is under way ------------------------------------------------------------------------

    def go_on(self) -> None:
        """Every stream that is joint is changed on; of what has ended all members are told."""
        for stream_id in self.changes.keys() - self._cluster.joint:
            self.changes.pop(stream_id).stop()
            record = self._cluster.streams.get(stream_id)
            if record is not None:
                tell(self._context, record, lambda *_: None, self._context.after_ms(TELL_MS))
        for stream_id in self._cluster.joint - self.changes.keys():
            record = self._cluster.streams[stream_id]
            change = Change(self._context, record, partial(self._end, record))
            self.changes[stream_id] = change
            change.start()

    def _end(self, record: StreamRecord) -> None:
        """The change may end: the new members alone."""
        topology = record.topology
        alone = topology._replace(version=topology.version + 1, old_members=())
        self._publish(encode_members(record.stream_id, alone))

    def stop(self) -> None:
        """This node is no longer the manager."""
        for change in self.changes.values():
            change.stop()
        self.changes.clear()
