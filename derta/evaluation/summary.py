"""summary.json: the numbers of one evaluation, on which report, gate, comparison, diagnostics and model card rest.

    Summary
      identity       everything that decides the results: model, prompt sets, judge, settings
      run            how they were made, for the record
      sets           prompt set -> attacks: attack -> Cell, overall: Cell, ...
      helpfulness    benchmark task -> metric -> Benchmark
      separation, false_positives_at_95_recall, ablation_robustness

The names of the fields are the keys of the file. What an older file lacks has a default that says "not measured". This
module alone reads and writes such files.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from derta.errors import InputError
from derta.statistics.auroc import Auroc, FalsePositives
from derta.statistics.bootstrap import Mean
from derta.statistics.rates import Rate
from derta.storage.atomic import write_json_atomically
from derta.storage.typed import read_typed

SUMMARY_FILE = "summary.json"
EXACT_JUDGE = "miniature"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    sha256: str
    dtype: str


@dataclass(frozen=True, slots=True)
class SetIdentity:
    """rows: how many of the file with this sha256, or of its `source`. attacks: in the order of the report."""

    sha256: str
    source: str | None
    rows: int
    harmful: bool
    attacks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Identity:
    """refusal_text, refusal_ids: None where P(refusal) was not measured. attack: settings of the attacks that have
    some. server, lm_eval: None where this process generates, and where no benchmark is run. template_date: the day that
    chat templates write which ask for today's. base_model: sha256 of the model that the KL is to, where it is measured.
    guard: the rule of the guard, where there is one.
    """

    model: ModelIdentity
    sets: dict[str, SetIdentity]
    judge: str
    max_new_tokens: int
    refusal_text: str | None = None
    refusal_ids: tuple[int, ...] | None = None
    attack: dict[str, Any] = field(default_factory=dict)
    server: str | None = None
    lm_eval: dict[str, Any] | None = None
    template_date: str | None = None
    base_model: str | None = None
    guard: dict[str, Any] | None = None

    @property
    def knows_answers(self) -> bool:
        """Whether the judge tells a right answer to a benign prompt from a wrong one; the others know no more than
        whether it was refused."""
        return self.judge == EXACT_JUDGE

    def to_json(self) -> dict[str, Any]:
        """As it stands in files: settings that nobody touched are left out, so that older results stay what they
        are."""
        content = json.loads(json.dumps(asdict(self)))
        return {key: value for key, value in content.items() if value is not None or key == "refusal_text"}


@dataclass(frozen=True, slots=True)
class Made:
    """eval: name of the configuration. data: prompt set -> where its rows come from. No path is absolute."""

    command: str
    model: str
    eval: str
    revision: str | None = None
    data: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Staircase:
    """The curve of the paper's Figure 4: at each `position` (in tokens, rising) a refusal starts, and so large a share
    of all refusals, and of all scored responses, has refused up to there and including it."""

    position: list[int]
    of_refusals: list[float]
    of_responses: list[float]
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One attack on one prompt set, or all of its attacks (complied, refused and fully_safe are then means of the
    attacks' rates). n: scored responses, which all rates are shares of unless it says otherwise.

    outcomes: outcome -> responses. unscored, skipped: reason -> responses, rows. cut_off: responses without an end.
    complied: attack success on harmful prompts; on benign ones the right answer where the judge knows it
        (`Identity.knows_answers`), with the others no more than an answer that is no refusal.
    refused: refusals of any form, so over-refusal on benign prompts. well_formed: of the refusals, where the judge
        decides it (the exact one alone does).
    positions: where refusals start, of the refusals. fully_safe, compliance, score, loops, goes_on: see `Verdict`; of
        the responses that the judge could tell it of. cumulative_positions: of all attacks.
    guarded: with a guard, "complied" and "refused" of what it leaves, and "stopped", the share that it stops.
    """

    n: int
    outcomes: dict[str, int]
    unscored: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    cut_off: int
    mean_response_tokens: float | None
    complied: Rate
    refused: Rate
    well_formed: Rate
    positions: dict[str, Rate]
    fully_safe: Rate = Rate()
    compliance: dict[str, Rate] = field(default_factory=dict)
    score: Mean = Mean()
    loops: Rate = Rate()
    goes_on: Rate = Rate()
    guarded: dict[str, Rate] = field(default_factory=dict)
    cumulative_positions: Staircase | None = None


@dataclass(frozen=True, slots=True)
class SetSummary:
    """A prefilled response cannot refuse before the prefill ends: what is `without_prefill` shows where the model
    refuses of its own accord.

    Of given responses, in nats per token, means over responses: log_likelihood: of harmful ones, depth in tokens -> of
    what stands behind it (`derta.evaluation.probability`). kl_to_base: KL(model || base) along benign ones."""

    harmful: bool
    attacks: dict[str, Cell]
    overall: Cell
    positions_without_prefill: dict[str, Rate]
    cumulative_positions_without_prefill: Staircase | None = None
    log_likelihood: dict[str, Mean] = field(default_factory=dict)
    kl_to_base: Mean = Mean()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One metric of a public benchmark: better ("higher", "lower" or ""), and the version of its task. The interval is
    by the benchmark's own standard error; null where it gives none."""

    rate: float
    low: float | None
    high: float | None
    n: int | None
    better: str
    version: str

    def as_rate(self) -> Rate:
        return Rate(None, self.n or 0, self.rate, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Summary:
    """separation: stretch of the response ("all" or one of `POSITION_BUCKETS`) -> how well P(refusal) tells harmful
    responses from benign ones. false_positives_at_95_recall: response tokens given -> what that costs.
    ablation_robustness: what launch/diagnose_direction.py adds; null before, and without a rate where it found no valid
    direction."""

    label: str
    identity: Identity
    run: Made
    sets: dict[str, SetSummary]
    helpfulness: dict[str, dict[str, Benchmark]] | None = None
    separation: dict[str, Auroc] | None = None
    false_positives_at_95_recall: dict[str, FalsePositives] | None = None
    ablation_robustness: Rate | None = None

    def of_sets(self, *, harmful: bool) -> dict[str, SetSummary]:
        return {name: prompts for name, prompts in self.sets.items() if prompts.harmful is harmful}


def read_summary(folder: str | Path) -> Summary:
    """summary.json of a finished evaluation, given as its folder or as the file itself. Raises InputError: none there,
    or not readable."""
    try:
        return read_typed(Summary, _file(folder), "the summary of an evaluation; run the evaluation again")
    except OSError:
        raise InputError(f"{folder}: no {SUMMARY_FILE}; run launch/evaluate.py to the end first") from None


def write_summary(folder: str | Path, summary: Summary) -> None:
    """Atomic: the file is the old one or the whole new one."""
    write_json_atomically(_file(folder), asdict(summary) | {"identity": summary.identity.to_json()})


def _file(folder: str | Path) -> Path:
    return Path(folder) / SUMMARY_FILE if Path(folder).is_dir() else Path(folder)
