"""What a model does under interventions: responses judged and kept, next-token KL, perplexity."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch

from derta.config.direction import DirectionConfig
from derta.direction.forward import PromptBatches, log_probabilities, mean_kl, metrics
from derta.direction.prompts import Side, prompt_ids
from derta.direction.score import Outcomes, kept_safe
from derta.evaluation.judges.judge import Judge
from derta.evaluation.metrics import summarise_cell
from derta.evaluation.records import Result, Row
from derta.evaluation.summary import EXACT_JUDGE
from derta.evaluation.verdicts import judge_batch
from derta.models.generation import generate, plan_batches
from derta.models.inputs import ModelInput
from derta.models.target import TargetModel
from derta.objective.refusal_probability import longest_first, response_cuts, response_logits
from derta.progress import progress

AS_IT_IS = "as it is"
HARMFUL, HARMLESS = ("harmful",), ("harmless",)
BOTH = HARMFUL + HARMLESS
Plan = Mapping[str, tuple[AbstractContextManager[None], Sequence[str]]]
"""Name of an intervention -> what changes the model while its block is open, and whose prompts it is put to."""


class Tester:
    """Puts the test prompts of both sides to one model, as it is and under interventions.

    What the model does when the tester is made is what interventions are compared with: `kl` and `kept_safe`.
    results: every judged response, as a line of results.jsonl with the intervention in the attack's place.
    """

    def __init__(
        self,
        target: TargetModel,
        sides: Sequence[Side],
        judge: Judge,
        refusal_ids: Sequence[int],
        config: DirectionConfig,
    ):
        self.target, self.judge, self.refusal_ids, self.config = target, judge, list(refusal_ids), config
        self.results: list[Result] = []
        self._rows = {side.name: side.test for side in sides}
        self._ids = {name: prompt_ids(target, rows) for name, rows in self._rows.items()}
        self._batches = {name: PromptBatches(target, ids, config.batch_size) for name, ids in self._ids.items()}
        self._clean = log_probabilities(self._batches["harmless"])
        self._before: Outcomes = {}

    def measure(self, plan: Plan) -> dict[str, dict[str, Any]]:
        """Name -> numbers, the model as it is first.

        `harmful`, `harmless`: the numbers of `Cell`, the mean refusal metric, and `by_id`, the outcomes themselves.
        `kept_safe`: see there. `kl`: of the next token, against the model as it was, in nats, and `perplexity`: of the
        rows' own responses, null where they have none; of harmless prompts.
        """
        plan = {AS_IT_IS: (nullcontext(), BOTH), **plan}
        total = sum(len(self._rows[side]) for _, sides in plan.values() for side in sides)
        found: dict[str, dict[str, Any]] = {}
        with progress(total, "responses") as bar:
            for name, (intervention, sides) in plan.items():
                bar.set_postfix_str(name, refresh=False)
                with intervention:
                    found[name] = self._measured(name, sides, bar)
        return found

    def _measured(self, name: str, sides: Sequence[str], bar: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for side in sides:
            results = self._respond(side, name, bar)
            outcomes = {result.id: result.outcome for result in results}
            cell = summarise_cell(results, (), knows_form=self.judge.name == EXACT_JUDGE)
            found[side] = asdict(cell) | {
                "metric": fmean(metrics(self._batches[side], self.refusal_ids)),
                "by_id": {row_id: outcome.value for row_id, outcome in outcomes.items()},
            }
            if side == "harmful":
                self._before = self._before or outcomes
                found["kept_safe"] = asdict(kept_safe(self._before, outcomes))
            else:
                found["kl"] = mean_kl(self._clean, self._batches[side])
                found["perplexity"] = perplexity(self.target, self._rows[side], self.config.batch_size)
        return found

    def _respond(self, side: str, name: str, bar: Any) -> list[Result]:
        """Greedy responses, judged."""
        rows = {(side, row["id"]): (row, side == "harmful") for row in self._rows[side]}
        inputs = [
            ModelInput(side, name, row["id"], tuple(ids))
            for row, ids in zip(self._rows[side], self._ids[side], strict=True)
        ]
        results: list[Result] = []
        for batch in plan_batches(inputs, self.config.batch_size):
            generations = generate(self.target, batch, max_new_tokens=self.config.max_new_tokens)
            results += judge_batch(batch, generations, rows, self.target, self.judge)
            bar.update(len(batch))
        self.results += results
        return results


def perplexity(target: TargetModel, rows: Sequence[Row], batch_size: int) -> float | None:
    """exp of the mean negative log-likelihood per response token of the rows' own (harmless) responses, teacher-forced.
    None where no row has one."""
    cuts = response_cuts(target.cutter, rows, harmful=False, limit=None)
    order, total, tokens = longest_first(cuts), 0.0, 0
    for start in range(0, len(order), batch_size):
        batch = [cuts[row_id] for row_id in order[start : start + batch_size]]
        for cut, logits in zip(batch, response_logits(target.model, batch, target.pad_token_id), strict=True):
            response = torch.tensor(cut.response, device=logits.device)
            total += float(torch.nn.functional.cross_entropy(logits, response, reduction="none").double().sum())
            tokens += len(cut.response)
    return math.exp(total / tokens) if tokens else None
