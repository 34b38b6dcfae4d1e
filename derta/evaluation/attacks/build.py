"""Attacks by their names."""

import re
from collections.abc import Callable, Iterable

from derta.config.attacks import AttackConfig
from derta.errors import InputError
from derta.evaluation.attacks.attack import Attack, Direct, MiniatureFormat, Prefilling
from derta.evaluation.attacks.autodan import AutoDAN
from derta.evaluation.attacks.decoding import Decoding
from derta.evaluation.attacks.disguises import CodeAttack, CompletionText, ReinsertedHeader, RolePlayFile, SelfCipher
from derta.evaluation.attacks.gcg import GCG
from derta.evaluation.attacks.pair import Pair
from derta.evaluation.attacks.search import Workspace

_PREFILL = re.compile(r"prefill_([1-9][0-9]*)")


def build_attack(name: str, config: AttackConfig | None = None, workspace: Workspace | None = None) -> Attack:
    """The attack of this name, with the settings of eval.attack; attacks that search work in `workspace`. Raises
    InputError: no such attack, or settings it cannot use (a folder without templates, for example)."""
    from derta.miniature.formats import Format

    config = config or AttackConfig()
    named: dict[str, Callable[[], Attack]] = {
        **{kind.name: kind for kind in (Direct, CodeAttack, SelfCipher, ReinsertedHeader, CompletionText)},
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
    """The attacks of these names, each once. Raises InputError: every one that cannot be built."""
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
