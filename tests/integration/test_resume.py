"""Interrupted runs: killed at any moment, started again with the same command, the same weights at the end."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_cases import (
    STEPS,
    contents,
    curves,
    interrupted_copy,
    logged,
    metrics,
    same_runs,
    same_weights,
    wait_until,
)

from derta.errors import InputError


def test_kill_9_and_the_same_command_again(start: Callable[..., Any], tmp_path: Path) -> None:
    steps = ("trainer.max_steps=14", "trainer.save_steps=3", "trainer.logging_steps=2")
    overrides = (*steps, "objective.rto_dropout=0.3", "logging.wandb_mode=offline")
    uninterrupted = start(tmp_path / "uninterrupted", *overrides)
    assert uninterrupted.wait() == 0, uninterrupted.output
    run = tmp_path / "killed"
    for checkpoint, lines in (("checkpoint-3", 3), ("checkpoint-9", 7)):  # the line behind the checkpoint included
        launch = start(run, *overrides)
        wait_until((run / checkpoint / "complete.json").exists, log=launch.log)
        wait_until(logged(run, lines), log=launch.log)
        os.kill(launch.pid, signal.SIGKILL)
        assert launch.wait() == -signal.SIGKILL
        assert not (run / "model.safetensors").exists()
    last = start(run, *overrides)
    assert last.wait() == 0, last.output
    assert same_runs(run, tmp_path / "uninterrupted")
    steps = [line["step"] for line in metrics(run)]
    assert steps == [2, 3, 4, 6, 8, 9, 10, 12, 14, 14], "every window once, a line at every checkpoint, one summary"
    # One W&B run over the three processes.
    run_id = json.loads((run / "wandb_run.json").read_text())["id"]
    parts = sorted(path.name for path in (run / "wandb").glob("offline-run-*"))
    assert len(parts) == 3 and all(name.endswith(run_id) for name in parts)
    again = start(run, *overrides)
    assert again.wait() == 0
    assert "is finished already; nothing to do" in again.output
    assert sorted(path.name for path in (run / "wandb").glob("offline-run-*")) == parts


@pytest.mark.parametrize("last_step", [2, 4])
def test_every_checkpoint_leads_to_the_same_end(last_step, whole, train, tmp_path):
    """A line of metrics that was half written is replaced."""
    run = interrupted_copy(whole, tmp_path / "run", last_step)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "loss": 1.\xff')
    train(run, *STEPS)
    assert same_runs(run, whole)


def test_killed_between_the_last_checkpoint_and_the_final_model(whole, train, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)  # metrics.jsonl with its summary
    for name in ("finished.json", "model.safetensors", "README.md"):
        (run / name).unlink()
    partial = run / ".final.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half of it")
    train(run, *STEPS)
    assert same_runs(run, whole) and not partial.exists()
    assert len(metrics(run)) == 7, "six steps and one summary"


def test_a_finished_run_started_again_does_nothing(whole: Path, train: Callable[..., Path]) -> None:
    before = contents(whole)
    train(whole, *STEPS)
    assert contents(whole) == before


def test_killed_before_config_yaml_was_complete(whole: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml.partial").write_text("model:\n  name")
    assert same_weights(train(run, *STEPS), whole)


def test_only_the_newest_complete_checkpoints_are_kept(train: Callable[..., Path], tmp_path: Path, whole: Path) -> None:
    run = interrupted_copy(whole, tmp_path / "run", 4)
    (run / "checkpoint-4" / "complete.json").unlink()
    train(run, *STEPS[:2], "trainer.save_total_limit=1", STEPS[3])
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-6"]


def test_starting_anew_replaces_what_was_there(whole: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    """resume=never with later checkpoints of the first attempt about, and a limit on their number."""
    run = interrupted_copy(whole, tmp_path / "run", 4)
    train(run, *STEPS[:2], "trainer.save_total_limit=2", STEPS[3], "trainer.resume=never")
    assert same_runs(run, whole)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]


def test_settings_that_change_nothing_may_change(whole: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    run = interrupted_copy(whole, tmp_path / "run", 2)
    train(run, STEPS[0], STEPS[3], "trainer.save_steps=0", "trainer.logging_steps=3", "trainer.num_workers=1")
    assert same_weights(run, whole)
    assert [line["step"] for line in curves(run)] == [1, 2, 3, 6]
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_given_by_name(whole: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(tmp_path / "run", *STEPS, f"trainer.resume={whole}/checkpoint-4")
    assert same_weights(run, whole)
    assert [line["step"] for line in curves(run)] == [5, 6]
    with pytest.raises(InputError, match="is a checkpoint of another run:\n  - trainer.seed: 42 there, 7 now"):
        train(tmp_path / "other", *STEPS, f"trainer.resume={whole}/checkpoint-4", "trainer.seed=7")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["objective=dpo"], id="dpo"),
        pytest.param(["peft=lora", "peft.r=4", "peft.dropout=0.2", "optim.learning_rate=1e-2"], id="lora with dropout"),
        # 72 rows: epochs of 5 steps (the last batch is filled up), of which 4 end an epoch's half and 5 its end
        pytest.param(["trainer.global_batch_size=16", "trainer.micro_batch_size=8"], id="into the second epoch"),
        pytest.param(["trainer.global_batch_size=36", "trainer.micro_batch_size=9"], id="at the end of an epoch"),
    ],
)
def test_other_trainings_resume_as_exactly(settings: list[str], resumed: Callable[..., Path]) -> None:
    resumed(*STEPS, *settings)


def test_a_run_that_goes_on_on_another_day(train, model_dir, tmp_path, monkeypatch):
    """With a template that writes today's date: prompts and weights stay those of the first day."""
    from datetime import date

    from derta.models import run_date

    template = (model_dir / "chat_template.jinja").read_text()
    dated = tmp_path / "dated.jinja"
    dated.write_text(template.replace("{{ bos_token }}", "{{ bos_token + strftime_now('%d %b %Y') }}"))
    assert dated.read_text() != template
    settings = (*STEPS, f"model.chat_template={dated}")
    whole = train(tmp_path / "whole", *settings)
    part = interrupted_copy(whole, tmp_path / "part", 2)

    class Tomorrow(date):
        @classmethod
        def today(cls) -> date:
            return date.fromordinal(date.today().toordinal() + 1)

    monkeypatch.setattr(run_date, "date", Tomorrow)
    train(part, *settings)
    assert same_runs(part, whole)
    stored = json.loads((part / "derta_config.json").read_text())
    assert stored["template_date"] == date.today().isoformat()
    with pytest.raises(InputError, match="model.template_date: .* there, 2020-01-01 now"):
        train(part, *settings, "model.template_date=2020-01-01")
    other = train(tmp_path / "other", *settings)
    assert not same_weights(whole, other), "else the date stands in no prompt"
