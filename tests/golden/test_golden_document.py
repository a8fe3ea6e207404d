"""docs/wire.md against the program: every message, field, code and bound, and every byte shown.

The document is written by people, but for two blocks of bytes in it, which
WALLE_REWRITE_GOLDEN=1 writes from the golden files (see golden.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.golden import golden
from tests.golden.test_golden_frames import EXAMPLES, Example
from walle import limits, record
from walle.errors import Code
from walle.messages import NODE_ONLY, TYPES
from walle.native import crc32c, xxh64

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOCUMENT = golden.DIRECTORY.parents[1] / "docs" / "wire.md"
TEXT = DOCUMENT.read_text()
HEX_LINE = re.compile(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:  |$)", re.MULTILINE)
INPUTS = {
    "nothing": b"",
    "`a`": b"a",
    "`123456789`": b"123456789",
    "32 bytes of zero": bytes(32),
    "the bytes 0, 1, ... 31": bytes(range(32)),
    "the bytes 0, 1, ... 99": bytes(range(100)),
}


def section(title: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"docs/wire.md has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the first table in the text, without its head."""
    lines = re.findall(r"^\|.*\|$", text.split("\n\n|", 1)[-1], re.MULTILINE)
    table = re.search(r"((?:^\|.*\|\n)+)", text, re.MULTILINE)
    lines = table[1].splitlines()[2:] if table else []
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("number", TYPES, ids=lambda number: TYPES[number].__name__)
def test_a_message_is_described_field_by_field(number: int) -> None:
    cls = TYPES[number]
    text = section(f"{cls.__name__} ({number})")
    described = [(cells[0], cells[1]) for cells in rows(text)]
    hints = golden.hints_of(cls)
    assert described == [(name, golden.type_name(hint)) for name, hint in hints.items()]
    assert described or "No fields" in text


def test_the_list_of_messages_is_whole() -> None:
    listed = dict(re.findall(r"^\| (\d+) \| (\w+) \|", section("Messages"), re.MULTILINE))
    answers = dict(re.findall(r"\| (\d+) (\w+) \|$", section("Messages"), re.MULTILINE))
    for number, cls in TYPES.items():
        if number < 50:
            assert {**answers, **listed}[str(number)] == cls.__name__
    between = TEXT[TEXT.index("### Between nodes") : TEXT.index("## Failure codes")]
    assert all(f"#### {cls.__name__} (" in between for cls in NODE_ONLY)


def test_every_code_is_described() -> None:
    described = [(int(cells[0]), cells[1]) for cells in rows(section("Failure codes"))]
    assert described == [(code.value, code.name) for code in Code]


def test_the_bounds_are_the_programs() -> None:
    for name, value, *_ in rows(section("Bounds")):
        assert int(value.replace(",", "")) == getattr(limits, name), name


def test_the_record_is_described_as_it_is() -> None:
    described = {cells[2]: cells[:2] for cells in rows(section("Records")) if cells[2]}
    for field in record.LAYOUT:
        assert described[field.name] == [str(field.offset), str(field.size)]


def test_the_checksums_shown_are_right() -> None:
    """Those in the tables, and the code in the appendix, which is run."""
    code = re.search(r"```python\n(.*?)```", section_of_appendix(), re.DOTALL)
    assert code
    shown: dict[str, Callable[..., int]] = {}
    exec(code[1], shown)  # noqa: S102 - the document's own example
    for name, value in rows(section("CRC32C")):
        expected = f"`{crc32c(INPUTS[name]):08x}`"
        assert value == expected == f"`{shown['crc32c'](INPUTS[name]):08x}`"
    vectors = [cells for cells in all_rows("Records") if cells[0] in INPUTS]
    assert len(vectors) >= 7
    for name, seed, value in vectors:
        expected = f"`{xxh64(INPUTS[name], int(seed)):016x}`"
        assert value == expected == f"`{shown['xxh64'](INPUTS[name], int(seed)):016x}`"
    for size in range(100):
        data = bytes(range(size))
        assert shown["xxh64"](data, size) == xxh64(data, size)


def section_of_appendix() -> str:
    return TEXT[TEXT.index("## Appendix") :]


def all_rows(title: str) -> list[list[str]]:
    """The cells of all tables of a section."""
    lines = re.findall(r"^\|(.*)\|$", section(title), re.MULTILINE)
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


# --- the bytes ------------------------------------------------------------------------------------


def session() -> list[Example]:
    """The frames of the session, in order."""
    return sorted((each for each in EXAMPLES if each.session), key=lambda each: each.session)


def lines_of(fields: list[golden.Spelled], start: int = 0) -> Iterator[str]:
    """Fields as annotated hex, 16 bytes a line."""
    offset = start
    for name, data, shown in fields:
        for index in range(0, max(len(data), 1), 16):
            part = data[index : index + 16].hex(" ")
            note = (f"{name}  {shown}" if shown else name) if not index else ""
            if part:
                yield f"{offset + index:04x}  {part:<47}  {note}".rstrip()
        offset += len(data)


def render_session() -> str:
    """The document's session."""
    blocks = []
    for each in session():
        name = type(each.message).__name__
        is_request = name in {"Hello", "CreateStream", "Claim", "Put", "WriterStatus", "Read"}
        is_request |= name in {"Release", "Describe"}
        about = each.plain.get("about", "")
        fields = golden.spell_frame(each.message, each.request_id, each.records)
        lines = [f"{'>' if is_request else '<'} {name}: {about}; {len(each.frame)} bytes"]
        lines += lines_of(fields)
        lines += lines_of(golden.spell_records(each.records), len(golden.join(fields)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def render_records() -> str:
    """The document's two records."""
    data = bytes.fromhex(golden.load("records.yaml")[0]["bytes"])
    return "\n".join(lines_of(golden.spell_records(data)))


def render_compressed() -> str:
    """The document's compressed record, the first of the last batch."""
    batch = golden.load("records.yaml")[-1]
    data, _ = golden.encode_records(batch["entries"][:1], batch["prev_chain"])
    return "\n".join(lines_of(golden.spell_records(data, texts=False)))


def block(name: str) -> str:
    """What stands between two marks of the document."""
    found = re.search(
        rf"<!-- {name} begin.*?-->\n```\n(.*?)\n```\n<!-- {name} end -->", TEXT, re.DOTALL
    )
    assert found, f"docs/wire.md has no block {name!r}"
    return found[1]


@pytest.mark.parametrize("name", ["session", "records", "compressed"])
def test_the_bytes_shown_are_the_golden_ones(name: str) -> None:
    renderers: dict[str, Any] = {
        "session": render_session,
        "records": render_records,
        "compressed": render_compressed,
    }
    expected = renderers[name]()
    if golden.REWRITE:
        mark = rf"(<!-- {name} begin.*?-->\n).*?(<!-- {name} end -->)"
        changed = re.sub(
            mark,
            lambda found: f"{found[1]}```\n{expected}\n```\n{found[2]}",
            DOCUMENT.read_text(),
            flags=re.DOTALL,
        )
        DOCUMENT.write_text(changed)
        return
    assert block(name) == expected


def test_the_sessions_hex_is_nothing_but_its_frames() -> None:
    """Read as a stranger would: the hex columns, put together."""
    parts = HEX_LINE.findall(block("session"))
    shown = bytes.fromhex(" ".join(parts))
    assert shown == b"".join(each.frame for each in session())
