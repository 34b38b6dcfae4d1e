"""What a run directory holds: resolved configuration, hash of the data, package versions; and whether it is this run.

`config.yaml` is written by one rank before training and is what every later number refers to.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from derta.config import TrainRunConfig
from derta.config.plain import plain
from derta.errors import InputError
from derta.storage.atomic import PARTIAL, write_atomically
from derta.storage.versions import package_versions

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
FINISHED_FILE = "finished.json"
PREEMPTED_FILE = "preempted.json"  # there from a signal until the run is started again

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


def describe_run(config: TrainRunConfig, data_sha256: str, world_size: int, model_sha256: str = "") -> dict[str, Any]:
    """The content of config.yaml: the resolved configuration under its own keys, and `run` with what it ran on."""
    settings = plain(asdict(config))
    del settings["sweep"]  # decides where and beside what a run runs, and nothing of the run itself
    return {
        **settings,
        "run": {
            "data_sha256": data_sha256,
            "model_sha256": model_sha256,
            "world_size": world_size,
            "packages": package_versions(),
        },
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in _FREE or name.startswith("run.resumed"):
            continue
        if isinstance(value, dict):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = value
    return flat


@functools.cache
def _defaults() -> dict[str, Any]:
    """Every setting of a run at its default."""
    return _flat(plain(asdict(TrainRunConfig())))


def check_same_run(output_dir: Path, description: dict[str, Any]) -> bool:
    """Whether `output_dir` holds (the beginning of) this run; False when it is empty or new.

    Raises:
        InputError: it holds another run (every difference is listed), or something that is no run at all.
    """
    try:
        is_file = output_dir.exists() and not output_dir.is_dir()
        is_run = (output_dir / CONFIG_FILE).is_file()
        files = sorted(item.name for item in output_dir.iterdir()) if output_dir.is_dir() else []
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null byte
        raise InputError(f"output_dir={str(output_dir)!r} is no usable path ({_reason(error)})") from error
    if is_file:
        raise InputError(f"output_dir={output_dir} is a file: name a directory")
    if not is_run:
        others = [name for name in files if name != CONFIG_FILE + PARTIAL]
        if others:
            raise InputError(
                f"output_dir={output_dir} is not empty ({', '.join(others[:3])}) and holds no run of derta: "
                "choose an empty or a new directory"
            )
        return False
    if found := differences(output_dir, description):
        raise InputError.listing(
            f"output_dir={output_dir} holds another run; choose another output_dir, or repeat its settings:", found
        )
    return True


def check_resumed_run(checkpoint: Path, output_dir: Path, description: dict[str, Any]) -> None:
    """Raises InputError if a checkpoint outside `output_dir` belongs to a run with other settings or data, or holds
    DeepSpeed's pickles, which are read from the run's own directory only."""
    if is_inside := checkpoint.resolve().parent == output_dir.resolve():
        if (packages := changed_packages(output_dir, description)) is not None:
            logger.warning(
                "other package versions than at the start of this run, the last bits may differ: %s", packages
            )
    elif found := checkpoint_differences(checkpoint, description):
        raise InputError.listing(f"trainer.resume={checkpoint} is a checkpoint of another run:", found)
    if not any(checkpoint.glob("global_step*")):
        return
    if not is_inside and "pickles" not in description["trainer"]["resume_despite"]:
        raise InputError(
            f"trainer.resume={checkpoint} lies outside output_dir and holds DeepSpeed's state, which is pickled and "
            "can run code when it is read: if you wrote it yourself, add trainer.resume_despite=[pickles]"
        )
    logger.warning("%s: DeepSpeed's state is read with pickle, which runs what is in it", checkpoint.name)


def checkpoint_differences(checkpoint: Path, description: dict[str, Any]) -> list[str]:
    """What keeps a checkpoint from being one of the run described: by the configuration in it, or else beside it."""
    for place in (checkpoint, checkpoint.resolve().parent):
        if (place / CONFIG_FILE).is_file():
            return differences(place, description)
    return []


def changed_packages(run_dir: Path, description: dict[str, Any]) -> str | None:
    """The versions that have changed since the run began: "torch 2.12 -> 2.13, ..."; None if none has."""
    before = _read_config(run_dir).get("run", {}).get("packages", {})
    now = description["run"]["packages"]
    changed = [
        f"{name} {before[name]} -> {now[name]}" for name in before if now.get(name, before[name]) != before[name]
    ]
    return ", ".join(changed) or None


def with_history(run_dir: Path, description: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The description with what the run went on despite, now and before; and whether config.yaml has to be written."""
    allowed = description["trainer"]["resume_despite"]
    forced = differences(run_dir, {**description, "trainer": {**description["trainer"], "resume_despite": []}})
    history = [*_read_config(run_dir).get("run", {}).get("resumed_despite", []), *(forced if allowed else [])]
    if history:
        description = {**description, "run": {**description["run"], "resumed_despite": history}}
    return description, bool(allowed and forced)


def differences(run_dir: Path, description: dict[str, Any]) -> list[str]:
    """What keeps the run in `run_dir` from being the one described, a line per key; less what may differ
    (trainer.resume_despite).

    Raises:
        InputError: its config.yaml cannot be read.
    """
    here, there = _flat(description), _flat(_read_config(run_dir))
    # A run from before a setting existed went as its default goes now.
    there = {**{key: value for key, value in _defaults().items() if key in here}, **there}
    allowed = description.get("trainer", {}).get("resume_despite", [])
    lines = []
    for key in sorted(here.keys() | there.keys()):
        word = next((word for word, keys in _FORCIBLE.items() if key.startswith(keys)), None)
        if here.get(key) == there.get(key) or key.startswith(("run.packages", "run.world_size")) or word in allowed:
            continue
        forced_by = f" (trainer.resume_despite=[{word}] goes on all the same)" if word else ""
        lines.append(f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} now{forced_by}")
    return lines


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = run_dir / CONFIG_FILE
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} cannot be read ({_reason(error)}): restore it, or choose another output_dir"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no mapping of settings: restore it, or choose another output_dir")
    return found


def recorded_date(output_dir: Path) -> str | None:
    """The day that the chat template writes in the run of this directory, if it holds one."""
    if not (output_dir / CONFIG_FILE).is_file():
        return None
    return _read_config(output_dir).get("model", {}).get("template_date")


def write_config(output_dir: Path, description: dict[str, Any]) -> None:
    write_atomically(output_dir / CONFIG_FILE, yaml.safe_dump(description, sort_keys=False, allow_unicode=True))


@contextlib.contextmanager
def new_directory(output_dir: Path) -> Iterator[None]:
    """Makes `output_dir` and shows that it can be written; if the body fails, what is still empty is removed again.

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
            raise InputError(
                f"output_dir={output_dir} cannot be written ({_reason(error)}): choose a directory you may write to"
            ) from error
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
