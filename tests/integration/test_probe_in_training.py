"""The probe in runs of launch/train.py: hold-out rows, two kinds of trainer, metrics.jsonl and W&B, and no row text."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from test_wandb import by_step, rows, run_files
from training_cases import contents, metrics, says_text

HELD_OUT = 12


@pytest.fixture(scope="module")
def held_out_data(built: Callable[..., Path]) -> Path:
    return built(holdout=HELD_OUT)


@pytest.mark.parametrize("arm", ["derta", "dpo"])
def test_the_hold_out_split_is_measured(arm, train, held_out_data, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run = train(
            tmp_path / "run", f"objective={arm}", f"data.path={held_out_data}", "trainer.eval_steps=2",
            "logging.wandb_mode=offline", "data.max_length=50",
        )  # fmt: skip
    lines = metrics(run)
    probes = [line for line in lines if "probe/seconds" in line]
    assert [line["step"] for line in probes] == [0, 2, 3]
    for line in probes:
        assert line["probe/rows_harmful"] + line["probe/rows_benign"] == HELD_OUT
        assert 0 <= line["probe/auroc_low"] <= line["probe/auroc"] <= line["probe/auroc_high"] <= 1
        assert "loss" not in line and "tokens_per_second" not in line
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all({"truncated_share", "dropped_share", "tokens_per_second"} <= line.keys() for line in steps)
    if arm == "dpo":
        assert 0 < steps[0]["truncated_share"] < 1 and steps[0]["dropped_share"] == 0
    [run_file] = run_files(run)
    logged = by_step(rows(run_file))
    for line in probes:
        expected = {key: value for key, value in line.items() if key.startswith("probe/")}
        assert {key: logged[line["step"]][key] for key in expected} == pytest.approx(expected)
        assert not [key for key in logged[line["step"]] if key.startswith("train/probe")]
    manifest = yaml.safe_load((held_out_data / "manifest.json").read_text())
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"]["probe_sha256"] == manifest["outputs"]["holdout.parquet"]["sha256"]
    assert {name: words for name, data in contents(run).items() if (words := says_text(data))} == {}
    assert says_text(caplog.text) == []
