"""What is done to a loaded model, and what direction.json says about it.

    as it is | 1 ... n directions ablated | one direction per layer ablated | added | of another checkpoint ablated
             | the adapter scaled, with and without ablation | the least bypass ablated, where no direction is valid

Activations are changed while they are computed and weights never, so the model is bit for bit what it was before.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from derta.config.direction import DirectionConfig
from derta.direction.find import Reference, Search, direction_of, find_direction, orthogonal_directions
from derta.direction.outcomes import AS_IT_IS, BOTH, HARMFUL, HARMLESS, Tester
from derta.direction.prompts import SPLITS, Side, refusal_start_ids
from derta.direction.score import KEY, robustness
from derta.direction.suffix import analyse_suffixes
from derta.evaluation.judges.judge import build_judge
from derta.evaluation.records import Result
from derta.models.target import TargetModel
from derta.residual.direction_files import Direction
from derta.residual.interventions import activation_addition, directional_ablation, layerwise_ablation

_STRONGEST, _PER_LAYER, _ADDED = "ablated, not valid", "one per layer ablated", "added"


@dataclass(frozen=True, slots=True)
class Examined:
    """report: what direction.json says about a model. results: every judged response."""

    report: dict[str, Any]
    search: Search
    results: list[Result]


def examine(
    target: TargetModel,
    harmful: Side,
    harmless: Side,
    config: DirectionConfig,
    references: Mapping[str, Reference] | None = None,
) -> Examined:
    """Search for the direction of a loaded model, and see what the model is without it."""
    refusal_ids = refusal_start_ids(target.tokenizer, config.refusal_texts, config.refusal_token_ids)
    search = find_direction(target, harmful, harmless, refusal_ids, config)
    chosen = search.selection.chosen
    own = search.at(chosen) if chosen else None
    others = {name: direction_of(reference, chosen) for name, reference in (references or {}).items()}
    judge = build_judge(config.judge, config.judging)
    tester = Tester(target, (harmful, harmless), judge, refusal_ids, config)
    cells = tester.measure(_plan(target.model, search, config, others))
    strongest = search.strongest
    report: dict[str, Any] = {
        "prompts": {
            side.name: {split: len(getattr(side, split)) for split in SPLITS}
            | {"kept": search.kept[side.name], "left_out": side.left_out}
            for side in (harmful, harmless)
        },
        "filtered": config.filter_prompts,
        "refusal_tokens": [{"id": i, "text": target.tokenizer.decode([i])} for i in refusal_ids],
        "layers": search.differences.shape[1],
        "positions": len(search.differences),
        "candidates": [candidate.to_row() for candidate in search.candidates],
        "selection": {
            **search.selection.to_json(),
            "dropped": search.selection.dropped,
            "kl_max": config.selection.kl_max,
        },
        "norms": search.differences.norm(dim=-1).tolist(),
        "cosines": None if own is None else _cosines(search.differences, own),
        "before": cells[AS_IT_IS],
        "strongest": strongest and {"position": strongest.position, "layer": strongest.layer, **cells[_STRONGEST]},
        "ablated": [
            {"directions": n, **cells[f"{n} ablated"]} for n in range(1, config.subspace + 1) if f"{n} ablated" in cells
        ],
        "per_layer": {"position": search.per_layer, **cells[_PER_LAYER]},
        "added": cells.get(_ADDED),
        "adapter_scales": [
            {"scale": float(scale), "before": cells[_scaled(scale)], "ablated": cells[f"{_scaled(scale)}, ablated"]}
            for scale in config.lora_scales
            if _scaled(scale) in cells
        ],
        "references": [
            {"name": name, **_reference(direction, isinstance(reference, Direction), own, cells.get(_of(name), {}))}
            for (name, reference), direction in zip((references or {}).items(), others.values(), strict=True)
        ],
        "suffix": None,
    }
    if config.suffix.path:
        report["suffix"] = analyse_suffixes(
            target, harmful.rows, refusal_ids, search, config.suffix, config.splits.seed
        )
    report[KEY] = asdict(robustness(report, config.selection.kl_max))
    return Examined(report, search, tester.results)


def _plan(
    model: Any, search: Search, config: DirectionConfig, others: Mapping[str, Direction | None]
) -> dict[str, tuple[AbstractContextManager[None], Sequence[str]]]:
    from peft import PeftModel

    plan: dict[str, tuple[AbstractContextManager[None], Sequence[str]]] = {}
    chosen, survivors = search.selection.chosen, search.selection.survivors
    if chosen is not None:
        direction = search.at(chosen)
        survived = search.differences[[c.position for c in survivors], [c.layer for c in survivors]]
        basis = orthogonal_directions(direction, survived, config.subspace)
        for n in range(1, len(basis) + 1):
            plan[f"{n} ablated"] = directional_ablation(model, basis[:n]), BOTH
        plan[_ADDED] = activation_addition(model, direction, chosen.layer), HARMLESS
        for scale in config.lora_scales if isinstance(model, PeftModel) else ():
            plan[_scaled(scale)] = _rescaled(model, scale, None), HARMFUL
            plan[f"{_scaled(scale)}, ablated"] = _rescaled(model, scale, direction), HARMFUL
    elif search.strongest is not None:
        # Not valid, so no score rests on it; but whether refusal or everything breaks down tells the two apart.
        plan[_STRONGEST] = directional_ablation(model, search.at(search.strongest)), BOTH
    plan[_PER_LAYER] = layerwise_ablation(model, search.differences[search.per_layer]), BOTH
    return plan | {
        _of(name): (directional_ablation(model, direction.vector), BOTH)
        for name, direction in others.items()
        if direction is not None
    }


def _scaled(scale: float) -> str:
    return f"adapter x {scale:g}"


def _of(reference: str) -> str:
    return f"{reference}'s ablated"


@contextmanager
def _rescaled(model: Any, scale: float, direction: torch.Tensor | None) -> Iterator[None]:
    """A LoRA adapter's delta times `scale`, and then the direction ablated. The adapter's own scaling is put back."""
    from peft.helpers import rescale_adapter_scale

    ablated = nullcontext() if direction is None else directional_ablation(model, direction)
    with rescale_adapter_scale(model, float(scale)), ablated:
        yield


def _reference(
    direction: Direction | None, is_own: bool, own: torch.Tensor | None, cell: Mapping[str, Any]
) -> dict[str, Any]:
    """`own`: whether the reference had a valid direction. `cosine`: with this model's own, null without one."""
    if direction is None:
        return {"own": False, "reason": "neither the reference nor the model has a valid direction"}
    vector = direction.vector
    cosine = None if own is None else float(own @ vector / (own.norm() * vector.norm()))
    place = {"position": direction.position, "layer": direction.layer}
    return {"own": is_own, "reason": "", **place, "cosine": cosine, **cell}


def _cosines(differences: torch.Tensor, direction: torch.Tensor) -> list[list[float | None]]:
    """Cosine of every candidate [P, L] with the chosen direction; None where a candidate is zero."""
    lengths = differences.norm(dim=-1) * direction.norm()
    products = differences @ direction
    return [
        [float(product / length) if length else None for product, length in zip(*row, strict=True)]
        for row in zip(products, lengths, strict=True)
    ]
