"""(c) The loss from hidden states, forward and backward: time and peak memory of the training head against full logits.

    hidden [1, T, H] -> log P(label) [T] -> loss -> gradients of hidden states and head

Every position is supervised, the worst case. The naive path holds logits, their float32 copy and log-softmax, [T, V]
each.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from derta.benchmark.measure import Line, in_turn, seconds, with_peak

_SHAPES = ((1024, 32_000), (1024, 128_000), (1024, 256_000), (4096, 32_000), (4096, 128_000))  # tokens, vocabulary
_ONLY_FULL = 2  # of the shapes
_HIDDEN = 64


def head_memory(size: str) -> Iterator[Line]:
    for tokens, vocabulary in _SHAPES if size == "full" else _SHAPES[:-_ONLY_FULL]:
        yield from head("c", tokens, vocabulary, _HIDDEN, goal=0.2 if vocabulary >= 128_000 else None)


def head(suite: str, tokens: int, vocabulary: int, hidden: int, goal: float | None = None) -> Iterator[Line]:
    """On the GPU in bfloat16, where there is one. goal: of the memory."""
    import torch

    on_gpu = torch.cuda.is_available()
    placed = {"device": "cuda", "dtype": torch.bfloat16} if on_gpu else {"device": "cpu", "dtype": torch.float32}
    ours, naive = (make(vocabulary, tokens, hidden, **placed) for make in (_our_loss, _naive_loss))

    def step(loss: Any) -> None:
        loss().backward()
        if on_gpu:
            torch.cuda.synchronize()

    def milliseconds(loss: Any) -> float:
        return 1e3 * seconds(lambda: step(loss))

    def peak(loss: Any) -> float:
        return with_peak(lambda: step(loss))[1]

    what, peer = f"loss, {tokens:,} tokens, V = {vocabulary:,}, H = {hidden:,}", "full logits"
    pairs = [(partial(measured, ours), partial(measured, naive)) for measured in (milliseconds, peak)]
    yield in_turn(suite, what, "ms", *pairs[0], rounds=3 if on_gpu else 1, peer_name=peer)
    yield in_turn(suite, f"{what}, peak memory", "MiB", *pairs[1], rounds=1, peer_name=peer, goal=goal)


def _inputs(vocabulary: int, tokens: int, hidden: int, **placed: Any) -> tuple[Any, Any, Any]:
    import torch

    torch.manual_seed(0)
    head = torch.nn.Linear(hidden, vocabulary, bias=False, **placed)
    labels = torch.randint(vocabulary, (1, tokens), device=placed["device"])
    return torch.randn(1, tokens, hidden, requires_grad=True, **placed), head, labels


def _naive_loss(vocabulary: int, tokens: int, hidden: int, **placed: Any) -> Any:
    import torch

    inputs, head, labels = _inputs(vocabulary, tokens, hidden, **placed)
    return lambda: torch.nn.functional.cross_entropy(head(inputs)[0].float(), labels[0])


def _our_loss(vocabulary: int, tokens: int, hidden: int, **placed: Any) -> Any:
    """The head of DeRTaTrainer on a backbone that does nothing: one layer of Llama would cost more than it tells."""
    import torch

    from derta.benchmark.workload import llama
    from derta.training.head import score_supervised_positions

    model = llama(vocabulary, hidden, layers=1).to(**placed)
    model.model.layers = torch.nn.ModuleList()
    score_supervised_positions(model)
    inputs, _, labels = _inputs(vocabulary, tokens + 1, hidden, **placed)
    return lambda: -model(inputs_embeds=inputs, labels=labels, fused_lm_head=True).log_probs.mean()
