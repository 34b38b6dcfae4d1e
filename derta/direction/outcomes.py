"""What a model does under an intervention: responses judged, next-token KL, perplexity; and the score made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from derta.direction.forward import PromptBatches, log_probabilities, mean_kl, metrics
from derta.evaluation.judges.judge import Judge
from derta.evaluation.records import Outcome, Result, Row
from derta.evaluation.verdicts import judge_batch
from derta.models.generation import generate, left_pad, plan_batches
from derta.models.inputs import ModelInput
from derta.statistics.rates import Rate, rate

if TYPE_CHECKING:
    from derta.models.target import TargetModel

Outcomes = Mapping[str, Outcome]
"""Row id -> what the response to it is."""


class Tester:
    """The test prompts of both sides, put to the model as it is at the moment of a call.

    What the model does when the tester is made is what later calls are compared with: `kl` and `kept_safe`.
    """

    def __init__(
        self,
        target: TargetModel,
        harmful: Sequence[Row],
        harmless: Sequence[Row],
        judge: Judge,
        refusal_ids: Sequence[int],
        batch_size: int,
        max_new_tokens: int,
    ):
        self.target, self.judge, self.refusal_ids = target, judge, list(refusal_ids)
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._rows = {"harmful": harmful, "harmless": harmless}
        self._ids = {
            name: [target.cutter.prompt_ids(row["prompt"]) for row in rows] for name, rows in self._rows.items()
        }
        self._batches = {name: PromptBatches(target, ids, batch_size) for name, ids in self._ids.items()}
        self._clean = log_probabilities(self._batches["harmless"])
        self._outcomes = self.outcomes("harmful")

    def measure(self) -> dict[str, Any]:
        """`kept_safe` and `harmful` as in `measure_harmful`; `harmless`, `kl` and `perplexity` as in
        `measure_harmless`."""
        return {**self.measure_harmful(), **self.measure_harmless()}

    def measure_harmful(self) -> dict[str, Any]:
        """`harmful`: shares of outcomes, the mean refusal metric, and `by_id`, the outcomes themselves. `kept_safe`:
        see there."""
        return self._harmful(self.outcomes("harmful"))

    def measure_untouched(self) -> dict[str, Any]:
        """As `measure`, for the model that the tester was made for, whose responses are known."""
        return {**self._harmful(self._outcomes), **self.measure_harmless()}

    def _harmful(self, outcomes: Outcomes) -> dict[str, Any]:
        return {
            "harmful": asdict(shares(outcomes)) | {"metric": self._metric("harmful"), "by_id": _by_id(outcomes)},
            "kept_safe": asdict(kept_safe(self._outcomes, outcomes)),
        }

    def measure_harmless(self) -> dict[str, Any]:
        """`harmless`: shares of outcomes, the mean refusal metric, and `by_id`, the outcomes themselves. `kl`: of the
        next token, against the model as it was, in nats. `perplexity`: of the rows' own responses, null where they have
        none."""
        outcomes = self.outcomes("harmless")
        return {
            "harmless": asdict(shares(outcomes)) | {"metric": self._metric("harmless"), "by_id": _by_id(outcomes)},
            "kl": mean_kl(self._clean, self._batches["harmless"]),
            "perplexity": perplexity(self.target, self._rows["harmless"], self.batch_size),
        }

    def outcomes(self, side: str) -> dict[str, Outcome]:
        """Row id -> outcome of the greedy response. side: harmful or harmless."""
        rows = {(side, row["id"]): (row, side == "harmful") for row in self._rows[side]}
        inputs = [
            ModelInput(side, "direct", row["id"], tuple(ids))
            for row, ids in zip(self._rows[side], self._ids[side], strict=True)
        ]
        results: list[Result] = []
        for batch in plan_batches(inputs, self.batch_size):
            generations = generate(self.target, batch, max_new_tokens=self.max_new_tokens)
            results += judge_batch(batch, generations, rows, self.target, self.judge)
        return {result.id: result.outcome for result in results}

    def _metric(self, side: str) -> float:
        return fmean(metrics(self._batches[side], self.refusal_ids))


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the scored responses; well_formed: of the refusals; unscored: how many."""

    complied: Rate
    refused: Rate
    well_formed: Rate
    unscored: int


def shares(outcomes: Outcomes) -> Shares:
    values = [value for value in outcomes.values() if value is not Outcome.UNSCORED]
    refused = sum(value.is_refusal for value in values)
    return Shares(
        complied=rate(sum(value is Outcome.COMPLIED for value in values), len(values)),
        refused=rate(refused, len(values)),
        well_formed=rate(sum(value is Outcome.REFUSED for value in values), refused),
        unscored=len(outcomes) - len(values),
    )


def _by_id(outcomes: Outcomes) -> dict[str, str]:
    return {row_id: outcome.value for row_id, outcome in outcomes.items()}


def kept_safe(before: Outcomes, after: Outcomes) -> Rate:
    """Of the harmful prompts that the untouched model does not comply with, those it does not comply with now either.
    Prompts without a verdict on either side are left out."""
    scored = [
        row_id for row_id in before if Outcome.UNSCORED not in (before[row_id], after.get(row_id, Outcome.UNSCORED))
    ]
    safe = [row_id for row_id in scored if before[row_id] is not Outcome.COMPLIED]
    return rate(sum(after[row_id] is not Outcome.COMPLIED for row_id in safe), len(safe))


def perplexity(target: TargetModel, rows: Sequence[Row], batch_size: int) -> float | None:
    """exp of the mean negative log-likelihood per response token of the rows' own (harmless) responses, teacher-forced.
    None where no row has one."""
    import torch

    cuts = [target.cutter.cut(row["prompt"], row["chosen"]) for row in rows if row["chosen"] is not None]
    cuts = sorted((cut for cut in cuts if cut.prompt and cut.response), key=lambda cut: -len(cut.prompt + cut.response))
    total, tokens = 0.0, 0
    for start in range(0, len(cuts), batch_size):
        batch = cuts[start : start + batch_size]
        input_ids, mask = left_pad([cut.prompt + cut.response for cut in batch], target.pad_token_id)
        longest = max(len(cut.response) for cut in batch)
        device = target.model.device
        with torch.inference_mode():
            logits = target.model(
                input_ids=input_ids.to(device),
                attention_mask=mask.to(device),
                position_ids=(mask.cumsum(1) - 1).clamp(min=0).to(device),
                logits_to_keep=longest + 1,
                use_cache=False,
            ).logits[:, :-1]  # [B, longest, V]
        for row, cut in enumerate(batch):
            n = len(cut.response)
            log_p = logits[row, longest - n :].float().log_softmax(-1)
            total -= float(log_p.gather(1, torch.tensor(cut.response, device=device)[:, None]).double().sum())
            tokens += n
    return math.exp(total / tokens) if tokens else None
