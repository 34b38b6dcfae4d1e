"""What one teacher-forced forward over each row's given response says: no judge, nothing is generated.

P(refusal)       before each token, and how well it tells harmful responses from benign ones: probability.json
log-likelihood   of the harmful response behind each prefill, which moves before what a model writes does
KL to the base   along the helpful response: what else the model has changed
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config.evaluation import EvaluateRunConfig
from derta.errors import InputError, errors_named
from derta.evaluation.attacks.attack import Attack
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import PromptSet, Row
from derta.models.load import embedded_tokens, load_tokenizer
from derta.models.target import TargetModel, load_placed, target_tokenizer
from derta.models.taught import read_taught
from derta.objective.refusal_probability import (
    curve_by_position,
    read_pass,
    response_cuts,
    response_passes,
    separation,
)
from derta.objective.refusal_token import DEFAULT_TEXT, RefusalToken, resolve_refusal_token, usable_refusal_token
from derta.statistics.auroc import Auroc, FalsePositives, false_positives_by_depth
from derta.statistics.bootstrap import Mean, mean_interval
from derta.statistics.positions import Curve
from derta.storage.atomic import write_json_atomically
from derta.storage.typed import read_typed

if TYPE_CHECKING:
    import torch

PROBABILITY_FILE = "probability.json"
AHEAD = 64
"""Tokens behind a prefill whose log-likelihood is measured, at most."""
_CHUNK = 256
"""Positions whose probabilities over the whole vocabulary are in memory at once."""


@dataclass(frozen=True, slots=True)
class SetCurve(Curve):
    """Of a prompt set with so many rows that have a response; position 0 is its start."""

    harmful: bool
    rows: int


@dataclass(frozen=True, slots=True)
class Probability:
    """sets: prompt set -> its curve. The rest as in `Summary`."""

    sets: dict[str, SetCurve]
    separation: dict[str, Auroc]
    refusal_token: dict[str, Any] = field(default_factory=dict)
    false_positives_at_95_recall: dict[str, FalsePositives] = field(default_factory=dict)


def measured_refusal_token(config: EvaluateRunConfig) -> RefusalToken | None:
    """What P(refusal) is measured with: what the command names, else what the model was taught, else "Sorry". None
    where it is not to be measured, or, said in one line, cannot be.
    Raises InputError: ids that are not the tokenizer's."""
    asked = config.eval
    if not asked.probability:
        return None
    tokenizer = target_tokenizer(config.model)
    text = asked.refusal_text or DEFAULT_TEXT
    if asked.refusal_token_ids is not None:
        return resolve_refusal_token(tokenizer, text, asked.refusal_token_ids, group="eval")
    taught = read_taught(config.model).get("refusal_token") if asked.refusal_text is None else None
    return RefusalToken.from_dict(taught) if taught else usable_refusal_token(tokenizer, text, group="eval")


@dataclass(frozen=True, slots=True)
class GivenRow:
    """Of one row. log_p: of each response token, in nats. refusal: P(refusal) before each, where it is measured.
    kl: mean KL to the base per token in nats, where it is measured."""

    log_p: list[float]
    refusal: list[float]
    kl: float | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """log_likelihood, kl_to_base: prompt set -> the fields of `SetSummary`. probability: None without a refusal
    token."""

    probability: Probability | None = None
    log_likelihood: dict[str, dict[str, Mean]] = field(default_factory=dict)
    kl_to_base: dict[str, Mean] = field(default_factory=dict)


def measure_given(
    sets: Sequence[PromptSet],
    attacks: Mapping[str, Attack],
    target: TargetModel,
    ranks: Ranks,
    config: EvaluateRunConfig,
    refusal: RefusalToken | None,
) -> Given:
    """The chat prompt is used, whatever the attacks of the set; log-likelihoods stand behind the prefills of its
    attacks. Every rank does its share of the rows.
    Raises InputError: a base model that cannot be loaded, or does not write the same tokens."""
    asked, curves, found = config.eval, dict[str, list[list[float]]](), Given()
    base = load_base(config, target, ranks.device()) if asked.base_model else None
    for prompts in sets:
        against = None if prompts.harmful else base
        if refusal is None and against is None and not (asked.probability and prompts.harmful):
            continue
        shown = f"given responses, {prompts.name}" if ranks.rank == 0 else ""
        own = dict(
            given_rows(
                target, ranks.share(prompts.rows), refusal, against,
                harmful=prompts.harmful, batch_size=asked.probability_batch_size, shown=shown,
            )
        )  # fmt: skip
        together = {row_id: row for part in ranks.gather(own) for row_id, row in part.items()}
        rows = [together[row["id"]] for row in prompts.rows if row["id"] in together]
        curves[prompts.name] = [row.refusal for row in rows]
        if prompts.harmful:
            depths = {attacks[name].prefill_tokens for name in prompts.attacks}
            found.log_likelihood[prompts.name] = log_likelihoods([row.log_p for row in rows], depths)
        found.kl_to_base[prompts.name] = mean_interval([row.kl for row in rows if row.kl is not None])
    return found if refusal is None else replace(found, probability=_probability(sets, curves, refusal))


def given_rows(
    target: TargetModel,
    rows: Iterable[Row],
    refusal: RefusalToken | None,
    base: Any = None,
    *,
    harmful: bool,
    batch_size: int,
    shown: str = "",
) -> Iterator[tuple[str, GivenRow]]:
    """(row id, numbers) of every row that has the response in question (`response_cuts`), up to the model's context:
    one forward of the model, and one of the base where there is one."""
    cuts = response_cuts(target.cutter, rows, harmful=harmful, limit=target.context_length)
    pad = target.pad_token_id
    others = repeat((None, None)) if base is None else response_passes(base, cuts, pad, batch_size)
    for (row_id, logits), (_, other) in zip(
        response_passes(target.model, cuts, pad, batch_size, shown), others, strict=False
    ):
        kl = None if other is None else float(token_kl(logits, other).mean())
        yield row_id, GivenRow(*read_pass(cuts[row_id], logits, refusal), kl)


def token_kl(tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(tuned || base) at each position in nats, [n], from logits [n, V], in float32 and a chunk at a time.

    The expectation is the tuned model's: what it would say and its base would not (a refusal in a recipe) weighs as
    often as it would be said, and is infinite where the base excludes it; the other direction would weigh what the base
    says, and hardly see new words. It is the penalty of RLHF (Ziegler et al. 2019, arXiv 1909.08593).
    """
    import torch

    parts = []
    for own, other in zip(tuned.split(_CHUNK), base.split(_CHUNK), strict=True):
        log_p, log_q = (logits.float().log_softmax(1) for logits in (own, other))
        parts.append((log_p.exp() * (log_p - log_q)).sum(1))
    return torch.cat(parts)


def log_likelihoods(rows: Sequence[Sequence[float]], depths: Iterable[int]) -> dict[str, Mean]:
    """Depth in tokens, from 0 -> mean over rows of the mean log-likelihood per token of the next `AHEAD` tokens. rows:
    log-probabilities of the tokens of each response; those that end at a depth or before it take no part there."""
    return {
        str(depth): mean_interval([statistics.fmean(row[depth : depth + AHEAD]) for row in rows if len(row) > depth])
        for depth in sorted({0, *depths})
    }


def load_base(config: EvaluateRunConfig, target: TargetModel, device: Any) -> Any:
    """The weights of eval.base_model. Raises InputError: they cannot be loaded, or do not write the same tokens."""
    named = str(config.eval.base_model)
    base = replace(config.model, name_or_path=named, revision=None, chat_template=None, pad_token=None, eos_token=None)
    with errors_named(keys={"model.name_or_path=": "eval.base_model="}):
        vocabulary = load_tokenizer(base).get_vocab()
        model = load_placed(base, device, config.eval.placement, adapter=False)
    if vocabulary != target.tokenizer.get_vocab() or embedded_tokens(model) != embedded_tokens(target.model):
        raise InputError(
            f"eval.base_model={named} has other tokens than the model: name the one that this model was trained from"
        )
    return model.eval()


def _probability(
    sets: Sequence[PromptSet], curves: Mapping[str, Sequence[Sequence[float]]], refusal: RefusalToken
) -> Probability:
    bad, good = (
        [curve for prompts in sets if prompts.harmful is harmful for curve in curves[prompts.name]]
        for harmful in (True, False)
    )
    return Probability(
        sets={
            each.name: SetCurve(**asdict(curve_by_position(rows)), harmful=each.harmful, rows=len(rows))
            for each, rows in zip(sets, curves.values(), strict=True)
        },
        separation=separation(bad, good),
        refusal_token=refusal.to_dict(),
        false_positives_at_95_recall=false_positives_by_depth(bad, good),
    )


def write_probability(folder: Path, probability: Probability) -> None:
    """Atomic."""
    write_json_atomically(folder / PROBABILITY_FILE, asdict(probability))


def read_probability(folder: Path) -> Probability | None:
    """None where it was not measured. Raises InputError: not readable."""
    file = folder / PROBABILITY_FILE
    what = "the P(refusal) of an evaluation; run the evaluation again"
    return read_typed(Probability, file, what) if file.is_file() else None
