"""What a model is given and what it gives back, as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Key = tuple[str, str, str]
"""(prompt set, attack, row id): names one response."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw a response: softmax of logits / temperature, cut to the smallest set of tokens with mass top_p."""

    temperature: float
    top_p: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One attack on one row, as token ids. The last `prefill_tokens` ids are the start of the model's own response.

    sampling: settings to answer it with *beside* greedy search; the worst response counts
        (derta.evaluation.attacks.decoding).
    """

    prompt_set: str
    attack: str
    row_id: str
    token_ids: tuple[int, ...]
    prefill_tokens: int = 0
    sampling: tuple[Sampling, ...] = ()

    @property
    def key(self) -> Key:
        return (self.prompt_set, self.attack, self.row_id)


@dataclass(frozen=True, slots=True)
class Generation:
    """Response of the model, prefill included. `finished`: it ended its turn before the token limit. `taken_back`:
    tokens before it that the model took back, the reset token included; then no prefill is left. `guarded`: what the
    guard would have left of it, where it would have stopped it."""

    token_ids: tuple[int, ...]
    finished: bool
    taken_back: int = 0
    guarded: Generation | None = None

    @classmethod
    def cut(
        cls,
        item: ModelInput,
        new: Sequence[int],
        end_token_ids: Sequence[int],
        reset_id: int | None = None,
        guard_at: int = -1,
    ) -> Generation:
        """From the new ids of a response: up to the first that ends it, from behind the last reset token.
        guard_at: new tokens before the guard's stop; it counts from 0 up to that end."""
        stop = next((i for i, token in enumerate(new) if token in end_token_ids), None)
        prefill = item.token_ids[len(item.token_ids) - item.prefill_tokens :]
        ids = (*prefill, *new[:stop])
        start = max((i + 1 for i, token in enumerate(ids) if token == reset_id), default=0)
        guarded = None
        if 0 <= guard_at <= (len(new) if stop is None else stop):
            guarded = cls.cut(item, new[:guard_at], end_token_ids, reset_id)
        return cls(ids[start:], finished=stop is not None, taken_back=start, guarded=guarded)
