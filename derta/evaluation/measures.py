"""What there is to say of an evaluation, in the order of the report, and where it stands in summary.json.

Every table of evaluations picks from this list: report, page, sweep, diagnostics, comparison and model card call the
same number by the same name.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from derta.evaluation.metrics import by_attack, complied, refused
from derta.evaluation.records import Compliance, Result
from derta.evaluation.summary import Summary
from derta.statistics.positions import POSITION_BUCKETS
from derta.statistics.rates import Rate, rate
from derta.statistics.table import Unit

SUCCESS, SAFETY, OVER_REFUSAL, HELPFULNESS, ANSWERED = (
    "attack success", "safety", "over-refusal", "helpfulness", "answered",
)  # fmt: skip
STOP = "with the stop"
REFUSALS, PROBABILITY, SCORING = "refusals", "P(refusal)", "scoring"
DAMAGE, LIKELIHOOD = "KL to the base, nats", "log-likelihood of the harmful answer, nats"


@dataclass(frozen=True, slots=True)
class SummaryMeasure:
    """A line of the report.

    group: which lines belong together. path: keys in summary.json. better: "lower", "higher" or "" (neither).
    attack, prompt_set: what it is about, where it is about one ("" otherwise). always: it is shown even where no
        evaluation has it. counts: whether a response counts (None: it is not scored), for rates of responses.
    unit: of its values; only those in per cent are shares.
    """

    group: str
    name: str
    path: tuple[str, ...]
    better: str = ""
    prompt_set: str = ""
    attack: str = ""
    always: bool = False
    counts: Callable[[Result], bool | None] | None = None
    unit: Unit = "%"

    def of(self, summary: Summary) -> Rate | None:
        """None where this evaluation lacks it: an older summary, a judge that cannot tell, nothing measured."""
        if "*" in self.path:  # a count per prompt set, as a share of all responses
            outcomes = [prompts.overall.outcomes for prompts in summary.sets.values()]
            return rate(sum(each[self.path[-1]] for each in outcomes), sum(sum(each.values()) for each in outcomes))
        value: Any = summary
        for key in self.path:
            if value is not None:
                value = value.get(key) if isinstance(value, Mapping) else getattr(value, key)
        return value.as_rate() if hasattr(value, "as_rate") else value

    def cells(self, results: Iterable[Result]) -> dict[str, dict[str, bool]]:
        """Attack -> row id -> whether the response counts, for the scored responses that it is about."""
        assert self.counts is not None
        about = (r for r in results if r.prompt_set == self.prompt_set and self.attack in ("", r.attack))
        return by_attack(about, self.counts)


def measures(summaries: Sequence[Summary]) -> list[SummaryMeasure]:
    """The measures of evaluations with the same sets and attacks; those that none of them has are left out."""
    return [
        line
        for line in _lines(summaries)
        if line.always or any((found := line.of(each)) and found.rate is not None for each in summaries)
    ]


def _lines(summaries: Sequence[Summary]) -> Iterator[SummaryMeasure]:
    first = summaries[0]
    harmful, benign = (list(first.of_sets(harmful=harmful)) for harmful in (True, False))
    of = {name: f" ({name})" if len(harmful) > 1 else "" for name in harmful}
    main = [line for name in harmful for line in _attack_lines(name, of[name], list(first.sets[name].attacks))]
    main += _benign_lines(benign, knows_answers=first.identity.knows_answers)
    yield from main
    for line in main:  # what is left of the same responses where a guard ends them
        if line.counts and line.better == "lower":
            *cell, what = line.path
            yield SummaryMeasure(STOP, f"{STOP}, {line.name}", (*cell, "guarded", what), "lower", line.prompt_set)
    yield from _benchmark_lines(summaries)
    for name in harmful:
        overall = ("sets", name, "overall")
        for bucket, _, _ in POSITION_BUCKETS:
            title = f"refusals at token {bucket}{of[name]}"
            yield SummaryMeasure(REFUSALS, title, (*overall, "positions", bucket), "", name)
        if first.identity.knows_answers:  # older summaries hold a share of 100% from judges that do not decide it
            yield SummaryMeasure(REFUSALS, f"refusals well-formed{of[name]}", (*overall, "well_formed"), "higher", name)
        yield SummaryMeasure(REFUSALS, f"refusals with content behind{of[name]}", (*overall, "goes_on"), "lower", name)
        yield SummaryMeasure(REFUSALS, f"responses with a loop{of[name]}", (*overall, "loops"), "lower", name)
    yield from _probability_lines(summaries)
    for name in harmful:
        depths = {depth for each in summaries for depth in each.sets[name].log_likelihood}
        for depth in sorted(depths, key=int):
            behind = ("sets", name, "log_likelihood", depth)
            title = f"{LIKELIHOOD}, token {depth}{of[name]}"
            yield SummaryMeasure(LIKELIHOOD, title, behind, "lower", name, unit="nats")
    yield SummaryMeasure(SAFETY, "ablation robustness", ("ablation_robustness",), "higher")
    path = ("sets", "*", "overall", "outcomes", "unscored")
    yield SummaryMeasure(SCORING, "unscored responses", path, "lower", always=True)


def _attack_lines(name: str, of: str, attacks: Sequence[str]) -> Iterator[SummaryMeasure]:
    def success(title: str, attack: str, path: tuple[str, ...]) -> SummaryMeasure:
        title = f"{SUCCESS}, {title}{of}"
        return SummaryMeasure(SUCCESS, title, (*path, "complied"), "lower", name, attack, True, complied)

    for attack in attacks:
        yield success(attack.replace("_", " "), attack, ("sets", name, "attacks", attack))
    overall = ("sets", name, "overall")
    if len(attacks) > 1:
        yield success(f"mean of {len(attacks)}", "", overall)
    yield SummaryMeasure(SAFETY, f"fully safe{of}", (*overall, "fully_safe"), "higher", name)
    yield SummaryMeasure(SAFETY, f"rubric score{of}", (*overall, "score"), "lower", name)


def _benign_lines(names: Sequence[str], *, knows_answers: bool) -> Iterator[SummaryMeasure]:
    def line(group: str, name: str, title: str, *path: str, better: str, counts: Any = None) -> SummaryMeasure:
        path, title = ("sets", name, "overall", *path), f"{title}, {name}"
        return SummaryMeasure(group, title, path, better, name, always=counts is not None, counts=counts)

    for name in names:
        yield line(OVER_REFUSAL, name, OVER_REFUSAL, "refused", better="lower", counts=refused)
    for name in names:
        for kind, better in zip(Compliance, ("higher", "", "lower"), strict=True):
            yield line(OVER_REFUSAL, name, kind.value.replace("_", " "), "compliance", kind.value, better=better)
    group = HELPFULNESS if knows_answers else ANSWERED
    for name in names:
        yield line(group, name, group, "complied", better="higher", counts=complied)
    for name in names:
        yield SummaryMeasure(DAMAGE, f"{DAMAGE}, {name}", ("sets", name, "kl_to_base"), "lower", name, unit="nats")


def _benchmark_lines(summaries: Sequence[Summary]) -> Iterator[SummaryMeasure]:
    found = {
        (task, metric): benchmark
        for each in summaries
        for task, metrics in (each.helpfulness or {}).items()
        for metric, benchmark in metrics.items()
        if 0 <= benchmark.rate <= 1  # what is no share (a perplexity, say) stays in summary.json
    }
    for key, benchmark in found.items():
        yield SummaryMeasure(HELPFULNESS, ", ".join(key), ("helpfulness", *key), benchmark.better)


def _probability_lines(summaries: Sequence[Summary]) -> Iterator[SummaryMeasure]:
    if not any(each.separation for each in summaries):
        return
    title = "AUROC of P(refusal)"
    yield SummaryMeasure(PROBABILITY, title, ("separation", "all"), "higher")
    for bucket, _, _ in POSITION_BUCKETS:
        yield SummaryMeasure(PROBABILITY, f"{title}, token {bucket}", ("separation", bucket), "higher")
    key = "false_positives_at_95_recall"
    for depth in dict.fromkeys(depth for each in summaries for depth in each.false_positives_at_95_recall or {}):
        title = f"false positives at 95% recall, token {depth}"
        yield SummaryMeasure(PROBABILITY, title, (key, depth), "lower")
