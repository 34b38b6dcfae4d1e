"""Log-probabilities of the reference, which is the model before its first step: computed once, and kept with the run.

    a fresh run    one forward per row, dealt out to the ranks -> OUTPUT/reference_log_probs.safetensors
                   one more through objective.weight_model, where tokens have weights; it is then let go
    a resumed one  that file, beside the checkpoint; the weights are others by now
    every batch    collator: row -> its numbers, at the tokens that the arm holds against the reference

Weights belong to a row with its prefix: where prefixes are drawn anew, the rows of all epochs are computed. The file
holds numbers alone, and the hash of the rows that they belong to.
"""

import contextlib
import gc
import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from derta.config import ModelConfig
from derta.errors import InputError, errors_named
from derta.models.fingerprint import fingerprint
from derta.models.load import check_vocabulary, load_model, load_tokenizer
from derta.models.quantized import in_four_bits, is_in_four_bits, ready_for_training
from derta.objective.reference import is_held
from derta.objective.rows import RowBuilder, View
from derta.storage.atomic import write_atomically
from derta.training.collator import ABLATED, REFERENCE, ROW_IDS, RowKey, row_key
from derta.training.head import score_supervised_positions
from derta.training.undisturbed import on_all_ranks, undisturbed

logger = logging.getLogger(__name__)

REFERENCE_FILE = "reference_log_probs.safetensors"
_KEYS = {"model.name_or_path": "objective.weight_model"}
_NOT_THE_MODELS = ("objective", "lengths", ROW_IDS, ABLATED, REFERENCE)  # keys of a batch


@dataclass(frozen=True)
class _Row:
    """place: in the table of rows. epoch: the first with it. tokens: that are held. is_safe: a safe response."""

    place: int
    epoch: int
    tokens: int
    is_safe: bool


class ReferenceLogProbs:
    """Of the training rows of `trainer`."""

    def __init__(self, trainer: Any, builder: RowBuilder):
        self._trainer, self._builder, self._objective = trainer, builder, builder.settings.objective
        self._rows: dict[RowKey, _Row] = {}
        self._sha256 = ""

    def begin(self, checkpoint: Path | None) -> None:
        """Make them known to the collator; every rank must call it, before the first batch is drawn.

        Raises:
            InputError: the run of the checkpoint has left none, or those of other rows; the model that weights come
                from cannot be loaded.
        """
        self._find_rows()
        file = Path(str(self._trainer.args.output_dir)) / REFERENCE_FILE
        flat = self._compute() if checkpoint is None else self._read(checkpoint.parent / REFERENCE_FILE)
        if self._trainer.is_world_process_zero():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, save({"log_probs": flat}, {"rows_sha256": self._sha256}))
        counts = [row.tokens for row in self._rows.values()]
        self._trainer.data_collator.reference = dict(zip(self._rows, flat.split(counts), strict=True))

    def _find_rows(self) -> None:
        arm, digest = self._objective.name, hashlib.sha256()
        drawn = arm.rows.weighted and self._objective.redraw  # else the rows that are held are those of every epoch
        for epoch in range(self._trainer.state.num_train_epochs if drawn else 1):
            for place, entry in enumerate(self._trainer.train_dataset):
                if not is_held(arm, entry):
                    continue
                row = self._builder.build(entry, entry["view"], entry["copy"], epoch)
                count, key = sum(map(bool, row["objective"][1:])), row_key(entry["id"], row)
                if count and key not in self._rows:
                    self._rows[key] = _Row(place, epoch, count, entry["view"] != View.RTO)
                    digest.update(np.array([count, *row["input_ids"], *row["labels"]]).tobytes())
        self._sha256 = digest.hexdigest()

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
        """float32 [held tokens of all rows], in the order of `_rows`."""
        trainer, rows = self._trainer, self._rows
        with undisturbed(trainer) as model, trainer.stopwatch.paused():
            logger.info("reference: log-probabilities of %d rows", len(rows))
            found = self._log_probs(model, list(rows))
            if self._objective.name.rows.weighted:
                safe = [key for key, row in rows.items() if row.is_safe]
                with _weight_model(trainer, self._objective.weight_model) as other:
                    logger.info("weights: log-probabilities of %d rows by %s", len(safe), self._objective.weight_model)
                    found |= {key: values - found[key] for key, values in self._log_probs(other, safe).items()}
                del other
                gc.collect()  # its patched forward refers to it: it would lie beside the model in training
        return torch.cat([found[key] for key in rows])

    def _log_probs(self, model: Any, keys: list[RowKey]) -> dict[RowKey, torch.Tensor]:
        """float32 [held tokens] of these rows, epoch by epoch, the longest rows first."""
        trainer, rows = self._trainer, self._rows
        lengths = trainer.train_dataset["length"]
        found: dict[RowKey, torch.Tensor] = {}

        def run(own: list[RowKey]) -> Iterable[torch.Tensor]:
            batch = trainer.data_collator([trainer.train_dataset[rows[key].place] for key in own])
            inputs = trainer._prepare_inputs({key: batch[key] for key in batch if key not in _NOT_THE_MODELS})
            with trainer.compute_loss_context_manager():
                log_probs = model(**inputs, use_cache=False, fused_lm_head=True).log_probs.float()
            values = log_probs[(batch["objective"][:, 1:] != 0).to(log_probs.device)]
            return values.split([rows[key].tokens for key in own])

        for epoch in sorted({rows[key].epoch for key in keys}):
            trainer.data_collator.epoch.fill_(epoch)
            order = sorted((key for key in keys if rows[key].epoch == epoch), key=lambda key: -lengths[rows[key].place])
            found |= on_all_ranks(trainer, {key: rows[key].tokens for key in order}, run)
        return found


@contextlib.contextmanager
def _weight_model(trainer: Any, name: str | None) -> Iterator[Any]:
    """The model that weights come from, to be run as the trained one is: in its precision, and sharded where it is."""
    assert name is not None  # a conflict of the settings
    own = trainer.accelerator.unwrap_model(trainer.model)
    config = ModelConfig(name_or_path=name, attn_implementation=own.config._attn_implementation)
    dtype = str(own.dtype).removeprefix("torch.")
    with errors_named(keys=_KEYS):
        rounding = in_four_bits(dtype, trainer.args.device) if is_in_four_bits(own) else {}
        model: Any = load_model(config, dtype, **rounding)
        if rounding:
            ready_for_training(model.requires_grad_(False))
        check_vocabulary(model, trainer.processing_class)
    score_supervised_positions(model.eval())
    if trainer.is_deepspeed_enabled:
        from trl.models.utils import prepare_deepspeed

        model = prepare_deepspeed(model, trainer.accelerator)
    else:
        model.to(trainer.args.device)
    with trainer.accelerator.autocast():
        yield model


def check_weight_model(name: str, tokenizer: Any) -> str:
    """The fingerprint of the model that weights come from.
    Raises InputError: it is not there, or has another vocabulary than the model that is trained."""
    with errors_named(keys=_KEYS):
        sha256 = fingerprint(name)
        if load_tokenizer(ModelConfig(name_or_path=name)).get_vocab() != tokenizer.get_vocab():
            raise InputError(
                f"model.name_or_path={name} has another vocabulary than the model that is trained: give a model that "
                "was tuned from that one"
            )
    return sha256
