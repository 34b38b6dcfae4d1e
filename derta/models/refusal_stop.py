"""A stop for `generate` that costs no forward: where P(refusal) passes a threshold, the response turns into a refusal.

    prompt  r1 r2 r3 | S   the model goes on from S and finishes its refusal      (end_token_id: the turn ends instead)
                     ^
                     P(refusal) above the threshold, which launch/calibrate_stop.py has put into derta_config.json

P(refusal) is the sum over the forms of the refusal token (derta/objective/refusal_probability.py); one that stands
after text is read at every position, the one that starts a response too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.taught import stored_rule


def probability_of_any(logits: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
    """P(refusal) [...]: the summed probability of `ids`, the forms of the refusal token. logits: [..., V]."""
    logits = logits.float()
    return (logits[..., list(ids)] - logits.logsumexp(-1, keepdim=True)).exp().sum(-1)


class RefusalStop(LogitsProcessor):
    """Pass it to `model.generate(..., logits_processor=[stop])`, before other processors: P(refusal) is the model's
    own (a repetition penalty of the model's generation_config comes before it all the same: set it to 1). Every row of
    a batch stops by itself, once in a response. For greedy search and sampling, also with draft tokens that are taken
    back (prompt lookup, assisted generation), not for beams.

    end_token_id: the turn ends where it would else be turned into a refusal.
    stopped: after `generate`, [B] on the device of the model: new tokens before each row's stop, -1 without one. A
        number at or behind the row's end is of padding, or of a draft.

    Raises:
        InputError: beams.
    """

    def __init__(
        self, token_ids: Sequence[int], threshold: float, consecutive: int = 1, *, end_token_id: int | None = None
    ):
        self.token_ids, self.threshold, self.consecutive = list(token_ids), threshold, consecutive
        self.end_token_id = end_token_id
        self._seen, self._start = torch.empty(0, 0), 0
        self._states: list[tuple[torch.Tensor, torch.Tensor]] = []  # before each token: running, stopped

    @classmethod
    def from_pretrained(
        cls, model: str, *, revision: str | None = None, end_token_id: int | None = None
    ) -> RefusalStop:
        """With the threshold that the model's derta_config.json holds. Raises InputError: it holds none."""
        rule = stored_rule(ModelConfig(name_or_path=str(model), revision=revision))
        return cls(rule.token_ids, rule.threshold, rule.consecutive, end_token_id=end_token_id)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Logits [B, V] of the next token behind ids [B, L]."""
        step, before = input_ids.shape[1] - self._start, input_ids[:, :-1]
        goes_on = 0 < step < len(self._states) and len(before) == len(self._seen)
        if not goes_on or not torch.equal(self._seen[:, : before.shape[1]], before):
            if goes_on and _is_reordered(before, self._seen):
                raise InputError("RefusalStop follows rows, and beams change places: set num_beams=1")
            never = torch.full((len(input_ids),), -1, device=scores.device)
            self._start, self._states, step = input_ids.shape[1], [(never + 1, never)], 0  # another call of `generate`
        running, stopped = self._states[step]
        above = probability_of_any(scores, self.token_ids) > self.threshold
        running = torch.where(above, running + 1, 0)
        now = (running >= self.consecutive) & (stopped < 0)
        self.stopped = torch.where(now, step, stopped)
        self._states[step + 1 :] = [(running, self.stopped)]
        self._seen = input_ids
        return self.forced(scores, now)

    def forced(self, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The logits, and in these rows nothing but the token that comes now: the end, or the likelier form."""
        if not bool(rows.any()):
            return scores
        likelier = torch.tensor(self.token_ids, device=scores.device)[scores[:, self.token_ids].argmax(1)]
        wanted = likelier if self.end_token_id is None else torch.full_like(likelier, self.end_token_id)
        alone = torch.full_like(scores, -torch.inf).scatter(1, wanted[:, None], 0.0)
        return torch.where(rows[:, None], alone, scores)


def _is_reordered(rows: torch.Tensor, seen: torch.Tensor) -> bool:
    return rows.shape == seen.shape and set(map(tuple, rows.tolist())) <= set(map(tuple, seen.tolist()))


class RefusalWatch(RefusalStop):
    """Notes where it would stop, and leaves the response as it is."""

    def forced(self, scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return scores
