"""Prompts of the diagnostic: two sides, three splits each, no prompt twice; and the tokens that refusals start with.

harmful rows  --seeded draw-->  train | validation | test      means | choice of the direction | report
harmless rows --seeded draw-->  train | validation | test
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from derta.config.direction import DirectionConfig
from derta.config.evaluation import PromptSetConfig
from derta.errors import InputError
from derta.evaluation.prompts import load_prompt_set
from derta.evaluation.provenance import shown_path
from derta.evaluation.records import Row
from derta.models.conversation import ConversationCutter
from derta.models.target import TargetModel
from derta.objective.refusal_token import both_forms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of one side by split. sha256: of the file. left_out: repeated prompts, those too long for the context."""

    name: str
    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    sha256: str
    left_out: dict[str, int]

    @property
    def rows(self) -> tuple[Row, ...]:
        return (*self.train, *self.validation, *self.test)


@dataclass(frozen=True, slots=True)
class _Read:
    """Distinct prompts of one side, before anything is known of the model. repeated: how many were left out."""

    rows: list[Row]
    sha256: str
    repeated: int


def read_sides(config: DirectionConfig) -> dict[str, _Read]:
    """Harmful and harmless prompts, which need no model. Raises InputError: files that cannot be used, fewer prompts
    than the splits ask for, or prompts on both sides; all at once."""
    sides, problems = {}, []
    for name in ("harmful", "harmless"):
        side = getattr(config, name)
        prompts = PromptSetConfig(
            path=side.path, format=side.format, split=side.split, source=side.source, harmful=name == "harmful"
        )
        try:
            loaded = load_prompt_set(name, prompts, config.path, group="direction")
        except InputError as error:
            problems.append(str(error))
            continue
        distinct: dict[object, Row] = {}
        for row in loaded.rows:
            distinct.setdefault(_text(row), row)
        sides[name] = _Read(list(distinct.values()), loaded.sha256, len(loaded.rows) - len(distinct))
        problems += _too_few(name, len(distinct), {"repeated": sides[name].repeated}, config)
    if len(sides) == 2:
        texts = {_text(row): row["id"] for row in sides["harmful"].rows}
        problems += [
            f"harmful {texts[_text(row)]} and harmless {row['id']} are the same prompt: drop it from one side"
            for row in sides["harmless"].rows
            if _text(row) in texts
        ]
    if problems:
        raise InputError.listing("the prompts cannot be used:", problems)
    return sides


def _too_few(name: str, found: int, left_out: dict[str, int], config: DirectionConfig) -> list[str]:
    sizes = (config.splits.train, config.splits.validation, config.splits.test)
    if found >= sum(sizes):
        return []
    dropped = ", ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
    share = (found - len(sizes)) / max(sum(sizes) - len(sizes), 1)  # one for each split, then alike
    smaller = (f"direction.splits.{s}={1 + int((n - 1) * share)}" for s, n in zip(SPLITS, sizes, strict=True))
    enough = f", or set {' '.join(smaller)}" if found >= len(sizes) else ""
    return [
        f"direction.{name}.path={shown_path(getattr(config, name).path or config.path)}: {found} prompts found"
        f"{f' (left out: {dropped})' * bool(dropped)}, {sum(sizes)} needed: {sizes[0]} for the means, {sizes[1]} for "
        f"the choice, {sizes[2]} to test; give {sum(sizes) - found} more{enough}"
    ]


def draw_sides(read: dict[str, _Read], config: DirectionConfig, target: TargetModel) -> tuple[Side, Side]:
    """Who goes where, among the prompts that fit into the model's context. Raises InputError: too few of them do."""
    sides, problems = [], []
    for name, side in read.items():
        limit = target.context_length
        rows = [
            row
            for row in side.rows
            if limit is None or len(target.cutter.prompt_ids(row["prompt"])) + config.max_new_tokens <= limit
        ]
        left_out = {"repeated": side.repeated, "too long": len(side.rows) - len(rows)}
        if too_few := _too_few(name, len(rows), left_out, config):
            problems += too_few
            continue
        sizes = config.splits
        drawn = random.Random(f"{sizes.seed}/{name}").sample(rows, sizes.total)
        first, second = sizes.train, sizes.train + sizes.validation
        parts = (tuple(drawn[:first]), tuple(drawn[first:second]), tuple(drawn[second:]))
        sides.append(Side(name, *parts, side.sha256, left_out))
    if problems:
        raise InputError.listing("the prompts cannot be used:", problems)
    return sides[0], sides[1]


def prompt_ids(target: TargetModel, rows: Sequence[Row]) -> list[list[int]]:
    return [target.cutter.prompt_ids(row["prompt"]) for row in rows]


def _text(row: Row) -> tuple[tuple[str, str], ...]:
    """What makes two prompts the same: roles and words, whatever the white space and case."""
    return tuple((message["role"], " ".join(message["content"].casefold().split())) for message in row["prompt"])


def template_positions(cutter: ConversationCutter, rows: Sequence[Row]) -> int:
    """How many tokens at the end of every prompt are the template's own; at least 1, the last token."""
    behind = (len(cutter.prompt_ids(row["prompt"])) - cutter.instruction_span(row["prompt"])[1] for row in rows)
    return max(1, min(behind))


def refusal_start_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], token_ids: Sequence[int] | None = None
) -> list[int]:
    """Ids of the tokens that refusals start with, at the start of a response.

    Unlike RTO's target they may be words that open other answers too ("I"): the published metric has such.

    Args:
        texts: words or phrases; the first token of each counts.
        token_ids: given outright instead.

    Raises:
        InputError: no text, a text whose first token is only a piece of its first word, ids outside the vocabulary.
    """
    size = len(tokenizer)
    if token_ids is not None:
        if not token_ids or any(not 0 <= i < size for i in token_ids):
            raise InputError(
                f"direction.refusal_token_ids={list(token_ids)}: expected at least one id, each from 0 to {size - 1}"
            )
        return sorted(set(token_ids))
    found, problems = set(), []
    for text in filter(str.strip, texts):
        first = both_forms(tokenizer, text.strip())[0][:1]
        token, word = str(tokenizer.decode(first)).strip(), text.split()[0]
        if not token or not word.startswith(token) or len(token) < len(word.strip(",.;:!-'’")):
            problems.append(f"{text!r}: its first token, {token!r}, is not its first word")
        found.update(first)
    if problems or not found:
        raise InputError.listing(
            "there is no refusal token: give words that are one token of this tokenizer in direction.refusal_texts, or "
            "ids in direction.refusal_token_ids:",
            problems or ["direction.refusal_texts is empty"],
        )
    return sorted(found)
