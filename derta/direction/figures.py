"""Figures of refusal-direction diagnostics, from the content of direction.json alone; a page shows the same ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from derta.charts import (
    PERCENT,
    Figure,
    asked,
    colour,
    compared_colours,
    compared_dashes,
    legend,
    line_legend,
    panels,
    table,
    write_png,
)
from derta.direction.report import interventions

SCORES = {
    "refusal_score": ("bypass: refusal metric, ablated", "viridis"),
    "steering_score": ("induce: refusal metric, added", "viridis"),
    "kl_div_score": ("KL on harmless prompts, nats", "magma"),
}
_SHARE = alt.Scale(domain=[0, 1])
_RATE = ("rate", "low", "high", "n")
_MEASURES = {"attack success": ("harmful", "complied"), "over-refusal": ("harmless", "refused")}


def write_figures(report: Mapping[str, Any], output: Path) -> None:
    """The figures of one diagnostic as PNG."""
    for name, figure in figures(report).items():
        write_png(figure, output / f"{name}.png")


def figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """Of one diagnostic: candidates (scores, layers x positions), layers (norms and cosines by layer), outcomes (before
    and after), suffix where suffixes were analysed."""
    made = {"candidates": candidate_maps(report), "layers": layer_curves(report), "outcomes": outcome_bars(report)}
    if report["suffix"] and not report["suffix"]["reason"]:
        made["suffix"] = suffix_curves(report)
    return made


def candidate_maps(report: Mapping[str, Any]) -> Figure:
    """A heat map per score; crosses: not valid, circle: chosen."""
    selection = report["selection"]
    rows = []
    for row in report["candidates"]:
        place = f"position {row['position']}, layer {row['layer']}"
        reasons = selection["dropped"].get(place, [])
        chosen = (row["position"], row["layer"]) == (selection["position"], selection["layer"])
        mark = "○" if chosen else "×" if reasons else ""
        about = "; ".join(reasons) or ("chosen" if chosen else "valid")
        scores = {column: row[column] for column in SCORES}
        rows.append({"position": row["position"], "layer": row["layer"], "mark": mark, "about": about} | scores)
    domains = [alt.Scale(domain=list(places)) for places in (range(report["layers"]), range(-report["positions"], 0))]
    axis = alt.Axis(labelOverlap=True, labelAngle=0)
    base = table("candidates").encode(
        x=alt.X("layer:O", title="layer (block input)", scale=domains[0], axis=axis),
        y=alt.Y("position:O", title="position", scale=domains[1]),
    )
    maps = []
    for column, (title, scheme) in SCORES.items():
        key = alt.Legend(orient="bottom", title=None, gradientLength=160, gradientThickness=10)
        shade = alt.Color(column, type="quantitative", scale=alt.Scale(scheme=scheme, zero=False), legend=key)  # type: ignore[arg-type]
        tips = [alt.Tooltip(name, type="quantitative", format=".3~g", title=SCORES[name][0]) for name in SCORES]
        cells = base.mark_rect().encode(color=shade, tooltip=["position:O", "layer:O", *tips, asked("about")])
        # Black on white shows on every shade.
        marks = base.mark_text(fontSize=13, fontWeight=700, color="#000").encode(text="mark:N")
        halo = base.mark_text(fontSize=13, fontWeight=700, color="#fff", stroke="#fff", strokeWidth=2.5)
        ground = base.mark_rect(color=colour("track"))
        layers = [ground, cells.transform_filter(f"isValid(datum.{column})"), halo.encode(text="mark:N"), marks]
        maps.append(alt.layer(*layers, title=title).properties(height=alt.Step(22)))
    together = alt.concat(*maps).resolve_scale(color="independent")
    title = f"{report['label']}: every candidate direction (×: not valid; ○: chosen)"
    return Figure(together, title, {"candidates": rows}, count=3, width=270)


def layer_curves(report: Mapping[str, Any]) -> Figure:
    """Length of the difference of means by layer, and its cosine with the chosen direction; a curve per position."""
    names = [f"position {i - len(report['norms'])}" for i in range(len(report["norms"]))]
    made, rows = [], {}
    for key, title, domain in (
        ("norms", "length of harmful mean − harmless mean", None),
        ("cosines", "cosine with the chosen direction", [-1.05, 1.05]),
    ):
        if report[key]:
            rows[key] = _by_layer(dict(zip(names, report[key], strict=True)))
            made.append(_curves(key, names, report["layers"], title, domain))
    title = f"{report['label']}: harmful mean − harmless mean at every block input"
    return Figure(alt.concat(*made), title, rows, count=len(made), width=360)


def _by_layer(curves: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "layer": layer, "value": value}
        for name, values in curves.items()
        for layer, value in enumerate(values)
    ]


def _curves(rows: str, names: Sequence[str], layers: int, title: str, domain: Sequence[float] | None = None) -> Any:
    """One line over the layers per name."""
    scale = alt.Scale(domain=list(domain), nice=False) if domain else alt.Scale(zero=True)
    axis = alt.Axis(values=list(range(0, layers, -(-layers // 10))), format="d")
    return (
        table(rows)
        .properties(title=title, height=200)
        .mark_line(point=alt.OverlayMarkDef(size=22))
        .encode(
            x=alt.X("layer:Q", title="layer (block input)", axis=axis),
            y=alt.Y("value:Q", title=None, scale=scale),
            color=compared_colours("name", names, line_legend()),
            strokeDash=compared_dashes("name", names, line_legend()),
            tooltip=[asked("name"), "layer:Q", alt.Tooltip("value:Q", format=".3~g")],
        )
    )


def outcome_bars(report: Mapping[str, Any]) -> Figure:
    """Attack success on harmful prompts and refusal of harmless ones under every intervention, with 95% intervals."""
    rows = [
        {"intervention": name, "measure": measure, **{key: cell[side][share][key] for key in _RATE}}
        for name, cell in interventions(report)
        for measure, (side, share) in _MEASURES.items()
        if side in cell and cell[side][share]["n"]
    ]
    names = list(dict.fromkeys(row["intervention"] for row in rows))
    base = table("rates").encode(
        y=alt.Y("intervention:N", sort=names, title=None, axis=alt.Axis(labelLimit=160)),
        yOffset=alt.YOffset("measure:N", sort=list(_MEASURES)),
    )
    scale = alt.Scale(domain=list(_MEASURES), range=[colour("complied"), colour("refused")])
    bars = base.mark_bar().encode(
        x=alt.X("rate:Q", title=None, axis=PERCENT, scale=_SHARE),
        color=alt.Color("measure:N", scale=scale, legend=legend()),
        tooltip=_rate_tips("intervention", "measure"),
    )
    chart = alt.layer(bars, base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high"))
    title = f"{report['label']}: responses under interventions (95% intervals)"
    return Figure(chart.properties(height=alt.Step(16)), title, {"rates": rows}, count=1, width=420, left=150)


def _rate_tips(*about: str) -> list[Any]:
    return [*map(asked, about), *(alt.Tooltip(f"{key}:Q", format=".1%") for key in _RATE[:-1]), "n:Q"]


def suffix_curves(report: Mapping[str, Any]) -> Figure:
    """Cosine of the last token's residual with the direction by layer; attention shares of the top heads."""
    suffix = report["suffix"]
    conditions: dict[str, Any] = suffix["conditions"]
    names = list(conditions)
    rows = {
        "cosines": _by_layer({name: one["cosines"] for name, one in conditions.items()}),
        "attention": [
            {"suffix": name, "on the": part, "share": one["attention"][part]}
            for name, one in conditions.items()
            for part in ("instruction", "suffix")
        ],
    }
    parts = alt.Scale(domain=["instruction", "suffix"], range=[colour("c2"), colour("c1")])
    attention = (
        table("attention")
        .properties(title=f"attention of the top {len(suffix['heads'])} heads", height=200)
        .mark_bar()
        .encode(
            x=alt.X("suffix:N", sort=names, title="suffix", axis=alt.Axis(labelAngle=0)),
            xOffset="on the:N",
            y=alt.Y("share:Q", title=None, axis=PERCENT),
            color=alt.Color("on the:N", scale=parts, legend=legend()),
            tooltip=[asked("suffix"), asked("on the"), alt.Tooltip("share:Q", format=".1%")],
        )
    )
    layers = len(conditions[names[0]]["cosines"])
    curves = _curves("cosines", names, layers, "cosine of the last token with the direction, by suffix")
    both = alt.concat(curves, attention).resolve_scale(color="independent", strokeDash="independent")
    title = f"{report['label']}: suffixes (n = {suffix['prompts']} prompts)"
    return Figure(both, title, rows, count=2, width=360)


def before_and_after(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Attack success of every run as it is and with its direction ablated, a panel per label: a line per run, hollow
    where only the candidate with the least bypass could be taken; the broad bar is the mean."""
    rows = []
    for label, reports in groups.items():
        for number, report in enumerate(reports, 1):
            after = report["ablated"][0] if report["ablated"] else report["strongest"]
            for state, cell in (("as it is", report["before"]), ("ablated", after)):
                if cell:
                    rate = cell["harmful"]["complied"]
                    valid = "valid direction" if report["ablated"] else "no valid direction"
                    row = {"label": label, "run": number, "state": state, "valid": valid}
                    rows.append(row | {key: rate[key] for key in _RATE})
    states = ["as it is", "ablated"]
    base = table("runs").encode(
        x=alt.X("state:N", sort=states, title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("rate:Q", title="attack success", axis=PERCENT, scale=_SHARE),
    )
    hollow = alt.Scale(domain=["valid direction", "no valid direction"], range=[colour("complied"), colour("panel")])
    layers = alt.layer(
        base.transform_aggregate(rate="mean(rate)", groupby=["label", "state"]).mark_tick(
            thickness=5, color=colour("muted"), opacity=0.5
        ),
        base.mark_line(strokeWidth=1.2, color=colour("muted")).encode(detail="run:N"),
        base.mark_point(size=60, opacity=1, strokeWidth=1.5).encode(
            fill=alt.Fill("valid:N", scale=hollow, legend=legend()),
            stroke=alt.value(colour("complied")),
            tooltip=_rate_tips("label", "run", "state", "valid"),
        ),
    ).properties(height=220)
    title = "Attack success before and after directional ablation (a line per run, bar: mean)"
    chart = panels(layers, "label", sort=list(groups))
    return Figure(chart, title, {"runs": rows}, count=len(groups), width=130, left=64, columns=6)
