"""(a) A training step of DeRTaTrainer against plain TRL, and what logging takes of it.

Plain TRL gets this epoch's rows ready-made (input_ids, labels) in the order in which DeRTaTrainer trains on them, so
that both do the same arithmetic; building rows and counting objectives is what DeRTaTrainer does beyond that.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from derta.benchmark.measure import Line, compared, now, seconds, with_peak
from derta.benchmark.workload import MAX_LENGTH, dataset, llama, miniature_rows, tokenizer

BATCH = 8
_PROBE_EVERY, _PROBE_ROWS, _PROBE_RUN = 250, 16, 750  # of the miniature: 3 epochs of 2,000 rows
_PACKED = 512  # tokens per packed row; two of them hold about as many tokens as a batch of eight


def arguments(output_dir: str, steps: int, **changes: Any) -> dict[str, Any]:
    """What both trainers are told."""
    import torch

    return {
        "output_dir": output_dir,
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "learning_rate": 3e-4,
        "activation_checkpointing": False,  # on in SFTConfig, off in launch/train.py
        "logging_steps": 20,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
        "bf16": torch.accelerator.is_available(),
        "dataloader_pin_memory": torch.accelerator.is_available(),
        **changes,
    }


def our_trainer(model: Any, rows: list[dict[str, Any]], output_dir: str, steps: int, **changes: Any) -> Any:
    from derta.training.config import DeRTaConfig
    from derta.training.metrics import MetricsFile
    from derta.training.progress import Progress
    from derta.training.trainer import DeRTaTrainer

    settings = arguments(output_dir, steps, max_length=changes.pop("max_length", MAX_LENGTH), **changes)
    trainer = DeRTaTrainer(
        model,
        args=DeRTaConfig(**settings),
        train_dataset=dataset(rows),
        processing_class=tokenizer(),
        callbacks=[MetricsFile(Path(output_dir))],
    )
    trainer.remove_callback(Progress)
    return trainer


def rows_of_epoch(trainer: Any) -> list[dict[str, list[int]]]:
    """input_ids and labels of epoch 0, in the order of DeRTaTrainer's sampler."""
    table = trainer.train_dataset
    order = trainer._get_train_sampler()
    built = [trainer._builder.build(table[i], table[i]["view"], table[i]["copy"], 0) for i in order]
    return [{"input_ids": row["input_ids"], "labels": row["labels"]} for row in built]


def trl_trainer(model: Any, rows: list[dict[str, list[int]]], output_dir: str, steps: int, **changes: Any) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    settings = arguments(output_dir, steps, train_sampling_strategy="sequential", **{"max_length": None, **changes})
    data = Dataset.from_list(rows)
    trainer = SFTTrainer(model, args=SFTConfig(**settings), train_dataset=data, processing_class=tokenizer())
    trainer.remove_callback(PrinterCallback)
    return trainer


def step_seconds(trainer: Any) -> Callable[[], float]:
    """A function that trains `max_steps` steps and returns the median time of one, the first left out."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    trainer.add_callback(Clock())

    def run() -> float:
        ends.clear()
        trainer.train()
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    return run


def training(size: str) -> list[Line]:
    """Step time and memory, padded, flattened and packed; then the share of logging."""
    steps, rounds = (4, 3) if size == "small" else (20, 8)
    rows = miniature_rows((steps + 1) * BATCH)
    vocabulary = len(tokenizer())
    lines = []
    for mode in ("padded", "flattened", "packed"):
        with tempfile.TemporaryDirectory() as folder:
            ours = our_trainer(llama(vocabulary), rows, folder, steps, padding_free=mode != "padded")
            ready = rows_of_epoch(ours)
            changes: dict[str, Any] = {"padding_free": mode == "flattened"}
            if mode == "packed":
                changes = {"packing": True, "max_length": _PACKED, "per_device_train_batch_size": 2}
            theirs = trl_trainer(llama(vocabulary), ready, folder, steps, **changes)
            lines += _compare(mode, ours, theirs, rounds)
            if mode == "padded":
                lines += [_share_of_logging(ours), _share_of_probe(ours)]
    return lines


def _compare(mode: str, ours: Any, theirs: Any, rounds: int) -> list[Line]:
    """Step time (packed: time per token, as steps differ in tokens) and peak memory, in turn."""
    samples: list[list[float]] = [[] for _ in range(4)]
    mine, peers, my_peaks, peer_peaks = samples
    runs = (step_seconds(ours), step_seconds(theirs))
    tokens = (_tokens_per_step(ours), _tokens_per_step(theirs))
    for number in range(rounds + 1):
        for run, count, times, peaks in zip(runs, tokens, (mine, peers), (my_peaks, peer_peaks), strict=True):
            took, peak = with_peak(run)
            if number:
                times.append(1e6 * took / count if mode == "packed" else 1e3 * took)
                peaks.append(peak)
    unit = "us/token" if mode == "packed" else "ms/step"
    name = f"TRL SFTTrainer, {mode}"
    return [
        compared("a", f"training step, {mode}", unit, mine, peers, peer_name=name, goal=1.02),
        compared("a", f"peak memory, {mode}", "MiB", my_peaks, peer_peaks, peer_name=name, goal=1.02),
    ]


def _tokens_per_step(trainer: Any) -> float:
    """Tokens without padding, the mean over the steps a run takes."""
    batches = [batch for batch, _ in zip(trainer.get_train_dataloader(), range(trainer.args.max_steps), strict=False)]
    counts = [
        int(batch.get("attention_mask", batch["input_ids"].new_ones(batch["input_ids"].shape)).sum())
        for batch in batches
    ]
    return sum(counts) / len(counts)


def _share_of_logging(trainer: Any) -> Line:
    """Time inside everything that only watches, as a share of the run: sums of curves, log lines, metrics.jsonl."""
    spent = 0.0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            begin = now()
            try:
                return function(*args, **kwargs)
            finally:
                spent += now() - begin

        return call

    sums = trainer._token_sums["train"]
    sums.add, trainer.log = timed(sums.add), timed(trainer.log)  # log calls the callbacks, too
    begin = now()
    trainer.train()
    total = now() - begin
    del sums.add, trainer.log
    return Line("a", "curves and log lines, share of a run", "share", ours=spent / total, goal=0.01)


def _share_of_probe(trainer: Any) -> Line:
    """What the probe takes of a run of the miniature: 16 rows of either kind before the first step, every 250 steps and
    after the last; a run's median step and measurement."""
    from derta.objective.refusal_token import resolve_refusal_token
    from derta.training.probe import RefusalProbe

    rows = [{"kind": "triple" if row["rejected"] else "helpful", **row} for row in miniature_rows(400, seed=1)]
    probe = RefusalProbe(
        rows, tokenizer(), resolve_refusal_token(tokenizer(), "Sorry", None),
        every=_PROBE_EVERY, rows_per_side=_PROBE_ROWS, max_length=MAX_LENGTH,
    )  # fmt: skip
    probe.attach(trainer)
    step, measurement = step_seconds(trainer)(), statistics.median(seconds(probe.measure) for _ in range(3))
    count = 2 + (_PROBE_RUN - 1) // _PROBE_EVERY
    return Line(
        "a", "probe, share of a run", "share", ours=count * measurement / (_PROBE_RUN * step), goal=0.01,
        note=f"{2 * _PROBE_ROWS} rows, {count} times in {_PROBE_RUN} steps of {BATCH} rows",
    )  # fmt: skip
