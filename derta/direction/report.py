"""The result of a diagnostic in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
        for reason, count in selection.get("reasons", {}).items():
            yield f"  {count} {reason}"
        if near := selection.get("nearest"):
            why = "; ".join(selection["dropped"][f"position {near['position']}, layer {near['layer']}"])
            yield f"  nearest miss: position {near['position']}, layer {near['layer']}: {_scores(near)} ({why})"
    else:
        chosen = next(
            row
            for row in report["candidates"]
            if (row["position"], row["layer"]) == (selection["position"], selection["layer"])
        )
        yield (
            f"direction: position {selection['position']}, layer {selection['layer']} of {report['layers']}; "
            f"{selection['survivors']} of {len(report['candidates'])} candidates are valid; "
            f"{_scores(chosen)}"
        )
    yield f"as it is: {_numbers(report['before'])}"
    if strongest := report["strongest"]:
        place = f"position {strongest['position']}, layer {strongest['layer']}"
        yield f"ablated all the same, {place}, the least bypass: {_numbers(strongest)}"
    for cell in report["ablated"]:
        yield f"{cell['directions']} ablated: {_numbers(cell)}"
    if per_layer := report.get("per_layer"):
        yield f"one per layer ablated, position {per_layer['position']}: {_numbers(per_layer)}"
    if report["added"]:
        yield f"added: {_numbers(report['added'])}"
    for cell in report["references"]:
        cosine = "" if cell.get("cosine") is None else f" (cosine {cell['cosine']:.2f})"
        yield f"{cell['name']}'s direction{cosine}: {cell['reason'] or _numbers(cell)}"
    for cell in report["adapter_scales"]:
        yield (
            f"adapter x {cell['scale']:g}: attack success {percent(cell['before']['harmful']['complied'])}, ablated "
            f"{percent(cell['ablated']['harmful']['complied'])}"
        )
    score = report["ablation_robustness"]
    yield f"ablation robustness: {percent(score)}" if score["n"] else f"ablation robustness: none ({score['reason']})"


def _numbers(cell: Mapping[str, Any]) -> str:
    parts = []
    if "harmful" in cell:
        harmful = cell["harmful"]
        parts.append(f"attack success {percent(harmful['complied'])}, refusal {percent(harmful['refused'])}")
        parts += [f"{name} {share}" for name, share in _broken(harmful).items()]
    if "harmless" in cell:
        parts.append(f"over-refusal {percent(cell['harmless']['refused'])}, KL {cell['kl']:.3f}")
        if cell["perplexity"] is not None:
            parts.append(f"perplexity {cell['perplexity']:.2f}")
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
