"""(g) Checkpoints: what saving and loading take, with the record that makes one complete."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from derta.benchmark.measure import Line, in_turn, seconds
from derta.benchmark.training import our_trainer, rows_of_epoch, trl_trainer
from derta.benchmark.workload import llama, miniature_rows, tokenizer


def checkpoints(size: str) -> list[Line]:
    """A model of some 20M parameters with its optimizer state (240 MB); the peer is TRL's trainer."""
    from derta.training.resume import Checkpoints

    hidden, layers, rounds = (512, 4, 3) if size == "small" else (1024, 12, 5)
    models = (llama(len(tokenizer()), hidden, layers) for _ in range(2))
    record = Checkpoints()

    def save(trainer: Any) -> None:
        trainer._save_checkpoint(trainer.model, trial=None)
        if trainer is ours:
            record.on_save(trainer.args, trainer.state, trainer.control)

    def load(trainer: Any) -> None:
        checkpoint = str(Path(trainer.args.output_dir) / "checkpoint-1")
        trainer._load_from_checkpoint(checkpoint)
        trainer._load_optimizer_and_scheduler(checkpoint)

    def times(work: Callable[[Any], None]) -> tuple[Callable[[], float], Callable[[], float]]:
        return lambda: seconds(lambda: work(ours)), lambda: seconds(lambda: work(theirs))

    with tempfile.TemporaryDirectory() as folder:
        ours = our_trainer(next(models), miniature_rows(16), f"{folder}/ours", 1, per_device_train_batch_size=2)
        ready = rows_of_epoch(ours)
        theirs = trl_trainer(next(models), ready, f"{folder}/trl", 1, per_device_train_batch_size=2)
        for trainer in (ours, theirs):
            trainer.train()
        about: dict[str, Any] = {"rounds": rounds, "peer_name": "TRL SFTTrainer"}
        return [
            in_turn("g", "save a checkpoint", "s", *times(save), note="with the completion record", **about),
            in_turn("g", "load a checkpoint", "s", *times(load), **about),
        ]
