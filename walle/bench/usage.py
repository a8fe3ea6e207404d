"""What a measurement costs: processor time, by process."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from walle.errors import WalleError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from walle.client.client import Client

BUSY_CORES = 0.85
"""A process that uses so much of a core is what limits, as far as can be seen from outside."""
BUSY_SHARE = 0.9
OTHERS_SHARE = 0.1


class Usage(NamedTuple):
    """The processor time that was used until then, in seconds: by process, and of the machine."""

    time_s: float
    used_s: dict[str, float]
    busy_s: float
    idle_s: float
    waiting_s: float
    stolen_s: float


async def find_nodes(client: Client) -> dict[str, int]:
    """The processes of those nodes that run on this machine: their ids by "node role"."""
    found = {}
    members = {member for info in await client.list_streams() for member in info.members}
    for member in sorted(members):
        with suppress(WalleError):
            status = await client.node_status(member.address)
            for role, pid in {"supervisor": status["pid"], **status["children"]}.items():
                if _title(pid) == f"walle {member.node_id} {role}":
                    found[f"{member.node_id} {role}"] = pid
    return found


def _title(pid: int) -> str:
    """A process's title; "" if there is none here: the node runs on another machine."""
    try:
        return " ".join(psutil.Process(pid).cmdline()).strip()
    except psutil.Error:
        return ""


def look(pids: Mapping[str, int]) -> Usage:
    """What was used until now. A process that has gone is left out."""
    used_s = {}
    for name, pid in pids.items():
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            used_s[name] = times.user + times.system
    machine = psutil.cpu_times()._asdict()
    idle_s, waiting_s = machine["idle"], machine.get("iowait", 0.0)
    # `guest` is in `user` already.
    total_s = sum(machine.values()) - machine.get("guest", 0.0) - machine.get("guest_nice", 0.0)
    stolen_s = machine.get("steal", 0.0)
    busy_s = total_s - idle_s - waiting_s - stolen_s
    return Usage(time.monotonic(), used_s, busy_s, idle_s, waiting_s, stolen_s)


def compare(before: Usage, after: Usage, entries_count: int) -> dict[str, Any]:
    """What was used between two looks: in all, and for every thousand entries."""
    seconds = after.time_s - before.time_s
    processes: list[dict[str, Any]] = [
        {
            "process": name,
            "cores": round(used / seconds, 3),
            "cpu_s_per_1000": round(1_000 * used / max(entries_count, 1), 5),
        }
        for name, used_s in after.used_s.items()
        if name in before.used_s
        for used in (used_s - before.used_s[name],)
    ]
    machine_s = seconds * (os.cpu_count() or 1)
    used_s = sum(each["cores"] for each in processes) * seconds
    busy_s = after.busy_s - before.busy_s
    return {
        "cpu": processes,
        "cpu_s_per_1000": round(sum(each["cpu_s_per_1000"] for each in processes), 5),
        "machine_share": {
            "busy": round(busy_s / machine_s, 3),
            "others": round(max(busy_s - used_s, 0.0) / machine_s, 3),
            "waiting_for_disks": round((after.waiting_s - before.waiting_s) / machine_s, 3),
            "stolen": round((after.stolen_s - before.stolen_s) / machine_s, 3),
        },
    }


def bottleneck(cost: Mapping[str, Any]) -> str:
    """What limits, as far as can be seen from outside."""
    busiest = max(cost["cpu"], key=lambda each: each["cores"])
    share = cost["machine_share"]
    if busiest["cores"] >= BUSY_CORES:
        return f"{busiest['process']}, which keeps {busiest['cores']:.0%} of a core busy"
    if share["busy"] >= BUSY_SHARE:
        others = f", {share['others']:.0%} by others" if share["others"] >= OTHERS_SHARE else ""
        return f"this machine's processors, which are busy for {share['busy']:.0%}{others}"
    return "waiting: for disks, for the network, or for more to be put"
