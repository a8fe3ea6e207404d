"""Entry ids, sizes, durations and times, as people type and read them; the types of options.

They raise click.BadParameter, which names the option.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from walle.limits import ENTRY_ID_MAX, KIB, LEASE_MS_MAX, LEASE_MS_MIN, MIB

if TYPE_CHECKING:
    from collections.abc import Mapping

BYTES = {
    "TiB": MIB * MIB,
    "TB": 10**12,
    "GiB": KIB * MIB,
    "GB": 10**9,
    "MiB": MIB,
    "MB": 10**6,
    "KiB": KIB,
    "kB": 10**3,
    "B": 1,
}
MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)")


def entry_id(text: str) -> int:
    """An entry's id."""
    if not text.isdecimal() or not 1 <= int(text) <= ENTRY_ID_MAX:
        raise click.BadParameter(f"{text!r} is no entry id: those are 1 to {ENTRY_ID_MAX}")
    return int(text)


def show(value: int, units: Mapping[str, int]) -> str:
    """The value in the largest unit that makes it a whole number."""
    unit = next(name for name, scale in units.items() if value % scale == 0)
    return f"{value // units[unit]}{unit}"


def size(text: str) -> int:
    """Bytes."""
    found = _parse(text, {**BYTES, "": 1})
    if found is None:
        raise click.BadParameter(f"{text!r} is no size, such as 10GiB, 500MB or 4096")
    return found


def duration(text: str) -> int:
    """Milliseconds."""
    found = 0 if text == "0" else _parse(text, MS)
    if found is None:
        raise click.BadParameter(f"{text!r} is no duration, such as 7d, 12h, 30m, 10s or 500ms")
    return found


def lease(text: str) -> int:
    """Milliseconds; 0, or what a lease may be."""
    found = duration(text)
    if found and not LEASE_MS_MIN <= found <= LEASE_MS_MAX:
        bounds = f"{show(LEASE_MS_MIN, MS)} and {show(LEASE_MS_MAX, MS)}"
        raise click.BadParameter(f"{text}: leases lie between {bounds}")
    return found


def time(text: str) -> datetime:
    """A point in time, in UTC unless it says otherwise; or how long ago that is."""
    age_ms = _parse(text, MS)
    try:
        if age_ms is not None:
            return datetime.now(UTC) - timedelta(milliseconds=age_ms)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        rule = "is no time, such as 2026-01-31T12:00 (UTC), and no age, such as 7d"
        raise click.BadParameter(f"{text!r} {rule}") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _parse(text: str, units: Mapping[str, int]) -> int | None:
    """How many of the smallest unit that is, whatever the case; None if it is no such quantity, or
    does not fit 8 bytes."""
    match = _QUANTITY.fullmatch(text)
    scales = {name.lower(): scale for name, scale in units.items()}
    if match is None or match[2].lower() not in scales:
        return None
    value = round(float(match[1]) * scales[match[2].lower()])
    return value if value < 1 << 64 else None
