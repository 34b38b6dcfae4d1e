"""Whose directory it is: config.yaml, differences between runs, directories that are made and unmade."""

from contextlib import AbstractContextManager
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from derta.config import Arm, DataConfig, ModelConfig, ObjectiveConfig, TrainRunConfig
from derta.errors import InputError
from derta.storage.versions import package_versions
from derta.training.resume import Decision, begun, check_resumed_run, check_same_run, describe_run, write_config


def describe(sha256: str = "aa", world_size: int = 1, **changes: Any) -> dict[str, Any]:
    config = TrainRunConfig(model=ModelConfig(name_or_path="base"), data=DataConfig(path="data"), output_dir="run")
    for key, value in changes.items():
        *groups, name = key.split("__")
        setattr(reduce(getattr, groups, config), name, value)
    return describe_run(config, world_size, data_sha256=sha256)


def beginning(place: Path) -> AbstractContextManager[None]:
    return begun(place, Decision(False, None, describe(), writes_config=False))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    write_config(tmp_path / "run", describe())
    return tmp_path / "run"


def test_config_yaml_is_plain_yaml(run: Path) -> None:
    content = yaml.safe_load((run / "config.yaml").read_text())
    assert content["objective"]["name"] == "derta" and content["run"]["data_sha256"] == "aa"
    assert content == describe()
    assert all(version[0].isdigit() for version in package_versions().values())
    described = describe(objective__rto_dropout=0.5)
    assert set(described["objective"]) == set(ObjectiveConfig.__dataclass_fields__)
    assert described["objective"]["rto_dropout"] == 0.5


def test_a_new_an_empty_and_an_own_directory(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not check_same_run(tmp_path / "new", describe())
    assert not check_same_run(tmp_path / "empty", describe())
    assert check_same_run(run, describe())


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer__logging_steps": 1}, {"trainer__save_steps": 5}, {"trainer__save_total_limit": None},
        {"trainer__resume": "never"}, {"trainer__num_workers": 2}, {"data__num_proc": 2}, {"data__path": "moved"},
        {"logging__run_name": "other"}, {"distributed__timeout_minutes": 5.0}, {"world_size": 4},
    ],
)  # fmt: skip
def test_what_may_change_within_a_run(changes: dict[str, Any], run: Path) -> None:
    assert check_same_run(run, describe(**changes))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trainer__seed": 7}, "trainer.seed: 42 there, 7 now"),
        ({"trainer__epochs": 3.0}, "trainer.epochs: 2.0 there, 3.0 now"),
        ({"objective__name": Arm.rto}, "objective.name: derta there, rto now"),
        ({"objective__refusal_token_ids": [5]}, "objective.refusal_token_ids: None there, [5] now"),
        ({"data__max_length": 64}, "data.max_length: 1024 there, 64 now"),
        ({"sha256": "bb"}, "run.data_sha256: aa there, bb now"),
        ({"distributed__deepspeed": {"zero_optimization": {"stage": 2}}}, "distributed.deepspeed"),
    ],
)
def test_what_makes_it_another_run(changes: dict[str, Any], line: str, run: Path) -> None:
    with pytest.raises(InputError) as error:
        check_same_run(run, describe(**changes))
    assert f"output_dir={run} holds another run" in str(error.value) and f"  - {line}" in str(error.value)


def test_a_checkpoint_elsewhere_must_be_of_the_same_run(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoint-3"
    check_resumed_run(checkpoint, tmp_path / "new", describe())
    check_resumed_run(checkpoint, run, describe(trainer__seed=7))  # in its own directory: check_same_run's task
    with pytest.raises(InputError, match="is a checkpoint of another run:\n  - trainer.seed: 42 there, 7 now"):
        check_resumed_run(checkpoint, tmp_path / "new", describe(trainer__seed=7))


@pytest.mark.parametrize(
    ("file", "engine"), [("global_step3/states.pt", "DeepSpeed"), ("optimizer_0/.metadata", "FSDP2")]
)
def test_pickles_from_elsewhere_are_read_only_when_asked(
    file: str, engine: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = run / "checkpoint-3"
    (checkpoint / file).parent.mkdir(parents=True)
    (checkpoint / file).touch()
    with pytest.raises(InputError, match=f"holds {engine}'s state, which is pickled.*resume_despite=.pickles."):
        check_resumed_run(checkpoint, tmp_path / "new", describe())
    check_resumed_run(checkpoint, run, describe())
    check_resumed_run(checkpoint, tmp_path / "new", describe(trainer__resume_despite=["pickles"]))
    assert caplog.text.count(f"checkpoint-3: {engine}'s state is read with pickle") == 2


def test_directories_are_made_for_good_only_if_something_is_written(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "run"
    with pytest.raises(RuntimeError), beginning(deep):
        raise RuntimeError("a mistake found later")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), beginning(deep):
        (deep / "file").write_text("something of value")
        raise RuntimeError
    assert (deep / "file").is_file()
    with beginning(deep):
        pass
    assert [path.name for path in deep.iterdir()] == ["file"]
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(RuntimeError), beginning(mine / "run"):
        raise RuntimeError
    assert list(mine.iterdir()) == [], "a directory that was there stays"


def test_a_run_from_before_a_setting_existed(run: Path) -> None:
    """It went as the setting's default goes now."""
    older = describe()
    del older["objective"]["transition_copies"]
    write_config(run, older)
    assert check_same_run(run, describe())
    with pytest.raises(InputError, match="objective.transition_copies: 0 there, 2 now"):
        check_same_run(run, describe(objective__transition_copies=2))
    del older["objective"]["ablation"]
    write_config(run, older)
    assert check_same_run(run, describe())
    with pytest.raises(InputError, match="objective.ablation.probability: 0.0 there, 0.5 now"):
        check_same_run(run, describe(objective__ablation__probability=0.5))
