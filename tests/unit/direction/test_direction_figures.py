"""Figures of diagnostics, drawn and read back: what their marks say for themselves."""

import json
import re
from pathlib import Path
from typing import Any

from report_cases import drawn, write_direction

from derta.direction.figures import before_and_after, figures


def reports(tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    folder = Path(write_direction(tmp_path / str(len(list(tmp_path.iterdir()))), "derta", **settings))
    return [json.loads((folder / "direction.json").read_text())]


def test_before_and_after_is_a_line_per_run_and_tells_valid_directions_from_others(tmp_path):
    groups = {"vanilla": reports(tmp_path, kept=1, chosen=False), "derta": reports(tmp_path, kept=3)}
    points = [dict(re.findall(r"(\w+): ([^;]*)", point)) for point in drawn(before_and_after(groups), "point")]
    found = [tuple(point[key] for key in ("label", "state", "rate", "valid")) for point in points]
    assert sorted(found) == [
        ("derta", "ablated", "25.0%", "valid direction"),
        ("derta", "as it is", "0.0%", "valid direction"),
        ("vanilla", "ablated", "75.0%", "no valid direction"),
        ("vanilla", "as it is", "0.0%", "no valid direction"),
    ]


def test_every_candidate_is_in_every_map_with_its_mark(tmp_path):
    (report,) = reports(tmp_path)
    found = figures(report)
    assert list(found) == ["candidates", "layers", "outcomes", "suffix"]
    marks = [label.rsplit("mark: ", 1)[1] for label in drawn(found["candidates"], "text mark") if "mark: " in label]
    assert sorted(marks) == ["×"] * 18 + ["○"] * 6  # three maps, each mark with its halo
    # The candidate without scores has no cell of its own.
    assert len(drawn(found["candidates"], "rect mark")) == 3 * (4 + 3)


def test_outcome_bars_have_their_intervals(tmp_path):
    (report,) = reports(tmp_path, kept=3)
    bars = drawn(figures(report)["outcomes"], "bar")
    assert any("1 ablated" in bar and "attack success" in bar and "rate: 25.000000%" in bar for bar in bars), bars
    whiskers = drawn(figures(report)["outcomes"], "rule mark")
    assert len(bars) == len(whiskers) == 6
