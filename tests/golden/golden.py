"""What the golden tests share: the files, messages as plain values, messages spelled out by field.

The files hold bytes as hex beside the values they stand for. `spell` encodes by hand, apart from
the codec of `walle.messages`: the two are compared, so neither can be wrong alone.

Whoever changes the protocol on purpose edits the values and lets the tests write the bytes:

    WALLE_REWRITE_GOLDEN=1 pytest tests/golden

then reads the difference, line by line: it is what other implementations will trip over.
"""

from __future__ import annotations

import os
import struct
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from walle import messages, record
from walle.ids import Position, WriterId
from walle.native import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path(__file__).parent
REWRITE = os.environ.get("WALLE_REWRITE_GOLDEN") == "1"

HEADER = struct.Struct("<IIIHHQ")
SCALARS = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "16s": "identity"}
NAMED = {WriterId: "writer id", Position: "position"}


# --- files ----------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes bytes as blocks of hex, and what is a hash or random as a hexadecimal number."""


class Hex(int):
    """A number that is written in hexadecimal."""


class Pair(dict[str, int]):
    """A writer id or a position; written on one line."""


def _represent_bytes(dumper: _Dumper, data: bytes) -> yaml.Node:
    block = len(data) > 16
    text = to_hex(data) if block else data.hex(" ")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "|" if block else '"')


_Dumper.add_representer(bytes, _represent_bytes)
_Dumper.add_representer(
    Hex, lambda dumper, n: dumper.represent_scalar("tag:yaml.org,2002:int", f"{n:#018x}")
)
_Dumper.add_representer(
    Pair, lambda dumper, p: dumper.represent_mapping("tag:yaml.org,2002:map", p, flow_style=True)
)


def to_hex(data: bytes) -> str:
    """32 bytes a line."""
    return "\n".join(textwrap.wrap(data.hex(" "), 32 * 3)) + "\n"


def load(name: str) -> Any:
    """What a golden file holds."""
    return yaml.safe_load((DIRECTORY / name).read_text())


def dump(comment: str, values: Any) -> str:
    """The text of a golden file. Keys keep their order."""
    text = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return f"# {comment}\n\n{text}"


def compare(name: str, text: str) -> None:
    """Fails unless the file holds this text; or writes it, if that was asked for."""
    path = DIRECTORY / name
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = path.read_text() if path.exists() else "(no such file)"
    assert found == text, f"{path} differs; WALLE_REWRITE_GOLDEN=1 rewrites it"


# --- messages as plain values ---------------------------------------------------------------------


def type_name(hint: Any) -> str:
    """A field's type as docs/wire.md calls it."""
    if hint in NAMED:
        return NAMED[hint]
    if hint in {str: "text", bytes: "bytes"}:
        return "text" if hint is str else "bytes"
    if get_origin(hint) is tuple:
        return f"list of {type_name(get_args(hint)[0])}"
    arguments = get_args(hint)
    if arguments:
        return SCALARS[arguments[1]]
    return "".join(f" {c.lower()}" if c.isupper() else c for c in hint.__name__).strip()


def hints_of(cls: type[Any]) -> dict[str, Any]:
    """The fields of a message with their types, in order."""
    hints = get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in cls._fields}


def to_plain(value: Any) -> Any:
    """A message as what YAML can hold."""
    if isinstance(value, WriterId | Position):
        first, second = value
        return Pair({value._fields[0]: first, value._fields[1]: Hex(second)})
    if hasattr(value, "_fields"):
        return {name: to_plain(each) for name, each in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple):
        return [to_plain(each) for each in value]
    return int(value) if isinstance(value, int) else value


def from_plain(hint: Any, value: Any) -> Any:
    """The other way round; `hint` is the type."""
    if get_origin(hint) is tuple:
        return tuple(from_plain(get_args(hint)[0], each) for each in value)
    if hint in NAMED:
        return hint(**value)
    if hasattr(hint, "_fields"):
        hints = hints_of(hint)
        assert set(hints) == set(value), f"{hint.__name__} has the fields {list(hints)}"
        return hint(**{name: from_plain(hints[name], value[name]) for name in hints})
    is_bytes = hint is bytes or type_name(hint) == "identity"
    return bytes.fromhex(value) if is_bytes else value


# --- messages by hand -----------------------------------------------------------------------------


class Spelled(NamedTuple):
    """One field: its name, its bytes, its value for people."""

    name: str
    data: bytes
    shown: str


def spell(hint: Any, value: Any, name: str = "") -> Iterator[Spelled]:
    """A message field by field, encoded by hand."""
    if hint in NAMED:
        first, second = value
        yield Spelled(name, struct.pack("<QQ", first, second), f"({first}, {second:#018x})")
    elif hint is str:
        data = value.encode()
        yield Spelled(name, struct.pack("<H", len(data)) + data, f'"{value}"')
    elif hint is bytes:
        yield Spelled(name, struct.pack("<I", len(value)) + value, f"{len(value)} bytes")
    elif get_origin(hint) is tuple:
        items = "1 item" if len(value) == 1 else f"{len(value)} items"
        yield Spelled(name, struct.pack("<I", len(value)), items)
        for index, each in enumerate(value):
            yield from spell(get_args(hint)[0], each, f"{name}[{index}]")
    elif get_args(hint):
        layout = get_args(hint)[1]
        yield Spelled(name, struct.pack("<" + layout, value), "" if layout == "16s" else str(value))
    else:
        for field, each in hints_of(hint).items():
            yield from spell(each, getattr(value, field), f"{name}.{field}" if name else field)


def spell_frame(message: Any, request_id: int, records: bytes = b"") -> list[Spelled]:
    """A frame's header, message and padding; the records are as they are."""
    cls = type(message)
    body = list(spell(cls, message))
    size = sum(len(each.data) for each in body)
    padding = bytes(-size % 8)
    head_size = HEADER.size + size + len(padding)
    number = next(number for number, each in messages.TYPES.items() if each is cls)
    values = (head_size + len(records), head_size, number, 0, request_id)
    header = HEADER.pack(0, *values)[4:]
    crc = crc32c(header + b"".join(each.data for each in body) + padding)
    names = ("crc", "size", "head", "type", "zero", "request_id")
    shown = (f"{crc:#010x}", *map(str, values[:2]), f"{number}, {cls.__name__}", "", request_id)
    whole, places = struct.pack("<I", crc) + header, (0, 4, 8, 12, 14, 16, 24)
    fields = [
        Spelled(name, whole[places[index] : places[index + 1]], str(shown[index]))
        for index, name in enumerate(names)
    ]
    return [*fields, *body, *([Spelled("padding", padding, "")] if padding else [])]


def join(fields: list[Spelled]) -> bytes:
    """The fields' bytes."""
    return b"".join(each.data for each in fields)


# --- records --------------------------------------------------------------------------------------


def encode_records(entries: list[dict[str, Any]], prev_chain: int) -> tuple[bytes, list[int]]:
    """The records of plain entries, and the chain after each. Their data are as they are stored."""
    out, chains = b"", []
    for entry in entries:
        data = bytes.fromhex(entry["data"]) if "data" in entry else entry["text"].encode()
        encoded, prev_chain = record.encode(
            entry["entry_id"],
            WriterId(**entry["writer"]),
            entry["time_us"],
            data,
            prev_chain,
            entry.get("flags", 0),
        )
        out += encoded
        chains.append(prev_chain)
    return out, chains


def spell_records(data: bytes, *, texts: bool = True) -> list[Spelled]:
    """Records field by field; `texts`: their data are text."""
    fields: list[Spelled] = []
    if not data:
        return fields
    for entry in record.decode_all(record.check(record.Bytes(data), where="a page")):
        start = len(join(fields))
        name = f"entry {entry.entry_id}"
        for field in record.LAYOUT:
            raw = data[start + field.offset : start + field.offset + field.size]
            number = int.from_bytes(raw, "little")
            hexadecimal = field.name in {"crc", "prev_chain", "writer_nonce"}
            shown = f"{number:#0{2 * field.size + 2}x}" if hexadecimal else str(number)
            if field.name == "length" and entry.flags:
                shown = f"{len(entry.data)}, flags {entry.flags:#04x}"
            fields.append(Spelled(f"{name}: {field.name}", raw, shown))
        end = start + record.HEADER_BYTES + len(entry.data)
        text = f'"{entry.data.decode()}"' if texts else f"{len(entry.data)} bytes"
        shown = f"{text}; chain {entry.chain:#018x}"
        fields.append(Spelled(f"{name}: data", entry.data, shown))
        if padding := data[end : start + record.size_of(len(entry.data))]:
            fields.append(Spelled("padding", padding, ""))
    return fields
