"""What the C core and Python both state must agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from walle import record
from walle.limits import ENTRY_DATA_BYTES_MAX
from walle.native import ScanResult
from walle.native._core import ffi, lib

if TYPE_CHECKING:
    from walle.record import Field


@pytest.mark.parametrize("field", record.LAYOUT, ids=lambda field: field.name)
def test_offsets_of_the_record_are_those_of_the_layout_table(field: Field) -> None:
    assert getattr(lib, f"WALLE_RECORD_{field.name.upper()}") == field.offset


def test_sizes_of_the_record_are_those_of_python() -> None:
    assert lib.WALLE_RECORD_HEADER_SIZE == record.HEADER_BYTES
    assert lib.WALLE_RECORD_ALIGNMENT == record.ALIGNMENT
    assert lib.WALLE_RECORD_CRC_START == record.CRC_START
    assert lib.WALLE_RECORD_CHAIN_START == record.CHAIN_START
    assert lib.WALLE_RECORD_LENGTH_MASK == record.LENGTH_MASK
    assert lib.WALLE_RECORD_FLAGS_SHIFT == record.FLAGS_SHIFT
    assert lib.WALLE_RECORD_DATA_SIZE_MAX == ENTRY_DATA_BYTES_MAX


def test_reasons_to_stop_are_those_of_python() -> None:
    stops = ffi.typeof("enum walle_records_stop").relements
    assert stops == {f"WALLE_RECORDS_{stop.name}": stop.value for stop in record.Stop}


def test_what_a_scan_found_lies_in_the_order_of_its_result() -> None:
    words = ffi.typeof("enum walle_records_found").relements
    names = [name.removeprefix("WALLE_RECORDS_").lower() for name in sorted(words, key=words.get)]
    assert names == [*ScanResult._fields, "found_count"]
