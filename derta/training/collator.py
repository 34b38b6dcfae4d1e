"""Examples -> this epoch's rows -> one batch, padded or flattened.

    padded      input_ids, labels, objective, attention_mask     [B, L]
    flattened   input_ids, labels, objective, position_ids, ...  [1, sum of lengths]
    both        lengths: tokens of each row, on the host (rows that fill a batch up are not in it)
    both        ablated: bool, in the shape of input_ids: tokens of rows trained with the refusal direction ablated;
                only where that is on
    both        reference: int32, the bits of the float32 number that every label of a row has by the reference (see
                objective/reference.py), 0 where the row is not held against it; only in arms that have one
                (transformers rounds floats of a batch to the precision of DeepSpeed)
    both        row_ids: B names, for messages about a batch; taken out before the model sees it

Draws happen here, in the loader worker, from a hash of (seed, epoch, example id); the epoch is read from shared memory,
so that workers which outlive an epoch see it change.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from derta.objective.reference import is_held
from derta.objective.rows import RowBuilder, TokenObjective, TrainingRow, View

# Keys of a batch that are taken out before the model sees it.
ROW_IDS = "row_ids"
ABLATED = "ablated"
REFERENCE = "reference"


RowKey = tuple[str, bytes]


def row_key(name: str, row: TrainingRow) -> RowKey:
    """Of a row of the example `name`: its tokens, which differ from epoch to epoch where prefixes are drawn anew."""
    return name, hashlib.blake2b(np.array([row["input_ids"], row["labels"]]).tobytes(), digest_size=16).digest()


def epoch_clock() -> torch.Tensor:
    """The current epoch, int64 [1], in memory that loader workers share."""
    return torch.zeros(1, dtype=torch.int64).share_memory_()


@dataclass(kw_only=True)
class DeRTaCollator(DataCollatorForLanguageModeling):
    """TRL's collator on rows that are built when they are needed, with the per-token objective beside the labels.

    Args:
        builder: makes the row of (example, view, copy, epoch).
        epoch: an `epoch_clock`, which the trainer sets.
        reference: `row_key` -> the numbers of the row's labels, for rows that are held against a reference.
    """

    builder: RowBuilder
    epoch: torch.Tensor
    reference: dict[RowKey, torch.Tensor] | None = None

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        epoch = int(self.epoch)
        rows = [self.builder.build(example, example["view"], example["copy"], epoch) for example in examples]  # type: ignore[arg-type]
        batch = super().torch_call(rows)  # type: ignore[arg-type]
        objective = [torch.tensor(row["objective"], dtype=torch.int8) for row in rows]
        batch["objective"] = self._wide(objective, batch)
        # TRL takes the label off the first token of every flattened row; the objective follows the labels.
        batch["objective"][batch["labels"] == -100] = int(TokenObjective.NONE)
        views = [example["view"] for example in examples]
        batch["lengths"] = [len(row["input_ids"]) for row, view in zip(rows, views, strict=True) if view != View.FILLER]
        batch[ROW_IDS] = [example["id"] for example in examples]
        if self.builder.settings.objective.ablation.probability > 0:
            ablated = [self.builder.is_ablated(row["id"], row["view"], row["copy"], epoch) for row in examples]
            tokens = [torch.full((len(row["input_ids"]),), is_one) for row, is_one in zip(rows, ablated, strict=True)]
            batch[ABLATED] = self._wide(tokens, batch)
        if self.reference is not None:
            values = [self._reference_of(example, row) for example, row in zip(examples, rows, strict=True)]
            batch[REFERENCE] = self._wide(values, batch)
        return batch

    def _reference_of(self, example: dict[str, Any], row: TrainingRow) -> torch.Tensor:
        column = torch.zeros(len(row["objective"]))
        if is_held(self.builder.settings.objective.name, example):
            assert self.reference is not None
            supervised = torch.tensor(row["objective"][1:]) != int(TokenObjective.NONE)
            column[1:][supervised] = self.reference[row_key(example["id"], row)]
        return column.view(torch.int32)

    def _wide(self, rows: list[torch.Tensor], batch: dict[str, Any]) -> torch.Tensor:
        """One number per token, in the shape of the batch's input_ids; 0 at padding."""
        padded = pad_sequence([torch.cat(rows)] if self.padding_free else rows, batch_first=True)
        return torch.nn.functional.pad(padded, (0, batch["labels"].shape[1] - padded.shape[1]))
