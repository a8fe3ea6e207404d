"""The trace of a run: every message and every fault, to be read stream by stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.testing.cluster import MS

if TYPE_CHECKING:
    from walle.messages import Message
    from walle.testing.cluster import Mail


class Line(NamedTuple):
    """Something that happened. stream_id: to which stream; 0: to the whole cluster."""

    now_ns: int
    stream_id: int
    text: str


class Trace:
    """All that has happened, in order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def note(self, now_ns: int, text: str) -> None:
        """A fault, or a step of the run."""
        self.lines.append(Line(now_ns, 0, f"--- {text}"))

    def saw(self, now_ns: int, mail: Mail) -> None:
        """A message was sent; those that are of no stream are left out."""
        stream_id = getattr(mail.message, "stream_id", 0)
        if stream_id:
            source = f"client {mail.sender}" if mail.source == "client" else mail.source
            target = f"client {mail.sender}" if mail.target == "client" else mail.target
            entries = ""
            if mail.batch is not None:
                entries = f", entries {mail.batch.first_id} to {mail.batch.last}"
            text = f"{source} -> {target}: {_shown(mail.message)}{entries}"
            self.lines.append(Line(now_ns, stream_id, text))

    def of(self, stream_id: int, count_max: int) -> list[str]:
        """The last lines of one stream, and what happened to the cluster meanwhile."""
        lines = [line for line in self.lines if line.stream_id in (0, stream_id)]
        return [f"{line.now_ns / MS:10.3f} {line.text}" for line in lines[-count_max:]]


def _shown(message: Message) -> str:
    fields = ", ".join(
        f"{name}={value}"
        for name, value in message._asdict().items()
        if name not in ("stream_id", "chains", "address") and value not in ("", 0)
    )
    return f"{type(message).__name__}({fields})"
