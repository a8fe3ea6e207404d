from array import array
from typing import Any, TypeVar

from walle.native import Buffer

_E = TypeVar("_E", bound=tuple[Any, ...])

def decode(
    entry_type: type[_E], writer_type: type[tuple[int, int]], records: Buffer, chains: array[int], /
) -> list[_E]: ...
