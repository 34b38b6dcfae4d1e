"""(a) Trainers on the same rows, DeRTaTrainer and plain TRL, and what logging takes of a step.

Plain TRL gets this epoch's rows ready-made (input_ids, labels) in the order in which DeRTaTrainer trains on them, so
that both do the same arithmetic; building rows and counting objectives is what DeRTaTrainer does beyond that.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from derta.benchmark.measure import Line, now, seconds
from derta.benchmark.workload import MAX_LENGTH, dataset, miniature_rows, tokenizer

BATCH = 8
_PROBE_EVERY, _PROBE_ROWS, _PROBE_RUN = 250, 16, 750  # of the miniature: 3 epochs of 2,000 rows


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


def our_trainer(
    model: Any,
    rows: list[dict[str, Any]],
    output_dir: str,
    steps: int,
    reads: Any = None,
    lora: Any = None,
    **changes: Any,
) -> Any:
    """reads: a tokenizer, the miniature's by default. lora: PEFT's configuration."""
    from derta.training.config import DeRTaConfig
    from derta.training.metrics import MetricsFile
    from derta.training.progress import Progress
    from derta.training.trainer import DeRTaTrainer

    settings = arguments(output_dir, steps, max_length=changes.pop("max_length", MAX_LENGTH), **changes)
    trainer = DeRTaTrainer(
        model,
        args=DeRTaConfig(**settings),
        train_dataset=dataset(rows),
        processing_class=reads or tokenizer(),
        peft_config=lora,
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


def trl_trainer(
    model: Any, rows: list[dict[str, list[int]]], output_dir: str, steps: int, reads: Any = None, lora: Any = None,
    **changes: Any,
) -> Any:  # fmt: skip
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    settings = arguments(output_dir, steps, train_sampling_strategy="sequential", **{"max_length": None, **changes})
    data = Dataset.from_list(rows)
    about = {"args": SFTConfig(**settings), "train_dataset": data, "processing_class": reads or tokenizer()}
    trainer = SFTTrainer(model, peft_config=lora, **about)
    trainer.remove_callback(PrinterCallback)
    return trainer


def step_seconds(trainer: Any, skipped: int = 1) -> Callable[[], float]:
    """A function that trains `max_steps` steps and returns the mean time of one, the first `skipped` left out."""
    import torch
    from transformers import TrainerCallback

    times: list[float] = []  # the beginning of the first step, and the end of each

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not times:
                self.on_step_end()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            times.append(now())

    trainer.add_callback(Clock())

    def run() -> float:
        times.clear()
        trainer.train()
        return (times[-1] - times[skipped]) / (len(times) - 1 - skipped)

    return run


def share_of_logging(trainer: Any) -> Line:
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


def share_of_probe(trainer: Any) -> Line:
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
