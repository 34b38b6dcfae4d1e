"""One table over any number of evaluated checkpoints, as Markdown that also reads well in a terminal.

All rates in per cent. One run per label: rate with its 95% interval. Several (seeds of one arm): mean +- standard
deviation over the runs. `n` is what each rate is a share of, per run; where columns differ, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from derta.report.measures import Measure, combine, measure
from derta.report.runs import Run, group_by_label


def render_table(runs: Sequence[Run]) -> str:
    """Table and footer as Markdown."""
    return "\n".join([render_rates(runs), *_provenance(group_by_label(runs))]) + "\n"


def render_rates(runs: Sequence[Run]) -> str:
    """The table and what its rows mean."""
    groups = group_by_label(runs)
    titles = (f"{label} ({len(members)} runs)" if len(members) > 1 else label for label, members in groups.items())
    lines = [["%", *titles, "n"]]
    measures = measure(runs)
    for row in measures:
        cells = [combine(row.rates[label]) for label in groups]
        lines.append([row.name, *map(str, cells), _counts([cell.n for cell in cells])])
    return "\n".join([*_align(lines), "", *_notes(runs, measures), ""])


def _counts(columns: Sequence[tuple[int, ...]]) -> str:
    """n per run: one number where all runs agree, else per column (smallest-largest over its runs)."""
    if len({n for column in columns for n in column}) == 1:
        return str(columns[0][0])
    return " / ".join(str(column[0]) if len(column) == 1 else f"{column[0]}-{column[-1]}" for column in columns)


def _align(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def join(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    for number, line in enumerate(lines):
        padded = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        yield join([line[0].ljust(widths[0]), *padded])
        if number == 0:
            yield join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])


def _notes(runs: Sequence[Run], measures: Sequence[Measure]) -> Iterator[str]:
    several = any(len(members) > 1 for members in group_by_label(runs).values())
    shown = {key for line in measures for key in line.path}
    yield "- Attack success and over-refusal: lower is better. Helpfulness and well-formed refusals: higher is better."
    yield (
        "- "
        + ("Several runs: mean ± standard deviation over runs. One run: r" if several else "R")
        + "ate [95% interval]; Wilson, for means over attacks with the variance between prompts. n: scored responses, "
        "or refusals, per run."
    )
    yield (
        "- Place of a refusal: response tokens before it, a prefill included, as a share of the refusals of harmful "
        "prompts over all attacks."
    )
    yield (
        "- AUROC of P(refusal): how well the probability of the refusal token tells harmful responses from benign "
        "ones, position by position and teacher-forced; n: positions; 50 is chance."
    )
    if "fully_safe" in shown:
        yield "- Fully safe: refuses, and holds nothing harmful before or after the refusal; of the harmful prompts."
    if "compliance" in shown:
        yield "- Full compliance, partial refusal, full refusal: XSTest's classes, of the responses that have one."
    if "false_positives_at_95_recall" in shown:
        yield (
            "- False positives at 95% recall: share of the benign responses that would be stopped there by the "
            "threshold on P(refusal) which stops 95% of the harmful ones."
        )
    for run in runs:
        for name, prompts in run.summary["sets"].items():
            overall = prompts["overall"]
            for what in ("unscored", "skipped"):
                if total := sum(overall[what].values()):
                    reasons = "; ".join(f"{reason}: {count}" for reason, count in sorted(overall[what].items()))
                    yield f"- {run.label} ({run.name}), {name}: {total} {what} ({reasons})"


def _provenance(groups: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """What made the numbers: per column the runs, with model, command and data."""
    yield "Made from:"
    yield ""
    for label, members in groups.items():
        for run in members:
            identity, made = run.summary["identity"], run.summary["run"]
            data = ", ".join(
                f"{prompts['rows']} {name} rows of {made['data'].get(name)} (sha256 {prompts['sha256'][:12]})"
                for name, prompts in identity["sets"].items()
            )
            versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("derta", "torch", "transformers"))
            yield (
                f"- {label}: model {made['model']} (sha256 {identity['model']['sha256'][:12]}, "
                f"{identity['model']['dtype']}); `{made['command']}`; eval={made['eval']}, judge {identity['judge']}; "
                f"data {data}; {versions}"
            )
