"""From the jobs that Hydra composed to a graph of commands, and the whole of `launch/sweep.py`.

    prepared data, base models ----> run of seed 1 ----> evaluation --\
                              \\---> run of seed 2 ----> evaluation ----> table over everything below the sweep's root

A run whose `model.name_or_path` is another run's `output_dir` waits for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from derta.config import TrainRunConfig
from derta.config.compose import read
from derta.config.evaluation import EvaluateRunConfig
from derta.config.paths import quoted
from derta.errors import InputError
from derta.evaluation.summary import SUMMARY_FILE
from derta.models.load import check_source
from derta.report.collected import MEMBER_FILE
from derta.report.collected_tables import write_tables
from derta.storage.atomic import write_atomically
from derta.storage.read_files import what_is_at
from derta.sweep.jobs import Job, State, fitting, job_states, launch_command, run_jobs
from derta.sweep.miniature import base_jobs, data_jobs, evaluation_job

DEFAULT_ROOT = "runs/sweep"
TABLE_FOLDER = "table"
_SWEEP_WIDE = ("root", "parallel", "ranks", "gpus", "prepare", "evaluate")
_AWKWARD = re.compile(r"[^\w=.,+-]")  # in the name of a directory
_NO_ARM = ("objective=", "trainer.seed=", "sweep.", "logging.", "output_dir=")


@dataclass(frozen=True)
class Requested:
    """One combination of the sweep. overrides: as the user gave them. config: what they compose to. varied: those of
    the overrides that not all combinations have."""

    overrides: list[str]
    config: TrainRunConfig
    varied: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return Path(self.config.sweep.root or DEFAULT_ROOT)

    @property
    def output_dir(self) -> Path:
        """Where the run goes: as configured, by hand or below the sweep's root, or where its name says."""
        configured = Path(self.config.output_dir)
        by_hand = any(override.startswith("output_dir=") for override in self.overrides)
        if by_hand or (self.config.sweep.root and configured.is_relative_to(self.root)):
            return configured
        return self.root / fitting(f"{_AWKWARD.sub('_', self._kind)}-seed{self.seed}")

    @property
    def arm(self) -> str:
        """What the runs of all seeds of its kind are called in the table."""
        return self.config.sweep.arm or fitting(self._kind)

    @property
    def _kind(self) -> str:
        kept = [override for override in self.varied if not override.startswith(_NO_ARM)]
        return ",".join([self.config.objective.name.value, *kept])

    @property
    def seed(self) -> int:
        return self.config.trainer.seed


def requests(jobs: Sequence[tuple[list[str], TrainRunConfig]]) -> list[Requested]:
    """The combinations of a sweep, each with what is its own."""
    shared = set.intersection(*(set(words) for words, _ in jobs))
    return [Requested(words, config, tuple(word for word in words if word not in shared)) for words, config in jobs]


def plan_sweep(requested: Sequence[Requested]) -> list[Job]:
    """The jobs of a sweep in the order in which they are started.
    Raises InputError: runs that cannot run, that share a directory, or that disagree about the sweep."""
    _check(requested)
    settings = requested[0].config.sweep
    jobs: list[Job] = []
    if settings.prepare == "miniature":
        jobs += _preparation(requested, Path(settings.root))
    made = {run.output_dir: str(run.output_dir) for run in requested}
    made |= {job.run_dir: job.name for job in jobs if job.run_dir}
    ready = [job.name for job in jobs if job.name.startswith("data: ")]
    for run in requested:  # each evaluation before the next run, so that results come in early
        name, start = str(run.output_dir), Path(run.config.model.name_or_path)
        overrides = [override for override in run.overrides if not override.startswith("output_dir=")]
        command = launch_command(
            "train", *overrides, f"output_dir={quoted(name)}", ranks=settings.processes, torchrun=True
        )
        after = [*ready, made[start]] if start in made else ready
        proof = run.output_dir / "finished.json"
        jobs.append(Job(name, command, after=after, run_dir=run.output_dir, proof=proof))
        if settings.evaluate:
            jobs.append(_evaluation(run.output_dir, run.arm, settings.evaluate, after=[*ready, name]))
    if settings.evaluate:
        for base in [job for job in jobs if job.name.startswith("base, ")]:
            assert base.run_dir is not None
            jobs.append(_evaluation(base.run_dir, "base", settings.evaluate, after=[*ready, base.name]))
    return jobs


def run_sweep(requested: Sequence[Requested]) -> bool:
    """Run everything that is not done yet, say what became of each job, and write the table. True if nothing failed.
    Raises InputError: before anything is started: see `plan_sweep`, and rows or models that are not there."""
    settings = requested[0].config.sweep
    root, jobs = requested[0].root, plan_sweep(requested)
    _check_sources(requested)
    run_jobs(jobs, root / "logs", settings.slots, keep_going=True)
    print(f"\n{job_states(jobs)}", flush=True)
    if settings.evaluate and _mark(requested, jobs):
        print(f"\n{write_tables(root, root / TABLE_FOLDER)}")
    return not any(job.state in (State.FAILED, State.BLOCKED) for job in jobs)


def evaluation_folder(run_dir: Path) -> Path:
    """Where the evaluation of a run goes."""
    return run_dir.parent / "evaluation" / run_dir.name


def _evaluation(run_dir: Path, arm: str, overrides: Sequence[str], after: list[str]) -> Job:
    return evaluation_job(f"evaluate {run_dir}", run_dir, evaluation_folder(run_dir), arm, overrides, after)


def _mark(requested: Sequence[Requested], jobs: Sequence[Job]) -> int:
    """Leave in each finished evaluation's folder what it is an evaluation of; returns how many there are."""
    members = {run.output_dir: (run.arm, run.seed) for run in requested}
    for run in requested:
        if run.config.sweep.prepare == "miniature":
            members[Path(run.config.sweep.root) / f"seed-{run.seed}" / "base"] = ("base", run.seed)
    finished = {job.name for job in jobs if job.state in (State.FINISHED, State.SKIPPED)}
    evaluated = {run_dir: member for run_dir, member in members.items() if f"evaluate {run_dir}" in finished}
    for run_dir, (arm, seed) in evaluated.items():
        text = json.dumps({"arm": arm, "seed": seed}) + "\n"
        write_atomically(evaluation_folder(run_dir) / MEMBER_FILE, text)
    return len(evaluated)


def _preparation(requested: Sequence[Requested], root: Path) -> list[Job]:
    """Data and base models of the miniature, as far as these runs need them."""
    recipes = dict.fromkeys(["miniature_base", "miniature_eval", *(run.config.sweep.recipe for run in requested)])
    data = data_jobs(root / "data", {recipe: recipe for recipe in recipes})
    bases = []
    rows, ready = root / "data" / "miniature_base", [job.name for job in data]
    for seed in dict.fromkeys(run.seed for run in requested):
        bases += base_jobs(root / f"seed-{seed}", seed, rows, ready, 1, f", seed {seed}")
    return [*data, *bases]


def _check(requested: Sequence[Requested]) -> None:
    first = requested[0].config.sweep
    if problems := first.problems("sweep"):
        raise InputError.listing("this sweep cannot run:", problems)
    folders: dict[Path, Requested] = {}
    for run in requested:
        name = run.output_dir.name
        for key in _SWEEP_WIDE:
            here, there = getattr(run.config.sweep, key), getattr(first, key)
            if here != there:
                problems.append(f"sweep.{key} is {there} in one job and {here} in another: it holds for a whole sweep")
        problems += [f"{name}: {problem}" for problem in run.config.problems()]
        if run.output_dir in folders:
            problems.append(
                f"{name}: would go to {run.output_dir}, as another job does: tell them apart, for example with "
                "sweep.arm='${objective.name}_NAME'"
            )
        folders[run.output_dir] = run
    if first.evaluate:
        problems += [f"sweep.evaluate: {problem}" for problem in _read_evaluation(requested[0])[1]]
    if problems:
        raise InputError.listing("this sweep cannot run:", list(dict.fromkeys(problems)))


def _read_evaluation(run: Requested) -> tuple[EvaluateRunConfig, list[str]]:
    words = [f"model.name_or_path={quoted(run.output_dir)}", *run.config.sweep.evaluate]
    return read("evaluate", EvaluateRunConfig, words)


def _check_sources(requested: Sequence[Requested]) -> None:
    """Raises InputError: rows or models that are not there, that no job of the sweep makes and that one still needs."""
    settings, root = requested[0].config.sweep, requested[0].root
    left = [run.config for run in requested if not (run.output_dir / "finished.json").is_file()]
    rows = [("data.path", config.data.path) for config in left]
    if settings.evaluate and not all((evaluation_folder(run.output_dir) / SUMMARY_FILE).is_file() for run in requested):
        evaluation = _read_evaluation(requested[0])[0].eval
        rows += [
            (f"sweep.evaluate: eval.sets.{name}.path", prompts.path or evaluation.path)
            for name, prompts in evaluation.used_sets.items()
        ]
    runs = {run.output_dir for run in requested}

    def made(path: str) -> bool:
        below = settings.prepare == "miniature" and Path(path).is_relative_to(root)
        return below or Path(path) in runs

    problems = [
        f"{key}={path}: nothing is there; fix: correct the path, or build the rows first with launch/build_data.py"
        for key, path in dict.fromkeys(rows)
        if what_is_at(Path(path)) == "nothing" and not made(path)
    ]
    for model in dict.fromkeys(config.model.name_or_path for config in left):
        try:
            if not made(model):
                check_source(model)
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError.listing("this sweep cannot run:", problems)
