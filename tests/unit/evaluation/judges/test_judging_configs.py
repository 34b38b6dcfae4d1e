"""The configurations of launch/judge.py, gate.py and compare.py, composed as the commands do."""

import pytest

from derta.config.compose import read
from derta.config.evaluation import CompareRunConfig, EvaluateRunConfig, JudgeRunConfig
from derta.config.gate import GateRunConfig
from derta.config.judging import JudgeName

SCHEMAS = {"judge": JudgeRunConfig, "gate": GateRunConfig, "compare": CompareRunConfig, "evaluate": EvaluateRunConfig}


def composed(name, *overrides):
    return read(name, SCHEMAS[name], overrides)[0]


def problems(name, *overrides):
    return read(name, SCHEMAS[name], overrides)[1]


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
