"""Random walks of whole clusters through faults, on a virtual clock.

    python -m tests.core.walk FIRST LAST [STEPS]

walks from many more seeds.
"""

from __future__ import annotations

import pytest

from tests.core.walk import SMALL, Walk

STEPS = 1_000
FOUND = (37, 444, 462, 592, 1108)
"""Seeds that have found something before."""


@pytest.mark.parametrize("seed", [*range(1, 33), *FOUND])
def test_a_walk_through_faults_ends_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    Walk(seed, size=5 if seed % 3 == 0 else 3).run(STEPS)


def test_a_walk_is_repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
    walks = [Walk(seed=7, size=3) for _ in range(2)]
    for walk in walks:
        walk.run(STEPS)
    first, second = walks
    assert first.truth.chains == second.truth.chains
    assert first.cluster.now_ns == second.cluster.now_ns
