"""The report: a page of its own, which browsers can read, with all that was found."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from walle.bench.latency import Latencies
from walle.bench.report import describe_problems, describe_workload, render, round_up
from walle.bench.workload import Workload

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that elements are nested, and collects what would load anything."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        loading = {"src", "href", "data", "action", "xlink:href", "srcset", "poster"}
        self.loads += [(tag, name) for name, _ in attrs if name in loading]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def result_of(**changes: Any) -> dict[str, Any]:
    latencies = Latencies()
    latencies.add({1_000: 90, 5_000: 9, 80_000: 1})
    intervals = [
        {"end_s": 1.0, "entries_per_s": 70, "p50_ms": 1.0, "p99_ms": 5.0, "max_ms": 80.0},
        {"end_s": 2.0, "entries_per_s": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0},
        {"end_s": 3.0, "entries_per_s": 30, "p50_ms": 1.0, "p99_ms": 5.0, "max_ms": 5.0},
    ]
    disk = {"append_ms_p50": 0.1, "append_ms_p99": 0.3, "write_bytes_per_s": 1e9}
    made = {
        "workload": Workload(seconds=3)._asdict(),
        "machine": {
            "cores": 2,
            "memory_bytes": 8 << 30,
            "system": "Linux <6>",
            "python": "3.11",
            "walle": "0.1",
        },
        "puts": {"due": 100, "durable": 100, "failed": {}, "unanswered": 0},
        "errors": [],
        "entries_per_s": 33.3,
        "bytes_per_s": 34_000,
        "latency_ms": latencies.summary(),
        "curve_ms": latencies.curve(),
        "intervals": intervals,
        "delivered_per_s": 0.0,
        "delivered_bytes_per_s": 0,
        "delivery_ms": None,
        "cpu": [{"process": "n1 network", "cores": 0.5, "cpu_s_per_1000": 0.25}],
        "cpu_s_per_1000": 0.25,
        "bottleneck": "waiting",
        "disk": {"before": disk, "after": disk},
    }
    return {**made, **changes}


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    text = render(result_of())
    page = Page(text)
    assert page.open == []
    assert page.loads == []
    assert page.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert "url(" not in text
    assert "@import" not in text
    assert "://" not in text


def test_charts_are_pictures_within_their_frames() -> None:
    text = render(result_of())
    pictures = text.split("<svg")[1:]
    assert len(pictures) == 3
    for picture in pictures:
        root = ET.fromstring("<svg" + picture.partition("</svg>")[0] + "</svg>")  # noqa: S314
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        lines = [each for each in root if each.tag == "polyline"]
        assert lines
        for line in lines:
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_text_is_escaped() -> None:
    text = render(result_of(errors=["<script>alert(1)</script>"]))
    assert "<script>" not in text
    assert "Linux &lt;6&gt;" in text


def test_deliveries_are_shown_where_there_are_readers() -> None:
    assert "delivered" not in render(result_of())
    assert "delivered" in render(result_of(delivery_ms=result_of()["latency_ms"]))


def test_a_measurement_in_which_nothing_ended_can_be_shown() -> None:
    empty = Latencies()
    interval = {"end_s": 1.0, "entries_per_s": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
    text = render(
        result_of(
            intervals=[interval], latency_ms=empty.summary(), curve_ms=empty.curve(), disk=None
        )
    )
    assert Page(text).open == []


def test_problems_are_told() -> None:
    assert describe_problems(result_of()) == []
    puts = {"due": 9, "durable": 5, "failed": {"WriterLost": 1}, "unanswered": 3}
    workload = Workload(rate=1_000)._asdict()
    told = describe_problems(result_of(puts=puts, workload=workload, errors=["client 1 ended"]))
    assert told[0] == "1 entry failed: WriterLost"
    assert told[1].startswith("3 entries due had no answer in time")
    assert told[2:] == ["the rate was not kept: 33 of 1,000/s", "client 1 ended"]


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(), "1 stream, 1,024 bytes (fixed), closed loop, 256 in flight; 10 s after 1 s"),
        (Workload(rate=5_000, streams=3), "3 streams, 1,024 bytes (fixed), open loop, 5,000 "),
        (Workload(batch=64, readers=1), "256 in flight, 64 at once, 1 reader;"),
    ],
)
def test_the_workload_in_words(workload: Workload, words: str) -> None:
    assert words in describe_workload(workload._asdict())


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (3, 5), (10, 10), (11, 20), (501, 1_000)]
)
def test_tops_of_axes_are_round(value: float, top: float) -> None:
    assert round_up(value) == top
