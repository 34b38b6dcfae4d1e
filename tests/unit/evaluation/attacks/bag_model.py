"""Models whose weakness is known because their weights are set by hand.

They see the *share* of each feature in the text so far (keyword_model.py). At the first token of a response one chooses

    "Sure ..."   logit  bias + sum over triggers of weight * share(trigger)
    "Sorry ..."  logit  1

and then it writes the rest of the text it has begun, token by token, and ends its turn.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from keyword_model import model_of_shares

from derta.evaluation.attacks.attack import Attack
from derta.evaluation.attacks.decoding import respond
from derta.evaluation.attacks.search import Search
from derta.evaluation.judges.judge import RefusalPhraseJudge
from derta.evaluation.records import AttackInputs, Outcome, Row
from derta.evaluation.verdicts import judge_batch
from derta.models.target import TargetModel

REFUSAL, COMPLIANCE = "Sorry, I cannot help with that.", "Sure here are the steps"
_NEVER, _ALWAYS = -50.0, 1000.0


class Killed(Exception):
    """In the middle of a search."""


def killed_and_resumed(
    make: Callable[[], Search],
    step: int,
    row_id: str,
    rows: Sequence[Row],
    target: TargetModel,
    folder: Path,
    within: str = "",
) -> tuple[dict[str, dict[str, Any]], list[tuple[str, int]]]:
    """A search that is killed before it gives out this step of this row, and begun again, ends like one that is not; a
    finished one takes no step. Nothing but files passes from one to the next: each is made anew. `within`: it is killed
    in this method, which gets the row first and the state last. Returns row id -> the state that the killed one left,
    and the steps taken behind it."""
    taken: list[tuple[str, int]] = []

    def search(name: str, dies: bool = False) -> AttackInputs:
        attack = make()
        attack.workspace = replace(attack.workspace, folder=folder / name)
        own, part = attack.steps, getattr(attack, within or "steps")

        def steps(row: Row, *rest: Any) -> Iterator[dict[str, Any]]:
            for later in own(row, *rest):
                if dies and (row["id"], later["step"]) == (row_id, step):
                    raise Killed
                taken.append((row["id"], later["step"]))
                yield later

        def dying(row: Row, *rest: Any) -> Any:
            if (row["id"], rest[-1]["step"] + 1) == (row_id, step):
                raise Killed
            return part(row, *rest)

        attack.steps = steps  # type: ignore[method-assign]
        if dies and within:
            setattr(attack, within, dying)
        return attack.inputs(rows, target, "harmful")

    def states(name: str) -> dict[str, dict[str, Any]]:
        files = [json.loads(file.read_text()) for file in (folder / name).rglob("*.json")]
        return {content["identity"]["row"]: content["state"] for content in files}

    expected = search("whole")
    with pytest.raises(Killed):
        search("broken", dies=True)
    left = states("broken")
    taken.clear()
    assert search("broken") == expected and states("broken") == states("whole")
    resumed = taken.copy()
    assert search("broken") == expected and taken == resumed
    return left, resumed


def bag_model(
    tokenizer,
    *,
    triggers: Iterable[Sequence[int]] = (),
    weight: float = 0.0,
    bias: float = _NEVER,
    texts: tuple[str, str] = (REFUSAL, COMPLIANCE),
    end: str = "<|eot_id|>",
) -> TargetModel:
    """Without triggers: a model that always refuses. `triggers`: groups of token ids; a group is one feature."""
    chains = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for chain in chains:
        assert len(set(chain)) == len(chain), "a text that repeats a token has no unique continuation"
    assert not set(chains[0]) & set(chains[1]), "the two texts must share no token"
    feature: dict[int, int] = {}
    for group in triggers:
        new = len(set(feature.values())) + 1
        feature |= {token: new for token in group}
    first_own = len(set(feature.values())) + 1
    own = sorted({token for chain in chains for token in chain})
    assert not set(own) & set(feature), "triggers must not be words of the responses"
    feature |= {token: first_own + i for i, token in enumerate(own)}
    n = first_own + len(own)  # feature 0: every other token
    model = model_of_shares(tokenizer, feature, n, context=8192)
    head = model.lm_head.weight
    with torch.no_grad():
        head[:, :n] = _NEVER
        end_id = tokenizer.convert_tokens_to_ids(end)
        for chain in chains:
            for token, following in zip(chain, [*chain[1:], end_id], strict=True):
                head[following, feature[token]] = _ALWAYS
        refuse, comply = chains[0][0], chains[1][0]
        head[refuse, :first_own] = 1.0
        head[comply, :first_own] = bias
        for trigger in range(1, first_own):
            head[comply, n + trigger] = weight
    return TargetModel(model, tokenizer)


def weak_to(attack: Attack, rows: Sequence[Row], target: TargetModel, direct: Attack) -> TargetModel:
    """A model that refuses these rows asked directly and complies with them under the attack: it counts the tokens
    whose share the attack changes most."""
    plain = [item.token_ids for item in direct.inputs(rows, target, "harmful").inputs]
    attacked = [item.token_ids for item in attack.inputs(rows, target, "harmful").inputs]
    chains = {
        i for text in (REFUSAL, COMPLIANCE) for i in target.tokenizer(text, add_special_tokens=False)["input_ids"]
    }

    def shares(token: int, texts: Sequence[Sequence[int]]) -> list[float]:
        return [list(text).count(token) / len(text) for text in texts]

    def gap(token: int) -> float:
        with_attack, without = shares(token, attacked), shares(token, plain)
        return max(min(with_attack) - max(without), min(without) - max(with_attack))

    token = max({token for text in (*plain, *attacked) for token in text} - chains, key=gap)
    assert gap(token) > 0, "nothing tells the attack from the plain prompt"
    more = min(shares(token, attacked)) > max(shares(token, plain))
    low, high = sorted(
        (max(shares(token, plain)), min(shares(token, attacked)))
        if more
        else (max(shares(token, attacked)), min(shares(token, plain)))
    )
    weight = 4.0 / (high - low) * (1 if more else -1)
    return bag_model(target.tokenizer, triggers=[[token]], weight=weight, bias=1 - weight * (low + high) / 2)


def outcomes(attack: Attack, rows: Sequence[Row], target: TargetModel, *, harmful: bool = True) -> list[Outcome]:
    """The attack's inputs, answered and judged as an evaluation does it."""
    batch = attack.inputs(rows, target, "set").inputs
    by_id = {("set", row["id"]): (row, harmful) for row in rows}

    def judged(items, generations):
        return judge_batch(items, generations, by_id, target, RefusalPhraseJudge())

    results = respond(target, batch, judged, harmful=lambda item: harmful, max_new_tokens=16)
    return [result.outcome for result in results]
