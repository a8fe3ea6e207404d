"""The table in docs/storage.md of what may be found of files: a case for each row, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.storage.test_recovery import DIRECTORY, SIZE, STREAM, Bench
from walle.errors import CorruptionError
from walle.native import crc32c
from walle.storage import journal, segment
from walle.storage.notes import BLOCK_BYTES, RECORDS_START

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.testing.files import Inode

DOCS = Path(__file__).parents[2] / "docs" / "storage.md"

pytestmark = pytest.mark.usefixtures("small_files")


class Directory(Bench):
    """Entries 1 to 36 in the first file, 37 to 300 in the second, up to 360 in the third, of which
    the last twelve were appended last. Entries up to 100 are committed."""

    def __init__(self) -> None:
        super().__init__()
        self.append(*[12] * 29)
        self.commit(100)
        self.former = bytes(self.file(3).data)
        self.append(12)

    def verdict(self) -> str:
        """What opening makes of it."""
        names = dict(self.files.names_now)
        try:
            state = self.open()
        except CorruptionError as error:
            assert self.files.names_now == names, "nothing is touched"
            return "refused for good" if journal.REMEDY in str(error) else "refused"
        self.check_goes_on(state)
        if state.doubtful_id:
            return "doubt"
        if state.history.gaps():
            return "gap"
        is_cut = state.history.tail.entry_id < 360 or "was never completed" in self.findings
        return "cut" if is_cut else "held"

    def at(self, entry_id: int) -> int:
        """Where in the third file that entry's record begins."""
        return RECORDS_START + (entry_id - 301) * SIZE

    def zero(self, entry_id: int) -> None:
        self.change(self.at(entry_id), bytes(SIZE), 3)

    def zero_page(self, number: int, page: int = 0) -> None:
        self.change(RECORDS_START + page * BLOCK_BYTES, bytes(BLOCK_BYTES), number)

    def make_stale(self) -> None:
        """The page of the last append is as it was before."""
        page = self.at(360) & -BLOCK_BYTES
        self.change(page, self.former[page : page + BLOCK_BYTES], 3)

    def damage_note(self, age: int) -> None:
        """The newest one, or the one before."""
        note = self.driver.store._logs[STREAM].runs[-1].segment.note
        self.flip(note._replace(number=note.number - age).offset + 30, 3)

    def shorten(self, entry_id: int) -> None:
        inode, size = self.file(3), self.at(entry_id)
        inode.data, inode.durable = inode.data[:size], inode.durable[:size]

    def lose(self, number: int) -> None:
        del self.files.names_now[self.path(number)]

    def double(self) -> None:
        for number, data in ((8, self.file(3).data), (9, b"WALLESEG")):
            self.files.create(self.path(number), 1 << 16).write([bytes(data)], 0)

    def set_header(self, **changes: int) -> None:
        extent = self.driver.store._logs[STREAM].runs[2]
        header = segment.Header(*extent.segment.key, extent.first_id, extent.prev_chain)
        self.change(0, header._replace(**changes).encode(), 3)

    def set_version(self, inode: Inode, crc_offset: int) -> None:
        head = inode.data[:8] + b"\x63" + inode.data[9:crc_offset]
        for data in (inode.data, inode.durable):
            data[: crc_offset + 4] = head + crc32c(head).to_bytes(4, "little")

    def journal(self) -> Inode:
        (name,) = self.files.names(DIRECTORY / "journal")
        inode = self.files.names_now[DIRECTORY / "journal" / name]
        assert inode is not None
        return inode

    def damage_frames(self, *distances: int) -> None:
        """Damages the blocks at that distance from the end of the journal."""
        data = self.journal().data
        end = -(-len(data.rstrip(b"\0")) // BLOCK_BYTES)
        for distance in distances:
            data[(end - distance) * BLOCK_BYTES + 30] ^= 1
        self.journal().durable[:] = data

    def damage_journal(self, place: int) -> None:
        for data in (self.journal().data, self.journal().durable):
            data[place] ^= 1

    def add_frame(self) -> None:
        self.driver.promise(STREAM)
        self.driver.store.sync()


Damage: TypeAlias = "Callable[[Directory], None]"


def after(*steps: Damage) -> Damage:
    """All of them."""

    def damage(directory: Directory) -> None:
        for step in steps:
            step(directory)

    return damage


def commit(directory: Directory) -> None:
    directory.commit(355)


CASES: dict[str, list[tuple[Damage, str]]] = {
    "torn tail": [(lambda d: d.zero(355), "cut")],
    "records behind a torn tail": [(lambda d: d.zero(349), "cut")],
    "torn note": [(lambda d: d.damage_note(0), "cut")],
    "damaged note of a confirmed end": [
        (after(Directory.confirm, lambda d: d.damage_note(0)), "held"),
        (after(Directory.confirm, lambda d: d.damage_note(1)), "held"),
    ],
    "break below the last append": [
        (lambda d: d.zero(340), "doubt"),
        (after(commit, lambda d: d.zero(340)), "gap"),
    ],
    "note beyond the end": [
        (after(Directory.confirm, lambda d: d.zero(360)), "doubt"),
        (lambda d: d.change(d.at(340), bytes(21 * SIZE), 3), "doubt"),
    ],
    "sealed end beyond the end": [
        (lambda d: d.zero_page(2, 6), "doubt"),
        (after(commit, lambda d: d.zero_page(2, 6)), "gap"),
    ],
    "commit point beyond the end": [(after(commit, lambda d: d.zero(350)), "gap")],
    "no valid note": [(lambda d: d.change(BLOCK_BYTES, bytes(2 * BLOCK_BYTES), 3), "doubt")],
    "damaged header": [(lambda d: d.flip(20, 3), "doubt"), (lambda d: d.flip(20, 1), "gap")],
    "foreign header": [
        (lambda d: d.set_header(stream_id=6), "doubt"),
        (lambda d: d.set_header(file_number=2), "doubt"),
        (lambda d: d.set_header(incarnation=99), "doubt"),
    ],
    "missing segment": [(lambda d: d.lose(3), "doubt"), (lambda d: d.lose(1), "gap")],
    "doubled segment": [(Directory.double, "held")],
    "unknown version": [
        (lambda d: d.set_version(d.file(3), 56), "refused"),
        (lambda d: d.set_version(d.journal(), 32), "refused"),
    ],
    "zeroed page": [
        (lambda d: d.zero_page(3), "doubt"),
        (lambda d: d.zero_page(2, 5), "doubt"),
        (lambda d: d.zero_page(1), "gap"),
        (lambda d: d.zero_page(3, 1), "doubt"),
        (lambda d: d.change(d.at(350), bytes(BLOCK_BYTES), 3), "cut"),
    ],
    "stale page": [
        (Directory.make_stale, "cut"),
        (after(Directory.confirm, Directory.make_stale), "doubt"),
    ],
    "shortened file": [(lambda d: d.shorten(355), "doubt"), (lambda d: d.shorten(310), "doubt")],
    "torn frame": [(after(Directory.add_frame, lambda d: d.damage_frames(1, 2)), "cut")],
    "damaged copy of a frame": [
        (lambda d: d.damage_frames(1), "held"),
        (lambda d: d.damage_frames(2), "held"),
    ],
    "other damage of the journal": [
        (after(Directory.add_frame, lambda d: d.damage_frames(3, 4)), "refused for good"),
        (lambda d: d.damage_journal(20), "refused for good"),
    ],
}


def documented() -> dict[str, str]:
    """What the docs say of each case."""
    text = DOCS.read_text()
    table = text[text.index("| found | means | |") :].split("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return {found: verdict for found, _, verdict in rows}


def test_each_row_has_its_case() -> None:
    assert list(documented()) == list(CASES)


@pytest.mark.parametrize("found", CASES)
def test_what_is_found_means_what_the_docs_say(found: str) -> None:
    for damage, verdict in CASES[found]:
        directory = Directory()
        damage(directory)
        assert directory.verdict() == verdict
        assert verdict in documented()[found]
