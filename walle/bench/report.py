"""A measurement's result in words, and as an HTML file with charts that refers to nothing else."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from walle.bench.plot import LogScale, format_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RATE_KEPT = 0.98

WIDTH, HEIGHT = 760, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 32
PERCENT_TICKS = (0, 90, 99, 99.9, 99.99, 99.999)

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --dim: #6b6b6b; --line: #d9d9d9; --back: #fff;
  --p50: #2a78b5; --p99: #d9822b; --max: #b03a48; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --dim: #9a9a9a; --line: #3a3a3a;
  --back: #161616; --p50: #5aa9e6; --p99: #f0a95a; --max: #e0707d; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
  max-width: 780px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.1em; margin: 2em 0 .5em; }
.dim { color: var(--dim); } .bad { color: var(--max); font-weight: 600; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em 1.2em .2em 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--dim); font-weight: 400; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 12px; }
.grid { stroke: var(--line); } .p50 { stroke: var(--p50); } .p99 { stroke: var(--p99); }
.max { stroke: var(--max); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.key .p50 { border-color: var(--p50); } .key .p99 { border-color: var(--p99); }
.key .max { border-color: var(--max); } .key span { margin-right: 1.5em; }
.key i { display: inline-block; width: 1.5em; border-top: 3px solid; vertical-align: middle;
  margin-right: .4em; }
"""


# --- in words -------------------------------------------------------------------------------------


def describe_workload(workload: Mapping[str, Any]) -> str:
    """What was put, in a line."""
    streams = _count(workload["streams"], "stream")
    size = f"{workload['size_bytes']:,} bytes ({workload['distribution']})"
    batch = f", {workload['batch']} at once" if workload["batch"] > 1 else ""
    if workload["rate"]:
        how = f"open loop, {workload['rate']:,} entries/s due"
    else:
        how = f"closed loop, {workload['in_flight']:,} in flight"
    readers = f", {_count(workload['readers'], 'reader')}" if workload["readers"] else ""
    time = f"{workload['seconds']:g} s after {workload['warm_up_s']:g} s of warm-up"
    return f"{streams}, {size}, {how}{batch}{readers}; {time}"


def describe_problems(result: Mapping[str, Any]) -> list[str]:
    """What should not be, a line each."""
    puts, rate = result["puts"], result["workload"]["rate"]
    problems = [
        f"{_count(count, 'entry')} failed: {name}" for name, count in puts["failed"].items()
    ]
    if puts["unanswered"]:
        problems.append(
            f"{_count(puts['unanswered'], 'entry')} due had no answer in time; latencies leave "
            "them out"
        )
    if rate and result["entries_per_s"] < RATE_KEPT * rate:
        problems.append(f"the rate was not kept: {result['entries_per_s']:,.0f} of {rate:,}/s")
    return [*problems, *result["errors"]]


def describe_disk(found: Mapping[str, float]) -> str:
    """What a look at the disk has shown, in a line."""
    appends = f"{format_ms(found['append_ms_p50'])}, p99 {format_ms(found['append_ms_p99'])}"
    return (
        f"appending 1 KiB and syncing takes {appends}; "
        f"writing in a row {found['write_bytes_per_s'] / 1e6:,.0f} MB/s"
    )


def _count(count: int, what: str) -> str:
    plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


# --- as a page ------------------------------------------------------------------------------------


def render(result: Mapping[str, Any]) -> str:
    """The page."""
    machine = result["machine"]
    where = (
        f"WALLE {machine['walle']}, Python {machine['python']}, {machine['system']}, "
        f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.0f} GiB"
    )
    problems = "".join(f'<p class="bad">{escape(line)}</p>' for line in describe_problems(result))
    disk = "".join(
        f"<p>The disk {escape(when)}: {escape(describe_disk(found))}.</p>"
        for when, found in (result["disk"] or {}).items()
    )
    intervals = result["intervals"]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>walle bench</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{result["entries_per_s"]:,.0f} entries/s, p99 {format_ms(result["latency_ms"]["p99"])}</h1>
<p>{escape(describe_workload(result["workload"]))}<br><span class="dim">{escape(where)}</span></p>
{problems}
{_latency_table(result)}
<h2>Latency over time</h2>
<p class="key"><span><i class="p50"></i>p50</span><span><i class="p99"></i>p99</span>
<span><i class="max"></i>slowest</span></p>
{_latency_chart(intervals)}
<h2>Throughput over time</h2>
{_rate_chart(intervals)}
<h2>Latency by percentile</h2>
{_percentile_chart(result["curve_ms"])}
<h2>Processor time</h2>
{_cpu_table(result)}
<p>Limited by {escape(result["bottleneck"])}.</p>
{disk}
</body>
</html>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def _latency_table(result: Mapping[str, Any]) -> str:
    rows = [("put", result["latency_ms"])]
    if result["delivery_ms"] is not None:
        rows.append(("delivered", result["delivery_ms"]))
    names = list(result["latency_ms"])
    return _table(
        ["", *names],
        [[what, *(format_ms(latency_ms[name]) for name in names)] for what, latency_ms in rows],
    )


def _cpu_table(result: Mapping[str, Any]) -> str:
    rows = [
        [each["process"], f"{each['cores']:.2f}", f"{each['cpu_s_per_1000']:.4f}"]
        for each in result["cpu"]
    ]
    cores = sum(each["cores"] for each in result["cpu"])
    rows.append(["all", f"{cores:.2f}", f"{result['cpu_s_per_1000']:.4f}"])
    return _table(["process", "cores", "CPU seconds per 1,000 entries"], rows)


# --- charts ---------------------------------------------------------------------------------------


class Chart:
    """An SVG picture of lines in a frame. `x` and `y` of what is drawn go from 0 to 1."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []

    def _place(self, x: float, y: float) -> tuple[float, float]:
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + x * across, 1), round(TOP + (1 - y) * down, 1)

    def row(self, y: float, label: str) -> None:
        """A line across, with a label to its left."""
        left, height = self._place(0, y)
        self._parts.append(
            f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{height}" y2="{height}"/>'
            f'<text x="{LEFT - 8}" y="{height + 4}" text-anchor="end">{escape(label)}</text>'
        )

    def tick(self, x: float, label: str) -> None:
        """A label below."""
        place, _ = self._place(x, 0)
        anchor = "end" if x > 0.95 else "middle"
        self._parts.append(
            f'<text x="{place}" y="{HEIGHT - BOTTOM + 20}" text-anchor="{anchor}">'
            f"{escape(label)}</text>"
        )

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points."""
        places = " ".join(f"{x},{y}" for x, y in (self._place(*point) for point in points))
        self._parts.append(f'<polyline class="{kind}" points="{places}"/>')

    def render(self) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self._title)}">'
            f"{''.join(self._parts)}</svg>"
        )


def _time_chart(title: str, end_s: float) -> Chart:
    chart = Chart(title)
    for part in (0, 0.25, 0.5, 0.75, 1):
        chart.tick(part, f"{part * end_s:g} s")
    return chart


def _latency_chart(intervals: Sequence[Mapping[str, float]]) -> str:
    end_s = intervals[-1]["end_s"]
    chart = _time_chart("latency over time", end_s)
    kinds = ("p50", "p99", "max")
    scale = LogScale([each[f"{kind}_ms"] for each in intervals for kind in kinds], 1.0)
    for power in scale.powers:
        chart.row(scale.place(power), format_ms(power))
    for kind in kinds:
        points = [
            (each["end_s"] / end_s, scale.place(each[f"{kind}_ms"]))
            for each in intervals
            if each[f"{kind}_ms"]
        ]
        chart.line(points, kind)
    return chart.render()


def _rate_chart(intervals: Sequence[Mapping[str, float]]) -> str:
    end_s = intervals[-1]["end_s"]
    chart = _time_chart("throughput over time", end_s)
    top = round_up(max(each["entries_per_s"] for each in intervals))
    for part in (0, 0.5, 1):
        chart.row(part, f"{part * top:,.0f}")
    points = [(each["end_s"] / end_s, each["entries_per_s"] / top) for each in intervals]
    chart.line(points, "p50")
    return chart.render()


def _percentile_chart(curve_ms: Sequence[Sequence[float]]) -> str:
    """Each nine more is as far from the one before."""
    chart = Chart("latency by percentile")
    scale = LogScale([latency_ms for _, latency_ms in curve_ms], 1.0)
    for power in scale.powers:
        chart.row(scale.place(power), format_ms(power))
    nines = len(PERCENT_TICKS) - 1
    for percent in PERCENT_TICKS:
        chart.tick(_nines(percent) / nines, f"{percent:g} %")
    points = [
        (_nines(percent) / nines, scale.place(latency_ms))
        for percent, latency_ms in curve_ms
        if _nines(percent) <= nines
    ]
    chart.line(points, "p50")
    return chart.render()


def _nines(percent: float) -> float:
    return -math.log10(1 - percent / 100) if percent < 100 else math.inf


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... that is not below the value; 1 for what is below 1."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
