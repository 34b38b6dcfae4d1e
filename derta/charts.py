"""Figures: one Vega-Lite specification each, made with altair, which becomes a PNG (vl-convert, no display) or a part
of a page that draws it itself (`library`).

Colours are names: a page gives them values for light and dark screens (`colour_rules`), a PNG has the light ones. Okabe
and Ito's, which colour-blind readers can tell apart; lines differ in dash and points in shape, too.

A figure has one panel or several (facets, or panels of their own); it says how wide they are at least, so that a page
can lay them out for its width.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt

Rows = Sequence[Mapping[str, Any]]

COLOURS = {
    "ground": ("#fbfbf9", "#13161a"),
    "panel": ("#ffffff", "#1a1e23"),
    "ink": ("#1b1f24", "#e8ebee"),
    "muted": ("#57606a", "#a7b0ba"),
    "line": ("#d7dbe0", "#363d45"),
    "track": ("#e8ebee", "#2a3037"),
    "accent": ("#0b5cad", "#7cc0ff"),
    "warn-ground": ("#fff4e5", "#33261a"),
    "warn-line": ("#b35900", "#f0a95b"),
    # What is compared, in its order; the first is a grey, for the untuned model.
    "c0": ("#6a737d", "#aab4bf"),
    "c1": ("#d55e00", "#ff8f50"),
    "c2": ("#0072b2", "#5ab3f5"),
    "c3": ("#009e73", "#36cfa2"),
    "c4": ("#b8578f", "#e69cc6"),
    "c5": ("#b67c00", "#f0bc4e"),
    "c6": ("#3a9bd1", "#93d5ff"),
    # Outcomes of responses.
    "complied": ("#d55e00", "#f07f3c"),
    "garbled": ("#9aa2ab", "#77818c"),
    "malformed_refusal": ("#56b4e9", "#8fd0ff"),
    "refused": ("#0072b2", "#3b95db"),
    "unscored": ("#ffffff", "#1a1e23"),
    "prefilled": ("#e69f00", "#eeb243"),
}
"""Name -> on a light ground, on a dark one."""
_OF_THE_COMPARED = 7
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
_DASHES = ([1, 0], [8, 4], [3, 2], [9, 3, 2, 3], [5, 2], [12, 4], [1, 3])
GLYPHS = "●■▲◆▼✚▶"
"""The shapes as characters."""
PERCENT = alt.Axis(format="%", tickCount=5)


def colour(name: str) -> str:
    """A colour of `COLOURS`, as a specification and a style sheet say it."""
    assert name in COLOURS, name
    return f"var(--{name})"


def colour_rules(scheme: int) -> str:
    """`COLOURS` for a style sheet; scheme 0: light, 1: dark."""
    return " ".join(f"--{name}: {values[scheme]};" for name, values in COLOURS.items())


def compared(index: int) -> tuple[str, str]:
    """Colour name and glyph of the index-th of what is compared. Its shape and dash are those of `compared_colours`."""
    return f"c{index % _OF_THE_COMPARED}", GLYPHS[_variant(index)]


def _variant(index: int) -> int:
    """Where colours come back, shapes and dashes do not: the eighth shares the first one's colour alone."""
    return (index + index // _OF_THE_COMPARED) % _OF_THE_COMPARED


_WORDS = "replace(datum.label, /_/g, ' ')"


def legend(*, words: bool = False, **settings: Any) -> alt.Legend:
    """Above the figure. words: whether the names are ours, and shown with spaces, or the user's."""
    names = _WORDS if words else alt.Undefined
    return alt.Legend(orient="top", title=None, labelLimit=330, labelExpr=names, **settings)


def line_legend() -> alt.Legend:
    """For curves, which their bands and dots do not change."""
    return legend(symbolType="stroke", symbolStrokeWidth=2, symbolOpacity=1, symbolSize=300)


def compared_colours(field: str, names: Sequence[str], key: alt.Legend | None = None, *, first: int = 0) -> alt.Color:
    """Colours of the compared, in their order. key: their legend, None for none. first: the first one's colour."""
    scale = alt.Scale(domain=list(names), range=[colour(compared(first + i)[0]) for i in range(len(names))])
    return alt.Color(field, type="nominal", scale=scale, legend=key)


def compared_dashes(field: str, names: Sequence[str], key: alt.Legend | None = None) -> alt.StrokeDash:
    scale = alt.Scale(domain=list(names), range=[_DASHES[_variant(i)] for i in range(len(names))])
    return alt.StrokeDash(field, type="nominal", scale=scale, legend=key)


def compared_shapes(field: str, names: Sequence[str], key: alt.Legend | None = None) -> alt.Shape:
    scale = alt.Scale(domain=list(names), range=[_SHAPES[_variant(i)] for i in range(len(names))])
    return alt.Shape(field, type="nominal", scale=scale, legend=key)


@dataclass(frozen=True)
class Figure:
    """A finished figure.

    rows: name -> the rows that its charts draw (`table`); they stay out of altair, which would copy and check them
        with every step.
    count: panels at most. width: of a panel without its y axis, for which `left` is kept. gap: between two panels.
    columns: panels in a row of a PNG at most.
    """

    chart: Any
    title: str
    rows: Mapping[str, Rows]
    count: int
    width: int
    left: int = 46
    gap: int = 24
    columns: int = 4


def table(name: str) -> alt.Chart:
    """A chart of the rows that its figure has under this name."""
    return alt.Chart(alt.NamedData(name))


def asked(field: str) -> alt.Tooltip:
    """A field whose text is shown where the reader points."""
    return alt.Tooltip(field, type="nominal")


def panels(chart: Any, field: str, *, sort: Any = None, words: bool = False) -> Any:
    """A panel per value of a field, each with its axes. words: as for `legend`."""
    header = alt.Header(
        title=None, labelExpr=_WORDS if words else alt.Undefined,
        labelFontWeight=600, labelFontSize=13, labelAnchor="start", labelLimit=320,
    )  # fmt: skip
    facet = alt.Facet(field, type="nominal", header=header, sort=sort)
    return chart.facet(facet).resolve_axis(x="independent", y="independent")


def filtered(chart: Any, **kept: Sequence[str]) -> Any:
    """Only rows whose `checkpoint`, `attack`, ... is among the parameter `checkpoints`, `attacks`, ..., which a page
    can set; at first every name. Rows that are about none are kept."""
    for name, values in kept.items():
        chart = chart.add_params(alt.param(name=name, value=list(values)))
        field = f"datum.{name.removesuffix('s')}"
        chart = chart.transform_filter(f"!isValid({field}) || indexof({name}, {field}) >= 0")
    return chart


def reading(chart: Any, x: str, line: str, groups: Sequence[str] = (), *, title: str = "", name: str = "near") -> Any:
    """What all curves of a panel say at one x, to be laid over them: shown where the reader points.

    Args:
        x: the field along the x axis. line: expression of the text of one curve at that place.
        groups: fields that tell panels apart. title: what stands before x in the text.
        name: of its own for every panel with data of its own.
    """
    near = alt.selection_point(name=name, fields=[x, *groups], on="pointerover", clear="pointerout", empty=False)
    text = f"{title!r} + datum.{x} + '\\n' + join(sort(pluck(datum.lines, 'line')), '\\n')"
    found = chart.transform_calculate(line=line).transform_aggregate(lines="values(line)", groupby=[x, *groups])
    rule = found.transform_calculate(text=text).mark_rule(strokeWidth=7, color=colour("ink"))
    seen = alt.when(near).then(alt.value(0.35)).otherwise(alt.value(0))
    return rule.encode(x=alt.X(x, type="quantitative"), opacity=seen, tooltip=asked("text")).add_params(near)


def share_curves(rows: str, x: alt.X, field: str, names: Sequence[str], *, title: str) -> Any:
    """Shares along x, to be cut into panels by the field `panel`: a line per name under `field` with its band (`share`,
    `low`, `high`), and what all lines say at one x (`text`). title: as for `reading`."""
    source = table(rows)
    base = source.encode(x=x, color=compared_colours(field, names, line_legend()))
    y = alt.Y("low:Q", title=None, axis=PERCENT, scale=alt.Scale(domain=[0, 1]))
    return alt.layer(
        base.mark_area(opacity=0.13).encode(y=y, y2="high"),
        base.mark_line(point=True).encode(y="share:Q", strokeDash=compared_dashes(field, names, line_legend())),
        reading(source, x.shorthand, f"datum.{field} + ': ' + datum.text", ["panel"], title=title),
    )


def specification(figure: Figure) -> dict[str, Any]:
    """The figure as Vega-Lite, with the look that all share. A page reads in `usermeta` how to lay out its panels; its
    heading says what the description does."""
    ink, muted, line = map(colour, ("ink", "muted", "line"))
    config = {
        "background": None,
        "font": "system-ui, Helvetica, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted, "titleColor": ink, "gridColor": line, "domainColor": muted, "tickColor": muted,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 120,
        },
        "axisX": {"grid": False, "titleAnchor": "end"},
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "header": {"labelColor": ink, "titleColor": ink},
        "legend": {
            "labelColor": ink, "titleColor": ink, "labelFontSize": 12, "titleFontWeight": "normal", "columns": 5,
        },
        "title": {"color": ink, "subtitleColor": muted, "anchor": "start", "fontSize": 13, "fontWeight": 600},
        "text": {"color": ink, "fontSize": 12},
        "rule": {"color": ink},
        "line": {"strokeWidth": 2},
    }  # fmt: skip
    spread = {"width": figure.width, "left": figure.left, "gap": figure.gap, "panels": figure.count}
    spec = figure.chart.to_dict() | {"config": config, "description": figure.title, "usermeta": spread}
    spec["datasets"] = {name: list(rows) for name, rows in figure.rows.items()}
    if figure.count > 1:
        spec |= {"columns": min(figure.count, figure.columns), "spacing": {"row": 18, "column": figure.gap}}
    for panel in spec.get("concat", [spec.get("spec", spec)]):
        panel["width"] = figure.width
    return spec


def write_png(figure: Figure, file: Path) -> None:
    """The figure as it is drawn on a page, on white, with its title above. Raises OSError: the file cannot be
    written."""
    import vl_convert

    spec = specification(figure)
    spec["title"] = {"text": spec["description"], "anchor": "start", "fontSize": 15, "offset": 14}
    spec["background"] = "white"
    text = json.dumps(spec)
    for name, (light, _) in COLOURS.items():
        text = text.replace(f'"{colour(name)}"', f'"{light}"')
    file.write_bytes(vl_convert.vegalite_to_png(text, scale=2))


@cache
def library() -> str:
    """The scripts with which a page draws specifications: Vega, Vega-Lite and Vega-Embed with its interpreter, which
    needs no `eval`. They are those that draw the PNGs, and load nothing."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def library_version() -> str:
    import vl_convert

    return vl_convert.get_vega_version()
