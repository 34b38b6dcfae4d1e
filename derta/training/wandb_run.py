"""One W&B run per training run, on one rank, online or as files; a resumed run goes on with the same curves.

Rows and responses are never sent; `logging.sample_texts=true` uploads a small table of decoded training rows.

A killed run has logged steps beyond its last checkpoint, which are taken again, and what it logged last may never have
reached the file. So nothing is assumed: what the W&B run holds is read, what is there is not logged a second time (the
same bits come again), and lines of metrics.jsonl that are not there are logged first.

    offline    the files of the earlier parts of the run, through wandb's own reader
    online     the newest step that the server knows
"""

from __future__ import annotations

import json
import logging
import netrc
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations.integration_utils import rewrite_logs

from derta.config import PeftMethod, TrainRunConfig
from derta.errors import InputError, first_line
from derta.objective.rows import IGNORE, View
from derta.storage.atomic import write_json_atomically
from derta.storage.json_lines import parse_lines
from derta.training.metrics import METRICS_FILE, ONLY_IN_SUMMARY, lines_of

logger = logging.getLogger(__name__)

ID_FILE = "wandb_run.json"
STEP = "train/global_step"
_NOT_CURVES = ("_", STEP)
_SAMPLES = 8
_LONGEST_TAG = 64  # characters that W&B takes
Mode = Literal["online", "offline", "disabled"]


class WandbCurves(TrainerCallback):
    """Starts or continues the W&B run when training begins, and logs to it what metrics.jsonl gets.

    (The callback of transformers would put what the probe measures among the curves of training, log what the W&B run
    already holds a second time, and write its own flat configuration beside ours.)

    Args:
        config: of the run.
        description: content of config.yaml, which becomes the configuration of the W&B run.
    """

    def __init__(self, config: TrainRunConfig, description: dict[str, Any]):
        self.config, self.output_dir, self.description = config, Path(config.output_dir), description
        self.logged = LoggedCurves()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.logged = start_wandb(self.config, self.description)
        if self.config.logging.sample_texts and not self.logged.rows and self.logged.through < 0:
            _log_sample_texts(given["train_dataloader"], given["processing_class"])
        for step, logs in lines_of(self.output_dir / METRICS_FILE):
            self._log(step, logs)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self._log(state.global_step, logs or {})

    def _log(self, step: int, logs: dict[str, Any]) -> None:
        import wandb

        assert wandb.run is not None
        curves = {}
        for name, value in logs.items():
            if name in ONLY_IN_SUMMARY:
                wandb.run.summary[name] = value
            elif name.startswith("probe/"):
                curves[name] = value
            else:
                curves.update(rewrite_logs({name: value}))
        if missing := self.logged.take_missing(step, curves):
            row, self.logged.rows = self.logged.rows, 0
            counted_on: dict[str, Any] = {"step": row, "commit": True} if row else {}
            wandb.log({**missing, STEP: step}, **counted_on)


def resolve_mode(mode: str) -> Mode:
    """ "online", "offline" or "disabled"; `auto` is online only where a key is configured."""
    if mode != "auto":
        return cast(Mode, mode)
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return cast(Mode, os.environ["WANDB_MODE"])
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if any("wandb" in host for host in hosts) else "offline"


def start_wandb(config: TrainRunConfig, description: dict[str, Any]) -> LoggedCurves:
    """Start or continue the run, and say what it holds already; call on the main rank only."""
    asked, output_dir = config.logging, Path(config.output_dir)
    mode = resolve_mode(asked.wandb_mode)
    if config.trainer.resume == "never":  # begun anew in a directory that it has begun in before: a new W&B run
        (output_dir / ID_FILE).unlink(missing_ok=True)
    run_id = _run_id(output_dir, asked.project)
    how = "full" if config.peft.method is PeftMethod.none else config.peft.method.value
    tags = [config.objective.name.value, Path(config.model.name_or_path).name[:_LONGEST_TAG], how, *asked.tags]
    logged = read_offline(output_dir, run_id) if mode == "offline" else LoggedCurves()
    run = _init(
        output_dir,
        mode,
        project=asked.project,
        name=asked.run_name or output_dir.name,
        group=asked.group or Path(config.sweep.root).name or None,
        tags=list(dict.fromkeys(filter(None, tags))),
        id=run_id,
        config=description,
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    if mode == "online" and run.resumed:
        newest = run.summary.get(STEP)
        logged.through = -1 if newest is None else int(newest)
    return logged


def continued_run(output_dir: Path, mode: Mode) -> Any:
    """The W&B run of a training that has ended, to be finished by the caller; None where the directory has none."""
    if not (output_dir / ID_FILE).is_file():
        return None
    run_id = _run_id(output_dir, "")
    project = json.loads((output_dir / ID_FILE).read_text(encoding="utf-8")).get("project")
    return _init(output_dir, mode, project=project, id=run_id)


def _init(output_dir: Path, mode: Mode, **settings: Any) -> Any:
    import wandb

    try:
        return wandb.init(
            **settings,
            resume="allow",
            mode=mode,
            dir=str(output_dir),
            # The console may show anything a library prints, and source files are not ours to upload.
            settings=wandb.Settings(console="off", disable_code=True, x_disable_meta=False, silent=True),
        )
    except wandb.errors.Error as error:
        raise InputError(
            f"W&B could not start a run ({first_line(error)}): set logging.wandb_mode=offline, or disabled"
        ) from error


def _run_id(output_dir: Path, project: str) -> str:
    """The id this directory's run has had from the start."""
    path = output_dir / ID_FILE
    if not path.is_file():
        write_json_atomically(path, {"id": secrets.token_hex(4), "project": project})
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no W&B run id: remove it to start a new W&B run") from error


def end_wandb(failed: bool = False) -> None:
    """Close this process's run, if there is one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def _log_sample_texts(loader: Any, tokenizer: Any) -> None:
    """A table of (row id, view, decoded supervised text) of the first rows; only where the user asked for it."""
    import wandb

    table, builder = loader.dataset, getattr(loader.collate_fn, "builder", None)
    if builder is None:  # rows of pairs (dpo)
        return
    data = []
    for entry in table.select(range(min(_SAMPLES, len(table)))):
        row = builder.build(entry, entry["view"], entry["copy"], epoch=0)
        supervised = [label for label in row["labels"] if label != IGNORE]
        data.append([entry["id"], View(entry["view"]).name, tokenizer.decode(supervised)])
    wandb.log({"train/rows": wandb.Table(columns=["row", "view", "supervised"], data=data)})


@dataclass
class LoggedCurves:
    """The curves that the W&B run holds, by global step.

    names: global step -> names of the curves logged at it. through: up to this step everything is there (-1: nothing;
    the probe logs at step 0 already). rows: W&B's own count of rows (`_step`), from which the next file has to count
    on: W&B begins anew in every offline file.
    """

    names: dict[int, set[str]] = field(default_factory=dict)
    through: int = -1
    rows: int = 0

    def take_missing(self, step: int, curves: dict[str, float]) -> dict[str, float]:
        """Those of the curves that are not there yet; from now on they are."""
        if step <= self.through:
            return {}
        there = self.names.setdefault(step, set())
        missing = {name: value for name, value in curves.items() if name not in there}
        there.update(missing)
        return missing


def read_offline(output_dir: Path, run_id: str) -> LoggedCurves:
    """What the offline files of this run id hold, those of killed processes included."""
    logged = LoggedCurves()
    for path in sorted(output_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        for row in _rows(path):
            logged.rows = max(logged.rows, int(row.get("_step", 0)) + 1)
            if STEP in row:
                logged.take_missing(int(row[STEP]), {name: 0.0 for name in row if not name.startswith(_NOT_CURVES)})
    return logged


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of one file; a file that was cut ends where it was cut."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        logger.warning("%s cannot be read to its end: some points of the curves may be logged twice", path.name)
    for _, record in parse_lines(found.stdout):
        if isinstance(record, dict) and record.get("type") == "history":
            yield record["history"]["item"]
