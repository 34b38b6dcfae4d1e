"""The stages of `make train`."""

from __future__ import annotations

from pathlib import Path

from derta.config import Arm
from derta.config.study import MiniatureRunConfig
from derta.sweep.miniature import plan_study


def test_plan_trains_every_arm_on_its_own_base_and_reports_all():
    jobs = {job.name: job for job in plan_study(Path("runs"), [1, 2], ["derta"], "miniature_quick", cores=2)}
    assert jobs["derta, seed 2"].after == ["base, seed 2"]
    assert f"model.name_or_path={Path('runs/seed2/base')}" in jobs["derta, seed 2"].command
    assert jobs["evaluate base, seed 1"].after == ["base, seed 1"]
    assert set(jobs["report"].after) == {f"evaluate {arm}, seed {s}" for arm in ("base", "derta") for s in (1, 2)}


def test_one_seed_lies_directly_under_the_root_and_its_arms_are_probed_on_the_evaluation_data():
    jobs = {job.name: job for job in plan_study(Path("runs"), [0], ["vanilla"], "miniature_quick", cores=1)}
    assert f"output_dir={Path('runs/vanilla')}" in jobs["vanilla"].command
    assert not any("torch.distributed.run" in job.command for job in jobs.values())
    assert f"probe.path={Path('runs/eval_data')}" in jobs["vanilla"].command
    assert not [word for word in jobs["base"].command if word.startswith("probe.")]


def test_weights_of_w_door_come_from_dpo_of_the_same_seed() -> None:
    jobs = {job.name: job for job in plan_study(Path("runs"), [1, 2], ["w_door", "dpo"], "miniature_quick", cores=2)}
    for seed in (1, 2):
        job, first = jobs[f"w_door, seed {seed}"], jobs[f"dpo, seed {seed}"]
        assert first.name in job.after and f"objective.weight_model={first.run_dir}" in job.command
    assert MiniatureRunConfig(arms=[Arm.w_door]).problems() == [
        "arms: w_door takes its weights from dpo: name that, too"
    ]
