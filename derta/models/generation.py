"""Generation in batches, greedy unless told otherwise: left-padded, with a KV cache, sorted by length.

    pad pad pad  prompt prompt | prefill   -> new new <end>
    pad      prompt prompt prompt | prefill -> new new new <end>

A prefix that several inputs share is computed once where prefills are long (derta.models.prefixes).
Batches are cut before anything runs and do not depend on the number of ranks or on what is already done, so that a
resumed or parallel evaluation gives each prompt the same neighbours, and with them the same rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from derta.errors import InputError
from derta.models.inputs import Generation, ModelInput, Sampling
from derta.models.prefixes import families, parts

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from derta.models.target import TargetModel


Batch = list[ModelInput]


def plan_batches(
    inputs: Iterable[ModelInput], batch_size: int, tokens: int | None = None, *, together: bool = False
) -> list[Batch]:
    """Longest inputs first, so that a batch too large for the memory shows at once; ties in the order of their keys.
    tokens: of a batch at most, padding included (None: no limit); an input that is longer has a batch of its own.
    together: the inputs of a row that share a long prefix stand in one batch, and both limits count the longest of each
        row only: `generate` keeps the others' parts within the same limits.
    Raises ValueError: batch_size < 1."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    inputs = list(inputs)
    rows = families(inputs) if together else []
    shared = {item.key for family in rows for item in family}
    batches: list[Batch] = []
    for units in (rows, [[item] for item in inputs if item.key not in shared]):
        ordered = sorted(units, key=lambda unit: (-len(unit[0].token_ids), unit[0].key))
        while ordered:
            longest = len(ordered[0][0].token_ids)
            count = batch_size if tokens is None else min(batch_size, max(1, tokens // longest))
            batches.append([item for unit in ordered[:count] for item in unit])
            ordered = ordered[count:]
    return batches


def generate(
    target: TargetModel, batch: Sequence[ModelInput], *, max_new_tokens: int, sampling: Sampling | None = None
) -> list[Generation]:
    """Continue every input of one batch until an end token or for `max_new_tokens` tokens.
    sampling: None for greedy search.
    Returns one `Generation` per input: prefill ids, then new ids, without the end token and what was taken back. Where
    the target has a guard it is noted where that would stop the response, which is written to its end."""
    if target.server is not None:
        return target.server.generate(
            batch, target.end_token_ids, target.reset_id, max_new_tokens=max_new_tokens, sampling=sampling
        )
    found: dict[int, Generation] = {}
    planned = parts(target.model, batch) if sampling is None else [(list(range(len(batch))), None)]
    for places, cache in planned:
        made = _generate([batch[place] for place in places], cache, target, max_new_tokens, sampling)
        found |= zip(places, made, strict=True)
    return [found[place] for place in range(len(batch))]


def _generate(
    batch: Sequence[ModelInput],
    cache: DynamicCache | None,
    target: TargetModel,
    max_new_tokens: int,
    sampling: Sampling | None,
) -> list[Generation]:
    """`generate` for inputs that are padded to one length. cache: of all of their tokens but the last, if there is
    one."""
    import torch
    from transformers import GenerationConfig

    from derta.models.refusal_stop import RefusalWatch

    model, end_token_ids = target.model, target.end_token_ids
    input_ids, attention_mask = left_pad([item.token_ids for item in batch], target.pad_token_id)
    drawn = {} if sampling is None else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling is not None,
        num_beams=1,
        use_cache=True,
        pad_token_id=target.pad_token_id,
        eos_token_id=end_token_ids,
        **drawn,
    )
    guard = target.guard and RefusalWatch(target.guard.token_ids, target.guard.threshold, target.guard.consecutive)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):  # the caller's random state is not ours
        if sampling is not None:
            torch.manual_seed(sampling.seed)
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=settings,
            logits_processor=[guard] if guard else None,
            **({} if cache is None else {"past_key_values": cache}),
        )
    new = output[:, input_ids.shape[1] :].tolist()
    stops = guard.stopped.tolist() if guard else [-1] * len(new)
    return [
        Generation.cut(item, ids, end_token_ids, target.reset_id, stop)
        for item, ids, stop in zip(batch, new, stops, strict=True)
    ]


def check_logits(target: TargetModel, batch: Sequence[ModelInput]) -> None:
    """One forward over the last, shortest inputs of a batch: argmax would turn NaN logits into text without a word.
    Raises InputError: NaN or infinite logits."""
    import torch

    model = target.model
    input_ids, attention_mask = left_pad([item.token_ids for item in batch[-4:]], target.pad_token_id)
    with torch.inference_mode():
        output = model(
            input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), logits_to_keep=1
        )
    if not bool(torch.isfinite(output.logits).all()):
        raise InputError(
            "the model gives NaN or infinite logits, so nothing it generates means anything: "
            "check the run that made it, or load it with model.dtype=float32"
        )


def left_pad(sequences: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both [B, longest]; the padding stands on the left so that all rows end together."""
    import torch

    longest = max(len(ids) for ids in sequences)
    input_ids = torch.full((len(sequences), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, longest - len(ids) :] = torch.tensor(ids)
        attention_mask[row, longest - len(ids) :] = 1
    return input_ids, attention_mask
