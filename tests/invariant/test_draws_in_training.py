"""k and the dropped RTO positions in real training: new in every epoch, the same for any loader and after a resume.

What is compared is what `compute_loss` receives: every id, label and objective of every micro-batch.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from derta.training.trainer import DeRTaTrainer

ROWS, MICRO, ACCUMULATION = 16, 2, 2  # 8 triples: 4 optimizer steps of 4 rows an epoch


class RecordingTrainer(DeRTaTrainer):
    """Keeps every batch that compute_loss is given, by optimizer step."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.batches = getattr(self, "batches", [])
        mode = "train" if model.training else "eval"
        self.batches.append(
            (mode, self.state.global_step, [inputs[key].tolist() for key in ("input_ids", "labels", "objective")])
        )
        return super().compute_loss(model, inputs, *args, **kwargs)

    def seen(self, mode: str = "train") -> list[tuple[int, list]]:
        return [(step, batch) for kind, step, batch in self.batches if kind == mode]


@pytest.fixture
def triples(mixed_rows) -> Dataset:
    """All with the same harmful response, so that equal rows in two epochs mean equal draws."""
    row = next(row for row in reversed(mixed_rows) if row["rejected"])
    return Dataset.from_list([{**row, "id": f"row-{i}"} for i in range(ROWS // 2)])


@pytest.fixture
def train(triples, tiny_trainer):
    def run(resume: str | None = None, eval_rows: Dataset | None = None, **changes: Any) -> RecordingTrainer:
        settings = {
            "per_device_train_batch_size": MICRO,
            "gradient_accumulation_steps": ACCUMULATION,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "rto_dropout": 0.5,
            "zero_prefix_fraction": 0.0,
            "seed": 11,
        }
        more = {"eval_dataset": eval_rows}
        trainer = tiny_trainer(kind=RecordingTrainer, rows=list(triples), more=more, **{**settings, **changes})
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


@pytest.fixture(scope="module")
def kept() -> dict[int, tuple[RecordingTrainer, Path]]:
    return {}


@pytest.fixture
def whole(train, kept, tmp_path):
    """whole(workers): a run that nothing interrupts, once for all tests, and its directory with all checkpoints."""

    def run(workers: int = 0) -> tuple[RecordingTrainer, Path]:
        if workers not in kept:
            place = tmp_path / f"whole-{workers}"
            trainer = train(output_dir=str(place), save_strategy="steps", save_steps=2, **loader(workers))
            kept[workers] = trainer, place
        return kept[workers]

    return run


def loader(workers: int) -> dict[str, Any]:
    """Persistent workers outlive the first epoch and must see the second one begin."""
    return {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}


def rows_of(trainer: RecordingTrainer, epoch: int, objective: int) -> list[tuple]:
    """Sorted (ids, labels) of an epoch's rows of one objective; the four steps of an epoch are its rows, once each."""
    rows = []
    for step, (ids, labels, objectives) in trainer.seen():
        if step // 4 == epoch:
            for row_ids, row_labels, row_objectives in zip(ids, labels, objectives, strict=True):
                if objective in row_objectives:
                    pad = trainer.processing_class.pad_token_id
                    rows.append((tuple(i for i in row_ids if i != pad), tuple(i for i in row_labels if i != -100)))
    return sorted(rows)


def test_draws_change_between_epochs(whole):
    trainer, _ = whole()
    for objective in (1, 2):
        first, second = (rows_of(trainer, epoch, objective) for epoch in (0, 1))
        assert len(first) == len(second) == ROWS // 2
        assert first != second
    lengths = {len(ids) for epoch in (0, 1) for ids, _ in rows_of(trainer, epoch, 1)}
    assert len(lengths) > 4  # 16 draws of k from 0..26 or so
    kept = [len(labels) for epoch in (0, 1) for _, labels in rows_of(trainer, epoch, 2)]
    assert min(kept) >= 1 and len(set(kept)) > 1


@pytest.mark.parametrize("workers", [1, 4])
def test_same_batches_for_any_number_of_workers(workers, whole):
    (alone, _), (shared, _) = whole(), whole(workers)
    assert shared.seen() == alone.seen() and len(alone.seen()) == 16


@pytest.mark.parametrize("checkpoint", [2, 4, 6], ids=["mid-epoch 0", "end of epoch 0", "mid-epoch 1"])
@pytest.mark.parametrize("workers", [0, 1])
def test_same_batches_and_weights_after_a_resume(checkpoint, workers, whole, train):
    expected, place = whole(workers)
    resumed = train(resume=str(place / f"checkpoint-{checkpoint}"), **loader(workers))
    assert resumed.seen() == [(step, batch) for step, batch in expected.seen() if step >= checkpoint]
    for ours, theirs in zip(resumed.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_transition_rows_survive_a_resume_and_leave_the_other_draws_alone(whole, train, tmp_path):
    turns = {"transition_copies": 1, "transition_tokens": 3}
    turned = train(save_strategy="steps", save_steps=4, **turns)
    resumed = train(resume=str(tmp_path / "run" / "checkpoint-4"), **turns)
    assert resumed.seen() == [(step, batch) for step, batch in turned.seen() if step >= 4]

    def rows(trainer, steps):
        """(ids, labels) of all MLE and RTO rows of the first epoch, transitions apart."""
        found: dict[bool, list] = {False: [], True: []}
        for step, (ids, labels, kinds) in trainer.seen():
            for row_ids, row_labels, row_kinds in zip(ids, labels, kinds, strict=True) if step < steps else ():
                kept = [label for label in row_labels if label != -100]
                is_turn = 2 not in row_kinds and len(kept) == 3
                pad = trainer.processing_class.pad_token_id
                found[is_turn].append(([i for i in row_ids if i != pad], kept))
        return {kind: sorted(values) for kind, values in found.items()}

    with_turns, without = rows(turned, 6), rows(whole()[0], 4)  # an epoch of 24 rows and one of 16, 4 to a step
    assert with_turns[False] == without[False] and len(without[False]) == ROWS
    assert len(with_turns[True]) == ROWS // 2 and not without[True]


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_always_uses_the_draws_of_epoch_0(workers, whole, train, triples):
    """Else losses of two epochs could not be compared; and it leaves the training draws alone."""
    evaluated = train(eval_rows=triples, eval_strategy="steps", eval_steps=3, **loader(workers))
    assert evaluated.seen() == whole(workers)[0].seen()
    by_step: dict[int, list] = {}
    for step, batch in evaluated.seen("eval"):
        by_step.setdefault(step, []).append(batch)
    assert list(by_step) == [3, 6, 8]  # in the first epoch, in the second, and at its end
    assert by_step[3] == by_step[6] == by_step[8]
