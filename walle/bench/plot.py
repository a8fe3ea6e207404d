"""Latency over time, drawn with characters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEIGHT = 12
LABEL_WIDTH = 9


class LogScale:
    """Places values above zero on a line of `length`, their logarithms at equal distances.

    The line goes over whole powers of ten, at least one of them; values beyond are put at its ends.
    """

    def __init__(self, values: Sequence[float], length: float) -> None:
        known = [value for value in values if value > 0] or [1.0]
        self.low = math.floor(math.log10(min(known)) + 1e-9)
        self.high = max(math.ceil(math.log10(max(known)) - 1e-9), self.low + 1)
        self._length = length

    def place(self, value: float) -> float:
        """Where the value is, from 0 to the line's length."""
        if value <= 0:
            return 0.0
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0) * self._length

    @property
    def powers(self) -> list[float]:
        """The powers of ten on the line, its ends included."""
        return [10.0**power for power in range(self.low, self.high + 1)]


def format_ms(value: float) -> str:
    """Milliseconds, with three significant digits and no more zeros than it takes."""
    if value >= 1_000:
        return f"{value / 1_000:.3g} s"
    return f"{value:.3g} ms"


def plot_latency(intervals: Sequence[Mapping[str, float]]) -> list[str]:
    """Lines of text: a column for each interval, filled from its p50 to its p99, and a thin line up
    to its slowest; intervals in which nothing ended are empty."""
    columns = [(each["p50_ms"], each["p99_ms"], each["max_ms"]) for each in intervals]
    scale = LogScale([value for column in columns for value in column], HEIGHT - 1)
    rows = {round(scale.place(power)): format_ms(power) for power in scale.powers}
    cells = [_column([round(scale.place(value)) for value in each], each[2]) for each in columns]
    lines = [
        f"{rows.get(row, ''):>{LABEL_WIDTH}} {'┤' if row in rows else '│'}"
        + "".join(cell[row] for cell in cells)
        for row in reversed(range(HEIGHT))
    ]
    end = f"{intervals[-1]['end_s']:g} s" if intervals else ""
    lines.append(" " * (LABEL_WIDTH + 1) + "└" + "─" * len(columns))
    lines.append(" " * (LABEL_WIDTH + 2) + f"0{end:>{max(len(columns) - 1, len(end))}}")
    return lines


def _column(rows: Sequence[int], slowest: float) -> str:
    """An interval's characters, from the lowest row to the highest."""
    if not slowest:
        return " " * HEIGHT
    median, high, top = rows
    return "".join(
        "█" if median <= row <= high else "│" if high < row <= top else " " for row in range(HEIGHT)
    )
