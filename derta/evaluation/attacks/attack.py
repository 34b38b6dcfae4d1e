"""Attacks: prompt rows in, model inputs out.

    direct       <header>user query<header>assistant
    prefill_20   <header>user query<header>assistant  first 20 tokens of the harmful response
    code, ...    <header>user query in disguise<header>assistant         (miniature: derta.miniature.formats)
    completion   query, no chat template

Beside this module: disguises of real prompts (disguises), sampling (decoding), attacks that search for a query (search,
gcg, pair, autodan).
Benign prompts go through the same objects: what a disguise alone does to a model is half of what an attack shows.
An attack gets the whole target model; black-box ones use its tokenizer only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from derta.config.attacks import AttackConfig
from derta.errors import InputError
from derta.evaluation.attacks.autodan import AutoDAN
from derta.evaluation.attacks.decoding import Decoding
from derta.evaluation.attacks.disguises import CodeAttack, CompletionText, ReinsertedHeader, RolePlayFile, SelfCipher
from derta.evaluation.attacks.gcg import GCG
from derta.evaluation.attacks.pair import Pair
from derta.evaluation.attacks.search import Workspace
from derta.evaluation.records import AttackInputs, Row
from derta.models.conversation import check_tokenizer, is_raw_text
from derta.models.inputs import ModelInput

if TYPE_CHECKING:
    from derta.miniature.formats import Format
    from derta.models.target import TargetModel

_PREFILL = re.compile(r"prefill_([1-9][0-9]*)")


class Attack(Protocol):
    """One way of asking. `name` is what tables and results call it; `settings` is everything else that decides its
    inputs, as JSON, and becomes part of what an evaluation is recognised by."""

    name: str
    settings: Mapping[str, Any]

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        """One model input per row, or the reason why the row cannot be used.

        Raises:
            InputError: the tokenizer or the rows are not what this attack needs.
        """
        ...


class Direct:
    """The prompt as it is."""

    name = "direct"
    settings: Mapping[str, Any] = {}

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        found = AttackInputs()
        for row in rows:
            _need_template(row, target)
            ids = target.cutter.prompt_ids(row["prompt"])
            found.inputs.append(ModelInput(prompt_set, self.name, row["id"], tuple(ids)))
        return found


class Prefilling:
    """The model's answer is begun for it with the first `depth` tokens of the unsafe response (of a benign row: the
    helpful one). The whole conversation is tokenised once and cut, so the model sees the tokens that it would have
    written itself."""

    settings: Mapping[str, Any] = {}

    def __init__(self, depth: int):
        self.depth = depth
        self.name = f"prefill_{depth}"

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        found = AttackInputs()
        for row in rows:
            _need_template(row, target)
            response = row["rejected"] or row["chosen"]
            if response is None:
                found.skipped[row["id"]] = "no response to prefill"
                continue
            cut = target.cutter.cut(row["prompt"], response)
            if len(cut.response) <= self.depth:
                found.skipped[row["id"]] = f"response not longer than {self.depth} tokens"
                continue
            ids = (*cut.prompt, *cut.response[: self.depth])
            found.inputs.append(ModelInput(prompt_set, self.name, row["id"], ids, self.depth))
        return found


class MiniatureFormat:
    """A query of the miniature in one of its disguises."""

    settings: Mapping[str, Any] = {}

    def __init__(self, disguise: Format):
        self.disguise = disguise
        self.name = disguise.value

    def inputs(self, rows: Iterable[Row], target: TargetModel, prompt_set: str) -> AttackInputs:
        from derta.miniature.formats import encode_prompt
        from derta.miniature.world import parse_query

        found = AttackInputs()
        for row in rows:
            query = row["prompt"][-1]["content"]
            try:
                parse_query(query)
            except InputError as error:
                raise InputError(f"attack {self.name!r}, row {row['id']}: {error}") from error
            prompt = encode_prompt(query, self.disguise)
            ids = target.cutter.prompt_ids(prompt)
            found.inputs.append(ModelInput(prompt_set, self.name, row["id"], tuple(ids)))
        return found


def build_attack(name: str, config: AttackConfig | None = None, workspace: Workspace | None = None) -> Attack:
    """The attack of this name, with the settings of eval.attack; attacks that search work in `workspace`.

    Raises:
        InputError: no such attack, or settings it cannot use (a folder without templates, for example).
    """
    from derta.miniature.formats import Format

    config = config or AttackConfig()
    named: dict[str, Callable[[], Attack]] = {
        Direct.name: Direct,
        CodeAttack.name: CodeAttack,
        SelfCipher.name: SelfCipher,
        ReinsertedHeader.name: ReinsertedHeader,
        CompletionText.name: CompletionText,
        Decoding.name: lambda: Decoding(config.decoding, config.seed),
        GCG.name: lambda: GCG(config.gcg, config.target, config.seed, workspace),
        Pair.name: lambda: Pair(config.pair, config.target, config.seed, workspace),
        AutoDAN.name: lambda: AutoDAN(config.autodan, config.target, config.seed, workspace),
    }
    if name in named:
        return named[name]()
    if name == RolePlayFile.prefix or name.startswith(f"{RolePlayFile.prefix}_"):
        return RolePlayFile(name, config.templates)
    if match := _PREFILL.fullmatch(name):
        return Prefilling(int(match[1]))
    disguises = [disguise.value for disguise in Format if disguise is not Format.CHAT]
    if name in disguises:
        return MiniatureFormat(Format(name))
    raise InputError(
        f"attack {name!r} does not exist; choose from {', '.join(named)}, prefill_<tokens> (for example prefill_20), "
        f"{RolePlayFile.prefix}, {RolePlayFile.prefix}_<template>; miniature only: {', '.join(disguises)}"
    )


def build_attacks(
    names: Iterable[str], config: AttackConfig | None = None, workspace: Workspace | None = None
) -> dict[str, Attack]:
    """The attacks of these names, each once.

    Raises:
        InputError: every one that cannot be built.
    """
    attacks: dict[str, Attack] = {}
    problems = []
    for name in dict.fromkeys(names):
        try:
            attacks[name] = build_attack(name, config, workspace)
        except InputError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        raise InputError.listing("these attacks cannot be used:", problems)
    return attacks


def _need_template(row: Row, target: TargetModel) -> None:
    if not is_raw_text(row["prompt"]):
        check_tokenizer(target.tokenizer)
