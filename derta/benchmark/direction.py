"""(i) The refusal-direction diagnostic: means of all layers and positions from one pass, against plain forwards.

Both run the same left-padded batches through the same model and read the logits at the last token; ours also keeps the
last positions of every block input and sums them in float64. Goals: time and peak memory at most 1.5 times.
"""

from types import SimpleNamespace
from typing import Any

from derta.benchmark.measure import Line, in_turn, seconds, with_peak
from derta.benchmark.workload import llama, tokenizer

POSITIONS = 5  # as many as Llama-3's template has
_MODELS = {  # size: hidden size, layers, prompts
    "small": ((128, 3, 128), (512, 8, 32)),
    "full": ((128, 3, 128), (512, 12, 128), (1024, 24, 128)),
}
_GOAL = 1.5


def direction(size: str) -> list[Line]:
    import torch

    from derta.direction.forward import PromptBatches, mean_activations

    vocabulary, rounds = len(tokenizer()), 5 if size == "small" else 9
    lines = []
    for hidden, layers, count in _MODELS[size]:
        model: Any = llama(vocabulary, hidden, layers).eval()
        generator = torch.Generator().manual_seed(0)
        lengths = torch.randint(20, 60, (count,), generator=generator).tolist()
        prompts = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in lengths]
        target: Any = SimpleNamespace(model=model, pad_token_id=0)
        batches = PromptBatches(target, prompts, 32)

        def plain(batches: PromptBatches = batches) -> None:
            for _ in batches.logits():
                pass

        def means(batches: PromptBatches = batches) -> None:
            mean_activations(batches, POSITIONS)

        what = f"{count} prompts, {layers} layers of {hidden}, {POSITIONS} positions"
        about: dict[str, Any] = {"peer_name": "plain forwards", "goal": _GOAL}
        lines.append(in_turn("i", what, "s", lambda: seconds(means), lambda: seconds(plain), rounds, **about))
        peaks = (lambda: with_peak(means)[1], lambda: with_peak(plain)[1])
        lines.append(in_turn("i", f"{what}, peak memory", "MiB", *peaks, 3, **about))
    return lines
