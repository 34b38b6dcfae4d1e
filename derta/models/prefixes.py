"""Keys and values of a prefix that several inputs share, computed once: one prompt behind which prefills grow.

    prompt r1 ................ r2000    one forward of the longest input of a row: the trunk
    pad pad pad prompt r1 ... r500 |    each input takes from it what is its own, but for the last token,
    pad pad pad prompt r1 ... r480 |    and goes on in a batch of inputs of similar length

A token's keys and values depend on what stands before it alone, so nothing changes but rounding. That holds for plain
attention over everything before; models that keep another state, or turn positions by the length of the whole, compute
each input by itself (`shares_prefixes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from derta.models.inputs import ModelInput

if TYPE_CHECKING:
    from transformers import DynamicCache

LONG_PREFILL = 200
"""Tokens of a row's longest prefill from which on it is worthwhile."""


def shares_prefixes(model: Any) -> bool:
    """Whether the model's cache is plain keys and values of every token before, and its positions are fixed."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if not model._supports_default_dynamic_cache():
        return False
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
    ropes = {str(getattr(module, "rope_type", "")) for module in model.modules()}
    return plain and not any("dynamic" in rope or "longrope" in rope for rope in ropes)


def families(inputs: Iterable[ModelInput]) -> list[list[ModelInput]]:
    """Inputs of one row that are prefixes of its longest prefilled one, the longest first; only where that is long and
    there are several."""
    rows: dict[tuple[str, str], list[ModelInput]] = {}
    for item in inputs:
        rows.setdefault((item.prompt_set, item.row_id), []).append(item)
    found = []
    for row in rows.values():
        whole = max(row, key=lambda item: item.prefill_tokens)
        if whole.prefill_tokens >= LONG_PREFILL:
            own = [item for item in row if whole.token_ids[: len(item.token_ids)] == item.token_ids]
            found.append(sorted(own, key=lambda item: (-len(item.token_ids), item.key)))
    return [family for family in found if len(family) > 1]


def parts(model: Any, batch: Sequence[ModelInput]) -> Iterator[tuple[list[int], DynamicCache | None]]:
    """Places in the batch that are generated from together, and the left-padded cache of their inputs but for the last
    token (None: nothing is shared). Inputs of a part are at least half as long as its longest; with their padding they
    are no more tokens than the trunks."""
    found = families(batch)
    if not found or not shares_prefixes(model):
        yield list(range(len(batch))), None
        return
    ids = [item.token_ids for item in batch]
    whole = {item.token_ids: family[0].token_ids for family in found for item in family}
    trunks = {each: _key_values(model, each) for each in {whole.get(own, own): None for own in ids}}
    left = sorted(range(len(batch)), key=lambda place: -len(ids[place]))
    while left:
        longest = len(ids[left[0]])
        part = [place for place in left if 2 * len(ids[place]) >= longest][: sum(map(len, trunks)) // longest]
        left = left[len(part) :]
        yield part, _gather([(trunks[whole.get(ids[place], ids[place])], len(ids[place]) - 1) for place in part])


def _key_values(model: Any, token_ids: Sequence[int]) -> DynamicCache:
    """Of all tokens; without logits, but for the last one's."""
    import torch
    from transformers import DynamicCache

    with torch.inference_mode():
        return model(
            input_ids=torch.tensor([token_ids], device=model.device),
            past_key_values=DynamicCache(config=model.config),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values


def _gather(rows: Sequence[tuple[DynamicCache, int]]) -> DynamicCache:
    """The first tokens of each cache, so many as named, left-padded: one cache of a batch."""
    import torch
    from torch.nn.functional import pad
    from transformers import DynamicCache

    longest = max(length for _, length in rows)

    def together(states: Iterable[torch.Tensor]) -> torch.Tensor:  # [1, heads, tokens, width] each
        lengths = (length for _, length in rows)
        return torch.cat([pad(own[..., :n, :], (0, 0, longest - n, 0)) for own, n in zip(states, lengths, strict=True)])

    with torch.inference_mode():
        layers = zip(*(cache.layers for cache, _ in rows), strict=True)
        return DynamicCache(
            [(together(each.keys for each in own), together(each.values for each in own)) for own in layers]
        )
