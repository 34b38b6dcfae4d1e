"""`~` in paths: from the command line, which Hydra would not read, and in values from anywhere."""

from functools import reduce
from typing import Any, get_args

import pytest

from derta.config import DataConfig, ModelConfig, PeftConfig, ProbeConfig, TrainRunConfig
from derta.config.compose import read
from derta.config.paths import expand_home, home_in_argument
from derta.config.settings import keys

HOME = "/HOME"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", HOME)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("output_dir=~/runs/a b", "output_dir=/HOME/runs/a b"),
        ("objective.reset_token=~", "objective.reset_token=null"),
        ("objective.reset_token='~'", "objective.reset_token='~'"),
        ("runs=[~/a,~/b,~/]", "runs=[/HOME/a,/HOME/b,/HOME/]"),
        ("objective.ablation.layers=[~,1]", "objective.ablation.layers=[null,1]"),
        ("data.path=runs/~/a~", "data.path=runs/~/a~"),
        ("~model.revision", "~model.revision"),
        ("~trainer", "~trainer"),
        ("output_dir=~other/x", "output_dir=~other/x"),
    ],
)
def test_on_the_command_line(argument: str, expected: str) -> None:
    assert home_in_argument(argument) == expected


def test_every_text_of_a_configuration() -> None:
    config = TrainRunConfig(
        model=ModelConfig(name_or_path="~/base", chat_template="~/template.jinja"),
        data=DataConfig(path="~/data"),
        peft=PeftConfig(target_modules=["~/a", "b~/c"]),
        probe=ProbeConfig(path="~/"),
        output_dir="~/run",
    )
    config.distributed.deepspeed = {"zero_optimization": {"offload": {"nvme_path": "~/nvme"}}, "stage": 3}
    config.objective.refusal_text, config.objective.reset_token = "Sorry ~/x", "~"
    changed: Any = expand_home(config)
    assert changed is config
    paths = (config.model.name_or_path, config.model.chat_template, config.data.path, config.probe.path)
    assert paths == (f"{HOME}/base", f"{HOME}/template.jinja", f"{HOME}/data", f"{HOME}/")
    assert (config.output_dir, config.peft.target_modules) == (f"{HOME}/run", [f"{HOME}/a", "b~/c"])
    zero = {"offload": {"nvme_path": f"{HOME}/nvme"}}
    assert config.distributed.deepspeed == {"zero_optimization": zero, "stage": 3}
    assert (config.objective.refusal_text, config.objective.reset_token) == ("Sorry ~/x", "~")
    assert config.model.revision is None


def test_null_is_what_a_key_that_may_be_null_gets() -> None:
    """Every one of them, as YAML has it: `~` is no text there, and no home directory."""
    nullable = [path for path, annotation in keys(TrainRunConfig) if type(None) in get_args(annotation)]
    config, problems = read("train", TrainRunConfig, [f"{'.'.join(path)}=~" for path in nullable])
    assert ("objective", "reset_token") in nullable
    assert not [problem for problem in problems if "null is not allowed" in problem or HOME in problem]
    assert {reduce(getattr, path, config) for path in nullable} == {None}
