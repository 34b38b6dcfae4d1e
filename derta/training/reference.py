"""Log-probabilities of the reference, which is the model before its first step: computed once, and kept with the run.

    a fresh run    one forward per row, dealt out to the ranks -> OUTPUT/reference_log_probs.safetensors
    a resumed one  that file, beside the checkpoint; the weights are others by now
    every batch    collator: row id -> its log-probabilities, at the tokens that the arm holds against them

The file holds numbers alone, and the hash of the rows that they belong to.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from derta.errors import InputError
from derta.objective.rows import RowBuilder, TokenObjective
from derta.storage.atomic import write_atomically
from derta.training.collator import ABLATED, REFERENCE, ROW_IDS
from derta.training.undisturbed import undisturbed

logger = logging.getLogger(__name__)

REFERENCE_FILE = "reference_log_probs.safetensors"
_NOT_THE_MODELS = ("objective", "lengths", ROW_IDS, ABLATED, REFERENCE)  # keys of a batch


class ReferenceLogProbs:
    """Of the training rows of `trainer`.

    Args:
        held: the objective of the tokens that are held against the reference.
    """

    def __init__(self, trainer: Any, builder: RowBuilder, held: TokenObjective):
        self._trainer, self._held = trainer, held
        self._rows: dict[str, tuple[int, int]] = {}  # id -> place in the table, held tokens
        digest = hashlib.sha256()
        for place, entry in enumerate(trainer.train_dataset):
            row = builder.build(entry, entry["view"], entry["copy"], 0)
            count = row["objective"].count(held)
            if count and entry["id"] not in self._rows:
                self._rows[entry["id"]] = place, count
                digest.update(np.array([count, *row["input_ids"], *row["labels"]]).tobytes())
        self._sha256 = digest.hexdigest()

    def begin(self, checkpoint: Path | None) -> None:
        """Make them known to the collator; every rank must call it, before the first batch is drawn.

        Raises:
            InputError: the run of the checkpoint has left none, or those of other rows.
        """
        file = Path(str(self._trainer.args.output_dir)) / REFERENCE_FILE
        flat = self._compute() if checkpoint is None else self._read(checkpoint.parent / REFERENCE_FILE)
        if self._trainer.is_world_process_zero():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save({"log_probs": flat}, {"rows_sha256": self._sha256}))
        counts = [count for _, count in self._rows.values()]
        self._trainer.data_collator.reference = dict(zip(self._rows, flat.split(counts), strict=True))
        self._trainer.data_collator.held = self._held

    def _read(self, file: Path) -> torch.Tensor:
        try:
            with safe_open(file, "pt") as stored:
                if stored.metadata()["rows_sha256"] == self._sha256:
                    return stored.get_tensor("log_probs")
        except (OSError, SafetensorError, KeyError, TypeError):
            pass
        raise InputError(
            f"{file} is not there, or holds the reference of other rows, and the weights of the checkpoint are no "
            "longer the reference: restore the file, or begin anew (trainer.resume=never)"
        )

    def _compute(self) -> torch.Tensor:
        """float32 [held tokens of all rows], in the order of `_rows`. Longest rows first; the last batch is filled up
        with the shortest row, since under ZeRO-3 all ranks must run the model equally often."""
        trainer, held = self._trainer, self._held
        size, accelerator = trainer.args.per_device_train_batch_size, trainer.accelerator
        ranks, rank = accelerator.num_processes, accelerator.process_index
        lengths, step = trainer.train_dataset["length"], ranks * size
        order = sorted(self._rows, key=lambda name: -lengths[self._rows[name][0]])
        filled = order + order[-1:] * (-len(order) % step)
        width = max(count for _, count in self._rows.values())
        found: dict[str, torch.Tensor] = {}
        logger.info("reference: log-probabilities of %d rows", len(order))
        with undisturbed(trainer) as model, trainer.stopwatch.paused():
            for first in range(0, len(filled), step):
                together = filled[first : first + step]
                own = together[rank::ranks]
                batch = trainer.data_collator([trainer.train_dataset[self._rows[name][0]] for name in own])
                inputs = trainer._prepare_inputs({key: batch[key] for key in batch if key not in _NOT_THE_MODELS})
                with trainer.compute_loss_context_manager():
                    log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs.float()
                values = log_probs[(batch["objective"][:, 1:] == held).to(log_probs.device)]
                counts = [self._rows[name][1] for name in own]
                padded = log_probs.new_zeros((size, width))
                for row, some in zip(padded, values.split(counts), strict=True):
                    row[: len(some)] = some
                gathered = accelerator.gather(padded).view(ranks, size, width).transpose(0, 1).reshape(-1, width).cpu()
                found |= {
                    name: row[: self._rows[name][1]].clone() for name, row in zip(together, gathered, strict=True)
                }
        return torch.cat([found[name] for name in self._rows])
