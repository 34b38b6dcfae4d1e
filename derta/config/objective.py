"""`objective`: what the model is taught by a triple (prompt, safe response, harmful response)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from derta.config.ablation import AblationConfig
from derta.config.choice import Choice


class Arm(Choice):
    """The arms of the paper, one override apart.

    vanilla: safe response alone. harmful_prefix: safe response behind a piece of the harmful one.
    rto: safe response alone, and the refusal token at every position of the harmful response.
    derta: harmful_prefix and RTO. dpo: safe response preferred over the harmful one (TRL's DPOTrainer).
    """

    derta = "derta"
    vanilla = "vanilla"
    harmful_prefix = "harmful_prefix"
    rto = "rto"
    dpo = "dpo"


class Normalization(Choice):
    """token: one weighted mean over all supervised tokens of the global batch.
    per_objective: weighted sum of two means, one over MLE and one over RTO tokens (the paper's formula)."""

    token = "token"
    per_objective = "per_objective"


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig:
    """See derta/objective/ for the formulas.

    refusal_text: what refusals start with; its first token is RTO's target.
    refusal_token_ids: the target ids outright: one for every position, or two (start of a response, after text).
    rto_weight, mle_weight: weight of a token of either kind.
    rto_dropout: probability that a position of an RTO row carries no loss in an epoch, in [0, 1); the paper's full
        fine-tuning uses 0.95, its LoRA runs 0.
    rto_at_end: also teach the refusal token where the harmful response ends (its EOS slot), as the reference does.
    zero_prefix_fraction: share of MLE rows without harmful prefix, beyond what k = 0 gets from the uniform draw.
    mle_copies: MLE rows per triple (each draws its own prefix).
    transition_copies: further rows per triple that teach only the turn: behind a harmful prefix of their own the first
        `transition_tokens` tokens of the safe response. They are the supervised tokens after the refusal token that
        an RTO row cannot hold, whose next input token is the harmful one.
    dpo_beta: for the dpo arm.
    ablation: training with the refusal direction ablated, off by default.
    """

    name: Arm = Arm.derta
    refusal_text: str = "Sorry"
    refusal_token_ids: list[int] | None = None
    rto_weight: float = 1.0
    mle_weight: float = 1.0
    rto_dropout: float = 0.0
    rto_at_end: bool = True
    zero_prefix_fraction: float = 1 / 3
    mle_copies: int = 1
    transition_copies: int = 0
    transition_tokens: int = 8
    normalization: Normalization = Normalization.token
    dpo_beta: float = 0.1
    ablation: AblationConfig = field(default_factory=AblationConfig)

    def problems(self) -> list[str]:
        found = []
        if not 0 <= self.rto_dropout < 1:
            found.append(
                f"objective.rto_dropout={self.rto_dropout}: expected a probability in [0, 1); "
                "to train without RTO use objective=harmful_prefix"
            )
        if not 0 <= self.zero_prefix_fraction <= 1:
            found.append(f"objective.zero_prefix_fraction={self.zero_prefix_fraction}: expected a share in [0, 1]")
        for key, weight in (("rto_weight", self.rto_weight), ("mle_weight", self.mle_weight)):
            if not (math.isfinite(weight) and weight >= 0):
                found.append(f"objective.{key}={weight}: expected a finite weight of 0 or more")
        if self.rto_weight == 0 and self.mle_weight == 0:
            found.append("objective.rto_weight and objective.mle_weight are both 0: nothing would be learned")
        if self.mle_copies < 1:
            found.append(f"objective.mle_copies={self.mle_copies}: expected at least 1")
        if self.transition_copies < 0:
            found.append(f"objective.transition_copies={self.transition_copies}: expected 0 or more")
        if self.transition_copies > 0 and self.name in (Arm.vanilla, Arm.dpo):
            found.append(
                f"objective.transition_copies={self.transition_copies} with objective={self.name.value}, which has no "
                "harmful prefixes: use objective=harmful_prefix, rto or derta, or leave it at 0"
            )
        if self.transition_tokens < 1:
            found.append(f"objective.transition_tokens={self.transition_tokens}: expected at least 1")
        if self.refusal_token_ids is not None and len(self.refusal_token_ids) not in (1, 2):
            found.append(
                f"objective.refusal_token_ids={list(self.refusal_token_ids)}: expected one id (every position) or "
                "two (start of a response, after text)"
            )
        if self.refusal_token_ids is None and not self.refusal_text.strip():
            found.append("objective.refusal_text is empty: give the word refusals start with, for example Sorry")
        if self.ablation.probability > 0 and self.name not in (Arm.derta, Arm.harmful_prefix):
            found.append(
                f"objective={self.name} with objective.ablation.probability={self.ablation.probability}: only rows "
                "with a harmful prefix are ablated, and this arm has none; use objective=derta or harmful_prefix"
            )
        found += self.ablation.problems()
        if not (math.isfinite(self.dpo_beta) and self.dpo_beta > 0):
            found.append(f"objective.dpo_beta={self.dpo_beta}: expected a number above 0")
        return found
