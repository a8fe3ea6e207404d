"""File systems of a test's own. A test that asks for one is skipped where nobody may mount any."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def mounted_memory(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system in memory, mounted at the path, which is made."""
    with _mounted(path, "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs"):
        yield path


def resize_memory(path: Path, size_bytes: int) -> None:
    """Gives a file system in memory another size; what is in it must fit."""
    _run("mount", "-o", f"remount,size={size_bytes}", str(path))


@contextmanager
def mounted_image(path: Path, size_bytes: int) -> Iterator[Path]:
    """An ext4 file system, mounted at the path, which is made; the device is a file beside it."""
    image = image_of(path)
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", str(image))
    with _mounted(path, "-o", "loop", str(image)):
        yield path


@contextmanager
def mounted_copy(path: Path) -> Iterator[Path]:
    """What a loss of power would leave now of the image that is mounted at the path."""
    copy = path.with_name(f"{path.name}-copy")
    shutil.copyfile(image_of(path), image_of(copy))
    with _mounted(copy, "-o", "loop", str(image_of(copy))):
        yield copy
    copy.rmdir()


def image_of(path: Path) -> Path:
    """The file that is the device of what is mounted at the path."""
    return path.with_suffix(".image")


@contextmanager
def _mounted(path: Path, *what: str) -> Iterator[None]:
    path.mkdir(parents=True)
    _run("mount", *what, str(path))
    try:
        yield
    finally:
        # Lazily: a test that failed may still have files open there.
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]}")
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")
