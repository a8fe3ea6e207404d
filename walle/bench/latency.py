"""Latencies, and who counts them.

They are kept in an HDR histogram, in microseconds with three significant digits, so that those of
many processes and intervals can be added up exactly; averages of percentiles would mean nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LATENCY_US_MAX = 3_600 * 1_000_000
SIGNIFICANT_DIGITS = 3
PERCENTS = (50.0, 90.0, 99.0, 99.9, 99.99)
DELIVERY_STEP_US = 10
"""In what steps the latencies of deliveries are told apart: there may be a hundred times as many as
puts, and each different one costs the histogram, which is Python, a microsecond."""
CURVE_PERCENTS = (0, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999, 100)


class Latencies:
    """A histogram."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS)

    def add(self, counts_by_us: Mapping[int, int]) -> None:
        """Adds latencies, each with how many had it. Those beyond an hour count as an hour."""
        record = self._histogram.record_value
        for latency_us, count in counts_by_us.items():
            record(min(max(latency_us, 0), LATENCY_US_MAX), count)

    def merge(self, other: Latencies) -> None:
        """Adds what another one has."""
        self._histogram.add(other._histogram)

    def encode(self) -> str:
        """The histogram as a line of text."""
        encoded: bytes = self._histogram.encode()
        return encoded.decode()

    @classmethod
    def decode(cls, text: str) -> Latencies:
        """The histogram that was encoded."""
        decoded = cls()
        decoded._histogram.decode_and_add(text)
        return decoded

    @property
    def count(self) -> int:
        """How many latencies there are."""
        return int(self._histogram.get_total_count())

    def percentile_ms(self, percent: float) -> float:
        """Below or at which so many of them lie; 0 if there are none."""
        return self._histogram.get_value_at_percentile(percent) / 1_000 if self.count else 0.0

    def summary(self) -> dict[str, float]:
        """The usual percentiles and the slowest, in milliseconds."""
        found = {f"p{percent:g}": self.percentile_ms(percent) for percent in PERCENTS}
        return {**found, "max": self.percentile_ms(100.0)}

    def curve(self) -> list[tuple[float, float]]:
        """Percents with their latencies in milliseconds, ever closer to the slowest."""
        return [(percent, self.percentile_ms(percent)) for percent in CURVE_PERCENTS]


def merged(parts: Iterable[Latencies]) -> Latencies:
    """All of them as one."""
    total = Latencies()
    for part in parts:
        total.merge(part)
    return total


class Puts(NamedTuple):
    """Entries that come together: when they were put, in whole steps, and their data's bytes."""

    times_us: list[int]
    first_us: int
    last_us: int
    size_bytes: int

    @classmethod
    def of(cls, times_us: Iterable[int], size_bytes: int) -> Puts:
        """Of times in microseconds."""
        steps_us = [_in_steps(time_us) for time_us in times_us]
        return cls(steps_us, min(steps_us), max(steps_us), size_bytes)


def _in_steps(time_us: int) -> int:
    return time_us - time_us % DELIVERY_STEP_US


class Tally:
    """Counts what becomes of entries, between two takings by somebody who adds them up.

    An entry's latency counts from when it was due: a put that had to wait for its turn is as late
    as its caller sees it. Latencies are those of the entries due from `begin_ns` to `end_ns`,
    whenever they end; what is acknowledged between the two makes the throughput, whenever it was
    due. Times are on the monotonic clock, which the processes of a machine share.
    """

    def __init__(self, begin_ns: int, end_ns: int) -> None:
        self.begin_ns = begin_ns
        self.end_ns = end_ns
        self._due_count = 0
        self._ended_count = 0
        self._failed_counts: Counter[str] = Counter()
        self._done_count = 0
        self._done_bytes = 0
        self._counts_by_us: Counter[int] = Counter()

    def due(self, due_ns: int, count: int) -> None:
        """So many entries are due then."""
        if self.begin_ns <= due_ns < self.end_ns:
            self._due_count += count

    def done(self, due_ns: int, now_ns: int, *, count: int, size_bytes: int) -> None:
        """So many entries that were due then are durable, or delivered, now."""
        if self.begin_ns <= now_ns < self.end_ns:
            self._done_count += count
            self._done_bytes += size_bytes
        if self.begin_ns <= due_ns < self.end_ns:
            self._ended_count += count
            latency_us = (now_ns - due_ns) // 1_000
            self._counts_by_us[latency_us] += count

    def delivered(self, puts: Puts, epoch_us: int, now_ns: int) -> None:
        """Entries have come now. Their times began at `epoch_us` of the monotonic clock. No step
        of it is made once for each entry in Python."""
        times_us = puts.times_us
        if self.begin_ns <= now_ns < self.end_ns:
            self._done_count += len(times_us)
            self._done_bytes += puts.size_bytes
        begin_us, end_us = self.begin_ns // 1_000 - epoch_us, self.end_ns // 1_000 - epoch_us
        if puts.first_us < begin_us or puts.last_us >= end_us:
            times_us = [time_us for time_us in times_us if begin_us <= time_us < end_us]
        self._ended_count += len(times_us)
        self._counts_by_us.update(map(_in_steps(now_ns // 1_000 - epoch_us).__sub__, times_us))

    def failed(self, due_ns: int, count: int, error: BaseException) -> None:
        """So many entries that were due then have failed."""
        if self.begin_ns <= due_ns < self.end_ns:
            self._failed_counts[type(error).__name__] += count

    def take(self) -> dict[str, Any]:
        """What has ended since the last taking."""
        latencies = Latencies()
        latencies.add(self._counts_by_us)
        taken = {
            "count": self._done_count,
            "bytes": self._done_bytes,
            "latencies": latencies.encode(),
        }
        self._counts_by_us = Counter()
        self._done_count = self._done_bytes = 0
        return taken

    def totals(self) -> dict[str, Any]:
        """Of the entries that were due: how many, and what became of them."""
        failed = dict(self._failed_counts)
        unanswered = self._due_count - self._ended_count - sum(failed.values())
        return {
            "due": self._due_count,
            "done": self._ended_count,
            "failed": failed,
            "unanswered": unanswered,
        }
