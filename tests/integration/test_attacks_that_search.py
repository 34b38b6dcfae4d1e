"""Attacks that sample or search, as parts of a whole evaluation of a real (untrained) miniature model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from derta.config.attacks import (
    AttackConfig,
    AutoDANConfig,
    ChatModelConfig,
    DecodingConfig,
    GCGConfig,
    PairConfig,
)
from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, JudgeName, PromptSetConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat
from derta.errors import InputError
from derta.evaluation.attacks.gcg import GCG
from derta.evaluation.ranks import Ranks
from derta.evaluation.suite import evaluate
from derta.miniature.model import write_fresh_model
from derta.miniature.rows import generate

ATTACKS = ["direct", "decoding", "gcg", "pair", "autodan", "role_play_file", "completion_text"]
SETTINGS = AttackConfig(
    decoding=DecodingConfig(temperatures=[1.0], top_p=[0.9]),
    gcg=GCGConfig(steps=3, initial="and", suffix_tokens=3, candidates=8, top_k=8, save_steps=1),
    pair=PairConfig(streams=2, iterations=2, response_tokens=8, attacker=ChatModelConfig(kind="miniature")),
    autodan=AutoDANConfig(steps=2, population=4, templates="miniature", synonyms="miniature"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two harmful rows of the miniature, and a file of prompts alone."""
    place = tmp_path_factory.mktemp("searches")
    write_fresh_model(place / "model", seed=0)
    rows = list(generate("eval_harmful", 2, seed=3))
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"question": row["prompt"][0]["content"]} for row in generate("eval_benign", 2, seed=3)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    return place


def make_config(place: Path, output: str, attack: AttackConfig = SETTINGS) -> EvaluateRunConfig:
    sets = {
        "harmful": PromptSetConfig(
            path=str(place / "rows.jsonl"), format=PromptFormat.preference, harmful=True, attacks=ATTACKS
        ),
        "benign": PromptSetConfig(
            path=str(place / "prompts.jsonl"), format=PromptFormat.prompts, attacks=["direct", "decoding"]
        ),
    }
    return EvaluateRunConfig(
        model=ModelConfig(name_or_path=str(place / "model")),
        eval=EvaluationConfig(sets=sets, attack=attack, judge=JudgeName.miniature, max_new_tokens=8, batch_size=4),
        output_dir=str(place / output),
    )


def numbers(folder: Path) -> tuple:
    summary = json.loads((folder / "summary.json").read_text())
    return summary["identity"], summary["sets"], (folder / "results.jsonl").read_text()


def test_every_attack_is_part_of_an_evaluation_that_resumes_inside_a_search(place, monkeypatch):
    whole = evaluate(make_config(place, "whole"), Ranks())
    cells = whole.sets["harmful"].attacks
    assert list(cells) == ATTACKS
    assert all(sum(cell.outcomes.values()) == 2 for cell in cells.values())
    assert set(whole.identity.attack) == {"decoding", "gcg", "pair", "autodan", "role_play_file"}
    searches = {file.parent.name for file in (place / "whole" / "attacks").rglob("*.json")}
    assert searches == {"gcg", "pair", "autodan"}

    class Killed(Exception):
        pass

    steps = GCG.steps

    def dying(self, row, target, state):
        for later in steps(self, row, target, state):
            yield later
            if later["step"] == 2:
                raise Killed

    monkeypatch.setattr(GCG, "steps", dying)
    with pytest.raises(Killed):
        evaluate(make_config(place, "killed"), Ranks())
    monkeypatch.setattr(GCG, "steps", steps)
    evaluate(make_config(place, "killed"), Ranks())
    assert numbers(place / "killed") == numbers(place / "whole")


def test_results_of_other_settings_are_refused(place):
    evaluate(make_config(place, "first"), Ranks())
    other = replace(SETTINGS, decoding=DecodingConfig(temperatures=[2.0], top_p=[0.9]))
    with pytest.raises(InputError, match=r"attack\.decoding\.temperatures: \[1\.0\] there, \[2\.0\] here"):
        evaluate(make_config(place, "first", other), Ranks())
