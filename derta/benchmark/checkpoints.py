"""(g) Checkpoints: what saving and loading take, with the record that makes one complete."""

from __future__ import annotations

import tempfile
from pathlib import Path

from derta.benchmark.measure import Line, in_turn, seconds
from derta.benchmark.training import our_trainer, rows_of_epoch, trl_trainer
from derta.benchmark.workload import llama, miniature_rows, tokenizer


def checkpoints(size: str) -> list[Line]:
    """A model of some 20M parameters with its optimizer state (240 MB); the peer is TRL's trainer."""
    hidden, layers, rounds = (512, 4, 3) if size == "small" else (1024, 12, 5)
    rows = miniature_rows(16)
    vocabulary = len(tokenizer())
    with tempfile.TemporaryDirectory() as folder:
        ours = our_trainer(llama(vocabulary, hidden, layers), rows, f"{folder}/ours", 1, per_device_train_batch_size=2)
        ready = rows_of_epoch(ours)
        theirs = trl_trainer(
            llama(vocabulary, hidden, layers), ready, f"{folder}/trl", 1, per_device_train_batch_size=2
        )
        from derta.training.resume import Checkpoints

        record = Checkpoints()
        for trainer in (ours, theirs):
            trainer.train()

        def save(trainer: object, complete: bool) -> float:
            def work() -> None:
                trainer._save_checkpoint(trainer.model, trial=None)  # type: ignore[attr-defined]
                if complete:
                    record.on_save(trainer.args, trainer.state, trainer.control)  # type: ignore[attr-defined]

            return seconds(work)

        def load(trainer: object) -> float:
            checkpoint = str(Path(trainer.args.output_dir) / "checkpoint-1")  # type: ignore[attr-defined]

            def work() -> None:
                trainer._load_from_checkpoint(checkpoint)  # type: ignore[attr-defined]
                trainer._load_optimizer_and_scheduler(checkpoint)  # type: ignore[attr-defined]

            return seconds(work)

        return [
            in_turn(
                "g", "save a checkpoint", "s", lambda: save(ours, True), lambda: save(theirs, False), rounds,
                peer_name="TRL SFTTrainer", note="with the completion record",
            ),
            in_turn(
                "g", "load a checkpoint", "s", lambda: load(ours), lambda: load(theirs), rounds,
                peer_name="TRL SFTTrainer",
            ),
        ]  # fmt: skip
