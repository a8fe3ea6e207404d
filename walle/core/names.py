"""The names of streams, as people may give them, and as errors show them."""

from __future__ import annotations

from walle.limits import STREAM_NAME_BYTES_MAX

SHOWN_MAX = 80


def check_name(name: str) -> str | None:
    """Why no stream can have that name; None if one can."""
    size = len(name.encode())
    if name.startswith("/") and name.isprintable() and 2 <= size <= STREAM_NAME_BYTES_MAX:
        return None
    return (
        f"{shown(name)}: a stream's name begins with '/', has 2 to {STREAM_NAME_BYTES_MAX} bytes, "
        "and no control characters"
    )


def shown(name: str) -> str:
    """A name that somebody sent, as an error's text may show it."""
    return repr(name) if len(name) <= SHOWN_MAX else f"{name[:SHOWN_MAX]!r}..."
