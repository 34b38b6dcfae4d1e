"""(c) Peak memory of the loss, forward and backward, from hidden states: the training head against full logits.

    hidden [1, T, 64] -> log P(label) [T] -> loss -> gradients of hidden states and head

Every position is supervised, the worst case. The naive path holds logits, their float32 copy and log-softmax, [T, V]
each; it is skipped where that would not fit.
"""

from __future__ import annotations

from typing import Any

from derta.benchmark.measure import Line, seconds, with_peak

_HIDDEN = 64
_VOCABULARIES = (32_000, 128_000, 256_000)
_TOKENS = {"small": (1024,), "full": (1024, 4096, 16384)}
_NAIVE_COPIES = 4  # of [T, V] in float32: logits, log-softmax, and a gradient of each
_LARGEST = {"small": 4 << 30, "full": 16 << 30}  # bytes the naive path may need


def head_memory(size: str) -> list[Line]:
    lines = []
    for vocabulary in _VOCABULARIES:
        for tokens in _TOKENS[size]:
            estimate = _NAIVE_COPIES * 4 * tokens * vocabulary
            ours, our_time = _measure(_our_loss(vocabulary, tokens))
            line = Line("c", f"loss at V = {vocabulary // 1000}k, {tokens // 1024}k tokens", "MiB", ours)
            line.goal, line.peer_name = 0.2 if vocabulary >= 128_000 else None, "full logits"
            line.note = f"{our_time:.1f} s, naive not run"
            if estimate <= _LARGEST[size]:
                line.peer, peer_time = _measure(_naive_loss(vocabulary, tokens))
                line.ratio, line.note = ours / line.peer, f"{our_time:.1f} s against {peer_time:.1f} s"
            lines.append(line)
    return lines


def _measure(loss: Any) -> tuple[float, float]:
    took, peak = with_peak(lambda: seconds(lambda: loss().backward()))
    return peak, took


def _inputs(vocabulary: int, tokens: int) -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    head = torch.nn.Linear(_HIDDEN, vocabulary, bias=False)
    return torch.randn(1, tokens, _HIDDEN, requires_grad=True), head, torch.randint(vocabulary, (1, tokens))


def _naive_loss(vocabulary: int, tokens: int) -> Any:
    import torch

    hidden, head, labels = _inputs(vocabulary, tokens)
    return lambda: torch.nn.functional.cross_entropy(head(hidden)[0].float(), labels[0])


def _our_loss(vocabulary: int, tokens: int) -> Any:
    """The head of DeRTaTrainer on a backbone that does nothing: one layer of Llama would cost more than it tells."""
    import torch

    from derta.benchmark.workload import llama
    from derta.training.head import score_supervised_positions

    model = llama(vocabulary, hidden=_HIDDEN, layers=1)
    model.model.layers = torch.nn.ModuleList()
    score_supervised_positions(model)
    hidden, _, labels = _inputs(vocabulary, tokens + 1)
    return lambda: -model(inputs_embeds=hidden, labels=labels, fused_lm_head=True).log_probs.mean()
