"""(e) Prompts per second: the evaluation's generation against plain `model.generate`, and P(refusal) along given
responses in one forward against generating responses of that length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from derta.benchmark.measure import Line, in_turn, seconds
from derta.benchmark.workload import llama, miniature_rows, tokenizer


def generation(size: str) -> list[Line]:
    from derta.models.generation import generate, plan_batches
    from derta.models.inputs import ModelInput
    from derta.models.target import TargetModel
    from derta.objective.refusal_probability import row_curves
    from derta.objective.refusal_token import resolve_refusal_token

    count, new, rounds, batch = (32, 40, 3, 16) if size == "small" else (256, 128, 5, 32)
    rows = [row for row in miniature_rows(4 * count) if row["rejected"]][:count]
    target = TargetModel(llama(len(tokenizer())), tokenizer())
    prompts = [target.cutter.cut(row["prompt"], row["chosen"]).prompt for row in rows]
    inputs = [ModelInput("set", "none", row["id"], tuple(ids)) for row, ids in zip(rows, prompts, strict=True)]
    refusal = resolve_refusal_token(tokenizer(), "Sorry", None)

    def ours() -> float:
        return count / seconds(lambda: [generate(target, b, max_new_tokens=new) for b in plan_batches(inputs, batch)])

    def plain() -> float:
        batches = [prompts[start : start + batch] for start in range(0, count, batch)]
        return count / seconds(lambda: [_plain_generate(target.model, b, new) for b in batches])

    def curves() -> float:
        return count / seconds(lambda: row_curves(target, rows, refusal, harmful=True, batch_size=batch))

    return [
        in_turn("e", f"generation, {new} tokens", "prompts/s", ours, plain, rounds, peer_name="model.generate"),
        in_turn("e", "curve of P(refusal), given responses", "prompts/s", curves, ours, rounds, peer_name="generation"),
    ]


def _plain_generate(model: Any, prompts: Sequence[Sequence[int]], new: int) -> Any:
    """What a user writes: pad on the left, generate greedily."""
    padded = tokenizer().pad({"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt")
    return model.generate(
        **padded, max_new_tokens=new, do_sample=False, eos_token_id=tokenizer().eos_token_id, pad_token_id=0
    )
