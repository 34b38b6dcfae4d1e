"""The head that scores labelled positions only, against log-softmax of the model's own full logits."""

import copy
from typing import Any

import pytest
import torch

from derta.training import head
from derta.training.head import score_supervised_positions

IGNORE = -100


def naive(model: Any, batch: dict[str, torch.Tensor], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log P(label) and whether it is the most likely token, [B, L - 1], by a loop over positions."""
    logits = model(**batch, use_cache=False).logits
    log_probs, top = logits.new_zeros(labels[:, 1:].shape), torch.zeros_like(labels[:, 1:], dtype=torch.bool)
    for row, column in (labels[:, 1:] != IGNORE).nonzero().tolist():
        label = labels[row, column + 1]
        log_probs[row, column] = logits[row, column].log_softmax(-1)[label]
        top[row, column] = logits[row, column].argmax() == label
    return log_probs, top


def padded_batch(vocabulary: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Three rows of 12, 9 and 5 tokens; a label differs from its input, as in RTO, and some positions have none."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, vocabulary, (3, 12), generator=generator)
    labels = torch.randint(0, vocabulary, (3, 12), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate((12, 9, 5)):
        mask[row, :length] = 1
        labels[row, length:] = IGNORE
        labels[row, : row + 2] = IGNORE
    labels[0, 6:8] = IGNORE
    return {"input_ids": ids, "attention_mask": mask}, labels


@pytest.mark.parametrize("in_tiles", [False, True], ids=["at once", "in tiles"])
@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("llama", True), ("mixtral", False), ("gemma2", False), ("opt", False)]
)
def test_numbers_and_gradients_are_those_of_full_logits(family, tied, in_tiles, tiny_model, monkeypatch):
    if in_tiles:
        monkeypatch.setattr(head, "_AT_ONCE", 0)
        monkeypatch.setattr(head, "_CPU_TILE", 7)  # several tiles, the last of them narrower
    plain = tiny_model(family, 50, tied=tied).train()
    selecting = copy.deepcopy(plain)
    score_supervised_positions(selecting)
    batch, labels = padded_batch(50)
    weights = torch.linspace(0.5, 1.5, labels[:, 1:].numel()).view_as(labels[:, 1:])

    expected, top = naive(plain, batch, labels)
    (expected * weights).sum().backward()
    outputs = selecting(**batch, labels=labels, use_cache=False, fused_lm_head=True)
    (outputs.log_probs * weights).sum().backward()

    torch.testing.assert_close(outputs.log_probs, expected, atol=2e-6, rtol=1e-6)
    assert torch.equal(outputs.is_top1.bool(), top)
    for (name, mine), theirs in zip(selecting.named_parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=5e-6, rtol=1e-5, msg=name)


def test_a_batch_without_labels_gives_a_differentiable_zero(tiny_model: Any) -> None:
    model = tiny_model("llama", 50).train()
    score_supervised_positions(model)
    batch, labels = padded_batch(50)
    outputs = model(**batch, labels=torch.full_like(labels, IGNORE), fused_lm_head=True)
    assert torch.equal(outputs.log_probs, torch.zeros_like(outputs.log_probs))
    outputs.log_probs.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_other_calls_are_the_models_own(tiny_model: Any) -> None:
    plain = tiny_model("llama", 50).eval()
    patched = copy.deepcopy(plain)
    score_supervised_positions(patched)
    batch, labels = padded_batch(50)
    patched(**batch, labels=labels, fused_lm_head=True)  # leaves nothing behind
    with torch.no_grad():
        mine, theirs = patched(**batch, labels=labels), plain(**batch, labels=labels)
    assert torch.equal(mine.logits, theirs.logits) and torch.equal(mine.loss, theirs.loss)


def test_only_labelled_positions_reach_the_head(tiny_model: Any) -> None:
    model = tiny_model("llama", 50)
    score_supervised_positions(model)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    batch, labels = padded_batch(50)
    model(**batch, labels=labels, fused_lm_head=True)
    assert seen == [int((labels[:, 1:] != IGNORE).sum())]
