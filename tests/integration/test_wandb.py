"""The W&B run of a training run, read back with wandb's own reader: all curves, one run, and no text of the data."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from training_cases import ENVIRONMENT, contents, logged, metrics, partial, says_text, step_of, wait_until

from derta.errors import Preempted
from derta.evaluation.summary import read_summary
from derta.release.curves import log_evaluation
from derta.training.wandb_run import STEP, read_offline

ONLY_IN_SUMMARY = {"train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"}


def inspect(path: Path, *flags: str) -> str:
    """`wandb leet inspect`, which prints the records of a .wandb file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *flags, str(path)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=120).stdout


def rows(run_file: Path) -> list[dict[str, float]]:
    """What was logged, in order; the file of a killed process ends somewhere."""
    found = [json.loads(line) for line in inspect(run_file).splitlines()]
    return [record["history"]["item"] for record in found if record["type"] == "history"]


def by_step(rows: Iterable[dict[str, float]]) -> dict[int, dict[str, float]]:
    """step -> the curves that were logged at it."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(int(row[STEP]), {}).update(row)
    return found


def run_files(run: Path) -> list[Path]:
    return sorted(run.glob("wandb/offline-run-*/*.wandb"))


def test_curves_configuration_and_no_text(start_two: Callable[..., Any], data_dir: Path, tmp_path: Path) -> None:
    """Two ranks without an account: one run of rank 0 with every curve of metrics.jsonl and the content of config.yaml;
    text of the rows is in no file of the run, the W&B directory and the model included, and in nothing it printed."""
    run, overrides = tmp_path / "run", ("logging.wandb_mode=auto", "trainer.micro_batch_size=2", "trainer.save_steps=2")
    launch = start_two(run, *overrides, HOME=str(tmp_path))
    assert launch.wait() == [0, 0], launch.output
    run_id = json.loads((run / "wandb_run.json").read_text())["id"]
    [run_file] = run_files(run)
    assert run_file.name == f"run-{run_id}.wandb"
    logged, lines = by_step(rows(run_file)), metrics(run)
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    for line in lines[:-1]:
        expected = {f"train/{key}": value for key, value in line.items() if key != "step"}
        assert {"train/loss", "train/mle_tokens", "train/rto_tokens", "train/tokens_per_second"} <= expected.keys()
        ours = {key: value for key, value in logged[line["step"]].items() if key in expected}
        assert ours == pytest.approx(expected), line["step"]
    found = json.loads(inspect(run_file, "--summary"))
    assert ONLY_IN_SUMMARY <= lines[-1].keys()
    for key in ONLY_IN_SUMMARY:
        assert found["summary"][key] == pytest.approx(lines[-1][key])

    config, manifest = found["config"], json.loads((data_dir / "manifest.json").read_text())
    assert config["run"]["data_sha256"] == manifest["outputs"]["train.parquet"]["sha256"]
    assert config["run"]["world_size"] == 2 and config["run"]["packages"]["trl"]
    assert config["trainer"]["global_batch_size"] == 4 and config["data"]["max_length"] == 200
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert {key for key in config if not key.startswith("_")} == set(written), "nothing beside it that says otherwise"

    assert set(says_text((data_dir / "train.parquet").read_bytes())), "the search finds such words where they are"
    files = contents(run)
    assert any(name.startswith("wandb/") for name in files) and "checkpoint-2/trainer_state.json" in files
    assert {name: words for name, data in files.items() if (words := says_text(data))} == {}
    assert says_text(inspect(run_file)) == []  # the file itself may be compressed
    assert says_text(launch.output) == []


def test_tags_and_group(train: Callable[..., Path], tmp_path: Path) -> None:
    wanted = ("logging.tags=[trial,derta]", "sweep.root=runs/first_sweep", "peft=lora")
    run = train(tmp_path / "run", "logging.wandb_mode=offline", "trainer.max_steps=1", *wanted)
    [run_file] = run_files(run)
    [record] = [json.loads(line) for line in inspect(run_file).splitlines() if '"run"' in line and '"tags"' in line][:1]
    assert sorted(record["run"]["tags"]) == ["derta", "lora", "tiny", "trial"]
    assert record["run"].get("run_group", record["run"].get("runGroup")) == "first_sweep"


def kill_with_wandb(pid: int) -> None:
    """The rank and W&B's own process: a machine that is lost takes both."""
    everyone = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert any("wandb" in process.name() for process in everyone)
    for process in everyone:
        process.suspend()
    for process in everyone:
        process.kill()


def test_an_evaluation_stands_in_the_run_of_its_model(train, tmp_path, monkeypatch):
    run = train(tmp_path / "run", "logging.wandb_mode=offline")
    summary = read_summary(Path(__file__).parents[1] / "unit" / "evaluation" / "old_summary.json")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not log_evaluation(str(run), summary), "without a key nobody asked for it"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not log_evaluation(str(tmp_path), summary), "no run of derta's"
    assert log_evaluation(str(run), summary)
    run_id = json.loads((run / "wandb_run.json").read_text())["id"]
    assert {path.name for path in run_files(run)} == {f"run-{run_id}.wandb"}, "the same run"
    [logged] = [found for file in run_files(run) if "evaluation/" in (found := inspect(file, "--summary"))]
    name, found = next(iter(summary.sets.items()))
    attack, cell = next(iter(found.attacks.items()))
    assert json.dumps(cell.complied.rate)[:8] in logged and f"{summary.label}/{name}/{attack}/complied" in logged


def test_three_interruptions_and_one_run(start: Callable[..., Any], tmp_path: Path) -> None:
    """SIGKILL between checkpoints, SIGTERM, SIGKILL in the middle of saving: one id, and every step once."""
    run = tmp_path / "run"
    overrides = ("trainer.max_steps=64", "trainer.save_steps=20", "logging.wandb_mode=offline")

    def until(come: Callable[[], object]) -> Any:
        launch = start(run, *overrides)
        wait_until(come, log=launch.log)
        return launch

    first = until(logged(run, 48))
    kill_with_wandb(first.pid)
    first.wait()
    on_disk = max(row[STEP] for row in rows(run_files(run)[0]))  # W&B writes blocks of 32 KiB
    assert 20 < on_disk < 48, "beyond the checkpoint that the next part starts from, and not all that was logged"
    second = until(logged(run, 50))
    os.kill(second.pid, signal.SIGTERM)
    assert second.wait() == Preempted.exit_code
    third = until(lambda: any(step_of(path) >= 60 for path in partial(run)))
    kill_with_wandb(third.pid)
    third.wait()
    assert not (run / "checkpoint-60" / "complete.json").exists() and not (run / "finished.json").exists()
    last = start(run, *overrides)
    assert last.wait() == 0, last.output

    run_id = json.loads((run / "wandb_run.json").read_text())["id"]
    assert [path.name for path in run_files(run)] == [f"run-{run_id}.wandb"] * 4
    parts = [rows(path) for path in run_files(run)]
    together = [row for part in parts for row in part]
    counts = [row["_step"] for row in together]
    assert counts == sorted(set(counts)), "W&B's own count goes on, so that no row takes another's place"
    curves = [(row[STEP], name) for row in together for name in row if name.startswith(("train/", "eval/"))]
    doubles = {point: times for point, times in Counter(curves).items() if times > 1 and point[1] != STEP}
    assert not doubles
    lines = metrics(run)[:-1]
    assert [line["step"] for line in lines] == list(range(1, 65))
    joined = by_step(together)
    assert list(joined) == list(range(1, 65)), "in order"
    for line in lines:
        assert {f"train/{name}" for name in line if name != "step"} <= joined[line["step"]].keys()
        assert joined[line["step"]]["train/loss"] == pytest.approx(line["loss"])
    assert says_text("".join(launch.output for launch in (first, second, third, last))) == []


def test_a_run_begun_anew_has_a_curve_of_its_own(train: Callable[..., Path], tmp_path: Path) -> None:
    overrides = ("trainer.save_steps=2", "logging.wandb_mode=offline")
    run = train(tmp_path / "run", *overrides)
    (run / "finished.json").unlink()
    before = run_files(run)
    train(run, *overrides, "trainer.resume=never")
    [after] = set(run_files(run)) - set(before)
    assert [path.name for path in before] != [after.name]
    assert [row[STEP] for row in rows(after)] == [1, 2, 3]


def test_points_that_w_and_b_has_lost_are_logged_again(tmp_path: Path) -> None:
    """A file that is cut in the middle of a row, as a lost machine leaves it."""
    script = (
        "import wandb, sys; run = wandb.init(project='p', id='abc', mode='offline', dir=sys.argv[1])\n"
        "for step in range(1, 6): run.log({'train/loss': 1 / step, 'train/global_step': step})\nrun.finish()"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=ENVIRONMENT, check=True, capture_output=True)
    [whole] = tmp_path.glob("wandb/offline-run-2*/run-abc.wandb")
    assert (found := read_offline(tmp_path, "abc")).names == {step: {"train/loss"} for step in range(1, 6)}
    assert found.rows == 5
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"train/loss", int(len(data) * 0.6)) - 20])
    found, step = (cut := read_offline(tmp_path, "abc")), len(cut.names)
    assert 0 < step < 5 and sorted(found.names) == list(range(1, step + 1)) and found.rows == step
    assert found.take_missing(step, {"train/loss": 1.0, "train/mle_loss": 2.0}) == {"train/mle_loss": 2.0}
    assert found.take_missing(step + 1, {"train/loss": 1.0}) == {"train/loss": 1.0}
    assert found.take_missing(step + 1, {"train/loss": 1.0}) == {}


def test_sample_texts_are_sent_only_when_asked_for(train: Callable[..., Path], tmp_path: Path) -> None:
    run = train(tmp_path / "asked", "logging.wandb_mode=offline", "logging.sample_texts=true", "trainer.max_steps=1")
    with_text = [name for name, data in contents(run).items() if says_text(data)]
    assert with_text and all(name.startswith("wandb/") for name in with_text)
