"""What a report shows of every evaluation: its measures, in order, and where summary.json holds them.

A *rate* is what `derta.statistics.rates` makes; AUROC and rubric scores are brought into the same form. Measures that
an evaluation lacks (an older summary, a judge that cannot tell) have a null rate, and those that no evaluation has are
left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from derta.evaluation.records import Compliance
from derta.report.runs import Run, group_by_label
from derta.statistics.positions import POSITION_BUCKETS
from derta.statistics.rates import rate

Rate = Mapping[str, Any]
UNKNOWN: Rate = rate(0, 0)
SUCCESS, SAFETY, OVER_REFUSAL, HELPFULNESS = "attack success", "safety", "over-refusal", "helpfulness"
REFUSALS, PROBABILITY, SCORING = "refusals", "P(refusal)", "scoring"


@dataclass(frozen=True, slots=True)
class Measure:
    """A line of the report: `rates` per label and run.

    group: which lines belong together. path: keys in summary.json. better: "lower", "higher" or "" (neither).
    attack, prompt_set: what it is about, where it is about one ("" otherwise).
    """

    group: str
    name: str
    path: tuple[str, ...]
    better: str = ""
    prompt_set: str = ""
    attack: str = ""
    optional: bool = False
    rates: Mapping[str, Sequence[Rate]] = field(default_factory=dict)

    @property
    def known(self) -> bool:
        """Whether any run has it."""
        return any(found["rate"] is not None for column in self.rates.values() for found in column)


@dataclass(frozen=True, slots=True)
class Combined:
    """The runs of one label together. One run: its rate and 95% interval. Several: mean and mean -+ standard deviation
    of the runs that have the rate (`known` of `runs`). value, low and high are shares; None where unknown."""

    value: float | None
    low: float | None
    high: float | None
    known: int
    runs: int
    n: tuple[int, ...]

    def __str__(self) -> str:
        """In per cent."""
        if self.value is None:
            return "-"
        if self.runs == 1:
            if self.low is None or self.high is None:
                return f"{100 * self.value:.1f}"
            return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        spread = f" ± {100 * (self.value - self.low):.1f}" if self.low is not None else ""
        missing = f" ({self.known} of {self.runs} runs)" if self.known < self.runs else ""
        return f"{100 * self.value:.1f}{spread}{missing}"


def combine(rates: Sequence[Rate]) -> Combined:
    """The rates of the runs of one label as one number with its interval or spread."""
    known = [found for found in rates if found["rate"] is not None]
    counts = tuple(sorted({found["n"] for found in rates}))
    if not known:
        return Combined(None, None, None, 0, len(rates), counts)
    if len(rates) == 1:
        return Combined(known[0]["rate"], known[0]["low"], known[0]["high"], 1, 1, counts)
    shares = [found["rate"] for found in known]
    mean, spread = statistics.fmean(shares), statistics.stdev(shares) if len(shares) > 1 else None
    low, high = (None, None) if spread is None else (mean - spread, mean + spread)
    return Combined(mean, low, high, len(known), len(rates), counts)


def measure(runs: Sequence[Run]) -> list[Measure]:
    """Every measure of these evaluations, in the order of the report."""
    groups = group_by_label(runs)
    found = []
    for line in _lines(runs):
        rates = {label: [_rate(run.summary, line.path) for run in members] for label, members in groups.items()}
        filled = replace(line, rates=rates)
        if filled.known or not line.optional:
            found.append(filled)
    return found


def _lines(runs: Sequence[Run]) -> Iterator[Measure]:
    summary = runs[0].summary  # the others have the same sets and attacks
    sides: dict[bool, list[str]] = {True: [], False: []}
    for name, prompts in summary["sets"].items():
        sides[prompts["harmful"]].append(name)
    harmful, benign = sides[True], sides[False]
    of = {name: f" ({name})" if len(harmful) > 1 else "" for name in harmful}
    for name in harmful:
        yield from _attack_lines(name, of[name], list(summary["sets"][name]["attacks"]))
    for name in benign:
        yield Measure(OVER_REFUSAL, f"over-refusal, {name}", ("sets", name, "overall", "refused"), "lower", name)
    for name in benign:
        for kind, better in zip(Compliance, ("higher", "", "lower"), strict=True):
            path: tuple[str, ...] = ("sets", name, "overall", "compliance", kind.value)
            title = f"{kind.value.replace('_', ' ')}, {name}"
            yield Measure(OVER_REFUSAL, title, path, better, name, optional=True)
    if summary["identity"]["judge"] == "miniature":  # the others cannot tell a right answer from a wrong one
        for name in benign:
            yield Measure(HELPFULNESS, f"helpfulness, {name}", ("sets", name, "overall", "complied"), "higher", name)
    for task, metrics in (summary.get("helpfulness") or {}).items():
        for metric, found in metrics.items():
            if 0 <= found["rate"] <= 1:  # what is no share (a perplexity, say) stays in summary.json
                yield Measure(
                    HELPFULNESS, f"{task}, {metric}", ("helpfulness", task, metric), found["better"], optional=True
                )
    for name in harmful:
        for bucket, _, _ in POSITION_BUCKETS:
            path = ("sets", name, "overall", "positions", bucket)
            yield Measure(REFUSALS, f"refusals at token {bucket}{of[name]}", path, "", name)
        path = ("sets", name, "overall", "well_formed")
        yield Measure(REFUSALS, f"refusals well-formed{of[name]}", path, "higher", name)
    if harmful and benign:
        yield from _probability_lines(runs)
    yield Measure(SAFETY, "ablation robustness", ("ablation_robustness",), "higher", optional=True)
    yield Measure(SCORING, "unscored responses", ("sets", "*", "overall", "outcomes", "unscored"), "lower")


def _attack_lines(name: str, of: str, attacks: Sequence[str]) -> Iterator[Measure]:
    for attack in attacks:
        path: tuple[str, ...] = ("sets", name, "attacks", attack, "complied")
        yield Measure(SUCCESS, f"attack success, {attack.replace('_', ' ')}{of}", path, "lower", name, attack)
    overall = ("sets", name, "overall")
    if len(attacks) > 1:
        title = f"attack success, mean of {len(attacks)}{of}"
        yield Measure(SUCCESS, title, (*overall, "complied"), "lower", name)
    yield Measure(SAFETY, f"fully safe{of}", (*overall, "fully_safe"), "higher", name, optional=True)
    yield Measure(SAFETY, f"rubric score{of}", (*overall, "score"), "lower", name, optional=True)


def _probability_lines(runs: Sequence[Run]) -> Iterator[Measure]:
    yield Measure(PROBABILITY, "AUROC of P(refusal)", ("separation", "all"), "higher")
    for bucket, _, _ in POSITION_BUCKETS:
        title = f"AUROC of P(refusal), token {bucket}"
        yield Measure(PROBABILITY, title, ("separation", bucket), "higher", optional=True)
    key = "false_positives_at_95_recall"
    for depth in dict.fromkeys(depth for run in runs for depth in run.summary.get(key) or {}):
        title = f"false positives at 95% recall, token {depth}"
        yield Measure(PROBABILITY, title, (key, depth), "lower", optional=True)


def _rate(summary: Mapping[str, Any], path: Sequence[str]) -> Rate:
    if "*" in path:  # a count per prompt set, as a share of all responses
        outcomes = [prompts["overall"]["outcomes"] for prompts in summary["sets"].values()]
        return rate(sum(each[path[-1]] for each in outcomes), sum(sum(each.values()) for each in outcomes))
    value: Any = summary
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping):
        return UNKNOWN
    if "auroc" in value:  # over positions rather than responses
        n = value["n_harmful"] + value["n_benign"]
        return {"rate": value["auroc"], "low": value.get("low"), "high": value.get("high"), "n": n}
    if "mean" in value:
        return {"rate": value["mean"], "low": value["low"], "high": value["high"], "n": value["n"]}
    return {**UNKNOWN, **value}
