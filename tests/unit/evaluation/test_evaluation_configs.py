"""Every shipped evaluation is composed and checked as launch/evaluate.py would."""

import pytest

from derta.config.compose import read
from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, JudgeName, PromptSetConfig
from derta.config.shipped import CONF_DIR
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.judges.judge import build_judge

NAMES = sorted(file.stem for file in (CONF_DIR / "eval").glob("*.yaml"))


def compose_evaluation(*overrides: str) -> EvaluateRunConfig:
    return read("evaluate", EvaluateRunConfig, overrides)[0]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_evaluations_are_whole(name):
    config = compose_evaluation(f"eval={name}", "eval.path=rows.jsonl")
    assert config.problems() == []
    assert config.eval.name == name
    assert {prompts.harmful for prompts in config.eval.sets.values()} == {True, False}
    for prompts in config.eval.sets.values():
        assert [build_attack(attack).name for attack in prompts.attacks] == list(prompts.attacks)
    assert build_judge(config.eval.judge).name == config.eval.judge.value


def test_quick_miniature_differs_in_the_number_of_prompts_only():
    whole, quick = compose_evaluation("eval=miniature").eval, compose_evaluation("eval=miniature_quick").eval
    for prompts in quick.sets.values():
        assert prompts.count == 60
        prompts.count = None
    quick.name = whole.name
    assert quick == whole


def test_own_prompts_need_a_path():
    [problem] = compose_evaluation("eval=custom").problems()
    assert problem.startswith("eval.sets.harmful.path and eval.sets.benign.path: no prompt set has rows")
    config = compose_evaluation("eval=custom", "eval.sets.harmful.path=rows.jsonl")
    assert config.problems() == [] and list(config.eval.used_sets) == ["harmful"]


def test_every_contradiction_is_named():
    sets = {"a": PromptSetConfig(path="x", attacks=["direct", "direct"]), "b": PromptSetConfig(path="x", count=0)}
    config = EvaluationConfig(sets=sets, judge=JudgeName.miniature, batch_size=0, max_new_tokens=0, refusal_text=" ")
    found = " ".join(config.problems("eval"))
    for key in ("eval.sets.a.attacks", "eval.sets.b.count=0", "eval.batch_size=0", "max_new_tokens=0", "refusal_text"):
        assert key in found
    assert "eval.sets is empty" in " ".join(EvaluationConfig().problems("eval"))
