"""probability.json: P(refusal) along given responses, per prompt set, and how well it tells the two kinds apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import PromptSet
from derta.models.target import TargetModel, target_tokenizer
from derta.models.taught import read_taught
from derta.objective.refusal_probability import curve_by_position, row_curves, separation
from derta.objective.refusal_token import DEFAULT_TEXT, RefusalToken, resolve_refusal_token, usable_refusal_token
from derta.statistics.auroc import Auroc
from derta.statistics.positions import Curve
from derta.statistics.recall import FalsePositives, false_positives_by_depth
from derta.storage.atomic import write_json_atomically
from derta.storage.typed import read_typed

PROBABILITY_FILE = "probability.json"


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

    Raises:
        InputError: ids that are not the tokenizer's.
    """
    asked = config.eval
    if not asked.probability:
        return None
    tokenizer = target_tokenizer(config.model)
    text = asked.refusal_text or DEFAULT_TEXT
    if asked.refusal_token_ids is not None:
        return resolve_refusal_token(tokenizer, text, asked.refusal_token_ids, group="eval")
    taught = read_taught(config.model).get("refusal_token") if asked.refusal_text is None else None
    return RefusalToken.from_dict(taught) if taught else usable_refusal_token(tokenizer, text, group="eval")


def measure_probability(
    sets: Sequence[PromptSet], target: TargetModel, ranks: Ranks, config: EvaluationConfig, refusal: RefusalToken
) -> Probability:
    """The chat prompt is used, whatever the attacks of the set. Every rank does its share of the rows."""
    curves: dict[str, list[list[float]]] = {}
    for prompts in sets:
        share = ranks.share(prompts.rows)
        shown = f"P(refusal), {prompts.name}" if ranks.rank == 0 else ""
        own = row_curves(
            target, share, refusal, harmful=prompts.harmful, batch_size=config.probability_batch_size, shown=shown
        )
        together = {row_id: curve for part in ranks.gather(own) for row_id, curve in part.items()}
        curves[prompts.name] = [together[row["id"]] for row in prompts.rows if row["id"] in together]
    bad, good = (
        [curve for prompts in sets if prompts.harmful is harmful for curve in curves[prompts.name]]
        for harmful in (True, False)
    )
    return Probability(
        sets={
            prompts.name: SetCurve(
                **asdict(curve_by_position(curves[prompts.name])),
                harmful=prompts.harmful,
                rows=len(curves[prompts.name]),
            )
            for prompts in sets
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
