"""What an attack is, and the plain ones: prompt rows in, model inputs out.

    direct       <header>user query<header>assistant
    prefill_20   <header>user query<header>assistant  first 20 tokens of the harmful response
    code, ...    <header>user query in disguise<header>assistant         (miniature: derta.miniature.formats)
    completion   query, no chat template

Beside this module: disguises of real prompts (disguises), sampling (decoding), attacks that search for a query (search,
gcg, pair, autodan); `build` makes them by name.
Benign prompts go through the same objects: what a disguise alone does to a model is half of what an attack shows.
An attack gets the whole target model; black-box ones use its tokenizer only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from derta.errors import errors_named
from derta.evaluation.records import AttackInputs, Row
from derta.models.conversation import check_tokenizer, is_raw_text
from derta.models.inputs import ModelInput, Sampling
from derta.models.target import TargetModel

if TYPE_CHECKING:
    from derta.miniature.formats import Format

RAW_TEXT = "a raw text row holds no user message to rewrite"


class Attack(ABC):
    """One way of asking.

    name: what tables and results call it. settings: everything else that decides its inputs, as JSON; they become part
    of what an evaluation is recognised by. prefill_tokens, sampling: those of its inputs.
    """

    name: str
    settings: Mapping[str, Any] = {}
    prefill_tokens = 0
    sampling: tuple[Sampling, ...] = ()

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        """One model input per row, or the reason why the row cannot be used. Raises InputError: the tokenizer or the
        rows are not what this attack needs."""
        found = AttackInputs()
        for row in rows:
            ids = self.ask(row, target)
            if isinstance(ids, str):
                found.skipped[row["id"]] = ids
            else:
                item = ModelInput(prompt_set, self.name, row["id"], tuple(ids), self.prefill_tokens, self.sampling)
                found.inputs.append(item)
        return found

    @abstractmethod
    def ask(self, row: Row, target: TargetModel) -> Sequence[int] | str:
        """Token ids of the model input, or the reason why there are none."""


class Direct(Attack):
    """The prompt as it is."""

    name = "direct"

    def ask(self, row: Row, target: TargetModel) -> Sequence[int] | str:
        _need_template(row, target)
        return target.cutter.prompt_ids(row["prompt"])


class Prefilling(Attack):
    """The model's answer is begun for it with the first `depth` tokens of the unsafe response (of a benign row: the
    helpful one). The whole conversation is tokenised once and cut, so the model sees the tokens that it would have
    written itself."""

    def __init__(self, depth: int):
        self.name, self.prefill_tokens = f"prefill_{depth}", depth

    def ask(self, row: Row, target: TargetModel) -> Sequence[int] | str:
        _need_template(row, target)
        response = row["rejected"] or row["chosen"]
        if response is None:
            return "no response to prefill"
        cut = target.cutter.cut(row["prompt"], response)
        if len(cut.response) <= self.prefill_tokens:
            return f"response not longer than {self.prefill_tokens} tokens"
        return [*cut.prompt, *cut.response[: self.prefill_tokens]]


class MiniatureFormat(Attack):
    """A query of the miniature in one of its disguises."""

    def __init__(self, disguise: Format):
        self.name, self.disguise = disguise.value, disguise

    def ask(self, row: Row, target: TargetModel) -> Sequence[int] | str:
        from derta.miniature.formats import encode_prompt
        from derta.miniature.world import parse_query

        query = row["prompt"][-1]["content"]
        with errors_named(f"attack {self.name!r}, row {row['id']}"):
            parse_query(query)
        return target.cutter.prompt_ids(encode_prompt(query, self.disguise))


def _need_template(row: Row, target: TargetModel) -> None:
    if not is_raw_text(row["prompt"]):
        check_tokenizer(target.tokenizer)
