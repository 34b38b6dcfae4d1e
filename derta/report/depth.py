"""Attack success and refusal over the depth of the prefill, with how many rows were too short for it: a curve and a
table, from three depths on."""

import re
from collections.abc import Sequence
from typing import Any

import altair as alt

from derta.charts import Figure, filtered, panels, share_curves
from derta.evaluation.measures import SUCCESS
from derta.report.html import Numbers
from derta.report.runs import Run, combine, group_by_label

_PREFILL = re.compile(r"prefill_([0-9]+)")
_FEWEST = 3
MEASURES = {SUCCESS: "complied", "refusal": "refused"}
"""What is shown -> the field of `Cell`."""


def depth_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """By harmful set, checkpoint and depth: the rates, their ends, responses and rows left out; none where fewer than
    three depths have been asked."""
    rows = []
    for name, prompts in runs[0].summary.of_sets(harmful=True).items():
        depths = {int(found[1]): attack for attack in prompts.attacks if (found := _PREFILL.fullmatch(attack))}
        if len(depths) < _FEWEST:
            continue
        for label, members in group_by_label(runs).items():
            for depth, attack in sorted(depths.items()):
                cells = [run.summary.sets[name].attacks[attack] for run in members]
                row: dict[str, Any] = {"set": name, "checkpoint": label, "depth": depth, "attack": attack}
                row |= {"n": sum(cell.n for cell in cells)}
                row |= {"left_out": sum(sum(cell.skipped.values()) for cell in cells)}
                rows.append(row | {m: combine([getattr(cell, key) for cell in cells]) for m, key in MEASURES.items()})
    return rows


def depth_curves(runs: Sequence[Run]) -> Figure | None:
    """A panel for each measure (and harmful set); the band is the 95% interval, of several runs the standard
    deviation. None with fewer than three depths."""
    found = depth_rows(runs)
    several = len({row["set"] for row in found}) > 1
    rows = [
        {key: row[key] for key in ("checkpoint", "depth", "attack", "n", "left_out")}
        | {"panel": f"{measure} ({row['set']})" if several else measure}
        | row[measure].drawn
        | {"text": f"{row[measure]} %, n = {row['n']}, too short: {row['left_out']}"}
        for measure in MEASURES
        for row in found
        if row[measure].mean is not None
    ]
    if not rows:
        return None
    labels = list(group_by_label(runs))
    names = list(dict.fromkeys(row["panel"] for row in rows))
    depths = sorted({row["depth"] for row in rows})
    axis = alt.Axis(values=depths, format="d", grid=False, labelFlush=False, labelOverlap=False)
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("depth", type="quantitative", title="response tokens given", scale=scale, axis=axis)
    curves = share_curves("depths", x, "checkpoint", labels, title="behind ").properties(height=240)
    chart = filtered(panels(curves, "panel", sort=names), checkpoints=labels)
    title = "Attack success and refusal by depth of the prefill"
    return Figure(chart, title, {"depths": rows}, count=len(names), width=330, left=50)


def depth_table(runs: Sequence[Run]) -> Numbers:
    """The numbers of the curves, with the rows that are too short for a depth."""
    keys = ("checkpoint", "set", "depth", *MEASURES, "n", "left_out")
    rows = [
        ({"data-checkpoint": row["checkpoint"], "data-attack": row["attack"]}, [row[key] for key in keys])
        for row in depth_rows(runs)
    ]
    measures = (f"{measure}, %" for measure in MEASURES)
    header = ["checkpoint", "prompts", "tokens given", *measures, "n", "too short, or no room"]
    return Numbers("Numbers of this figure", header, rows)
