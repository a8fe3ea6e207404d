"""What the simulator says when the protocol's promises are broken."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant of docs/protocol.md does not hold."""


def require(condition: object, what: str) -> None:
    """Raises `Violation` unless the condition holds."""
    if not condition:
        raise Violation(what)
