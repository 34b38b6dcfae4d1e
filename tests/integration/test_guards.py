"""Steps that must not be taken, with two real ranks, whatever shards the model."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from training_cases import ELSEWHERE, metrics, says_text

ENGINES = ["none", "zero2", "zero3"]
# Two micro-batches a rank and step: the fault befalls both of one rank's.
COMMON = ("trainer.micro_batch_size=1", "trainer.max_steps=4", "trainer.save_steps=2", "optim.scheduler=constant")


@pytest.mark.parametrize(
    "settings",
    [
        *(pytest.param((f"distributed={engine}",), id=engine) for engine in ENGINES),
        *(pytest.param(words, id=name, marks=() if "ZeRO-1" in name else pytest.mark.slow)
          for name, words in ELSEWHERE.items()),
    ],
)  # fmt: skip
def test_a_loss_that_is_not_finite_on_one_rank(settings, start_two, tmp_path, data_dir):
    run = tmp_path / "run"
    launch = start_two(run, *COMMON, *settings, fault={"kind": "nan", "rank": 1, "step": 4})
    began = time.monotonic()
    assert launch.wait() == [65, 65], launch.output
    assert time.monotonic() - began < 30
    said = launch.ranks[0].output
    assert "step 4 was stopped before its update: the loss is not finite" in said
    assert "  - rank 1, micro-batch 0: loss nan, rows " in said and "rank 0, micro-batch" not in said
    assert "the last good checkpoint is checkpoint-2" in said
    [row] = said.split("micro-batch 0: loss nan, rows ")[1].splitlines()[0].split(", ")
    assert row in set(pyarrow.parquet.read_table(data_dir / "train.parquet")["id"].to_pylist())
    assert [line["step"] for line in metrics(run)] == [1, 2, 3], "no step 4"
    assert (run / "checkpoint-2" / "complete.json").is_file() and not (run / "checkpoint-4").exists()
    assert not (run / "finished.json").exists() and not (run / "model.safetensors").exists()
    assert not says_text(launch.output)


def test_a_gradient_that_is_not_finite_where_the_loss_is(start: Callable[..., Any], tmp_path: Path) -> None:
    launch = start(tmp_path / "run", "trainer.max_steps=4", fault={"kind": "gradient", "rank": 0, "step": 3})
    assert launch.wait() == 65, launch.output
    assert "step 3 was stopped before its update: the gradient (every loss is finite) is not finite" in launch.output
    assert "the last good checkpoint is none: this run has saved none yet" in launch.output
    assert launch.output.count("  - rank 0: rows ") == 1 and "Traceback" not in launch.output


@pytest.fixture(scope="module")
def outliers(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Path]:
    """A threshold that some gradient norms of a run on one rank exceed, and that run with it."""
    place = tmp_path_factory.mktemp("outliers")
    norms = [line["grad_norm"] for line in metrics(train(place / "all", *SKIPPING)) if "grad_norm" in line]
    threshold = sorted(norms[1:])[-2] * 0.999  # two of the later ones; what is left out changes what follows
    return threshold, train(place / "some", *SKIPPING, f"trainer.skip_grad_norm_above={threshold}")


SKIPPING = ("trainer.max_steps=6", "trainer.save_steps=3", "optim.learning_rate=3e-3")


def test_updates_with_an_outlying_norm_are_left_out_and_counted(outliers: tuple[float, Path]) -> None:
    threshold, run = outliers
    lines = [line for line in metrics(run) if "grad_norm" in line]
    skipped = [line["grad_norm"] > threshold for line in lines]
    assert any(skipped) and not all(skipped)
    assert [line["skipped_steps"] for line in lines] == [sum(skipped[: i + 1]) for i in range(len(lines))]
    rates = [line["learning_rate"] for line in lines]
    assert len(set(rates)) == len(rates), "the schedule goes on by step"


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_leaves_the_same_updates_out(engine, outliers, start_two, tmp_path):
    threshold, one_rank = outliers
    limit = f"trainer.skip_grad_norm_above={threshold}"
    launch = start_two(tmp_path / "run", *SKIPPING, "trainer.micro_batch_size=1", f"distributed={engine}", limit)
    assert launch.wait() == [0, 0], launch.output
    ours, theirs = metrics(tmp_path / "run")[:-1], metrics(one_rank)[:-1]
    for key in ("step", "skipped_steps"):
        assert [line[key] for line in ours] == [line[key] for line in theirs]
    for key in ("loss", "grad_norm", "learning_rate"):
        assert [line[key] for line in ours] == pytest.approx([line[key] for line in theirs], rel=1e-4), key
