"""Everything about going on after an interruption: the same run, stopped anywhere, comes to the same weights, bit for
bit, on the same number of ranks.

    config.yaml      which run a directory holds: settings, hash of the data, versions; in every checkpoint, too
    checkpoint-N/    complete once complete.json, written last, names every file and its size
    decide           start | checkpoint | finished
    Checkpoints      completes new checkpoints, and puts back what a checkpoint does not hold

What needs nothing put back: the order of rows and all draws follow from (seed, epoch). What goes on by itself:
metrics.jsonl (metrics.py) and the W&B run (wandb_run.py) by what they hold, the direction of the ablation by a file in
the checkpoint. (Longer than other modules, so that going on has one place.)
"""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState

from derta.config import TrainRunConfig
from derta.config.settings import plain
from derta.errors import InputError, first_line
from derta.storage.atomic import PARTIAL, apply_umask, write_atomically, write_json_atomically
from derta.storage.read_yaml import read_yaml
from derta.storage.versions import package_versions

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
FINISHED_FILE = "finished.json"
PREEMPTED_FILE = "preempted.json"  # there from a signal until the run is started again
RECORD = "complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")

# What may change between the parts of one run without changing what is trained.
_FREE = {
    "logging",
    "output_dir",
    "data.contamination",  # these three say what is refused, not what is trained
    "data.contamination_ngram",
    "data.evaluation_prompts",
    "data.num_proc",
    "data.path",  # the hash of the rows says whether they are the same
    "distributed.timeout_minutes",
    "probe",  # measures and changes nothing
    "run.probe_sha256",
    "trainer.eval_steps",
    "trainer.hub_model_id",
    "trainer.hub_private_repo",
    "trainer.logging_steps",
    "trainer.num_workers",
    "trainer.push_to_hub",
    "trainer.resume",
    "trainer.resume_despite",
    "trainer.save_steps",
    "trainer.save_total_limit",
}
# What may differ where trainer.resume_despite says so: a word, and the keys it stands for.
_FORCIBLE = {"data": ("run.data_sha256", "data.format"), "objective": ("objective.",)}


@dataclass(frozen=True)
class Decision:
    """What a start of this run does.

    is_finished: nothing. checkpoint: go on from there; None is the start. description: content of config.yaml, with
    what the run went on despite. writes_config: whether config.yaml has to be written.
    """

    is_finished: bool
    checkpoint: Path | None
    description: dict[str, Any]
    writes_config: bool


def decide(output_dir: Path, description: dict[str, Any]) -> Decision:
    """Start, go on from a checkpoint, or do nothing: by what stands in the directory, and trainer.resume.

    Args:
        description: from `describe_run`.

    Raises:
        InputError: the directory holds another run or no run; a checkpoint asked for cannot be gone on from.
    """
    is_new = not check_same_run(output_dir, description)
    if (output_dir / FINISHED_FILE).is_file():
        return Decision(True, None, description, False)
    checkpoint = choose_checkpoint(output_dir, description)
    if checkpoint is not None:
        check_resumed_run(checkpoint, output_dir, description)
        logger.info("goes on from %s", checkpoint)
    if is_new:
        return Decision(False, checkpoint, description, True)
    allowed = description["trainer"]["resume_despite"]
    forced = differences(output_dir, description, allowed=()) if allowed else []
    if history := [*_read_config(output_dir).get("run", {}).get("resumed_despite", []), *forced]:
        description = {**description, "run": {**description["run"], "resumed_despite": history}}
    return Decision(False, checkpoint, description, bool(forced))


# Which run a directory holds


def describe_run(config: TrainRunConfig, world_size: int, **hashes: str) -> dict[str, Any]:
    """The content of config.yaml: the resolved configuration under its own keys, and `run` with what it ran on.

    Args:
        hashes: data_sha256 and others of what the settings only name.
    """
    settings = plain(asdict(config))
    del settings["sweep"]  # decides where and beside what a run runs, and nothing of the run itself
    return {**settings, "run": {**hashes, "world_size": world_size, "packages": package_versions()}}


def recorded_date(output_dir: Path) -> str | None:
    """The day that the chat template writes in the run of this directory, if it holds one."""
    if not os.path.isfile(output_dir / CONFIG_FILE):  # or no usable path, which check_same_run tells
        return None
    return _read_config(output_dir).get("model", {}).get("template_date")


def write_config(folder: Path, description: dict[str, Any]) -> None:
    write_atomically(folder / CONFIG_FILE, yaml.safe_dump(description, sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def begun(output_dir: Path, decision: Decision) -> Iterator[None]:
    """Makes `output_dir` and shows that it can be written; behind the body the run has begun. If the body fails, what
    is still empty is removed again. Enter it on one rank.

    Raises:
        InputError: the directory cannot be written.
    """
    made = [path for path in (output_dir, *output_dir.parents) if not path.exists()]
    try:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=output_dir):
                pass
        except OSError as error:
            problem = f"output_dir={output_dir} cannot be written ({_reason(error)})"
            raise InputError(f"{problem}: choose a directory you may write to") from error
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    (output_dir / PREEMPTED_FILE).unlink(missing_ok=True)
    if decision.writes_config:
        write_config(output_dir, decision.description)


def check_same_run(output_dir: Path, description: dict[str, Any]) -> bool:
    """Whether `output_dir` holds (the beginning of) this run; False when it is empty or new.

    Raises:
        InputError: it holds another run (every difference is listed), or something that is no run at all.
    """
    try:
        is_file = output_dir.exists() and not output_dir.is_dir()
        files = sorted(item.name for item in output_dir.iterdir()) if output_dir.is_dir() else []
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
        raise InputError(f"output_dir={str(output_dir)!r} is no usable path ({_reason(error)})") from error
    if is_file:
        raise InputError(f"output_dir={output_dir} is a file: name a directory")
    if CONFIG_FILE not in files:
        if others := ", ".join([name for name in files if name != CONFIG_FILE + PARTIAL][:3]):
            what = f"is not empty ({others}) and holds no run of derta"
            raise InputError(f"output_dir={output_dir} {what}: choose an empty or a new directory")
        return False
    if found := differences(output_dir, description):
        raise InputError.listing(
            f"output_dir={output_dir} holds another run; choose another output_dir, or repeat its settings:", found
        )
    return True


def differences(run_dir: Path, description: dict[str, Any], allowed: tuple[str, ...] | None = None) -> list[str]:
    """What keeps the run in `run_dir` from being the one described, a line per key.

    Args:
        allowed: words of what may differ; None asks the description (trainer.resume_despite).

    Raises:
        InputError: its config.yaml cannot be read.
    """
    here, there = _flat(description), _flat(_read_config(run_dir))
    # A run from before a setting existed went as its default goes now.
    there = {**{key: value for key, value in _defaults().items() if key in here}, **there}
    if allowed is None:
        allowed = description["trainer"]["resume_despite"]
    lines = []
    for key in sorted(here.keys() | there.keys()):
        word = next((word for word, keys in _FORCIBLE.items() if key.startswith(keys)), None)
        if here.get(key) == there.get(key) or key.startswith(("run.packages", "run.world_size")) or word in allowed:
            continue
        forced_by = f" (trainer.resume_despite=[{word}] goes on all the same)" if word else ""
        lines.append(f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} now{forced_by}")
    return lines


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in _FREE or name.startswith("run.resumed"):
            continue
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


@functools.cache
def _defaults() -> dict[str, Any]:
    return _flat(plain(asdict(TrainRunConfig())))


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / CONFIG_FILE
    try:
        found = read_yaml(path)
    except InputError as error:
        raise InputError(f"{error}; or restore it, or choose another output_dir") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no mapping of settings: restore it, or choose another output_dir")
    return found


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or first_line(error)


# Which checkpoint it goes on from


def choose_checkpoint(output_dir: Path, description: dict[str, Any]) -> Path | None:
    """The checkpoint a run continues from, or None to start at step 0; foreign ones are named and left alone.

    Raises:
        InputError: the named checkpoint is not complete; it was written by another number of ranks.
    """
    resume, ranks = description["trainer"]["resume"], description["run"]["world_size"]
    if resume == "never":
        return None
    if resume == "auto":
        for checkpoint in reversed(complete_checkpoints(output_dir)):
            if not (found := checkpoint_differences(checkpoint, description)):
                break
            logger.warning("%s is of another run and is not resumed from (%s)", checkpoint.name, "; ".join(found[:3]))
        else:
            return None
    else:
        checkpoint = Path(resume)
        if (problem := defect(checkpoint)) is not None:
            fix = "name another one, or use trainer.resume=auto"
            raise InputError(f"trainer.resume={resume}: not a complete checkpoint: it {problem}; {fix}")
    record = _record(checkpoint)
    assert record is not None  # it is complete
    if record["world_size"] != ranks and "world_size" not in description["trainer"]["resume_despite"]:
        raise InputError(
            f"{checkpoint.name} was written by {record['world_size']} ranks and this run has {ranks}: optimizer "
            "and random states belong to a rank; start with the same number, or in another output_dir; without "
            "DeepSpeed trainer.resume_despite=[world_size] goes on, with other random draws in dropout layers"
        )
    return checkpoint


def check_resumed_run(checkpoint: Path, output_dir: Path, description: dict[str, Any]) -> None:
    """Raises InputError if a checkpoint outside `output_dir` belongs to a run with other settings or data, or holds
    pickles of DeepSpeed or FSDP2, which are read from the run's own directory only."""
    if is_inside := checkpoint.resolve().parent == output_dir.resolve():
        before, now = _read_config(output_dir).get("run", {}).get("packages", {}), description["run"]["packages"]
        if changed := [
            f"{name} {before[name]} -> {now[name]}" for name in before if now.get(name, before[name]) != before[name]
        ]:
            logger.warning(
                "other package versions than at the start of this run, the last bits may differ: %s", ", ".join(changed)
            )
    elif found := checkpoint_differences(checkpoint, description):
        raise InputError.listing(f"trainer.resume={checkpoint} is a checkpoint of another run:", found)
    engine = "DeepSpeed" if any(checkpoint.glob("global_step*")) else "FSDP2"
    if engine == "FSDP2" and not any(checkpoint.glob("*/.metadata")):
        return
    if not is_inside and "pickles" not in description["trainer"]["resume_despite"]:
        raise InputError(
            f"trainer.resume={checkpoint} lies outside output_dir and holds {engine}'s state, which is pickled and "
            "can run code when it is read: if you wrote it yourself, add trainer.resume_despite=[pickles]"
        )
    logger.warning("%s: %s's state is read with pickle, which runs what is in it", checkpoint.name, engine)


def checkpoint_differences(checkpoint: Path, description: dict[str, Any]) -> list[str]:
    """What keeps a checkpoint from being one of the run described: by the configuration in it, or else beside it."""
    for place in (checkpoint, checkpoint.resolve().parent):
        if (place / CONFIG_FILE).is_file():
            return differences(place, description)
    return []


# Which checkpoints are complete. transformers' own `get_last_checkpoint` takes the newest directory, whether or not
# every rank finished writing it.


def mark_complete(checkpoint: Path, step: int, world_size: int) -> None:
    """Record the size of every file, so that a missing or cut one is noticed. Call on one rank, after a barrier."""
    files = {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != RECORD
    }
    write_json_atomically(checkpoint / RECORD, {"step": step, "world_size": world_size, "files": files})


def _record(checkpoint: Path) -> dict[str, Any] | None:
    """The record of a checkpoint; None where there is none, or none that can be read."""
    try:
        record = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
        return record if {"step", "world_size"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def defect(checkpoint: Path) -> str | None:
    """What keeps a checkpoint from being resumed from; None for a complete one.

    Sizes are compared, not contents: a checkpoint of a large model is hundreds of gigabytes.
    """
    record = _record(checkpoint)
    if record is None:
        return f"is incomplete (no {RECORD})"
    for name, size in record.get("files", {}).items():
        try:
            found = (checkpoint / name).stat().st_size
        except OSError:
            return f"is damaged ({name} is missing)"
        if found != size:
            return f"is damaged ({name} has {found} of {size} bytes)"
    return None


def _numbered(output_dir: Path) -> list[tuple[int, Path]]:
    """(step, directory) of all checkpoints, complete or not, oldest first."""
    named = ((_NAME.fullmatch(path.name), path) for path in output_dir.glob("checkpoint-*"))
    return sorted((int(match[1]), path) for match, path in named if match)


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """Oldest first; incomplete and damaged ones are named in the log and left alone."""
    found = []
    for _, path in _numbered(output_dir):
        if (problem := defect(path)) is None:
            found.append(path)
        else:
            logger.warning("%s %s and is not resumed from", path.name, problem)
    return found


def newest_complete(output_dir: Path) -> Path | None:
    """What a run could go on from; says nothing of the others."""
    return next((path for _, path in reversed(_numbered(output_dir)) if defect(path) is None), None)


def remove_incomplete(output_dir: Path) -> None:
    """What a save that failed has left. Call on one rank."""
    for _, path in _numbered(output_dir):
        if _record(path) is None:
            shutil.rmtree(path, ignore_errors=True)


def remove_later(output_dir: Path, step: int) -> None:
    """Checkpoints beyond `step`, which the run is about to reach again. Call on one rank."""
    for number, path in _numbered(output_dir):
        if number > step:
            logger.info("%s is removed: the run goes on from step %d", path.name, step)
            _remove(path)


def keep_newest(output_dir: Path, limit: int | None) -> None:
    """Remove all but the newest `limit` complete checkpoints. Call on one rank, once the newest is complete.
    (transformers counts incomplete ones too, and removes old ones before the new one is known to be complete.)"""
    complete = [path for _, path in _numbered(output_dir) if defect(path) is None]
    for path in complete[: -limit if limit else 0]:
        _remove(path)


def _remove(checkpoint: Path) -> None:
    """The record first: a process killed in between leaves an incomplete checkpoint, not one that seems complete."""
    (checkpoint / RECORD).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


# What the trainer does of it


class Checkpoints(TrainerCallback):
    """Marks a checkpoint complete once every rank has written its share, and only then removes older ones; puts back
    what no checkpoint holds when training goes on.

    Args:
        keep: number of complete checkpoints to keep; None keeps all.
        description: content of config.yaml, which goes into every checkpoint: it says which run made it.
    """

    def __init__(self, keep: int | None = None, description: dict[str, Any] | None = None):
        self.keep, self.description = keep, description

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # a resumed state brings its old save_steps and logging_steps
        if state.is_world_process_zero:
            remove_later(Path(str(args.output_dir)), state.global_step)
        if state.global_step > 0:
            _count_up_offloaded_adam(optimizer)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if dist.is_available() and dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            output_dir = Path(str(args.output_dir))
            checkpoint = output_dir / f"checkpoint-{state.global_step}"
            if self.description is not None:
                write_config(checkpoint, self.description)
            apply_umask(checkpoint)
            mark_complete(checkpoint, state.global_step, args.world_size)
            keep_newest(output_dir, self.keep)


def _count_up_offloaded_adam(optimizer: Any) -> None:
    """DeepSpeed's Adam on the host multiplies its powers of beta up, step by step; a new process begins with pow(),
    which rounds otherwise, and the last bits of a resumed run would differ. So the steps taken are counted up again, on
    a single number."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not hasattr(optimizer, "ds_opt_adam"):
        return
    taken = max((int(values["step"]) for values in optimizer.state.values() if "step" in values), default=0)
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    weight, gradient, mean, square = (torch.zeros(1) for _ in range(4))
    for step in range(1, taken + 1):
        settings = (optimizer.opt_id, step, 0.0, beta1, beta2, 1.0, 0.0, True)
        optimizer.ds_opt_adam.adam_update(*settings, weight, gradient, mean, square)
