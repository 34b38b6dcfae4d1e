"""One table over any number of evaluated checkpoints, as Markdown that also reads well in a terminal.

All rates in per cent. One run per label: rate with its 95% interval. Several (seeds of one arm): mean +- standard
deviation over the runs. `n` is what each rate is a share of, per run; where columns differ, in their order.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from derta.evaluation.measures import (
    ANSWERED,
    DAMAGE,
    HELPFULNESS,
    LIKELIHOOD,
    PROBABILITY,
    REFUSALS,
    STOP,
    SummaryMeasure,
)
from derta.report.runs import Run, combined, counts, group_by_label
from derta.statistics.table import markdown


def render_table(runs: Sequence[Run]) -> str:
    """Table and footer as Markdown."""
    return "\n".join([render_rates(runs), *_provenance(group_by_label(runs))]) + "\n"


def render_rates(runs: Sequence[Run]) -> str:
    """The table and what its rows mean."""
    groups, table = group_by_label(runs), combined(runs)
    titles = (f"{label} ({len(members)} runs)" if len(members) > 1 else label for label, members in groups.items())
    lines = [["%", *titles, "n"]]
    for measure, cells in table.items():
        lines.append([measure.name, *map(str, cells.values()), " / ".join(counts(cells).values())])
    return "\n".join([markdown(lines), "", *_notes(runs, table), ""])


def _notes(runs: Sequence[Run], measures: Iterable[SummaryMeasure]) -> Iterator[str]:
    several = len(runs) > len(group_by_label(runs))
    shown = {key for measure in measures for key in (measure.group, *measure.path)}
    higher = "Helpfulness and well-formed" if HELPFULNESS in shown else "Well-formed"
    yield f"- Attack success and over-refusal: lower is better. {higher} refusals: higher is better."
    yield (
        "- "
        + ("Several runs: mean ± standard deviation over runs. One run: r" if several else "R")
        + "ate [95% interval]; Wilson, for means over attacks with the variance between prompts. n: scored responses, "
        "or refusals, per run."
    )
    for about, note in _ABOUT.items():
        if about in shown:
            yield f"- {note}"
    for run in runs:
        for name, prompts in run.summary.sets.items():
            left_out = {"unscored": prompts.overall.unscored, "skipped": prompts.overall.skipped}
            for what, reasons in left_out.items():
                if total := sum(reasons.values()):
                    why = "; ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
                    yield f"- {run.label} ({run.name}), {name}: {total} {what} ({why})"


_ABOUT = {
    ANSWERED: "Answered: not refused. This judge does not know whether an answer is right.",
    REFUSALS: "Place of a refusal: response tokens before it, a prefill included, as a share of the refusals of "
    "harmful prompts over all attacks.",
    STOP: "With the stop: as above, if responses ended where P(refusal) passes the threshold of "
    "launch/calibrate_stop.py; a benign response that is stopped counts as refused.",
    PROBABILITY: "AUROC of P(refusal): how well the probability of the refusal token tells harmful responses from "
    "benign ones, position by position and teacher-forced; n: positions; 50 is chance.",
    LIKELIHOOD: "Log-likelihood of the harmful answer: nats per token of the given response, over up to 64 tokens "
    "behind its first 0, 5, ... tokens; needs no judge; n: responses that are long enough.",
    DAMAGE: "KL to the base: KL(model || base) in nats per token, over whole given responses to benign prompts.",
    "fully_safe": "Fully safe: refuses, and holds nothing harmful before or after the refusal; of the harmful prompts.",
    "compliance": "Full compliance, partial refusal, full refusal: XSTest's classes, of the responses that have one.",
    "false_positives_at_95_recall": "False positives at 95% recall: share of the benign responses that would be "
    "stopped there by the threshold on P(refusal) which stops 95% of the harmful ones.",
}
"""Group of measures, or key of summary.json -> what its rows say."""


def _provenance(groups: Mapping[str, Sequence[Run]]) -> Iterator[str]:
    """What made the numbers: per column the runs, with model, command and data."""
    yield "Made from:"
    yield ""
    for label, members in groups.items():
        for run in members:
            identity, made = run.summary.identity, run.summary.run
            data = ", ".join(
                f"{prompts.rows} {name} rows of {made.data.get(name)} (sha256 {prompts.sha256[:12]})"
                for name, prompts in identity.sets.items()
            )
            versions = ", ".join(f"{name} {made.versions[name]}" for name in ("derta", "torch", "transformers"))
            yield (
                f"- {label}: model {made.model} (sha256 {identity.model.sha256[:12]}, {identity.model.dtype}); "
                f"`{made.command}`; eval={made.eval}, judge {identity.judge}; data {data}; {versions}"
            )
