"""Figures from results files: the trade-off, where models refuse, and P(refusal) along a response. Colours: Okabe and
Ito; cividis for helpfulness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from derta.evaluation.measures import HELPFULNESS, OVER_REFUSAL, SUCCESS
from derta.evaluation.probability import SetCurve
from derta.report.measures import Combined, combined
from derta.report.runs import Run, group_by_label
from derta.statistics.positions import POSITION_BUCKETS, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, VERMILION, GREEN, GREY = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#666666"
MIN_ROWS = 5
"""Positions reached by fewer rows are left out of a curve: their mean says little."""
_BENIGN_STYLES = ((BLUE, "--"), (GREEN, ":"), (ORANGE, "-."), (GREY, (0, (1, 3))))


def trade_off(runs: Sequence[Run]) -> Figure | None:
    """Attack success (mean over attacks) against over-refusal, a panel per benign set, with helpfulness on that set as
    colour and intervals as bars (several runs of a label: standard deviation). None without harmful or benign prompts.
    """
    lines, labels = combined(runs), list(group_by_label(runs))
    success = [line for line in lines if line.group == SUCCESS]
    refusal = [line for line in lines if line.group == OVER_REFUSAL and line.path[-1] == "refused"]
    if not success or not refusal:
        return None
    height = next((line for line in success if not line.attack), success[0])
    helpful = {line.prompt_set: line for line in lines if line.group == HELPFULNESS}
    figure, panels = _panels(len(refusal), f"{height.name}, against over-refusal (best: lower left)")
    colours = None
    for panel, line in zip(panels, refusal, strict=True):
        panel.set_title(line.prompt_set, fontsize=11)
        panel.set_xlabel("over-refusal, %")
        for label in labels:
            x, y = (lines[each][label] for each in (line, height))
            if x.mean is None or y.mean is None:
                continue
            panel.errorbar(100 * x.mean, 100 * y.mean, _bar(y), _bar(x), color=GREY, linewidth=1, capsize=3, zorder=1)
            share = lines[helpful[line.prompt_set]][label].mean if line.prompt_set in helpful else None
            colour: dict[str, Any] = {"facecolor": "none"}
            if share is not None:
                colour = {"c": [100 * share], "cmap": "cividis", "vmin": 0, "vmax": 100}
            point = panel.scatter([100 * x.mean], [100 * y.mean], s=60, edgecolor="black", zorder=2, **colour)
            colours = colours if share is None else point
            panel.annotate(label, (100 * x.mean, 100 * y.mean), (7, 6), textcoords="offset points", fontsize=9)
        panel.set_xlim(left=-1)
        panel.set_ylim(-3, 108)
    panels[0].set_ylabel("attack success, %")
    if colours is not None:
        figure.colorbar(colours, ax=panels, label="helpfulness, %")
    return figure


def _bar(found: Combined) -> list[list[float]]:
    """Lengths of the bar below and above the value, in per cent, inside 0 to 100; none where there is no interval."""
    if found.mean is None or found.low is None or found.high is None:
        return [[0.0], [0.0]]
    return [[100 * (found.mean - max(found.low, 0.0))], [100 * (min(found.high, 1.0) - found.mean)]]


def refusal_positions(runs: Sequence[Run]) -> Figure:
    """Histogram of the places where refusals start, a panel per label; prefilled responses apart, because they cannot
    refuse before their prefill ends."""
    groups = group_by_label(runs)
    figure, panels = _panels(len(groups), "Where refusals of harmful prompts start (all attacks)")
    names = [name for name, _, _ in POSITION_BUCKETS]
    for panel, (label, members) in zip(panels, groups.items(), strict=True):
        free, every = (
            np.array([sum(_position_count(run, key, name) for run in members) for name in names])
            for key in ("positions_without_prefill", "positions")
        )
        total = every.sum()
        panel.set_title(f"{label} (n = {total} refusals)", fontsize=11)
        panel.set_xticks(range(len(names)), names)
        panel.set_xlim(-0.6, len(names) - 0.4)
        panel.set_xlabel("response tokens before the refusal")
        panel.set_ylim(0, 105)
        if total == 0:
            panel.text(0.5, 0.5, "no refusals", transform=panel.transAxes, ha="center", color=GREY)
            continue
        panel.bar(range(len(names)), 100 * free / total, color=BLUE, label="no prefill")
        panel.bar(
            range(len(names)), 100 * (every - free) / total, bottom=100 * free / total, color=ORANGE, hatch="//",
            edgecolor="white", label="behind a prefill",
        )  # fmt: skip
        for x, count in enumerate(every):
            panel.text(x, 100 * count / total + 1.5, str(count), ha="center", fontsize=9)
    panels[0].set_ylabel("% of refusals")
    _shared_legend(figure, panels)
    return figure


def refusal_probability(runs: Sequence[Run]) -> Figure | None:
    """Mean P(refusal token) by response position, harmful against benign responses, a panel per label.

    The band is the middle half of the rows; over several runs, the range of the runs' means. None where no run
    measured it.
    """
    groups = {
        label: kept
        for label, members in group_by_label(runs).items()
        if (kept := [run.probability for run in members if run.probability])
    }
    if not groups:
        return None
    band = "middle half of the rows" if max(map(len, groups.values())) == 1 else "middle half of the rows, or all runs"
    figure, panels = _panels(len(groups), f"P(refusal token) along a given response (mean; band: {band})")
    for panel, (label, members) in zip(panels, groups.items(), strict=True):
        styles = iter(_BENIGN_STYLES * len(members[0].sets))
        for name, curve in members[0].sets.items():
            colour, line = (VERMILION, "-") if curve.harmful else next(styles)
            _draw_curve(panel, name, [member.sets[name] for member in members], colour, line)
        scores = [score for m in members if (score := m.separation["all"].auroc) is not None]
        title = f"{label} (AUROC {np.mean(scores):.3f})" if scores else label
        panel.set_title(f"{title}, {len(members)} runs" if len(members) > 1 else title, fontsize=11)
        panel.set_xlabel("response tokens given")
        panel.set_ylim(-0.02, 1.02)
    panels[0].set_ylabel("P(refusal token)")
    _shared_legend(figure, panels)
    return figure


def combine_curves(curves: Sequence[Curve]) -> dict[str, np.ndarray]:
    """`mean`, `low` and `high` of P(refusal) by position, up to where every run has `MIN_ROWS` rows left.

    One run: mean and quartiles of its rows. Several: mean and range of the runs' means.
    """
    length = min(sum(count >= MIN_ROWS for count in curve.count) for curve in curves)
    means = np.array([curve.mean[:length] for curve in curves])  # [runs, positions]
    if len(curves) > 1:
        return {"mean": means.mean(0), "low": means.min(0), "high": means.max(0)}
    return {"mean": means[0], "low": np.array(curves[0].q25[:length]), "high": np.array(curves[0].q75[:length])}


def _draw_curve(panel: Axes, name: str, curves: Sequence[SetCurve], colour: str, line: Any) -> None:
    curve = combine_curves(curves)
    rows = "+".join(str(each.rows) for each in curves) if len(curves) <= 3 else f"{len(curves)} runs"
    label = f"{name} (n = {rows} rows)"
    # Without a dot, a curve that falls right behind the first token looks like part of the axis.
    start: dict[str, Any] = {"marker": "o", "markersize": 4, "markevery": [0]}
    positions = np.arange(len(curve["mean"]))
    panel.plot(positions, curve["mean"], color=colour, linestyle=line, linewidth=1.8, label=label, **start)
    panel.fill_between(positions, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)


def _position_count(run: Run, key: str, bucket: str) -> int:
    """Refusals of harmful prompts in a stretch of the response, over all harmful sets."""
    shares = (
        prompts.overall.positions if key == "positions" else prompts.positions_without_prefill
        for prompts in run.summary.of_sets(harmful=True).values()
    )
    return sum(share[bucket].count or 0 for share in shares)


def _panels(count: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, four in a row, on the same scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(3.4 * columns, 4.8), 3.2 * rows + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _shared_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend below all panels; entries that several panels share are named once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)
