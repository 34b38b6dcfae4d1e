"""Configurations of launch/evaluate.py (every shipped one), judge.py, gate.py and compare.py, read as commands do."""

import pytest

from derta.config.compose import read
from derta.config.evaluation import (
    CompareRunConfig,
    EvaluateRunConfig,
    EvaluationConfig,
    JudgeName,
    JudgeRunConfig,
    LmEvalConfig,
    PromptSetConfig,
)
from derta.config.gate import GateRunConfig
from derta.config.shipped import CONF_DIR
from derta.evaluation.attacks.build import build_attack
from derta.evaluation.judges.judge import build_judge

NAMES = sorted(file.stem for file in (CONF_DIR / "eval").glob("*.yaml"))


SCHEMAS = {"judge": JudgeRunConfig, "gate": GateRunConfig, "compare": CompareRunConfig, "evaluate": EvaluateRunConfig}


def composed(name, *overrides):
    return read(name, SCHEMAS[name], overrides)[0]


def problems(name, *overrides):
    return read(name, SCHEMAS[name], overrides)[1]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_evaluations_are_whole(name):
    config = composed("evaluate", f"eval={name}", "eval.path=rows.jsonl")
    assert config.problems() == []
    assert config.eval.name == name
    assert {prompts.harmful for prompts in config.eval.sets.values()} == {True, False}
    for prompts in config.eval.sets.values():
        assert [build_attack(attack).name for attack in prompts.attacks] == list(prompts.attacks)
    assert build_judge(config.eval.judge).name == config.eval.judge.value


def test_quick_miniature_differs_in_the_number_of_prompts_only():
    whole, quick = composed("evaluate", "eval=miniature").eval, composed("evaluate", "eval=miniature_quick").eval
    for prompts in quick.sets.values():
        assert prompts.count == 60
        prompts.count = None
    quick.name = whole.name
    assert quick == whole


def test_own_prompts_need_a_path():
    [problem] = composed("evaluate", "eval=custom").problems()
    assert problem.startswith("eval.sets.harmful.path and eval.sets.benign.path: no prompt set has rows")
    config = composed("evaluate", "eval=custom", "eval.sets.harmful.path=rows.jsonl")
    assert config.problems() == [] and list(config.eval.used_sets) == ["harmful"]


def test_every_contradiction_is_named():
    sets = {"a": PromptSetConfig(path="x", attacks=["direct", "direct"]), "b": PromptSetConfig(path="x", count=0)}
    config = EvaluationConfig(
        sets=sets, judge=JudgeName.miniature, batch_size=0, max_new_tokens=0, refusal_text=" ",
        lm_eval=LmEvalConfig(tasks=["mmlu", "mmlu"], limit=0, batch_size=0),
    )  # fmt: skip
    found = " ".join(config.problems("eval"))
    keys = ["sets.a.attacks", "sets.b.count=0", "batch_size=0", "max_new_tokens=0", "refusal_text"]
    keys += ["lm_eval.tasks=[mmlu,mmlu]: name each task once", "lm_eval.limit=0", "lm_eval.batch_size=0"]
    assert [key for key in keys if f"eval.{key}" not in found] == []
    assert "eval.sets is empty" in " ".join(EvaluationConfig().problems("eval"))


def test_without_words_everything_is_at_its_default():
    for name in ("judge", "gate", "compare"):
        assert composed(name) == SCHEMAS[name]()


@pytest.mark.parametrize(("name", "keys"), [("judge", ["responses"]), ("compare", ["before", "after"])])
def test_what_has_to_be_given_is_named(name, keys):
    assert [problem.split()[0] for problem in problems(name)] == keys


def test_gate_needs_a_summary_and_a_bound():
    assert len(problems("gate")) == 2
    assert problems("gate", "summary=x", "over_refusal_max=0.1") == []


def test_judges_and_bounds_of_an_evaluation_come_from_the_command_line():
    config = composed(
        "evaluate", "eval.judge=rubric", "eval.judging.endpoint.url=http://localhost:8000/v1",
        "eval.judging.endpoint.model=judge", "eval.gate.attack_success_max=0.05",
    )  # fmt: skip
    assert config.problems() == [] and config.eval.judge is JudgeName.rubric and config.eval.gate.active
    found = problems("evaluate", "eval.judge=harmbench", "eval.gate.helpfulness_drop_max=3")
    assert [problem.split("=")[0].split(" ")[0] for problem in found] == [
        "eval.gate.helpfulness_drop_max", "eval.judging.model.name_or_path"
    ]  # fmt: skip
    assert problems("evaluate", "eval.gate.helpfulness_drop_max=0.3")[0].startswith("eval.gate.baseline is empty")
