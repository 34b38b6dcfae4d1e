"""Which checkpoints count, which are removed, and that a file is written whole or not at all."""

from pathlib import Path

import pytest

from derta.errors import InputError
from derta.training.resume import (
    choose_checkpoint,
    complete_checkpoints,
    keep_newest,
    mark_complete,
    remove_incomplete,
    remove_later,
)


def checkpoint(run: Path, step: int, world_size: int = 1, complete: bool = True) -> Path:
    path = run / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_text("weights")
    if complete:
        mark_complete(path, step, world_size)
    return path


def choose(resume: str, run: Path, world_size: int = 1) -> Path | None:
    trainer = {"resume": resume, "resume_despite": []}
    return choose_checkpoint(run, {"trainer": trainer, "run": {"world_size": world_size}})


def names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_the_newest_complete_one_is_chosen_by_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not by name."""
    assert choose("auto", tmp_path) is None and choose("auto", tmp_path / "missing") is None
    for step in (9, 10, 100):
        checkpoint(tmp_path, step, complete=step != 100)
    (tmp_path / "checkpoint-best").mkdir()
    assert choose("auto", tmp_path) == tmp_path / "checkpoint-10"
    assert "checkpoint-100 is incomplete (no complete.json) and is not resumed from" in caplog.text
    assert "checkpoint-best" not in caplog.text
    assert choose("never", tmp_path) is None
    assert choose(str(tmp_path / "checkpoint-9"), tmp_path) == tmp_path / "checkpoint-9"


@pytest.mark.parametrize("record", ["", "{", "[]", "3", '{"step": 3}', "\ufffd"])
def test_an_unreadable_record_is_no_record(record: str, tmp_path: Path) -> None:
    (checkpoint(tmp_path, 3) / "complete.json").write_text(record)
    assert complete_checkpoints(tmp_path) == []
    with pytest.raises(InputError, match="not a complete checkpoint"):
        choose(str(tmp_path / "checkpoint-3"), tmp_path)


def test_another_world_size_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, 3, world_size=8)
    with pytest.raises(InputError, match="checkpoint-3 was written by 8 ranks and this run has 2"):
        choose("auto", tmp_path, 2)


def test_only_complete_ones_count_towards_the_limit(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint(tmp_path, step, complete=step not in (4, 8))
    for limit in (1, None):
        keep_newest(tmp_path, limit)
        assert names(tmp_path) == ["checkpoint-4", "checkpoint-6", "checkpoint-8"]
    remove_incomplete(tmp_path)
    assert names(tmp_path) == ["checkpoint-6"]


def test_a_run_that_goes_on_from_a_step_has_no_later_checkpoints(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    remove_later(tmp_path, 4)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
