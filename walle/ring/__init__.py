"""Shared memory between the processes of a node: rings of messages, and bells to wake sleepers."""
