"""GCG, greedy coordinate gradient (Zou et al. 2023, "Universal and transferable adversarial attacks"), compact.

    <header>user query ! ! ! ! ! <header>assistant | start of the harmful response
                      ^^^^^^^^^^ the suffix: exchanged token by token for a higher likelihood of that response

One step: the gradient with respect to the one-hot of each suffix token proposes the `top_k` most promising tokens per
place; `candidates` single exchanges are drawn from them, all are tried in batches on the cached prompt, the best one is
kept. Candidates whose text does not come back as the same tokens are dropped: a suffix has to be something that a user
can type.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from derta.config.attacks import GCGConfig
from derta.evaluation.attacks.disguises import PLACEHOLDER, query_of, replace_query
from derta.evaluation.attacks.likelihood import SuffixLoss
from derta.evaluation.attacks.search import Search, State, Workspace, finished, given_up, step_random, target_tokens
from derta.evaluation.records import Row
from derta.models.target import TargetModel

if TYPE_CHECKING:
    import torch


class GCG(Search):
    """White-box. State: suffix (ids, the current one), best (ids), loss (of the best), tried (candidates evaluated)."""

    name = "gcg"
    config: GCGConfig

    def __init__(self, config: GCGConfig, fallback: str, seed: int, workspace: Workspace | None = None):
        super().__init__(config, fallback, seed, workspace, budget=config.steps, save_steps=config.save_steps)
        self.settings = {
            "steps": config.steps,
            "suffix": [config.initial, config.suffix_tokens],
            "candidates": config.candidates,
            "top_k": config.top_k,
            "target": [fallback, config.target_tokens],
            "ascii_only": config.ascii_only,
            "seed": seed,
        }

    def steps(self, row: Row, target: TargetModel, state: State) -> Iterator[State]:
        import torch

        config = self.config
        wished = target_tokens(row, target, self.fallback, config.target_tokens)
        if not wished:
            yield given_up("the response to aim at is empty")
            return
        frame = Frame(row, target, f" {config.initial}" * config.suffix_tokens)
        if not frame.initial:
            yield given_up("the chat template does not show the end of the query")
            return
        length = len(frame.before) + len(frame.initial) + len(frame.behind) + len(wished)
        if target.context_length is not None and length > target.context_length:
            yield given_up(f"prompt, suffix and target do not fit into the context of {target.context_length}")
            return
        losses = SuffixLoss(target, frame.before, frame.behind, wished)
        device = target.model.device
        if not state:
            (start,) = losses.losses(torch.tensor([frame.initial], device=device), 1)
            state = {"step": 0, "done": False, "suffix": frame.initial, "best": frame.initial, "loss": start.loss}
            state |= {"greedy": start.greedy, "tried": 1}
        allowed = allowed_tokens(target, ascii_only=config.ascii_only)
        while state["step"] < config.steps and not state["greedy"]:
            rng = step_random(self.seed, row, state["step"])
            suffix = torch.tensor(state["suffix"], device=device)
            drawn = self._candidates(losses.token_gradient(suffix), state["suffix"], allowed, rng)
            typed = [ids for ids in drawn if frame.can_be_typed(ids)]
            state = {**state, "step": state["step"] + 1, "tried": state["tried"] + len(typed)}
            if typed:
                tried = losses.losses(torch.tensor(typed, device=device), config.candidate_batch)
                best = min(range(len(typed)), key=lambda i: tried[i].loss)
                state["suffix"] = typed[best]
                if tried[best].loss < state["loss"]:
                    state |= {"best": typed[best], "loss": tried[best].loss, "greedy": tried[best].greedy}
            yield state
        yield finished(state, frame.content(state["best"]))

    def _candidates(
        self, gradient: torch.Tensor, suffix: Sequence[int], allowed: torch.Tensor, rng: random.Random
    ) -> list[list[int]]:
        """Different suffixes, each with one token exchanged; gradient [C, V]."""
        gradient[:, ~allowed.to(gradient.device)] = float("inf")
        top_k = min(self.config.top_k, int(allowed.sum()))
        best = (-gradient).topk(top_k, dim=1).indices.tolist()  # [C, top_k]
        drawn: dict[tuple[int, ...], None] = {}
        for _ in range(self.config.candidates):
            place = rng.randrange(len(suffix))
            exchanged = list(suffix)
            exchanged[place] = rng.choice(best[place])
            if exchanged != list(suffix):
                drawn[tuple(exchanged)] = None
        return [list(ids) for ids in drawn]


class Frame:
    """A row's prompt with a place for a suffix behind the query: before + suffix + behind are its token ids.

    initial: the suffix text as tokens; empty where the template does not show the query's end literally.
    """

    def __init__(self, row: Row, target: TargetModel, suffix: str):
        self._cutter, self._query = target.cutter, query_of(row)
        rendered = target.cutter.prompt_text(replace_query(row, self._query + PLACEHOLDER))
        self._head, _, self._tail = rendered.partition(PLACEHOLDER)
        ids, offsets = self._cutter.rendered_ids(self._head + suffix + self._tail)
        start, end = len(self._head), len(self._head) + len(suffix)
        first = next((i for i, (begin, stop) in enumerate(offsets) if begin >= start and stop > start), len(ids))
        last = next((i for i in range(first, len(ids)) if offsets[i][0] >= end), len(ids))
        self.before, self.initial, self.behind = ids[:first], ids[first:last], ids[last:]
        self._before_text = self._decode(self.before)
        if rendered.count(PLACEHOLDER) != 1 or self.text(self.initial) != suffix:
            self.initial = []

    def text(self, suffix: Sequence[int]) -> str:
        """What these tokens say behind the query."""
        return self._decode([*self.before, *suffix])[len(self._before_text) :]

    def content(self, suffix: Sequence[int]) -> str:
        """The user's message with this suffix."""
        return self._query + self.text(suffix)

    def can_be_typed(self, suffix: Sequence[int]) -> bool:
        """Whether the text of the prompt comes back as exactly these tokens."""
        text = self.text(suffix)
        if text != text.rstrip():  # templates trim it
            return False
        ids, _ = self._cutter.rendered_ids(self._head + text + self._tail)
        return ids == [*self.before, *suffix, *self.behind]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._cutter.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def allowed_tokens(target: TargetModel, *, ascii_only: bool) -> torch.Tensor:
    """[V] bool: tokens that a suffix may hold: no special ones, and printable (ASCII) text."""
    import torch

    tokenizer, size = target.tokenizer, target.model.get_input_embeddings().weight.shape[0]
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    allowed = torch.zeros(size, dtype=torch.bool)
    texts = tokenizer.batch_decode([[i] for i in range(min(size, len(tokenizer)))])
    for i, text in enumerate(texts):
        printable = bool(text.strip()) and text.isprintable() and "�" not in text
        allowed[i] = printable and (text.isascii() or not ascii_only) and i not in special
    return allowed
