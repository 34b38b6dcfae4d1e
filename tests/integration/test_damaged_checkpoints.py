"""What is said and done about checkpoints that cannot be trusted: cut, incomplete, of another run, of other ranks."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from training_cases import STEPS, curves, interrupted_copy, same_runs, same_weights

from derta.errors import InputError

Train = Callable[..., Path]


def cut(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def from_another_run(checkpoint: Path) -> None:
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    config["trainer"]["seed"], config["objective"]["name"] = 7, "vanilla"
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    record = json.loads((checkpoint / "complete.json").read_text())
    (checkpoint / "config.yaml").write_text(text)
    record["files"]["config.yaml"] = len(text.encode())
    (checkpoint / "complete.json").write_text(json.dumps(record))


# damage done to the newest checkpoint -> what is said of it
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights truncated": (lambda at: cut(at / "model.safetensors"), "is damaged (model.safetensors has "),
    "optimizer truncated": (lambda at: cut(at / "optimizer.pt"), "is damaged (optimizer.pt has "),
    "optimizer missing": (lambda at: (at / "optimizer.pt").unlink(), "is damaged (optimizer.pt is missing)"),
    "random state missing": (lambda at: (at / "rng_state.pth").unlink(), "is damaged (rng_state.pth is missing)"),
    "marker missing": (lambda at: (at / "complete.json").unlink(), "is incomplete (no complete.json)"),
    "marker truncated": (lambda at: cut(at / "complete.json"), "is incomplete (no complete.json)"),
    "of another run": (from_another_run, "is of another run and is not resumed from (objective.name: vanilla there"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_one_before_is_taken_and_leads_to_the_same_end(damage, whole, train, tmp_path, caplog):
    run = interrupted_copy(whole, tmp_path / "run", 4)
    do, said = DAMAGE[damage]
    do(run / "checkpoint-4")
    shutil.copytree(run / "checkpoint-4", tmp_path / "checkpoint-4")
    with pytest.raises(InputError) as error:  # named outright it is refused
        train(run, *STEPS, f"trainer.resume={tmp_path}/checkpoint-4")
    another = "is a checkpoint of another run:\n  - objective.name: vanilla there, derta now"
    assert (another if damage == "of another run" else said.split(" (")[0]) in str(error.value)
    with caplog.at_level(logging.INFO):
        train(run, *STEPS)
    assert f"checkpoint-4 {said}" in caplog.text
    assert f"goes on from {run}/checkpoint-2" in caplog.text
    assert same_runs(run, whole)
    assert (run / "checkpoint-4" / "complete.json").is_file(), "taken again"


def test_a_missing_optimizer_shard_under_zero(start: Callable[..., object], tmp_path: Path) -> None:
    run, settings = tmp_path / "run", (*STEPS[:2], "distributed=zero2")
    first = start(run, *settings)
    assert first.wait() == 0, first.output
    assert "read with pickle" not in first.output
    final = (run / "model.safetensors").read_bytes()
    for name in ("finished.json", "model.safetensors"):
        (run / name).unlink()
    [shard] = (run / "checkpoint-6").glob("global_step*/*optim_states.pt")
    shard.unlink()
    again = start(run, *settings)
    assert again.wait() == 0, again.output
    assert f"checkpoint-6 is damaged (global_step6/{shard.name} is missing) and is not resumed from" in again.output
    assert "checkpoint-4: DeepSpeed's state is read with pickle, which runs what is in it" in again.output
    assert (run / "model.safetensors").read_bytes() == final

    # Pickles from elsewhere are read only when the user says so.
    elsewhere = [*settings, f"trainer.resume={run}/checkpoint-4"]
    refused = start(tmp_path / "other", *elsewhere)
    assert refused.wait() == 2 and "trainer.resume_despite=[pickles]" in refused.output
    assert not (tmp_path / "other").exists()
    allowed = start(tmp_path / "other", *elsewhere, "trainer.resume_despite=[pickles]")
    assert allowed.wait() == 0, allowed.output
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == final


def test_other_rows_and_another_objective_are_refused_unless_forced(whole, train, tmp_path, rows_file):
    run = interrupted_copy(whole, tmp_path / "run", 4)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(rows_file.read_text().splitlines()[:-2]) + "\n")
    changed = [*STEPS, "objective.rto_weight=0.5", f"data.path={fewer}", "data.format=preference"]
    with pytest.raises(InputError) as error:
        train(run, *changed)
    assert "objective.rto_weight: 1.0 there, 0.5 now (trainer.resume_despite=[objective] goes on" in str(error.value)
    assert "(trainer.resume_despite=[data] goes on all the same)" in str(error.value)
    train(run, *changed, "trainer.resume_despite=[data,objective]")
    history = yaml.safe_load((run / "config.yaml").read_text())["run"]["resumed_despite"]
    assert any(line.startswith("objective.rto_weight: 1.0 there, 0.5 now") for line in history)
    assert [line["step"] for line in curves(run)] == [1, 2, 3, 4, 5, 6] and not same_weights(run, whole)
    run = interrupted_copy(whole, tmp_path / "seed", 4)  # model and seed cannot be forced
    with pytest.raises(InputError, match="trainer.seed: 42 there, 7 now$"):
        train(run, *STEPS, "trainer.seed=7", "trainer.resume_despite=[data,objective,world_size]")


def test_other_package_versions_are_said(whole, train, tmp_path, caplog):
    run = interrupted_copy(whole, tmp_path / "run", 4)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"]["packages"]["trl"] = "1.0.0"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with caplog.at_level(logging.WARNING):
        train(run, *STEPS)
    said = "other package versions than at the start of this run, the last bits may differ: trl 1.0.0 -> "
    assert said in caplog.text
    assert same_weights(run, whole)


def test_another_number_of_ranks_without_deepspeed(start_two, train, tmp_path):
    """Two ranks go on from a checkpoint of one: nothing is random in this run, so only rounding differs."""
    settings = (*STEPS, "trainer.micro_batch_size=4", "trainer.global_batch_size=8")
    base = train(tmp_path / "base", *settings)
    run = interrupted_copy(base, tmp_path / "two", 4)
    refused = start_two(run, *settings)
    assert refused.wait()[0] == 2
    assert "checkpoint-4 was written by 1 ranks and this run has 2" in refused.ranks[0].output
    assert "trainer.resume_despite=[world_size] goes on" in refused.ranks[0].output
    forced = start_two(run, *settings, "trainer.resume_despite=[world_size]")
    assert forced.wait() == [0, 0], forced.output
    ours, theirs = curves(run), curves(base)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-4)
