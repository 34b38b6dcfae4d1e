"""`~` in paths: from the command line, which Hydra would not read, and in values from anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from derta.config import DataConfig, ModelConfig, PeftConfig, ProbeConfig, TrainRunConfig
from derta.config.paths import expand_home, home_in_argument

HOME = "/HOME"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", HOME)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("output_dir=~/runs/a b", "output_dir=/HOME/runs/a b"),
        ("data.path=~", "data.path=/HOME"),
        ("runs=[~/a,~/b,~]", "runs=[/HOME/a,/HOME/b,/HOME]"),
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
        probe=ProbeConfig(path="~"),
        output_dir="~/run",
    )
    config.distributed.deepspeed = {"zero_optimization": {"offload": {"nvme_path": "~/nvme"}}, "stage": 3}
    config.objective.refusal_text = "Sorry ~/x"
    changed: Any = expand_home(config)
    assert changed is config
    paths = (config.model.name_or_path, config.model.chat_template, config.data.path, config.probe.path)
    assert paths == (f"{HOME}/base", f"{HOME}/template.jinja", f"{HOME}/data", HOME)
    assert (config.output_dir, config.peft.target_modules) == (f"{HOME}/run", [f"{HOME}/a", "b~/c"])
    zero = {"offload": {"nvme_path": f"{HOME}/nvme"}}
    assert config.distributed.deepspeed == {"zero_optimization": zero, "stage": 3}
    assert config.objective.refusal_text == "Sorry ~/x" and config.model.revision is None
