"""A put is followed by the system calls of the processes that it passes."""

from __future__ import annotations

from walle.bench.trace import LAST, STEPS, Event, follow, parse, stages, summarize

NODES = [
    {"client": 1, "network": node + 1, "consensus": node + 2, "storage": node + 3}
    for node in (10, 20, 30)
]


def way_of(node: dict[str, int], begin_ns: int, step_ns: int) -> list[Event]:
    """The calls of a put that takes so long for each step."""
    return [
        Event(
            begin_ns + number * step_ns,
            node[step.process],
            min(step.calls),
            step.is_exit,
            0 if min(step.calls) == "fdatasync" else int(step.is_exit),
        )
        for number, step in enumerate(STEPS, start=1)
    ]


def test_lines_of_perf_are_read() -> None:
    lines = [
        " 4711/4712  15521.612714001: syscalls:sys_exit_fdatasync: 0x0\n",
        "   12/12    15521.612700000: syscalls:sys_enter_sendmsg: fd: 0x00000007, msg: 0x7ffe\n",
        "   12/12    15521.612720000: syscalls:sys_exit_recvfrom: 0x45\n",
        "   12/12    15521.612730000: syscalls:sys_exit_recvfrom: -11\n",
        "# some other line\n",
    ]
    assert parse(lines) == [
        Event(15521612700000, 12, "sendmsg", is_exit=False, result=0),
        Event(15521612714001, 4711, "fdatasync", is_exit=True, result=0),
        Event(15521612720000, 12, "recvfrom", is_exit=True, result=0x45),
        Event(15521612730000, 12, "recvfrom", is_exit=True, result=-11),
    ]


def test_a_put_is_followed_step_by_step() -> None:
    times = follow(way_of(NODES[0], 100, 7), NODES[0], 100, 300)
    assert times == [100, *(100 + 7 * number for number in range(1, len(STEPS) + 1)), 300]


def test_a_wait_that_brought_nothing_is_no_wake() -> None:
    events = way_of(NODES[0], 100, 7)
    empty = Event(101, NODES[0]["network"], "epoll_wait", is_exit=True, result=0)
    assert follow(sorted([empty, *events]), NODES[0], 100, 300) == follow(
        events, NODES[0], 100, 300
    )


def test_a_put_with_a_step_that_left_no_trace_is_left_out() -> None:
    for missing in range(len(STEPS)):
        events = way_of(NODES[0], 100, 7)
        del events[missing]
        assert follow(events, NODES[0], 100, 300) is None


def test_what_comes_after_the_put_is_no_part_of_it() -> None:
    assert follow(way_of(NODES[0], 100, 7), NODES[0], 100, 150) is None


def test_the_second_answer_counts() -> None:
    slow, fast, middle = (
        [*way_of(node, 0, step)] for node, step in zip(NODES, (9, 3, 5), strict=True)
    )
    found = stages(sorted([*slow, *fast, *middle]), NODES, [(0, 1_000)])
    (times,) = found
    assert len(times) == len([*STEPS, LAST])
    assert sum(times) == 1_000
    # The client's own steps are whatever came first; the second node's are its own.
    assert times[4:-2] == [5] * (len(STEPS) - 5)


def test_a_put_that_one_node_only_shows_is_left_out() -> None:
    assert stages(way_of(NODES[0], 0, 3), NODES, [(0, 1_000)]) == []


def test_medians_are_of_each_stage() -> None:
    times_ns = [[1_000 * (put + stage) for stage in range(len(STEPS) + 1)] for put in (1, 9, 2)]
    told = summarize(times_ns, 5)
    assert (told["puts"], told["followed"]) == (5, 3)
    assert [each["median_us"] for each in told["stages"]] == [2 + n for n in range(len(STEPS) + 1)]
    assert told["total_us"] == sum(2 + number for number in range(len(STEPS) + 1))


def test_where_no_put_was_followed_no_stage_is_told() -> None:
    assert summarize([], 5) == {"puts": 5, "followed": 0, "stages": [], "total_us": None}
