"""A LoRA adapter's delta turned down and up again: does ablation undo what the adapter taught, and from where on?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from derta.direction.outcomes import Tester
from derta.residual.interventions import directional_ablation

if TYPE_CHECKING:
    import torch


def adapter_scales(
    model: Any, direction: torch.Tensor, tester: Tester, scales: Sequence[float]
) -> list[dict[str, Any]]:
    """Harmful prompts at each scale of the adapter (1 is the adapter as it is), before and after ablating `direction`.
    Empty for a model without an adapter. The adapter's own scaling is put back whatever happens."""
    from peft import PeftModel
    from peft.helpers import rescale_adapter_scale

    found = []
    for scale in scales if isinstance(model, PeftModel) else ():
        with rescale_adapter_scale(model, float(scale)):
            before = tester.measure_harmful()
            with directional_ablation(model, direction):
                after = tester.measure_harmful()
        found.append({"scale": float(scale), "before": before, "ablated": after})
    return found
