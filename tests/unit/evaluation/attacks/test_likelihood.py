"""The loss that attacks minimise against plain forwards, one prompt at a time, without cache or padding."""

import pytest
import torch

from derta.errors import InputError
from derta.evaluation.attacks.likelihood import SuffixLoss, target_losses
from derta.models.target import TargetModel

FAMILIES = ["llama", "gpt2", "mistral", "qwen3", "mamba"]


@pytest.fixture(scope="module", params=FAMILIES)
def random_target(request, tiny_model, llama3_tokenizer) -> TargetModel:
    return TargetModel(tiny_model(request.param, len(llama3_tokenizer)), llama3_tokenizer)


def naive_loss(target, prompt, wished):
    ids = torch.tensor([[*prompt, *wished]])
    with torch.no_grad():
        log_p = target.model(input_ids=ids).logits[0].log_softmax(-1)
    terms = [float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(wished)]
    return -sum(terms) / len(wished)


def ids(generator, *shape):
    return torch.randint(0, 300, shape, generator=generator)


def test_losses_of_prompts_of_different_lengths(random_target):
    generator = torch.Generator().manual_seed(0)
    prompts = [ids(generator, n).tolist() for n in (3, 11, 7, 20, 1)]
    wished = ids(generator, 4).tolist()
    found = target_losses(random_target, prompts, wished, batch_size=3)
    expected = [naive_loss(random_target, prompt, wished) for prompt in prompts]
    assert [loss.loss for loss in found] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("prefix_length", [0, 24])
def test_cached_losses_equal_plain_ones(random_target, prefix_length):
    generator = torch.Generator().manual_seed(1)
    prefix, behind, wished = ids(generator, prefix_length).tolist(), ids(generator, 5).tolist(), [7, 8, 9]
    candidates = ids(generator, 7, 6)
    losses = SuffixLoss(random_target, prefix, behind, wished)
    recurrent = random_target.model.config.model_type == "mamba"  # sees the whole prompt every time
    assert (losses._cache is not None) is (bool(prefix) and not recurrent)
    for _ in range(2):  # the cached prompt is not used up
        found = [loss.loss for loss in losses.losses(candidates, batch_size=3)]
        expected = [naive_loss(random_target, [*prefix, *c, *behind], wished) for c in candidates.tolist()]
        assert found == pytest.approx(expected, abs=1e-5)


def test_gradient_is_that_of_the_one_hot(random_target):
    """Against autograd through an explicit one-hot of the whole prompt."""
    generator = torch.Generator().manual_seed(2)
    prefix, behind, wished = ids(generator, 9), ids(generator, 4), ids(generator, 3)
    candidate = ids(generator, 5)
    weight = random_target.model.get_input_embeddings().weight.detach()
    one_hot = torch.nn.functional.one_hot(candidate, len(weight)).float().requires_grad_(True)
    rest = [weight[part] for part in (prefix, behind, wished)]
    embeds = torch.cat([rest[0], one_hot @ weight, *rest[1:]])[None]
    logits = random_target.model(inputs_embeds=embeds).logits[0]
    before = len(embeds[0]) - len(wished)
    loss = torch.nn.functional.cross_entropy(logits[before - 1 : -1], wished)
    (expected,) = torch.autograd.grad(loss, one_hot)
    found = SuffixLoss(random_target, prefix.tolist(), behind.tolist(), wished.tolist()).token_gradient(candidate)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert all(parameter.grad is None for parameter in random_target.model.parameters())


def test_greedy_says_whether_the_model_would_write_the_target(refusing):
    prompt = refusing.tokenizer("Step", add_special_tokens=False)["input_ids"]
    sorry, sure = (
        refusing.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Sorry, I cannot", "Sure here")
    )
    assert [target_losses(refusing, [prompt], wished, 1)[0].greedy for wished in (sorry, sure)] == [True, False]


def test_nan_logits_are_an_error(tiny_model, llama3_tokenizer):
    broken = TargetModel(tiny_model("llama", len(llama3_tokenizer)), llama3_tokenizer)
    with torch.no_grad():
        broken.model.lm_head.weight[5, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        target_losses(broken, [[1, 2]], [3], 1)
    with pytest.raises(InputError, match="NaN"):
        SuffixLoss(broken, [1, 2], [3], [4]).losses(torch.tensor([[5]]), 1)
