"""What is read behind the prompts, against written-out arithmetic and against plain forwards of one prompt each."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from derta.direction.find import find_direction, mean_difference, orthogonal_directions
from derta.direction.forward import PromptBatches, log_probabilities, mean_activations, mean_kl, metrics, refusal_metric
from derta.direction.outcomes import perplexity
from derta.errors import InputError
from derta.models.target import TargetModel
from derta.residual.direction_files import differences
from derta.residual.interventions import directional_ablation


def test_refusal_metric_by_hand() -> None:
    """p = (.1, .2, .3, .4), R = {1, 3}: log(.6) - log(.4); and where p rounds to 1 in floating point, 200 is 200."""
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    assert refusal_metric(logits, [1, 3]).tolist() == pytest.approx([math.log(0.6 / 0.4)])
    assert refusal_metric(torch.tensor([[0.0, 200.0]], dtype=torch.float64), [1]).tolist() == pytest.approx([200.0])


def _prompts(target: TargetModel, count: int = 7) -> list[list[int]]:
    words = ("garden", "harmful request about the garden", "question about steps and the garden")
    return [target.cutter.prompt_ids([{"role": "user", "content": f"{words[i % 3]} {i}"}]) for i in range(count)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_batched_reading_equals_prompts_one_by_one(family, tiny_model, llama3_tokenizer):
    """Left padding, batches of unequal prompts and the order of the prompts leave no trace; hidden_states of
    transformers are the block inputs."""
    target = TargetModel(tiny_model(family, len(llama3_tokenizer)), llama3_tokenizer)
    prompts, refusal_ids = _prompts(target), [7, 11]
    alone, total = [], 0.0
    with torch.inference_mode():
        for ids in prompts:
            output = target.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
            alone.append(float(refusal_metric(output.logits[:, -1].double(), refusal_ids)))
            total = total + torch.stack([x[0, -3:] for x in output.hidden_states[:-1]], 1).double()
    mean = mean_activations(PromptBatches(target, prompts, 3), 3)
    assert mean.dtype == torch.float64
    assert torch.allclose(mean, total / len(prompts), atol=1e-5)
    assert metrics(PromptBatches(target, prompts, 2), refusal_ids) == pytest.approx(alone, abs=1e-4)


def test_only_prompts_on_the_right_side_enter_the_means(planted, sides, make_config):
    """Each side with some of the other's prompts in it: the directions are those of the sides alone, and the counts
    tell how many passed."""
    harmful, harmless = sides
    mixed = (
        replace(harmful, train=(*harmful.train, *harmless.test), validation=(*harmless.test[:3], *harmful.validation)),
        replace(harmless, train=(*harmful.test, *harmless.train)),
    )
    sorry, config = [planted.tokenizer.convert_tokens_to_ids("Sorry")], make_config(positions=2, batch_size=5)
    found, alone = (find_direction(planted, *each, sorry, config) for each in (mixed, sides))
    assert found.kept == alone.kept == {name: {"train": 16, "validation": 8} for name in ("harmful", "harmless")}
    assert torch.allclose(found.differences, alone.differences, atol=1e-6)
    unfiltered = find_direction(planted, *mixed, sorry, replace(config, filter_prompts=False))
    assert unfiltered.kept["harmful"] == {"train": 28, "validation": 11}
    assert torch.equal(unfiltered.differences, mean_difference(planted, *mixed, config))


def test_perplexity_by_hand(planted: TargetModel) -> None:
    """Two responses of unequal length, one row without: exp of the mean over tokens, not over rows."""
    asked = [{"role": "user", "content": "helpful question about the garden"}]
    texts = ["Step by step", "Sorry"]
    rows = [{"id": str(i), "prompt": asked, "chosen": None} for i in range(3)]
    for row, text in zip(rows, texts, strict=False):
        row["chosen"] = [{"role": "assistant", "content": text}]
    losses = []
    for row in rows[:2]:
        cut = planted.cutter.cut(asked, row["chosen"])
        with torch.inference_mode():
            log_p = planted.model(input_ids=torch.tensor([cut.prompt + cut.response])).logits[0].log_softmax(-1)
        losses += [-float(log_p[len(cut.prompt) + i - 1, token]) for i, token in enumerate(cut.response)]
    assert len(losses) > 3
    assert perplexity(planted, rows, 2) == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert perplexity(planted, rows[2:], 2) is None


def test_kl_by_hand(planted: TargetModel, sides: Any) -> None:
    """Zero for the model itself; under ablation, the sum over the vocabulary written out."""
    prompts = [planted.cutter.prompt_ids(row["prompt"]) for row in sides[0].test[:4]]
    batches = PromptBatches(planted, prompts, 3)
    before = log_probabilities(batches)
    assert mean_kl(before, batches) == 0.0
    direction = torch.zeros(32, dtype=torch.float64)
    direction[11] = 1.0
    with directional_ablation(planted.model, direction):
        after, kl = log_probabilities(batches), mean_kl(before, batches)
    pairs = [(p, q) for one, other in zip(before, after, strict=True) for p, q in zip(one, other, strict=True)]
    by_hand = sum(math.exp(a) * (a - b) for p, q in pairs for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert kl == pytest.approx(by_hand / 4) and kl > 1


def test_equal_means_are_exactly_no_direction() -> None:
    harmful = torch.tensor([[[1000.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    harmless = torch.tensor([[[1000.0, 1e-5], [0.0, 1.0]]], dtype=torch.float64)
    assert differences(harmful, harmless).tolist() == [[[0.0, 0.0], [1.0, -1.0]]]


def test_nan_in_the_stream_names_the_layer(llama3_tokenizer: Any) -> None:
    """A NaN in a value that no later number depends on: logits are fine, the stream is not."""
    from planted import planted_model

    target = TargetModel(planted_model(llama3_tokenizer), llama3_tokenizer)
    batches = PromptBatches(target, _prompts(target, 2), 2)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.full_like(output, float("nan"))

    # The last block's input is spoiled for the reader alone: a hook that runs after it mends it again.
    last = target.model.model.layers[-1]
    before = target.model.model.layers[-2].register_forward_hook(spoil)
    kept = torch.zeros(1, 1, 32)
    mend = last.register_forward_hook(lambda module, args, output: kept.expand_as(output) + 1)
    try:
        with pytest.raises(InputError, match="NaN or infinite numbers from the input of layer 4 on"):
            mean_activations(batches, 2)
    finally:
        before.remove()
        mend.remove()


def test_orthogonal_directions_begin_with_the_chosen_one() -> None:
    """chosen e1; the others lie in the plane of e1 and e2, and one has a little of e3."""
    chosen = torch.tensor([2.0, 0.0, 0.0, 0.0])
    others = torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0], [1.0, 0.0, 0.1, 0.0]])
    basis = orthogonal_directions(chosen, others, 9)
    assert basis.shape == (3, 4)
    assert torch.allclose(basis @ basis.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(basis.abs(), torch.eye(4, dtype=torch.float64)[:3], atol=1e-6)
    assert orthogonal_directions(chosen, others, 2).shape == (2, 4)
