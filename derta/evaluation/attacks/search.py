"""What attacks that optimise a query share: rows dealt out to the ranks, progress, and a checkpoint per row.

    row --steps--> state --steps--> state ... {"done": true, "content": the query that was found}
                     |
                     +--> OUTPUT/attacks/SET/ATTACK/<hash of the row's id>.json      every `save_steps` steps

A state is JSON and holds everything that the next step needs; random numbers come from (seed, row, step). So a search
that was stopped anywhere continues from its last checkpoint to the same end, and a finished row is not searched again.
"""

import json
import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derta.evaluation.attacks.attack import RAW_TEXT, Attack
from derta.evaluation.attacks.disguises import digest, replace_query
from derta.evaluation.judges.judge import Judge
from derta.evaluation.provenance import shown_path
from derta.evaluation.ranks import Ranks
from derta.evaluation.records import AttackInputs, Row
from derta.models.conversation import check_tokenizer, is_raw_text
from derta.models.target import TargetModel
from derta.progress import progress
from derta.storage.claim import Claim

State = dict[str, Any]
"""JSON. Every state holds "step" (steps done) and "done"; a finished one "content" (the last user message that was
found, or null) and "reason" (why there is none)."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """What an evaluation gives to the attacks that search.

    folder: where checkpoints go (None: nothing is kept). model: what the target is recognised by; checkpoints of
    another one are refused. judge: the evaluation's, for attacks that want to know how a response was.
    """

    folder: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)
    model: Mapping[str, Any] = field(default_factory=dict)
    judge: Judge | None = None


class Search(Attack):
    """An attack that tries many queries on the target, row by row. Subclasses give `name`, `settings` and `steps`."""

    def __init__(
        self, config: Any, fallback: str, seed: int, workspace: Workspace | None, *, budget: int, save_steps: int
    ):
        """fallback: start of the response to aim at where a row has none. budget: steps that a row may take."""
        self.config, self.fallback, self.seed = config, fallback, seed
        self.workspace = workspace or Workspace()
        self.budget, self.save_steps = budget, save_steps
        self._ended: dict[str, State] = {}

    @abstractmethod
    def steps(self, row: Row, target: TargetModel, state: State) -> Iterator[State]:
        """The states after each further step; the last one is done. `state` is {} at the start."""

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        """Search for every row of this rank's share, and put the shares together. Raises InputError: no chat template,
        a checkpoint of another search, NaN or infinite logits."""
        rows, ranks = list(rows), self.workspace.ranks
        own: dict[str, State] = {}
        share = ranks.share(rows)
        what, steps = f"{self.name} on {prompt_set}", len(share) * self.budget
        with progress(steps, what, "steps", shown=ranks.rank == 0) as bar:
            for number, row in enumerate(share, 1):
                bar.set_postfix_str(f"row {number} of {len(share)}", refresh=False)
                own[row["id"]] = self._search(row, target, prompt_set, bar)
                bar.update(number * self.budget - bar.n)  # a row may be done before its budget is
        self._ended = {row_id: state for part in ranks.gather(own) for row_id, state in part.items()}
        return super().inputs(rows, target, prompt_set)

    def ask(self, row: Row, target: TargetModel) -> Sequence[int] | str:
        state = self._ended[row["id"]]
        if state["content"] is None:
            return state["reason"]
        return target.cutter.prompt_ids(replace_query(row, state["content"]))

    def _search(self, row: Row, target: TargetModel, prompt_set: str, bar: Any) -> State:
        if is_raw_text(row["prompt"]):
            return given_up(RAW_TEXT)
        check_tokenizer(target.tokenizer)
        checkpoint = self._checkpoint(prompt_set, row)
        state = checkpoint.content()["state"] if checkpoint and checkpoint.held() else {}
        if state.get("retry"):
            state = {}
        if state.get("done"):
            return state
        for later in self.steps(row, target, state):
            state = later
            bar.update(1)
            if checkpoint and self.workspace.ranks.records and (state["done"] or state["step"] % self.save_steps == 0):
                checkpoint.take(state=state)
        return state

    def _checkpoint(self, prompt_set: str, row: Row) -> Claim | None:
        """The file that holds this row's state; None where nothing is kept."""
        if self.workspace.folder is None:
            return None
        content = json.dumps([row["prompt"], row["chosen"], row["rejected"]], sort_keys=True)
        identity = {
            "attack": self.name,
            "settings": dict(self.settings),
            "model": dict(self.workspace.model),
            "row": row["id"],
            "row_sha256": digest(content),
        }
        file = self.workspace.folder / prompt_set / self.name / f"{digest(row['id'])[:24]}.json"
        return Claim(file, identity, work="search", named=shown_path(str(file)))


def finished(state: State, content: str) -> State:
    """The last state of a search that found a query."""
    return {**state, "done": True, "content": content, "reason": ""}


def given_up(reason: str, state: State | None = None, *, retry: bool = False) -> State:
    """The last state of a search that found none. `retry`: the next run begins this row anew (a server was down)."""
    return {"step": 0, **(state or {}), "done": True, "content": None, "reason": reason, "retry": retry}


def step_random(seed: int, row: Row, step: int) -> random.Random:
    """The random numbers of one step, the same whenever it runs."""
    return random.Random(f"{seed}/{row['id']}/{step}")


def wished_response(row: Row, fallback: str) -> list[dict[str, str]]:
    """The response whose start an attack aims at: the harmful one, of a benign row the helpful one, else `fallback`."""
    if row["rejected"] is not None:
        return row["rejected"]
    if row["kind"] == "helpful" and row["chosen"] is not None:
        return row["chosen"]
    return [{"role": "assistant", "content": fallback}]


def target_tokens(row: Row, target: TargetModel, fallback: str, limit: int) -> list[int]:
    """The first `limit` tokens of `wished_response`, as the model would write them itself."""
    return target.cutter.cut(row["prompt"], wished_response(row, fallback)).response[:limit]
