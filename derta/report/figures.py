"""Figures of a report over evaluations: the trade-off, what became of every attack, where models refuse, and P(refusal)
along a response. Made of results files alone; a page can filter them by checkpoint, attack and outcome."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

import altair as alt
import numpy as np

from derta.charts import (
    PERCENT,
    Figure,
    asked,
    colour,
    compared_colours,
    compared_dashes,
    compared_shapes,
    filtered,
    legend,
    line_legend,
    panels,
    reading,
    table,
)
from derta.evaluation.measures import HELPFULNESS, OVER_REFUSAL, SUCCESS
from derta.evaluation.records import Outcome
from derta.report.responses import BEHIND, FREE, refusal_counts
from derta.report.runs import Combined, Run, combine, combined, group_by_label
from derta.statistics.positions import POSITION_BUCKETS, Curve
from derta.statistics.rates import Z_95, rate

MIN_ROWS = 5
"""Positions reached by fewer rows are left out of a curve: their mean says little."""
OUTCOMES = tuple(outcome.value for outcome in Outcome)
BUCKETS = tuple(name for name, _, _ in POSITION_BUCKETS)
_SHARE = alt.Scale(domain=[0, 1])


def trade_off(runs: Sequence[Run]) -> Figure | None:
    """Attack success against over-refusal, a panel per benign set, with helpfulness on that set as colour and intervals
    as bars (several runs of a label: standard deviation). None without harmful or benign prompts."""
    lines, labels = combined(runs), list(group_by_label(runs))
    success = [line for line in lines if line.group == SUCCESS]
    refusal = [line for line in lines if line.group == OVER_REFUSAL and line.path[-1] == "refused"]
    helpful = {line.prompt_set: line for line in lines if line.group == HELPFULNESS}
    rows = []
    for across in refusal:
        for up in success:
            points = [
                {"checkpoint": label, "set": across.prompt_set, "measure": up.name}
                | _around("x", lines[across][label])
                | _around("y", lines[up][label])
                | _around("help", lines[helpful[across.prompt_set]][label] if helpful else Combined())
                for label in labels
            ]
            rows += _placed([point for point in points if point["x"] is not None and point["y"] is not None])
    if not rows:
        return None
    judged = any(row["help"] is not None for row in rows)
    first = next((line.name for line in success if not line.attack), success[0].name)
    chosen = _choice("measure", "Attack success ", [line.name for line in success], first)
    base = table("points").encode(
        x=alt.X("x:Q", title="over-refusal (← better)", axis=PERCENT, scale=alt.Scale(domainMin=0)),
        y=alt.Y("y:Q", title="attack success (↓ better)", axis=PERCENT, scale=alt.Scale(domain=[0, 1.04], nice=False)),
    )
    # What no other checkpoint beats on one side without being beaten on the other.
    order = [alt.SortField("x"), alt.SortField("y")]
    front = base.transform_window(least="min(y)", frame=[None, -1], sort=order, groupby=["set"]).transform_filter(
        "!isValid(datum.least) || datum.y < datum.least"
    )
    bar = base.mark_rule(strokeWidth=1.2, color=colour("muted"))
    key = legend(symbolStrokeColor=colour("ink"), symbolFillColor="transparent" if judged else alt.Undefined)
    shade = alt.Fill(
        "help:Q",
        title="helpfulness",
        scale=alt.Scale(scheme="cividis", domain=[0, 1]),
        legend=alt.Legend(orient="bottom", format="%", gradientLength=160, direction="horizontal"),
    )
    points = base.mark_point(size=170, filled=True, stroke=colour("ink"), strokeWidth=1.3, opacity=1).encode(
        shade if judged else compared_colours("checkpoint", labels, key),
        shape=compared_shapes("checkpoint", labels, key),
        tooltip=[
            asked("checkpoint"),
            *(alt.Tooltip(f"{axis}_text:N", title=name) for axis, name in _AXES.items() if judged or axis != "help"),
        ],
    )
    where = {key: alt.ExprRef(f"datum.{key}") for key in ("dx", "dy", "align")}
    names = base.mark_text(fontWeight=600, **where).encode(text="checkpoint:N")  # type: ignore[arg-type]
    layers = alt.layer(
        front.mark_line(interpolate="step-after", strokeDash=[5, 4], strokeWidth=1.2, color=colour("muted")),
        bar.encode(x="x_low:Q", x2="x_high"),
        bar.encode(y="y_low:Q", y2="y_high"),
        points,
        names,
    ).properties(height=300)
    chart = filtered(
        panels(layers, "set", sort=[line.prompt_set for line in refusal])
        .add_params(chosen)
        .transform_filter("datum.measure == measure"),
        checkpoints=labels,
    )
    title = "Attack success against over-refusal"
    return Figure(chart, title, {"points": rows}, count=len(refusal), width=250, left=60)


_AXES = {"x": "over-refusal", "y": "attack success", "help": "helpfulness"}


def _choice(parameter: str, label: str, options: list[str], first: str) -> Any:
    """A parameter that the reader of a page can set, where there is something to choose from."""
    menu = alt.binding_select(options=options, name=label)
    return alt.param(name=parameter, value=first, bind=menu if len(options) > 1 else alt.Undefined)


def _around(name: str, found: Combined) -> dict[str, Any]:
    """Value, ends and text of a point on one axis."""
    if found.mean is None:
        return {name: None, f"{name}_text": "-"}
    return {name: found.mean} | {f"{name}_{key}": found.drawn[key] for key in ("low", "high", "text")}


def _placed(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each point with a place for its name: beside it where no other point and no other name is near, else above or
    below those."""
    across, up = 250 / max([0.08, *(point["x_high"] for point in points)]), 290
    taken = [(across * point["x"], up * point["y"]) for point in points]
    for point, (x, y) in zip(points, list(taken), strict=True):
        width = 7 * len(point["checkpoint"])
        near = [(11, -10, "left"), (11, 14, "left"), (-11, -10, "right"), (-11, 14, "right")]
        for dx, dy, align in [*near, *((11, way * far, "left") for far in range(24, 120, 14) for way in (-1, 1))]:
            centre = x + dx + (width / 2 if align == "left" else -width / 2)
            others = [place for place in taken if place != (x, y)]
            free = all(abs(centre - a) > width / 2 + 12 or abs(y - dy - b) > 13 for a, b in others)
            if free and centre > width / 2 and y - dy > 0:
                break
        taken.append((centre, y - dy))
        point |= {"dx": dx, "dy": dy, "align": align}
    return points


def attack_outcomes(runs: Sequence[Run]) -> Figure | None:
    """What became of the responses to each attack: a panel per attack, a bar per checkpoint. The first outcome shown
    has its interval. Unscored responses stand outside the shares, unless nothing else is asked for."""
    groups, rows = group_by_label(runs), outcome_shares(runs)
    if not rows:
        return None
    sets, attacks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "attack"))
    chosen = _choice("prompts", "Prompts ", sets, sets[0])
    y = alt.Y("checkpoint:N", sort=list(groups), title=None, axis=alt.Axis(domain=False, ticks=False))
    base = table("shares").encode(y=y)
    scale = alt.Scale(domain=OUTCOMES, range=[colour(name) for name in OUTCOMES])
    bars = base.mark_bar(height=16, strokeWidth=0.6).encode(
        x=alt.X("share:Q", stack="zero", title=None, axis=PERCENT, scale=_SHARE),
        color=alt.Color(
            "outcome:N",
            scale=scale,
            legend=legend(words=True, symbolStrokeColor=colour("muted"), symbolStrokeWidth=0.6),
        ),
        stroke=alt.when("datum.outcome == 'unscored'").then(alt.value(colour("muted"))).otherwise(alt.value(None)),
        order="order:O",
        tooltip=[asked("checkpoint"), asked("attack"), asked("outcome"), alt.Tooltip("text:N", title="rate"), "n:Q"],
    )
    first = base.transform_window(
        rank="rank()", sort=[alt.SortField("order")], groupby=["checkpoint", "attack"]
    ).transform_filter("datum.rank == 1")
    whisker = first.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high")
    number = first.mark_text(align="left", dx=5, fontWeight=600).encode(
        x=alt.datum(1), text=alt.Text("share:Q", format=".1%")
    )
    layers = alt.layer(bars, whisker, number).properties(height=alt.Step(24))
    chart = filtered(
        panels(layers, "attack", sort=attacks, words=True)
        .add_params(chosen)
        .transform_filter("datum.set == prompts && (datum.outcome != 'unscored' || length(outcomes) == 1)"),
        checkpoints=list(groups),
        attacks=attacks,
        outcomes=OUTCOMES,
    )
    left = 20 + 7 * min(16, max(map(len, groups)))
    title = "Outcomes of the responses to each attack"
    return Figure(chart, title, {"shares": rows}, count=len(attacks), width=180, left=left, gap=52)


def outcome_shares(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Share of every outcome, by prompt set, checkpoint and attack; none for attacks without responses."""
    rows = []
    for name, prompts in runs[0].summary.sets.items():
        for (label, members), attack in itertools.product(group_by_label(runs).items(), prompts.attacks):
            cells = [run.summary.sets[name].attacks[attack] for run in members]
            for order, outcome in enumerate(OUTCOMES):
                # Unscored responses are a share of all, the others of the scored ones.
                of = [sum(cell.outcomes.values()) if outcome == "unscored" else cell.n for cell in cells]
                counts = [cell.outcomes[outcome] for cell in cells]
                found = combine([rate(count, n) for count, n in zip(counts, of, strict=True)])
                if found.mean is not None:
                    row = {"checkpoint": label, "set": name, "attack": attack, "outcome": outcome, "order": order}
                    rows.append(row | found.drawn | {"n": sum(of), "count": sum(counts)})
    return rows


def refusal_positions(runs: Sequence[Run]) -> Figure | None:
    """Histogram of the places where refusals of harmful prompts start, a panel per checkpoint; prefilled responses
    apart, because they cannot refuse before their prefill ends. None without harmful prompts."""
    groups = group_by_label(runs)
    rows = list(refusal_counts(runs))
    counted = _together([row for row in rows if row["bucket"]], "checkpoint", "attack", "outcome", "bucket", "kind")
    if not rows:
        return None
    # A row without refusals for every bar keeps the panels of those that never refuse, and what lacks a bucket.
    empty = [
        {"checkpoint": label, "bucket": bucket, "kind": FREE, "count": 0} for label in groups for bucket in BUCKETS
    ]
    x = alt.X("bucket:N", sort=BUCKETS, title="response tokens before the refusal", axis=alt.Axis(labelAngle=0))
    base = table("refusals").encode(x=x)
    scale = alt.Scale(domain=[FREE, BEHIND], range=[colour("refused"), colour("prefilled")])
    y = alt.Y("share:Q", title="share of refusals", axis=PERCENT, scale=alt.Scale(domain=[0, 1.08], nice=False))
    bars = base.transform_aggregate(
        count="sum(count)", groupby=["title", "place", "total", "bucket", "kind"]
    ).transform_calculate(share="datum.total ? datum.count / datum.total : 0")
    whole = (
        base.transform_aggregate(count="sum(count)", groupby=["title", "place", "total", "bucket"])
        .transform_filter("datum.total > 0")
        .transform_calculate(**_wilson("datum.count", "datum.total"))
        .transform_calculate(
            text="format(datum.share, '.1%') + ' [' + format(datum.low, '.1%') + ', ' + format(datum.high, '.1%') + ']'"
        )
    )
    about = [alt.Tooltip("bucket:N", title="token"), alt.Tooltip("count:Q", title="refusals"), asked("text")]
    layers = alt.layer(
        bars.mark_bar().encode(
            y=y,
            color=alt.Color("kind:N", scale=scale, legend=legend()),
            order=alt.Order("kind:N", sort="descending"),
            tooltip=[alt.Tooltip("bucket:N", title="token"), asked("kind"), alt.Tooltip("count:Q", title="refusals")],
        ),
        whole.mark_rule(strokeWidth=1.5).encode(y="low:Q", y2="high"),
        whole.mark_text(align="left", dx=6, dy=-8, fontWeight=600).encode(
            y="share:Q", text=alt.Text("share:Q", format=".0%"), tooltip=about
        ),
    ).properties(height=190)
    title = "datum.checkpoint + ' (' + datum.total + ' refusals)'"
    chart = (
        filtered(
            panels(layers, "title", sort=alt.EncodingSortField("place", op="min")),
            checkpoints=list(groups),
            attacks=_attacks(rows),
            outcomes=OUTCOMES,
        )
        .transform_joinaggregate(total="sum(count)", groupby=["checkpoint"])
        .transform_calculate(title=title, place="indexof(checkpoints, datum.checkpoint)")
    )
    title = "Where refusals of harmful prompts start"
    return Figure(chart, title, {"refusals": [*counted, *empty]}, count=len(groups), width=230, left=60)


def _together(rows: Iterable[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Rows with the same values under these keys as one, with the sum of their counts and responses."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        found = sums.setdefault(tuple(row[key] for key in keys), [0, 0])
        found[0] += row["count"]
        found[1] += row["responses"]
    return [
        {**dict(zip(keys, values, strict=True)), "count": count, "responses": responses}
        for values, (count, responses) in sums.items()
    ]


def _attacks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["attack"] for row in rows))


def _wilson(count: str, n: str) -> dict[str, str]:
    """`derta.statistics.rates.wilson` as expressions: share, low and high."""
    z2 = Z_95**2
    share = f"({count} / {n})"
    centre = f"({share} + {z2 / 2} / {n}) / (1 + {z2} / {n})"
    half = f"{Z_95} / (1 + {z2} / {n}) * sqrt({share} * (1 - {share}) / {n} + {z2 / 4} / ({n} * {n}))"
    return {"share": share, "low": f"max(0, {centre} - {half})", "high": f"min(1, {centre} + {half})"}


def cumulative_refusals(runs: Sequence[Run]) -> Figure | None:
    """Share of the refusals, or of all scored responses, that have refused by each token: Figure 4 of the DeRTa paper
    (arXiv 2407.09121). None without results.jsonl or where nothing refuses."""
    groups = group_by_label(runs)
    rows = list(refusal_counts(runs))
    last = max((row["token"] for row in rows if row["token"] is not None), default=None)
    if last is None:
        return None
    chosen = _choice("share_of", "As share of ", ["refusals", "all scored responses"], "refusals")
    base = (
        table("refusals")
        .transform_aggregate(count="sum(count)", responses="sum(responses)", groupby=["checkpoint", "token"])
        .transform_impute("count", "token", keyvals={"start": 0, "stop": last + 1}, value=0, groupby=["checkpoint"])
        .transform_joinaggregate(refusals="sum(count)", responses="sum(responses)", groupby=["checkpoint"])
        .transform_filter("isValid(datum.token) && datum.refusals > 0")
        .transform_window(reached="sum(count)", sort=[alt.SortField("token")], groupby=["checkpoint"])
        .transform_calculate(
            share="datum.reached / (share_of == 'refusals' ? datum.refusals : max(datum.responses, datum.reached))"
        )
    )
    lines = base.mark_line(interpolate="step-after").encode(
        x=alt.X("token:Q", title="response tokens before the refusal", scale=alt.Scale(domain=[0, max(last, 5)])),
        y=alt.Y("share:Q", title="share that has refused", axis=PERCENT, scale=_SHARE),
        color=compared_colours("checkpoint", list(groups), line_legend()),
        strokeDash=compared_dashes("checkpoint", list(groups), line_legend()),
    )
    line = "datum.checkpoint + ': ' + format(datum.share, '.1%')"
    layers = alt.layer(lines, reading(base, "token", line, title="by token ")).properties(height=260)
    chart = filtered(layers.add_params(chosen), checkpoints=list(groups), attacks=_attacks(rows), outcomes=OUTCOMES)
    counted = _together(rows, "checkpoint", "attack", "outcome", "token")
    return Figure(chart, "Share that has refused by each token", {"refusals": counted}, count=1, width=640, left=60)


def refusal_probability(runs: Sequence[Run]) -> Figure | None:
    """Mean P(refusal token) by response position, harmful against benign responses, a panel per checkpoint.

    The band is the middle half of the rows; over several runs, the range of the runs' means. None where no run
    measured it.
    """
    found = list(probability_curves(runs))
    if not found:
        return None
    labels = list(dict.fromkeys(row["checkpoint"] for row in found))
    sets = list(dict.fromkeys(row["set"] for row in sorted(found, key=lambda row: not row["harmful"])))
    rows = [{**row, "token": list(range(len(row["mean"])))} for row in found]
    source = table("curves")
    base = source.encode(
        x=alt.X("token:Q", title="response tokens given"), color=compared_colours("set", sets, line_legend(), first=1)
    )
    y = alt.Y("low:Q", title="P(refusal token)", scale=_SHARE)
    mean, low, high = (f"format(datum.{key}, '.3f')" for key in ("mean", "low", "high"))
    line = f"datum.set + ': ' + {mean} + ' [' + {low} + ', ' + {high} + ']'"
    layers = alt.layer(
        base.mark_area(opacity=0.16).encode(y=y, y2="high"),
        base.mark_line().encode(y="mean:Q", strokeDash=compared_dashes("set", sets, line_legend())),
        # Without a dot, a curve that falls right behind the first token looks like part of the axis.
        base.transform_filter("datum.token == 0").mark_point(filled=True, opacity=1, size=28).encode(y="mean:Q"),
        reading(source, "token", line, ["title"], title="after token "),
    ).properties(height=200)
    chart = filtered(panels(layers, "title", sort=[row["title"] for row in rows]), checkpoints=labels)
    chart = chart.transform_flatten(["token", "mean", "low", "high"])
    title = "P(refusal token) along a given response"
    return Figure(chart, title, {"curves": rows}, count=len(labels), width=240, left=60)


def probability_curves(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """One row per checkpoint and prompt set: `mean`, `low`, `high` by position, how many rows, and the AUROC."""
    for label, members in group_by_label(runs).items():
        measured = [run.probability for run in members if run.probability]
        if not measured:
            continue
        scores = [score for each in measured if (score := each.separation["all"].auroc) is not None]
        title = f"{label}, AUROC {100 * fmean(scores):.1f}%" if scores else label
        for name, first in measured[0].sets.items():
            curves = [each.sets[name] for each in measured if name in each.sets]
            values = {key: [round(float(p), 4) for p in curve] for key, curve in combine_curves(curves).items()}
            if values["mean"]:
                yield {
                    "checkpoint": label, "title": title, "set": name, "harmful": first.harmful,
                    "rows": sum(curve.rows for curve in curves), **values,
                }  # fmt: skip


def combine_curves(curves: Sequence[Curve]) -> dict[str, np.ndarray]:
    """`mean`, `low` and `high` of P(refusal) by position, up to where every run has `MIN_ROWS` rows left.

    One run: mean and quartiles of its rows. Several: mean and range of the runs' means.
    """
    length = min(sum(count >= MIN_ROWS for count in curve.count) for curve in curves)
    means = np.array([curve.mean[:length] for curve in curves])  # [runs, positions]
    if len(curves) > 1:
        return {"mean": means.mean(0), "low": means.min(0), "high": means.max(0)}
    return {"mean": means[0], "low": np.array(curves[0].q25[:length]), "high": np.array(curves[0].q75[:length])}
