"""Views of an example: which token of a training row serves which objective.

p prompt, h harmful response (h1..hn), s safe response, E end of turn, S / _S refusal token (start / continued form).

    MLE row, k tokens of harmful prefix (k = 0: the vanilla row)
        input_ids   p  p  p  h1 h2 .. hk  s1 s2 .. sm  E
        labels      -  -  -  -  -      -  s1 s2 .. sm  E      the prefix is context only
        objective   0  0  0  0  0      0  1  1  ..  1  1

    Transition row, m tokens of safe response (m < |s|; else it is an MLE row)
        input_ids   p  p  p  h1 h2 .. hk  s1 s2 .. sm
        labels      -  -  -  -  -      -  s1 s2 .. sm         the turn alone: no end of turn
        objective   0  0  0  0  0      0  1  1  ..  1

    RTO row
        input_ids   p  p  p  h1 h2 h3 .. hn  E
        labels      -  -  -  S  _S _S .. _S  _S               every position, the end slot included
        objective   0  0  0  2  2  2  ..  2  2                (positions dropped this epoch: label -, objective 0)

    Unlearning row, in place of the RTO row (door, w_door)
        input_ids   p  p  p  h1 h2 h3 .. hn  E
        labels      -  -  -  h1 h2 h3 .. hn  E
        objective   0  0  0  2  2  2  ..  2  2

The arms with a reset token R write R s1 s2 .. sm E behind a prefix (k > 0), and S R R .. R in an RTO row.

Labels are unshifted, as in transformers: the label at position t is what the model should say given positions < t.
Sources: DeRTa, arXiv 2407.09121, section 3; reference code 70bdb52 for the end slot.
"""

from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, TypedDict

import numpy as np

from derta.config import ObjectiveConfig
from derta.config.settings import plain
from derta.objective.draws import is_ablated, kept_positions, prefix_length
from derta.objective.refusal_token import RefusalToken

IGNORE = -100
NO_LIMIT = 1 << 30  # tokens per row, where no max_length is given


class TokenObjective(IntEnum):
    """What a token is supervised for. In an arm that unlearns harmful responses RTO stands for that."""

    NONE = 0
    MLE = 1
    RTO = 2


class View(IntEnum):
    """Which training row an example is shown as.

    FILLER completes the last batch of several ranks in evaluation: a row without labels, which counts for nothing.
    """

    FILLER = 0
    MLE = 1
    MLE_WITH_PREFIX = 2
    RTO = 3
    TRANSITION = 4


class TokenizedExample(TypedDict):
    """One example as token ids. Empty lists where a response is missing.

    chosen_ids: safe response in its start form, end token included; chosen_continued_ids: in its continued form.
    rejected_ids: harmful response, end token included. rto_first_id: refusal token at its first position,
        None where there is none.
    """

    id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    chosen_continued_ids: list[int]
    rejected_ids: list[int]
    rto_first_id: int | None


class TrainingRow(TypedDict):
    """Three lists of equal length; see the drawing above."""

    input_ids: list[int]
    labels: list[int]
    objective: list[int]


def mle_row(example: TokenizedExample, k: int, max_length: int) -> TrainingRow:
    """Safe response behind the first k tokens of the harmful one."""
    context = example["prompt_ids"] + example["rejected_ids"][:k]
    safe = (example["chosen_continued_ids"] if k else example["chosen_ids"])[: max(0, max_length - len(context))]
    return _row(context + safe, safe, TokenObjective.MLE)


def _row(input_ids: list[int], labels: list[int], supervised: TokenObjective) -> TrainingRow:
    """The row whose last tokens have these labels, IGNORE among them for none."""
    labels = [IGNORE] * (len(input_ids) - len(labels)) + labels
    none, held = int(TokenObjective.NONE), int(supervised)
    objective = [none if label == IGNORE else held for label in labels]
    return {"input_ids": input_ids, "labels": labels, "objective": objective}


def first_tokens(example: TokenizedExample, m: int) -> TokenizedExample:
    """The example with the first m tokens of its safe response, in either form."""
    cut = {name: example[name][:m] for name in ("chosen_ids", "chosen_continued_ids")}  # type: ignore[literal-required]
    return {**example, **cut}  # type: ignore[typeddict-item]


def rto_row(example: TokenizedExample, refusal: RefusalToken, kept: np.ndarray, max_length: int) -> TrainingRow:
    """Refusal token at every kept position of the harmful response; `kept` is bool [rto_positions]."""
    prompt = example["prompt_ids"]
    harmful = example["rejected_ids"][: max(0, max_length - len(prompt))]
    keep = [*kept.tolist(), *[False] * (len(harmful) - len(kept))]
    targets: list[Any] = [example["rto_first_id"], *[refusal.continued_id] * (len(harmful) - 1)]
    labels = [target if k else IGNORE for target, k in zip(targets, keep, strict=False)]
    return _row(prompt + harmful, labels, TokenObjective.RTO)


def unlearning_row(example: TokenizedExample, max_length: int, *, at_end: bool) -> TrainingRow:
    """The harmful response itself, whose tokens are made less likely."""
    prompt, harmful = example["prompt_ids"], example["rejected_ids"]
    held = rto_positions(len(prompt), len(harmful), max_length, at_end=at_end)
    ids = (prompt + harmful)[: max(max_length, len(prompt))]
    return _row(ids, harmful[:held] + [IGNORE] * (len(ids) - len(prompt) - held), TokenObjective.RTO)


def longest_prefix(prompt: int, safe: int, harmful: int, max_length: int) -> int:
    """Largest k, from numbers of tokens (end tokens included): the whole harmful response, or what leaves room for the
    prompt and the whole safe response."""
    return max(0, min(harmful - 1, max_length - prompt - safe))


def rto_positions(prompt: int, harmful: int, max_length: int, *, at_end: bool) -> int:
    """Positions of the harmful response that RTO supervises in a row of at most `max_length` tokens."""
    return max(0, min(harmful if at_end else harmful - 1, max_length - prompt))


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """What decides which rows an example becomes and what stands in them: one object from the configuration to
    RowBuilder, build_row_table and derta_config.json.

    objective: arm, draws and copies; nobody changes it once it is here. max_length: tokens per row. seed: of all draws.
    drop_long_prompts: leave rows out whose prompt alone fills max_length, instead of refusing them.
    """

    objective: ObjectiveConfig
    max_length: int
    seed: int
    drop_long_prompts: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For derta_config.json: what the model was taught."""
        settings = plain(asdict(self.objective))
        limit = self.max_length if self.max_length < NO_LIMIT else None
        taught = {"objective": settings.pop("name"), **settings, "max_length": limit}
        # The resolved token is stored; another arm's is of no use.
        own = {"refusal_text", "refusal_token_ids", "reset_token", "dpo_beta"}
        rows = self.objective.name.rows
        own |= set() if rows.constrained else {"constrained_betas"}
        own |= set() if rows.unlearn else {"door_beta"}
        own |= {"weight_model"} if rows.weighted else {"weight_model", "weight_tau", "weight_max"}
        unused = own if self.objective.ablation.probability > 0 else {*own, "ablation"}
        return {key: value for key, value in taught.items() if key not in unused}


@dataclass(frozen=True, kw_only=True)
class RowBuilder:
    """Turns an example and a view into this epoch's training row; pure in (seed, epoch, example id, copy)."""

    refusal: RefusalToken | None
    settings: RowSettings

    def build(self, example: TokenizedExample, view: int, copy: int, epoch: int) -> TrainingRow:
        objective, max_length = self.settings.objective, self.settings.max_length
        draw: dict[str, Any] = {"seed": self.settings.seed, "epoch": epoch if objective.redraw else 0}
        draw |= {"example_id": example["id"], "copy": copy}
        prompt, harmful = len(example["prompt_ids"]), len(example["rejected_ids"])
        if view == View.RTO and objective.name.rows.unlearn:
            return unlearning_row(example, max_length, at_end=objective.rto_at_end)
        if view == View.RTO:
            assert self.refusal is not None  # the arms that have such rows have one
            positions = rto_positions(prompt, harmful, max_length, at_end=objective.rto_at_end)
            kept = kept_positions(positions, dropout=objective.rto_dropout, **draw)
            return rto_row(example, self.refusal, kept, max_length)
        if view == View.MLE_WITH_PREFIX:
            longest = longest_prefix(prompt, len(example["chosen_continued_ids"]), harmful, max_length)
            k = prefix_length(longest, zero_fraction=objective.zero_prefix_fraction, **draw)
            return mle_row(example, k, max_length)
        if view == View.TRANSITION:
            cut = first_tokens(example, objective.transition_tokens)
            longest = longest_prefix(prompt, len(cut["chosen_continued_ids"]), harmful, max_length)
            return mle_row(cut, prefix_length(longest, **draw), max_length)
        if view == View.FILLER:
            return _row(example["prompt_ids"], [], TokenObjective.NONE)
        return mle_row(example, 0, max_length)

    def is_ablated(self, example_id: str, view: int, copy: int, epoch: int) -> bool:
        """Whether this epoch's row is trained with the refusal direction ablated: rows with harmful prefix alone."""
        if view not in (View.MLE_WITH_PREFIX, View.TRANSITION):
            return False
        probability = self.settings.objective.ablation.probability
        return is_ablated(probability, seed=self.settings.seed, epoch=epoch, example_id=example_id, copy=copy)
