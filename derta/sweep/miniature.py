"""The whole pipe on a CPU: data, base model, fine-tuned arms, evaluation, report; what `make train` runs.

    build_data x3 -> fresh model -> base -> vanilla -> evaluate ->
                                         -> derta   -> evaluate -> report

Every stage is a command of launch/ in a process of its own, exactly as a user would type it, and says so. Stages that
do not wait for one another share the cores, one thread each. All of them skip what is done, so a study that was
interrupted goes on where it stopped. launch/sweep.py puts its runs behind the same data and base models.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from derta.config.objective import Arm
from derta.config.paths import quoted
from derta.config.study import MiniatureRunConfig
from derta.sweep.jobs import Job, job_times, launch_command, run_jobs

STUDY_DATA = {"miniature": "data", "miniature_base": "base_data", "miniature_eval": "eval_data"}
_PROBE_ROWS = 16  # of either kind; P(refusal) on test rows while an arm trains, which nothing is chosen by


def run_study(config: MiniatureRunConfig) -> str:
    """Run what is not done yet; returns where the time went and the report. Raises InputError: a stage failed."""
    root, cores = Path(config.output), min(2, os.cpu_count() or 1)
    begin = time.monotonic()
    jobs = plan_study(root, config.seeds, [arm.value for arm in config.arms], config.eval, cores)
    run_jobs(jobs, root / "logs", cores)
    report = root / "report"
    return "\n".join(
        [
            f"\nWhere the time went:\n{job_times(jobs, time.monotonic() - begin)}\n",
            (report / "report.md").read_text(encoding="utf-8"),
            f"figures: {', '.join(str(path) for path in sorted(report.glob('*.png')))}",
            f"report: {report / 'report.html'} (one file; open it in a browser)",
        ]
    )


def data_jobs(root: Path, recipes: Mapping[str, str]) -> list[Job]:
    """Datasets under `root`, recipe -> folder. They always run: the builder itself knows best what is up to date."""
    return [
        Job(
            f"data: {recipe}",
            launch_command("build_data", f"recipe={recipe}", f"output={path}", "overwrite=true"),
            proof=path / "manifest.json",
            always=True,
        )
        for recipe, path in ((recipe, root / folder) for recipe, folder in recipes.items())
    ]


def base_jobs(home: Path, seed: int, base_data: Path, after: Sequence[str], ranks: int, suffix: str) -> list[Job]:
    """A fresh model and the base model trained from it: `home`/fresh and `home`/base."""
    fresh, base = home / "fresh", home / "base"
    words = [f"model.name_or_path={fresh}", f"data.path={base_data}", f"output_dir={base}", f"trainer.seed={seed}"]
    make_fresh = Job(
        f"fresh model{suffix}",
        [sys.executable, "-m", "derta.miniature.model", f"output={fresh}", f"seed={seed}"],
        proof=fresh / "model.safetensors",
    )
    train_base = Job(
        f"base{suffix}",
        launch_command("train", "+experiment=miniature_base", *words, ranks=ranks),
        after=[*after, make_fresh.name],
        slots=ranks,
        run_dir=base,
        proof=base / "finished.json",
    )
    return [make_fresh, train_base]


def evaluation_job(
    name: str, model: Path | str, result: Path, label: str, overrides: Sequence[str], after: Sequence[str]
) -> Job:
    words = [f"model.name_or_path={quoted(model)}", *overrides, f"label={quoted(label)}"]
    command = launch_command("evaluate", *words, f"output_dir={quoted(result)}")
    return Job(name, command, after=list(after), proof=result / "summary.json")


def plan_study(root: Path, seeds: Sequence[int], arms: Sequence[str], evaluation: str, cores: int) -> list[Job]:
    """The stages of one base model and its arms per seed, and one report over all of them.

    With one seed everything lies directly under `root`; with several, each has a folder of its own, and the report
    shows mean and spread.
    """
    jobs = data_jobs(root, STUDY_DATA)
    data = [job.name for job in jobs]
    evaluated: list[str] = []
    results: list[Path] = []
    ranks = cores if len(seeds) == 1 else 1  # several bases train side by side, which wastes less than splitting one
    for seed in seeds:
        home = root if len(seeds) == 1 else root / f"seed{seed}"
        suffix = "" if len(seeds) == 1 else f", seed {seed}"
        make_fresh, train_base = base_jobs(home, seed, root / STUDY_DATA["miniature_base"], data, ranks, suffix)
        jobs.insert(0, make_fresh)  # slow to start, and base training waits for it
        jobs.append(train_base)
        for arm in (*arms, "base"):  # training first: what waits for it is the longest way
            model, trained = home / arm, train_base.name
            if arm != "base":
                trained = f"{arm}{suffix}"
                command = launch_command(
                    "train",
                    "model=miniature",
                    f"objective={arm}",
                    f"model.name_or_path={home / 'base'}",
                    f"data.path={root / STUDY_DATA['miniature']}",
                    f"probe.path={root / STUDY_DATA['miniature_eval']}",
                    f"probe.rows={_PROBE_ROWS}",
                    f"output_dir={model}",
                    f"trainer.seed={seed}",
                    *([f"objective.weight_model={home / Arm.dpo.value}"] if arm == Arm.w_door.value else []),
                )
                after = [train_base.name, *([f"{Arm.dpo.value}{suffix}"] if arm == Arm.w_door.value else [])]
                jobs.append(Job(trained, command, after=after, run_dir=model, proof=model / "finished.json"))
            result = home / "evaluation" / arm
            results.insert(0 if arm == "base" else len(results), result)
            evaluated.append(f"evaluate {arm}{suffix}")
            overrides = [f"eval={evaluation}", f"eval.path={root / STUDY_DATA['miniature_eval']}"]
            jobs.append(evaluation_job(evaluated[-1], model, result, arm, overrides, [trained]))
    runs = ",".join(map(str, results))
    jobs.append(Job("report", launch_command("report", f"runs=[{runs}]", f"output={root / 'report'}"), after=evaluated))
    return jobs
