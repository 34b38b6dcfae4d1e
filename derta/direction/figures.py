"""Figures of one diagnostic, from the content of direction.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derta.direction.suffix import CONDITIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SCORES = {
    "refusal_score": ("bypass: refusal metric, ablated", "viridis"),
    "steering_score": ("induce: refusal metric, added", "viridis"),
    "kl_div_score": ("KL on harmless prompts, nats", "magma"),
}
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#666666"
_COLOURS = dict(zip(CONDITIONS, (BLUE, GREY, VERMILION), strict=True))


def write_figures(report: Mapping[str, Any], output: Path) -> list[Path]:
    """candidates.png (scores, layers x positions), layers.png (norms and cosines by layer), outcomes.png (before and
    after), suffix.png where suffixes were analysed."""
    made = {"candidates": candidate_maps(report), "layers": layer_curves(report), "outcomes": outcome_bars(report)}
    if report["suffix"] and not report["suffix"]["reason"]:
        made["suffix"] = suffix_curves(report)
    paths = []
    for name, figure in made.items():
        paths.append(output / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
    return paths


def candidate_maps(report: Mapping[str, Any]) -> Figure:
    """A heat map per score; crosses: not valid, circle: chosen."""
    figure = new_figure(3.9 * len(_SCORES), 1.6 + 0.35 * report["positions"] + 0.8)
    figure.suptitle(f"{report['label']}: every candidate direction (x: not valid; o: chosen)", fontsize=12)
    selection, positions, layers = report["selection"], report["positions"], report["layers"]
    for panel, (column, (title, colours)) in zip(
        figure.subplots(1, len(_SCORES), sharey=True), _SCORES.items(), strict=True
    ):
        grid = np.full((positions, layers), np.nan)
        for row in report["candidates"]:
            if row[column] is not None:
                grid[row["position"], row["layer"]] = row[column]
            if f"position {row['position']}, layer {row['layer']}" in selection["dropped"]:
                panel.plot(row["layer"], row["position"], "x", color="white", markersize=4)
                panel.plot(row["layer"], row["position"], "x", color="black", markersize=3, markeredgewidth=0.6)
        image = panel.imshow(
            grid, aspect="auto", cmap=colours, extent=(-0.5, layers - 0.5, -0.5, -positions - 0.5), interpolation="none"
        )
        # The first row of the grid is the earliest position; imshow puts it at the top.
        panel.images[0].set_extent((-0.5, layers - 0.5, -0.5, -positions - 0.5))
        if selection["position"] is not None:
            panel.plot(selection["layer"], selection["position"], "o", color="white", fillstyle="none", markersize=9)
        figure.colorbar(image, ax=panel, shrink=0.9)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("layer (block input)")
        panel.set_yticks(range(-positions, 0))
        panel.xaxis.get_major_locator().set_params(integer=True)
        if panel is figure.axes[0]:
            panel.set_ylabel("position from the end")
    return figure


def layer_curves(report: Mapping[str, Any]) -> Figure:
    """Length of the difference of means by layer, and its cosine with the chosen direction; a curve per position."""
    figure = new_figure(9.0, 3.6)
    figure.suptitle(f"{report['label']}: harmful mean - harmless mean at every block input", fontsize=12)
    length, cosine = figure.subplots(1, 2)
    count = report["positions"]
    for i, norms in enumerate(report["norms"]):
        shade = 0.25 + 0.75 * (i + 1) / count
        name = f"position {i - count}"
        length.plot(norms, color=BLUE, alpha=shade, marker="o", markersize=3, label=name)
        if report["cosines"]:
            values = [np.nan if value is None else value for value in report["cosines"][i]]
            cosine.plot(values, color=VERMILION, alpha=shade, marker="o", markersize=3, label=name)
    length.set_ylabel("length")
    cosine.set_ylabel("cosine with the chosen direction")
    cosine.set_ylim(-1.05, 1.05)
    if not report["cosines"]:
        cosine.text(0.5, 0.5, "no valid direction found", ha="center", transform=cosine.transAxes, color=GREY)
    for panel in (length, cosine):
        panel.set_xlabel("layer (block input)")
        panel.xaxis.get_major_locator().set_params(integer=True)
        tidy(panel)
        if count > 1 and panel.get_legend_handles_labels()[0]:
            panel.legend(frameon=False, fontsize=7)
    return figure


def outcome_bars(report: Mapping[str, Any]) -> Figure:
    """Attack success on harmful prompts and refusal of harmless ones under every intervention, with 95% intervals."""
    cells = [("as it is", report["before"])]
    cells += [(f"{cell['directions']} ablated", cell) for cell in report["ablated"]]
    if report["strongest"]:
        cells.append(("ablated\n(not valid)", report["strongest"]))
    cells += [(f"{cell['name']}'s\nablated", cell) for cell in report["references"] if not cell["reason"]]
    if report["added"]:
        cells.append(("added", report["added"]))
    figure = new_figure(max(5.0, 1.3 * len(cells) + 1.5), 3.8)
    figure.suptitle(f"{report['label']}: responses under interventions (%, 95% intervals)", fontsize=12)
    panel = figure.subplots()
    shown = (("harmful", "complied", "attack success", VERMILION), ("harmless", "refused", "over-refusal", BLUE))
    for offset, (side, share, name, colour) in zip((-0.2, 0.2), shown, strict=True):
        places, rates = [], []
        for place, (_, cell) in enumerate(cells):
            if side in cell and cell[side][share]["n"]:
                places.append(place + offset)
                rates.append(cell[side][share])
        heights = np.array([100 * rate["rate"] for rate in rates])
        errors = np.abs(np.array([[100 * rate["low"], 100 * rate["high"]] for rate in rates]).T - heights)
        panel.bar(places, heights, 0.38, color=colour, label=name, yerr=errors, ecolor=GREY, capsize=2)
    panel.set_xticks(range(len(cells)), [name for name, _ in cells], fontsize=8)
    panel.set_ylim(0, 105)
    panel.set_ylabel("%")
    tidy(panel)
    panel.legend(frameon=False, fontsize=8)
    return figure


def suffix_curves(report: Mapping[str, Any]) -> Figure:
    """Cosine of the last token's residual with the direction by layer; attention shares of the top heads."""
    suffix = report["suffix"]
    figure = new_figure(9.0, 3.6)
    figure.suptitle(f"{report['label']}: suffixes (n = {suffix['prompts']} prompts)", fontsize=12)
    cosine, attention = figure.subplots(1, 2)
    for name in CONDITIONS:
        cosine.plot(suffix["conditions"][name]["cosines"], color=_COLOURS[name], marker="o", markersize=3, label=name)
    cosine.set_xlabel("layer (block input)")
    cosine.set_ylabel("cosine with the direction, last token")
    cosine.xaxis.get_major_locator().set_params(integer=True)
    cosine.legend(frameon=False, fontsize=8, title="suffix", title_fontsize=8)
    places = np.arange(len(CONDITIONS))
    for offset, (part, colour) in zip((-0.2, 0.2), (("instruction", BLUE), ("suffix", VERMILION)), strict=True):
        shares = [100 * suffix["conditions"][name]["attention"][part] for name in CONDITIONS]
        attention.bar(places + offset, shares, 0.38, color=colour, label=f"on the {part}")
    attention.set_xticks(places, CONDITIONS)
    attention.set_xlabel("suffix")
    attention.set_ylabel(f"% of attention, top {len(suffix['heads'])} heads")
    attention.legend(frameon=False, fontsize=8)
    for panel in (cosine, attention):
        tidy(panel)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(panel: Axes) -> None:
    """The look that all figures share."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
