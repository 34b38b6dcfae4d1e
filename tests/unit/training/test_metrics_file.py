"""metrics.jsonl: a line per log, whole after an interruption."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from derta.training.metrics import MetricsFile


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """write(step, **numbers): what a trainer's log does."""
    callback = MetricsFile(tmp_path)

    def log(step: int, rank: int = 0, **numbers: Any) -> None:
        state = TrainerState(global_step=step, is_world_process_zero=rank == 0)
        callback.on_log(None, state, TrainerControl(), logs=numbers)  # type: ignore[arg-type]

    return log


def resume(path: Path, step: int, rank: int = 0) -> None:
    state = TrainerState(global_step=step, is_world_process_zero=rank == 0)
    MetricsFile(path).on_train_begin(None, state, TrainerControl())  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_line_is_one_json_object_with_the_step(write: Any, tmp_path: Path) -> None:
    write(1, loss=1.5, epoch=0.5, name="no number")
    write(2, loss=math.nan, grad_norm=math.inf)
    assert lines(tmp_path) == [
        {"step": 1, "loss": 1.5, "epoch": 0.5},
        {"step": 2, "loss": "nan", "grad_norm": "inf"},  # JSON has neither; they are not hidden
    ]


def test_only_the_main_rank_writes(write: Any, tmp_path: Path) -> None:
    write(1, rank=1, loss=1.0)
    assert not (tmp_path / "metrics.jsonl").exists()
    write(1, loss=1.0)
    resume(tmp_path, 0, rank=1)
    assert len(lines(tmp_path)) == 1


def test_a_resumed_run_drops_what_it_is_about_to_write_again(write: Any, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(step, loss=1.0)
    write(3, train_runtime=9.0)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo\xff')
    resume(tmp_path, 3)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3], "neither the summary nor the half line"
    resume(tmp_path, 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    resume(tmp_path, 0)
    assert lines(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("line", ["", "[]", "3", "null", '{"loss": 1}', '{"step": null}', "text"])
def test_lines_that_are_no_logs_are_dropped(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n')
    resume(tmp_path, 5)
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]


def test_a_line_is_written_at_every_checkpoint(tmp_path: Path) -> None:
    for should_save in (True, False):
        control = TrainerControl(should_save=should_save)
        MetricsFile(tmp_path).on_step_end(None, TrainerState(), control)  # type: ignore[arg-type]
        assert control.should_log == should_save
