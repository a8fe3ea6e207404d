"""The plot in the terminal."""

from __future__ import annotations

import pytest

from walle.bench.plot import HEIGHT, LABEL_WIDTH, LogScale, format_ms, plot_latency


def interval(end_s: float, *latencies_ms: float) -> dict[str, float]:
    p50_ms, p99_ms, max_ms = latencies_ms
    return {"end_s": end_s, "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max_ms}


def column(lines: list[str], index: int) -> str:
    """From the lowest row up."""
    return "".join(line[LABEL_WIDTH + 2 + index] for line in reversed(lines[:HEIGHT]))


def test_powers_of_ten_are_equally_far_apart() -> None:
    scale = LogScale([0.3, 25.0], 9.0)
    assert scale.powers == pytest.approx([0.1, 1, 10, 100])
    assert [scale.place(power) for power in scale.powers] == pytest.approx([0, 3, 6, 9])


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [10.0, 10.0]])
def test_a_scale_is_never_empty(values: list[float]) -> None:
    scale = LogScale(values, 1.0)
    assert len(scale.powers) == 2
    assert 0 <= scale.place(5.0) <= 1


def test_what_is_beyond_the_scale_is_at_its_ends() -> None:
    scale = LogScale([1.0, 10.0], 5.0)
    assert scale.place(0.0) == scale.place(0.001) == 0
    assert scale.place(1e9) == 5


def test_a_column_goes_from_p50_to_p99_and_thinly_on_to_the_slowest() -> None:
    lines = plot_latency([interval(1, 1.0, 10.0, 100.0)])
    drawn = column(lines, 0)
    top = HEIGHT - 1
    assert drawn == "█" * (top // 2 + 2) + "│" * (HEIGHT - top // 2 - 2)
    assert "100 ms ┤" in lines[0]
    assert "1 ms ┤" in lines[HEIGHT - 1]


def test_an_interval_in_which_nothing_ended_is_empty() -> None:
    lines = plot_latency([interval(1, 1, 2, 3), interval(2, 0, 0, 0), interval(3, 1, 2, 3)])
    assert column(lines, 1).strip() == ""
    assert column(lines, 0).strip() == column(lines, 2).strip() != ""
    assert lines[-1].rstrip().endswith("3 s")


def test_nothing_at_all_can_be_drawn() -> None:
    assert len(plot_latency([])) == HEIGHT + 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 ms"), (0.1234, "0.123 ms"), (10.0, "10 ms"), (999.4, "999 ms"), (1_500.0, "1.5 s")],
)
def test_milliseconds_are_short(value: float, text: str) -> None:
    assert format_ms(value) == text
