"""Builds the C core. Run by setup.py.

`walle.native._core` is made by cffi in API mode. `walle.native._entries` makes Python objects, so
it is an extension of the interpreter, by its stable ABI.

Paths are relative to the project's root, where the build runs. Two settings, both of the
environment and both for developers:

    WALLE_NATIVE_STRICT=1      warnings are errors
    WALLE_NATIVE_SANITIZE=1    with the address and the undefined behaviour sanitizers; the library
                               then loads only where the sanitizers' runtime is loaded first
"""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI
from setuptools import Extension

_DIRECTORY = "walle/native"
_HEADER = f"{_DIRECTORY}/walle.h"
_SOURCES = ("crc32c", "xxh64", "records", "ring", "sync", "process")


def _declarations() -> str:
    """The part of the header that is written for cffi to read."""
    text = Path(_HEADER).read_text(encoding="utf-8")
    return text.partition("/* cffi: begin */")[2].partition("/* cffi: end */")[0]


def _is_set(name: str) -> bool:
    return os.environ.get(name) == "1"


def _compile_args() -> list[str]:
    args = ["-O3", "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-pthread"]
    if _is_set("WALLE_NATIVE_STRICT"):
        args.append("-Werror")
    return args


def _sanitize_args() -> list[str]:
    if not _is_set("WALLE_NATIVE_SANITIZE"):
        return []
    return ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


ffi = FFI()
ffi.cdef(_declarations())
ffi.set_source(
    "walle.native._core",
    '#include "walle.h"',
    sources=[f"{_DIRECTORY}/{name}.c" for name in _SOURCES],
    depends=[_HEADER],
    include_dirs=[_DIRECTORY],
    extra_compile_args=[*_compile_args(), *_sanitize_args()],
    extra_link_args=["-pthread", *_sanitize_args()],
)

entries = Extension(
    "walle.native._entries",
    sources=[f"{_DIRECTORY}/entries.c"],
    depends=[_HEADER],
    include_dirs=[_DIRECTORY],
    extra_compile_args=[*_compile_args(), *_sanitize_args()],
    extra_link_args=_sanitize_args(),
    py_limited_api=True,
)
