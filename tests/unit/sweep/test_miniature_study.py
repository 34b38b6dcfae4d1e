"""The stages of `make train`."""

from __future__ import annotations

from pathlib import Path

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
