"""Whole clusters in one process, on a virtual clock: the very objects that nodes run, over a
network, disks and clocks that fail as a seed says."""
