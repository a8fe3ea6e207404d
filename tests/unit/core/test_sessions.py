"""What ends with a session."""

from __future__ import annotations

from walle.core.sessions import Sessions


def opened() -> tuple[Sessions, list[str]]:
    sessions = Sessions()
    sessions.open(1)
    return sessions, []


def test_what_was_added_ends_with_its_session_and_once() -> None:
    sessions, ended = opened()
    sessions.open(2)
    sessions.add(1, "a", lambda: ended.append("a"))
    sessions.add(2, "a", lambda: ended.append("other"))
    sessions.close(1)
    sessions.close(1)
    assert ended == ["a"]


def test_what_was_discarded_does_not_end() -> None:
    sessions, ended = opened()
    sessions.add(1, "a", lambda: ended.append("a"))
    sessions.discard(1, "a")
    sessions.discard(1, "never added")
    sessions.close(1)
    sessions.discard(1, "a")
    assert ended == []


def test_a_nodes_own_requests_do_not_end() -> None:
    sessions, ended = opened()
    sessions.add("n1", "a", lambda: ended.append("a"))
    sessions.discard("n1", "a")
    assert ended == []


def test_what_ends_may_discard_itself() -> None:
    """As whoever stops waiting does."""
    sessions, ended = opened()

    def end(key: str) -> None:
        ended.append(key)
        sessions.discard(1, key)

    sessions.add(1, "a", lambda: end("a"))
    sessions.add(1, "b", lambda: end("b"))
    sessions.close(1)
    assert ended == ["a", "b"]
