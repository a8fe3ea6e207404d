"""Every bound, with its unit, and the relations between bounds, checked at import.

At a bound the other side hears `busy` and repeats; memory does not grow with load. What can never
fit is refused at the client, before it is sent.
"""

from __future__ import annotations

from walle.errors import invariant

KIB = 1024
MIB = 1024 * KIB
NS_PER_MS = 1_000_000
NS_PER_S = 1000 * NS_PER_MS

# What one entry and one frame may be.
ENTRY_DATA_BYTES_MAX = 1 * MIB
COMPRESSED_DATA_BYTES_MIN = 64
"""A writer that compresses stores shorter data as they are: little would be gained."""
ENTRY_ID_MAX = (1 << 62) - 1
FRAME_BYTES_MAX = 2 * MIB
FRAME_HEAD_BYTES_MAX = 256 * KIB
FRAME_RECORDS_COUNT_MAX = 16_384
HANDSHAKE_FRAME_BYTES_MAX = 4 * KIB
STREAM_NAME_BYTES_MAX = 255
NODE_ID_BYTES_MAX = 63
ADDRESS_BYTES_MAX = 255
ZONE_BYTES_MAX = 63
CAPACITY_MAX = 1_000_000
"""Of a node, relative to the others; the least is 1."""

NODES_COUNT_MAX = 128
"""Of a cluster; all of them have to fit one message."""

# Shared memory of a node.
ARENA_CHUNK_BYTES = FRAME_BYTES_MAX
ARENA_BYTES = 32 * MIB
RING_REQUESTS_BYTES = 2 * MIB
"""Of the ring that brings what has arrived: heads, chains and places. What is in it goes before
whatever comes next, so it is small."""
RING_RESULTS_BYTES = 8 * MIB
"""Of the ring that brings what a node has asked itself."""
RING_DATA_BYTES = 8 * MIB
"""Of a ring in which a put's records may travel. A message may take half of a ring."""
SHARED_BYTES = ARENA_BYTES + RING_REQUESTS_BYTES + RING_RESULTS_BYTES + 3 * RING_DATA_BYTES
"""Of the arena and the rings. They are used round and round: in the end all of it is taken."""
NODE_BYTES_MAX = 150_000_000
"""What a node's processes take together at most, however much is put, pages of files aside."""
RING_MESSAGE_BYTES = 1 * KIB
"""What a message in a ring may have beside a frame's bytes and its records' chains."""

# The network.
SESSIONS_COUNT_MAX = 1024
"""Of clients. Nodes' come on top, so that clients cannot take their places."""
NODE_SESSIONS_COUNT_MAX = 256
HANDSHAKES_COUNT_MAX = 512
"""Connections of whom it is not known yet whether a client or a node has made them."""
CONNECT_MS_MAX = 2_000
KEEPALIVE_IDLE_MS = 5_000
KEEPALIVE_INTERVAL_MS = 2_000
KEEPALIVE_COUNT = 3
UNACKNOWLEDGED_MS_MAX = 10_000
"""How long the other side may acknowledge nothing, or have no room, before it counts as gone."""
SESSION_UNSENT_BYTES_MAX = 8 * MIB
SESSION_BEHIND_BYTES = 64 * KIB
"""With more than this unsent, a session counts as behind."""
UNSENT_BYTES_MAX = 64 * MIB
"""Of all clients' sessions that are behind, together."""
UNFINISHED_BYTES_MAX = 32 * MIB
"""Of frames that are still arriving, all sessions together; those in the arena come on top."""
HANDSHAKE_MS_MAX = 5_000
FRAME_MS_MAX = 10_000
"""How long a frame may take to arrive from its first byte."""

# A stream's members.
MEMBERS_COUNT_MAX = 7
COMMITTED_LAG_ENTRIES_MAX = 4_096
"""By how many entries the durable commit point may trail the known one."""
UNCOMMITTED_ENTRIES_MAX = 65_536
UNCOMMITTED_BYTES_MAX = 64 * MIB
REORDER_BYTES_MAX = 8 * MIB
REORDER_COUNT_MAX = 4_096
EARLY_BYTES_MAX = 16 * MIB
"""Of all streams' puts that wait for their predecessors, or for a member to learn of a claim."""
ADOPTION_COUNT_MAX = 64
"""Puts that wait for a member to learn who the writer is."""
READS_WAITING_MAX = 1_024
WATCHES_MAX = 1_024
TAIL_PAGE_ENTRIES = 8_192
FETCH_BYTES_MAX = 736 * KIB
READ_SHARED_BYTES_MAX = 16 * MIB
"""What one read may make a node send to all who get its answer, if that is more than one entry."""
BACKFILL_TURNS_MAX = 4
"""How many streams of one node fetch what they lack at the same time."""
BACKFILL_BYTES_PER_SECOND_DEFAULT = 16 * MIB

# A node.
CLAIMS_COUNT_MAX = 256
"""Claims that one node coordinates at the same time."""
QUESTIONS_COUNT_MAX = 1_024
"""Requests that wait for the newest topology."""
LIST_BYTES_MAX = 128 * KIB
"""One page of a list of streams."""
GAPS_LISTED_MAX = 1_000
"""Of one stream's gaps in a status: the lowest."""

# Leases.
LEASE_MS_MIN = 100
LEASE_MS_MAX = 60_000
JUMP_WAIT_MS_MAX = 1_000

# A writer.
PIPELINE_ENTRIES_MAX = 32_768
PIPELINE_BYTES_MAX = 32 * MIB
MEMBER_BACKLOG_BYTES_MAX = 8 * MIB
MEMBER_BACKLOG_BATCHES_MAX = 64
"""Of what one member was sent and has not acknowledged. Many small batches cost the member and the
writer more than as many bytes in few, and both when the member can do without it least: once its
disk has answered again."""
BATCH_BYTES_MAX = 512 * KIB
PUT_MANY_BYTES_MAX = 8 * MIB
"""Of the records that one call may put."""

# Storage.
READS_QUEUED_MAX = 16_384
READS_QUEUED_SESSION_MAX = 256
"""Of one session; it is refused more, so that it waits behind nobody but itself."""
READ_ROUND_BYTES = 1 * MIB
"""What is read between two rounds of group commit."""
READ_COST_BYTES = 16 * KIB
"""As what the smallest read counts."""
SEGMENT_BYTES_MIN = 64 * KIB
SEGMENT_BYTES_MAX = 64 * MIB
SPARE_COUNT_MAX = 16
SPARE_BYTES_MAX = 256 * MIB
"""Of the files of trimmed segments that wait to be used again."""
CONFIRM_MS = 100
"""How long a segment must be idle, at least, before its end is confirmed."""
CONFIRM_COUNT_MAX = 8
"""Of segments whose ends are confirmed at once. Where many streams are written to now and then,
more would cost the disk as much as the entries do."""
DISK_RESERVE_BYTES_MIN = 128 * MIB
DISK_RESERVE_BYTES_DEFAULT = 256 * MIB
"""With less than this free, a node takes no more entries."""
DISK_RESUME_BYTES = SEGMENT_BYTES_MAX
"""How much more must be free before it takes them again."""
RESERVE_FILE_BYTES = 16 * MIB
"""Of the file that is given up when nothing is free at all."""

SCRUB_STEP_BYTES = 256 * KIB
"""What is read at once in search of damage, between two rounds."""
SCRUB_BYTES_PER_SECOND_DEFAULT = 4 * MIB
SCRUB_PAUSE_MS = 5_000
"""Between two passes over all that is stored."""

invariant(
    2 * NODES_COUNT_MAX <= NODE_SESSIONS_COUNT_MAX, "each node may connect anew before it is missed"
)
invariant(
    NODES_COUNT_MAX * (NODE_ID_BYTES_MAX + ADDRESS_BYTES_MAX + ZONE_BYTES_MAX + 26)
    <= FRAME_HEAD_BYTES_MAX // 2,
    "all nodes fit a message",
)
invariant(ENTRY_DATA_BYTES_MAX < FRAME_BYTES_MAX, "an entry of the largest size fits a frame")
invariant(FRAME_BYTES_MAX <= ARENA_BYTES // 4, "the arena holds several frames of the largest size")
invariant(
    FRAME_BYTES_MAX + 8 * FRAME_RECORDS_COUNT_MAX + RING_MESSAGE_BYTES <= RING_DATA_BYTES // 2,
    "a frame with its records and their chains fits a message",
)
invariant(
    FRAME_HEAD_BYTES_MAX + 8 * FRAME_RECORDS_COUNT_MAX + RING_MESSAGE_BYTES
    <= RING_REQUESTS_BYTES // 2,
    "a frame's head and its records' chains fit a message",
)
invariant(
    SHARED_BYTES <= NODE_BYTES_MAX // 2, "half of a node's memory is left to each process alone"
)
invariant(ARENA_BYTES % ARENA_CHUNK_BYTES == 0, "the arena is whole chunks")
invariant(
    PIPELINE_ENTRIES_MAX < UNCOMMITTED_ENTRIES_MAX, "members hold what a writer has in flight"
)
invariant(PIPELINE_BYTES_MAX < UNCOMMITTED_BYTES_MAX, "members hold what a writer has in flight")
invariant(
    TAIL_PAGE_ENTRIES * 8 <= FRAME_HEAD_BYTES_MAX // 2, "a page of chains fits a frame's head"
)
invariant(
    FETCH_BYTES_MAX + ENTRY_DATA_BYTES_MAX + FRAME_HEAD_BYTES_MAX <= FRAME_BYTES_MAX,
    "an answer may go one entry over what was asked",
)
invariant(
    FETCH_BYTES_MAX + ENTRY_DATA_BYTES_MAX + FRAME_HEAD_BYTES_MAX + RING_MESSAGE_BYTES
    <= RING_RESULTS_BYTES // 4,
    "what a node fetches from itself fits a message",
)
invariant(
    FETCH_BYTES_MAX + ENTRY_DATA_BYTES_MAX + 16 * SESSIONS_COUNT_MAX + FRAME_HEAD_BYTES_MAX
    <= FRAME_BYTES_MAX,
    "an answer and all who get it have no more room than a frame",
)
invariant(
    FETCH_BYTES_MAX // 48 + 2 <= FRAME_RECORDS_COUNT_MAX,
    "an answer has no more records than it may",
)
invariant(
    PUT_MANY_BYTES_MAX <= PIPELINE_BYTES_MAX // 4, "one call's entries do not fill the pipeline"
)
invariant(
    BATCH_BYTES_MAX // 48 <= FRAME_RECORDS_COUNT_MAX
    and PIPELINE_ENTRIES_MAX + BATCH_BYTES_MAX // 48 <= UNCOMMITTED_ENTRIES_MAX,
    "a batch of empty entries fits a frame, and members hold it",
)
invariant(BATCH_BYTES_MAX <= FRAME_BYTES_MAX // 2, "a batch fits a frame")
invariant(
    ARENA_BYTES + RING_DATA_BYTES + RESERVE_FILE_BYTES <= DISK_RESERVE_BYTES_MIN,
    "what was admitted before the disk was seen to be full finds room, and so do the journals",
)
invariant(
    RESERVE_FILE_BYTES <= DISK_RESUME_BYTES, "making the reserve file does not fill the disk again"
)
