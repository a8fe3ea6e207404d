"""Marks for the tests of this folder."""

from __future__ import annotations

import pytest


def known_bug(reason: str) -> pytest.MarkDecorator:
    """Fails today, for this reason; whoever mends it removes the mark."""
    return pytest.mark.xfail(reason=reason, strict=True)
