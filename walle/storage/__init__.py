"""The storage engine: segments, the journal, recovery. docs/storage.md is its contract.

It imports nothing that a process is made of; `vfs` is its only way to a disk.
"""
