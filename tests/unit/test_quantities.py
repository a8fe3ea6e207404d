"""Sizes, durations and times as people type and read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walle.cli import quantities
from walle.cli.quantities import BYTES, MS, duration, show, size, time


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4_096),
        ("10GiB", 10 << 30),
        ("10 gib", 10 << 30),
        ("1.5MB", 1_500_000),
        ("1TiB", 1 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("7d", 604_800_000), ("1.5h", 5_400_000), ("30m", 1_800_000), ("500ms", 500)],
)
def test_durations(text: str, value: int) -> None:
    assert duration(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "GiB", "1 GiB of", "1e3", "1QB", "16777216TiB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 10GiB, 500MB or 4096"):
        size(text)


@pytest.mark.parametrize("text", ["", "x", "7", "-7d", "7y", "7d12h"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 7d, 12h, 30m, 10s or 500ms"):
        duration(text)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert time("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert time("2026-01-31T12:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert time("2026-01-31 12:00:01.5+02:00") == datetime(2026, 1, 31, 10, 0, 1, 500_000, UTC)
    assert time("2026-01-31T12:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_age_is_a_time_in_the_past() -> None:
    before = datetime.now(UTC)
    found = time("7d")
    assert before <= found + timedelta(days=7) <= datetime.now(UTC)


@pytest.mark.parametrize("text", ["", "yesterday", "12:00", "2026-13-01", "9999999d", "7"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(click.BadParameter, match="such as 7d"):
        time(text)


@given(st.integers(0, 1 << 50))
def test_what_is_shown_can_be_typed(value: int) -> None:
    assert size(show(value, BYTES)) == value
    assert duration(show(value, MS)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(10 << 30, "10GiB"), (10**9, "1GB"), (1_536, "1536B"), (2_048, "2KiB"), (1_000, "1kB")],
)
def test_largest_whole_unit_is_shown(value: int, text: str) -> None:
    assert show(value, quantities.BYTES) == text
