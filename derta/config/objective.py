"""`objective`: what the model is taught by a triple (prompt, safe response, harmful response)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MaxLen, MinLen

from derta.config.settings import Choice, Count, Name, NotNegative, Positive, Settings, Share, Text, Whole


class Arm(Choice):
    """The arms of the paper and their neighbours, one override apart.

    vanilla: safe response alone. harmful_prefix: safe response behind a piece of the harmful one.
    rto: safe response alone, and the refusal token at every position of the harmful response.
    derta: harmful_prefix and RTO. dpo: safe response preferred over the harmful one (TRL's DPOTrainer).
    reset: harmful_prefix with a reset token before the safe response, which takes back what stands before it.
    reset_rto: derta with that token. constrained: vanilla, each token held against the model before its first step,
    the first ones most (Qi et al.). door: harmful_prefix, and the harmful response made less likely than it was before
    the first step (NPO). w_door: door, each token of a safe response weighted by how much more likely another tuned
    model finds it.
    """

    vanilla = "vanilla"
    harmful_prefix = "harmful_prefix"
    rto = "rto"
    derta = "derta"
    dpo = "dpo"
    reset = "reset"
    reset_rto = "reset_rto"
    constrained = "constrained"
    door = "door"
    w_door = "w_door"

    @property
    def rows(self) -> ArmRows:
        return _ROWS[self]


@dataclass(frozen=True)
class ArmRows:
    """What becomes of a triple.

    prefix: its safe response stands behind a piece of the harmful one. rto: a row teaches the refusal token at every
    position of the harmful response. reset: behind text the refusal token is the reset token. constrained: tokens of
    safe and helpful responses are held against a reference. unlearn: a row makes the harmful response less likely than
    a reference does. weighted: tokens of safe responses weigh what another model and the reference say.
    """

    prefix: bool = False
    rto: bool = False
    reset: bool = False
    constrained: bool = False
    unlearn: bool = False
    weighted: bool = False

    @property
    def reference(self) -> bool:
        """Whether log-probabilities of the model before its first step are needed."""
        return self.constrained or self.unlearn

    @property
    def harmful(self) -> bool:
        """Whether the harmful response has a row of its own."""
        return self.rto or self.unlearn


_ROWS = {
    Arm.vanilla: ArmRows(),
    Arm.harmful_prefix: ArmRows(prefix=True),
    Arm.rto: ArmRows(rto=True),
    Arm.derta: ArmRows(prefix=True, rto=True),
    Arm.dpo: ArmRows(),
    Arm.reset: ArmRows(prefix=True, reset=True),
    Arm.reset_rto: ArmRows(prefix=True, rto=True, reset=True),
    Arm.constrained: ArmRows(constrained=True),
    Arm.door: ArmRows(prefix=True, unlearn=True),
    Arm.w_door: ArmRows(prefix=True, unlearn=True, weighted=True),
}


@dataclass(kw_only=True, slots=True)
class AblationConfig(Settings):
    """With some probability a row with harmful prefix is trained with the model's own refusal direction ablated, so
    that refusal has to be carried by more than that direction (after ReFAT, arXiv 2409.20089; see
    derta/training/ablation.py). Of several places the one whose ablation most lowers the probability of refusing the
    harmful prompts is taken."""

    probability: Share = 0.0
    """That a row with harmful prefix is ablated in an epoch; 0 turns it off, at no cost."""
    refresh_steps: Count = 25
    """Optimizer steps between two computations of the direction."""
    prompts: Count = 32
    """Of either side, from the training rows, whose means the direction is the difference of."""
    positions: Annotated[
        list[Annotated[int, Lt(0)]], MinLen(1), "a list of numbers below 0, [-1] for the last token"
    ] = field(default_factory=lambda: [-1])
    """Tokens at which the direction may be read, counted from the end of the prompt."""
    layers: Annotated[list[Whole], MinLen(1), "a list of layers from 0"] | None = None
    """Blocks at whose input the direction may be read; null is the middle one."""


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig(Settings):
    """What is taught; see derta/objective/ for the formulas."""

    name: Arm = Arm.derta
    refusal_text: str = "Sorry"
    """What refusals start with; its first token is RTO's target."""
    refusal_token_ids: (
        Annotated[
            list[int],
            MinLen(1),
            MaxLen(2),
            "a list of one whole number (every position) or two (start of a response, after text)",
        ]
        | None
    ) = None
    """The target ids outright: one for every position, or two (start of a response, after text)."""
    reset_token: Text | None = None
    """The token of the arms reset and reset_rto that takes back what stands before it: one token of the vocabulary that
    no response and no template holds; null is the first special one that is called reserved or unused."""
    rto_weight: NotNegative = 1.0
    """Weight of an RTO token, or of a token of the harmful response that door and w_door unlearn."""
    mle_weight: NotNegative = 1.0
    """Weight of an MLE token."""
    rto_dropout: Annotated[
        float, Ge(0), Lt(1), "a probability in [0, 1); to train without RTO use objective=harmful_prefix"
    ] = 0.0
    """Probability that a position of an RTO row carries no loss in an epoch; the paper's full fine-tuning uses 0.95,
    its LoRA runs 0."""
    rto_at_end: bool = True
    """Also teach the refusal token where the harmful response ends (its EOS slot), as the reference does."""
    zero_prefix_fraction: Share = 1 / 3
    """Share of MLE rows without harmful prefix, beyond what k = 0 gets from the uniform draw."""
    redraw: bool = True
    """Draw prefix lengths and left-out positions anew every epoch; false keeps those of the first, as the reference
    code does."""
    mle_copies: Count = 1
    """MLE rows per triple (each draws its own prefix)."""
    transition_copies: Whole = 0
    """Further rows per triple that teach only the turn: behind a harmful prefix of their own the first
    `transition_tokens` tokens of the safe response. They are the supervised tokens after the refusal token that an RTO
    row cannot hold, whose next input token is the harmful one."""
    transition_tokens: Count = 8
    """Tokens of the safe response that such a row teaches."""
    normalization: Literal["token", "per_objective"] = "token"
    """token: one weighted mean over all supervised tokens of the global batch.
    per_objective: weighted sum of two means, one over MLE and one over RTO tokens (the paper's formula)."""
    constrained_betas: Annotated[
        list[Positive], MinLen(3), MaxLen(3), "a list of three numbers above 0 (first token, second to fifth, further)"
    ] = field(default_factory=lambda: [0.5, 2.0, 0.1])
    """How near the constrained arm keeps the first token of a response, the second to fifth, and those after to the
    model before its first step."""
    door_beta: Positive = 0.5
    """Beta of door and w_door: the larger, the sooner a harmful response that has become less likely is let go."""
    weight_model: Text | None = None
    """A directory or hub id, for w_door: the same model, tuned for safety, for example by objective=dpo."""
    weight_tau: Positive = 1.0
    """Temperature of w_door's token weights: the larger, the nearer they are to 1."""
    weight_max: Annotated[float, Ge(1)] = 10.0
    """Largest weight of a token. A refusal that the untuned model would hardly begin weighs thousands without it."""
    dpo_beta: Annotated[float, Gt(0)] = 0.1
    """Beta of the dpo arm."""
    ablation: AblationConfig = field(default_factory=AblationConfig)
    """Training with the refusal direction ablated, off by default."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.rto_weight == 0 and self.mle_weight == 0:
            yield f"{key('rto_weight')} and {key('mle_weight')} are both 0: nothing would be learned"
        if self.transition_copies > 0 and not (self.name.rows.prefix or self.name.rows.harmful):
            yield (
                f"{key('transition_copies')}={self.transition_copies} with objective={self.name.value}, which has no "
                "harmful prefixes: use objective=harmful_prefix, rto or derta, or leave it at 0"
            )
        if self.name.rows.weighted and self.weight_model is None:
            yield (
                f"objective={self.name} needs {key('weight_model')}: a model tuned for safety from the one that is "
                "trained, for example the output_dir of a run with objective=dpo"
            )
        if self.refusal_token_ids is None and not self.refusal_text.strip():
            yield f"{key('refusal_text')} is empty: give the word refusals start with, for example Sorry"
        if self.ablation.probability > 0 and not self.name.rows.prefix:
            yield (
                f"objective={self.name} with {key('ablation.probability')}={self.ablation.probability}: only rows "
                "with a harmful prefix are ablated, and this arm has none; use objective=derta or harmful_prefix"
            )
