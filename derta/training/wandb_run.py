"""One W&B run per training run, on one rank, online or as files; a resumed run goes on with the same curves.

Rows and responses are never sent; `logging.sample_texts=true` uploads a small table of decoded training rows.
"""

from __future__ import annotations

import json
import netrc
import os
import secrets
from pathlib import Path
from typing import Any, Literal, cast

from derta.config import LoggingConfig, WandbMode
from derta.errors import InputError
from derta.storage.atomic import write_json_atomically
from derta.training.wandb_history import STEP, LoggedCurves, read_offline

ID_FILE = "wandb_run.json"
Mode = Literal["online", "offline", "disabled"]


def resolve_mode(mode: WandbMode) -> Mode:
    """ "online", "offline" or "disabled"; `auto` is online only where a key is configured."""
    if mode is not WandbMode.auto:
        return cast(Mode, mode.value)
    if os.environ.get("WANDB_MODE") in ("online", "offline", "disabled"):
        return cast(Mode, os.environ["WANDB_MODE"])
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if any("wandb" in host for host in hosts) else "offline"


def start_wandb(
    config: LoggingConfig, output_dir: Path, description: dict[str, Any], *, afresh: bool = False
) -> LoggedCurves | None:
    """Start or continue the run; call on the main rank only.

    Args:
        afresh: training begins anew in a directory that it has begun in before: a new W&B run.

    Returns:
        What the W&B run holds already; None when W&B is disabled.
    """
    mode = resolve_mode(config.wandb_mode)
    if mode == "disabled":
        return None
    import wandb

    if afresh:
        (output_dir / ID_FILE).unlink(missing_ok=True)
    run_id = _run_id(output_dir, config.project)
    logged = read_offline(output_dir, run_id) if mode == "offline" else LoggedCurves()
    try:
        run = wandb.init(
            project=config.project,
            name=config.run_name or output_dir.name,
            id=run_id,
            resume="allow",
            mode=mode,
            dir=str(output_dir),
            config=description,
            # The console may show anything a library prints, and source files are not ours to upload.
            settings=wandb.Settings(console="off", disable_code=True, x_disable_meta=False, silent=True),
        )
    except wandb.errors.Error as error:
        raise InputError(
            f"W&B could not start a run ({str(error).splitlines()[0]}): set logging.wandb_mode=offline, or disabled"
        ) from error
    if mode == "online" and run.resumed:
        newest = run.summary.get(STEP)
        logged.through = -1 if newest is None else int(newest)
    return logged


def _run_id(output_dir: Path, project: str) -> str:
    """The id this directory's run has had from the start."""
    path = output_dir / ID_FILE
    if not path.is_file():
        run_id = secrets.token_hex(4)
        write_json_atomically(path, {"id": run_id, "project": project})
        return run_id
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no W&B run id: remove it to start a new W&B run") from error


def end_wandb(failed: bool = False) -> None:
    """Close this process's run, if there is one."""
    import sys

    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))


def log_sample_texts(texts: list[tuple[str, str, str]]) -> None:
    """A table of (row id, view, decoded supervised text); only called when the user asked for it."""
    import wandb

    wandb.log({"train/rows": wandb.Table(columns=["row", "view", "supervised"], data=[list(row) for row in texts])})
