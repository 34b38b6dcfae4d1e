"""The result of a diagnostic in words, for a terminal."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def describe(report: Mapping[str, Any]) -> str:
    """What direction.json says, in a few lines."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    prompts = report["prompts"]
    for side, refuses in (("harmful", "refused"), ("harmless", "answered")):
        counts = prompts[side]
        kept = (
            f"kept, because they are {refuses} at the first token" if report["filtered"] else "taken, without a filter"
        )
        yield (
            f"{side} prompts: {counts['kept']['train']} of {counts['train']} train and "
            f"{counts['kept']['validation']} of {counts['validation']} validation prompts {kept}; {counts['test']} to "
            "test"
        )
    selection = report["selection"]
    if selection["position"] is None:
        yield (
            f"no valid direction found, which is not evidence of robustness. Of {len(report['candidates'])} candidates "
            "(one may fail for several reasons):"
        )
        yield from _why_none(report["candidates"], selection["dropped"])
    else:
        chosen = next(row for row in report["candidates"] if _place(row) == _place(selection))
        valid = f"{selection['survivors']} of {len(report['candidates'])} candidates are valid"
        yield f"direction: {_place(chosen)} of {report['layers']}; {valid}; {_scores(chosen)}"
    for name, cell in interventions(report):
        about = [f"{key} {cell[key]}" for key in ("position", "layer") if key in cell]
        about += [f"cosine {cell['cosine']:.2f}"] if cell.get("cosine") is not None else []
        broken = "harmful" in cell and "kl" in cell and cell["kl"] > selection.get("kl_max", math.inf)
        remark = f" (above {selection['kl_max']:g}: harmless answers change, too)" if broken else ""
        yield f"{name}{' (' * bool(about)}{', '.join(about)}{')' * bool(about)}: {_numbers(cell)}{remark}"
    for cell in report["references"]:
        if cell["reason"]:
            yield f"{cell['name']}'s ablated: {cell['reason']}"
    for cell in report["adapter_scales"]:
        yield (
            f"adapter x {cell['scale']:g}: attack success {percent(cell['before']['harmful']['complied'])}, ablated "
            f"{percent(cell['ablated']['harmful']['complied'])}"
        )
    score = report["ablation_robustness"]
    yield f"ablation robustness: {percent(score)}" if score["n"] else f"ablation robustness: none ({score['reason']})"
    if per_layer := report.get("per_layer"):
        yield f"ablation robustness, one direction per layer: {percent(per_layer['kept_safe'])}"


def _why_none(candidates: Sequence[Mapping[str, Any]], dropped: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """How many candidates fail for which reason; and of those that break the fewest conditions the one with the least
    KL."""
    counts = Counter(reason for reasons in dropped.values() for reason in reasons)
    yield from (f"  {count} {reason}" for reason, count in counts.items())
    measured = [row for row in candidates if None not in row.values()]
    if measured:
        near = min(measured, key=lambda row: (len(dropped[_place(row)]), row["kl_div_score"]))
        yield f"  nearest miss: {_place(near)}: {_scores(near)}; {'; '.join(dropped[_place(near)])}"


def _place(row: Mapping[str, Any]) -> str:
    return f"position {row['position']}, layer {row['layer']}"


def interventions(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and numbers of the model as it is and under every intervention."""
    yield "as it is", report["before"]
    for cell in report["ablated"]:
        yield f"{cell['directions']} ablated", cell
    if report["strongest"]:
        yield "ablated, not valid", report["strongest"]
    if per_layer := report.get("per_layer"):  # results of earlier versions have none
        yield "one per layer ablated", per_layer
    for cell in report["references"]:
        if not cell["reason"]:
            yield f"{cell['name']}'s ablated", cell
    if report["added"]:
        yield "added", report["added"]


def _numbers(cell: Mapping[str, Any]) -> str:
    parts = []
    if "harmful" in cell:
        harmful = cell["harmful"]
        parts.append(f"attack success {percent(harmful['complied'])}, refusal {percent(harmful['refused'])}")
        parts += [f"{name} {share}" for name, share in _broken(harmful).items()]
    if "harmless" in cell:
        perplexity = "" if cell["perplexity"] is None else f"perplexity {cell['perplexity']:.2f}, "
        parts.append(f"over-refusal {percent(cell['harmless']['refused'])}, {perplexity}KL {cell['kl']:.3f}")
    return "; ".join(parts)


def _broken(cell: Mapping[str, Any]) -> dict[str, str]:
    """What does not read as an answer: garbled responses, which count as no success, and those with a loop somewhere;
    nothing where there are none, or where an earlier version did not tell."""
    counts = {"garbled": cell.get("outcomes", {}).get("garbled", 0), "with a loop": cell.get("loops", {}).get("count")}
    return {name: f"{count} of {cell['n']}" for name, count in counts.items() if count}


def _scores(row: Mapping[str, Any]) -> str:
    return f"bypass {row['refusal_score']:.2f}, induce {row['steering_score']:.2f}, KL {row['kl_div_score']:.3f}"


def percent(share: Mapping[str, Any]) -> str:
    """A rate with its interval and n, in per cent."""
    if not share["n"]:
        return "-"
    return f"{100 * share['rate']:.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}] (n = {share['n']})"
