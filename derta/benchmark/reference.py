"""(b) Rows per second against a naive loop that trains on the same rows.

The loop does what the reference code does (commit 70bdb52, as described in its issues and read for this comparison;
written anew): 16 rows at a time in random order, padded to the longest of them (no length grouping, no packing),
logits of every position in full and in float32, a Python loop over the rows with a host synchronisation each. It trains
the same model on the same rows and labels with the paper's global batch of 128. ZeRO-3 with CPU offload, which takes
its time on GPUs, is left out. Only steps are timed: neither side's set-up counts.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from typing import Any

from derta.benchmark.measure import Line, in_turn, now
from derta.benchmark.training import our_trainer, rows_of_epoch, step_seconds
from derta.benchmark.workload import PAPER_LENGTH, llama, paper_mix, tokenizer

_MICRO, _ACCUMULATION = 16, 8


def naive_loop(model: Any, rows: list[dict[str, list[int]]], steps: int) -> Callable[[], float]:
    """A function that trains `steps` optimizer steps and returns rows per second."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    order = _order(len(rows))
    batches = [order[start : start + _MICRO] for start in range(0, len(order), _MICRO)]

    def run() -> float:
        model.train()
        begin = now()
        for step in range(steps):
            optimizer.zero_grad()
            for batch in batches[step * _ACCUMULATION : (step + 1) * _ACCUMULATION]:
                (_naive_loss(model, [rows[i] for i in batch]) / _ACCUMULATION).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return steps * _ACCUMULATION * _MICRO / (now() - begin)

    return run


def _naive_loss(model: Any, rows: list[dict[str, list[int]]]) -> Any:
    """Mean nll over the supervised tokens of one micro-batch."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[i, :length], labels[i, :length] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        mask[i, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()  # [B, L, V]
    total, count = logits.new_zeros(()), 0
    for i in range(len(rows)):
        target = labels[i, 1:]
        total = total + torch.nn.functional.cross_entropy(logits[i, :-1], target, ignore_index=-100, reduction="sum")
        count += int((target != -100).sum().item())
    return total / max(count, 1)


def reference(size: str) -> list[Line]:
    """The paper's length mix at a quarter of its lengths (small) or as it is (full)."""
    steps, rounds, scale = (1, 2, 0.25) if size == "small" else (4, 5, 1.0)
    batch, vocabulary = _MICRO * _ACCUMULATION, len(tokenizer())
    # Share of the head in the weights that are multiplied, as in models people train: 22% in Llama-3.2-1B, 7% in
    # Llama-3-8B (128k words; the models here have 1,280).
    shapes = {"head 22%": {"hidden": 128, "layers": 3}}
    if size == "full":
        shapes["head 8%"] = {"hidden": 256, "layers": 5}
    rows = paper_mix(batch * (steps + 1), scale)
    modes = ("padded",) if size == "small" else ("padded", "flattened")
    lines = []
    for shape, model in shapes.items():
        for mode in modes:
            with tempfile.TemporaryDirectory() as folder:
                ours = our_trainer(
                    llama(vocabulary, **model),
                    rows,
                    folder,
                    steps + 1,  # the first one is not timed
                    padding_free=mode == "flattened",
                    gradient_accumulation_steps=_ACCUMULATION,
                    per_device_train_batch_size=_MICRO,
                    max_length=round(scale * PAPER_LENGTH),
                )
                timed = rows_of_epoch(ours)[batch : batch * (steps + 1)]
                step, naive = step_seconds(ours), naive_loop(llama(vocabulary, **model), timed, steps)
                padding = f"padding {_padding(timed, True):.0%} against {_padding(timed, False):.0%}"
                line = in_turn(
                    "b", f"paper's length mix, {mode}, {shape}", "rows/s",
                    lambda step=step: batch / step(), naive, rounds,  # type: ignore[misc]
                    peer_name="naive loop", goal=2.0, at_least=True, note=f"lengths x {scale:g}; {padding}",
                )  # fmt: skip
                lines.append(line)
    return lines


def _padding(rows: list[dict[str, list[int]]], grouped: bool) -> float:
    """Share of slots that are padding, in our order of the rows or in the naive loop's."""
    lengths = [len(row["input_ids"]) for row in rows]
    if not grouped:
        lengths = [lengths[i] for i in _order(len(rows))]
    slots = sum(_MICRO * max(lengths[start : start + _MICRO]) for start in range(0, len(lengths), _MICRO))
    return 1 - sum(lengths) / slots


def _order(count: int) -> list[int]:
    return random.Random(0).sample(range(count), count)
