"""What a measurement does: how much is put, when, and how large it is. Arithmetic alone."""

from __future__ import annotations

import random
from itertools import accumulate, pairwise
from typing import NamedTuple

from walle.limits import ENTRY_DATA_BYTES_MAX, MIB, NS_PER_S

DISTRIBUTIONS = ("fixed", "uniform", "exponential")

INTERVALS_COUNT_MAX = 60
INTERVAL_S_MIN = 0.1
DATA_BYTES_MAX = 16 * MIB
"""Of the different entries that are put again and again."""
DATA_COUNT_MAX = 1_024
DATA_COUNT_MIN = 16


class Workload(NamedTuple):
    """A measurement.

    streams: how many, named PREFIX/1, PREFIX/2, ...; each has one writer.
    size_bytes, distribution: the mean size of an entry's data, and how sizes are distributed.
    rate: how many entries a second are due, all streams together; 0: a closed loop.
    in_flight: in a closed loop, how many entries of each stream are in flight.
    batch: how many entries are put at once, as one.
    seconds, warm_up_s: how long it is measured, and for how long the load ran before that.
    readers: how many follow the streams.
    clients: how many processes put; each serves its share of the streams. As many read.
    """

    streams: int = 1
    size_bytes: int = 1_024
    distribution: str = "fixed"
    rate: int = 0
    in_flight: int = 256
    batch: int = 1
    seconds: float = 10.0
    warm_up_s: float = 1.0
    readers: int = 0
    clients: int = 1
    prefix: str = "/bench"

    @property
    def names(self) -> list[str]:
        """The streams' names."""
        return [f"{self.prefix}/{number}" for number in range(1, self.streams + 1)]

    @property
    def interval_s(self) -> float:
        """How long the intervals are of which latencies are told apart."""
        return max(self.seconds / INTERVALS_COUNT_MAX, INTERVAL_S_MIN)

    @property
    def intervals_count(self) -> int:
        """How many intervals there are; the last may be longer than the others."""
        return max(int(self.seconds / self.interval_s + 1e-6), 1)

    def interval_end_ns(self, index: int, begin_ns: int) -> int:
        """When an interval ends, if measuring begins at `begin_ns`."""
        if index + 1 == self.intervals_count:
            return begin_ns + int(self.seconds * NS_PER_S)
        return begin_ns + int((index + 1) * self.interval_s * NS_PER_S)

    def due_ns(self, index: int, start_ns: int) -> int:
        """When the batch with this index, counted over all streams, is due in an open loop."""
        return start_ns + index * self.batch * NS_PER_S // self.rate

    def share(self, count: int, client: int) -> list[int]:
        """Which of `count` streams or readers, counted from 0, one of the clients serves."""
        return list(range(client, count, self.clients))

    def data(self, seed: int) -> list[bytes]:
        """Random entries of the wanted sizes, to be put in turn."""
        count = min(max(DATA_BYTES_MAX // max(self.size_bytes, 1), DATA_COUNT_MIN), DATA_COUNT_MAX)
        chance = random.Random(seed)
        sizes = [self._draw(chance) for _ in range(count)]
        data = chance.randbytes(sum(sizes))
        return [data[start:end] for start, end in pairwise(accumulate(sizes, initial=0))]

    def _draw(self, chance: random.Random) -> int:
        if self.distribution == "uniform":
            size = chance.randint(0, 2 * self.size_bytes)
        elif self.distribution == "exponential" and self.size_bytes:
            size = round(chance.expovariate(1 / self.size_bytes))
        else:
            size = self.size_bytes
        return min(size, ENTRY_DATA_BYTES_MAX)
