"""Interventions against weight orthogonalisation on a copy, against written-out algebra, and against leaving traces."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from derta.errors import InputError
from derta.residual.blocks import block_inputs, locate_blocks
from derta.residual.interventions import (
    activation_addition,
    directional_ablation,
    layerwise_ablation,
    orthonormal_basis,
)

torch.set_num_threads(1)

VOCABULARY, HIDDEN = 60, 32
FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gpt2")
ALL_FAMILIES = (*FAMILIES, "gemma2")  # whose norms behind attention and MLP no change of weights can imitate


def _directions(n: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _ids(rows: int = 3, length: int = 7) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(9))


def _orthogonalised(model: Any, directions: torch.Tensor) -> Any:
    """A copy whose embedding, attention-out and MLP-out weights (and biases) cannot write along the directions."""
    changed = copy.deepcopy(model).double()
    basis = orthonormal_basis(directions)
    projector = torch.eye(HIDDEN, dtype=torch.float64) - basis.T @ basis  # [H, H]
    written = ("o_proj", "down_proj", "attn.c_proj", "mlp.c_proj")
    with torch.no_grad():
        for name, parameter in changed.named_parameters():
            owner = name.rpartition(".")[0]
            if owner.endswith(("embed_tokens", "wte", "wpe")):
                parameter.copy_(parameter @ projector)  # rows are written
            elif owner.endswith(("attn.c_proj", "mlp.c_proj")):  # GPT-2 keeps [in, out]
                parameter.copy_(parameter @ projector)
            elif owner.endswith(written) or name.endswith("experts.down_proj"):  # [(experts,) out, in]
                parameter.copy_(projector @ parameter)
    return changed.float()


def _logits(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, **kwargs).logits


def _with_cache(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of every token, the first four in one forward and the others one by one."""
    with torch.inference_mode():
        output = model(input_ids=ids[:, :4], use_cache=True)
        parts = [output.logits]
        for i in range(4, ids.shape[1]):
            output = model(input_ids=ids[:, i : i + 1], past_key_values=output.past_key_values, use_cache=True)
            parts.append(output.logits)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_equal_orthogonalised_weights(family: str, n: int, tiny_model: Callable[..., Any]) -> None:
    """Without and with a cache, and with left padding: logits within 1e-4, and not because nothing changes."""
    model, directions, ids = tiny_model(family, VOCABULARY).eval(), _directions(n), _ids()
    expected = _orthogonalised(model, directions).eval()
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), ids], 1)
    mask = (torch.arange(9) >= 2).long().expand(3, 9)
    left = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    plain = _logits(expected, ids)
    assert (plain - _logits(model, ids)).abs().max() > 0.05
    with directional_ablation(model, directions):
        assert torch.allclose(_logits(model, ids), plain, atol=1e-4)
        assert torch.allclose(_with_cache(model, ids), plain, atol=1e-4)
        assert torch.allclose(_logits(model, padded, **left)[:, 2:], plain, atol=1e-4)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_nothing_is_left_along_the_direction(family: str, tiny_model: Callable[..., Any]) -> None:
    """The input of every block, and what leaves the last one, have no component along the direction."""
    model, direction = tiny_model(family, VOCABULARY).eval(), _directions(1)[0]
    last: list[Any] = []
    with directional_ablation(model, direction), block_inputs(model, 7) as seen:
        handle = locate_blocks(model).modules[-1].register_forward_hook(lambda _, __, output: last.append(output))
        _logits(model, _ids())
        handle.remove()
    assert len(seen) == 2 and len(last) == 1
    for x in (*seen, last[0][0] if isinstance(last[0], tuple) else last[0]):
        assert (x.double() @ (direction / direction.norm())).abs().max() < 1e-5
        assert x.norm(dim=-1).min() > 0.01


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_layer_loses_its_own_direction(family: str, tiny_model: Callable[..., Any]) -> None:
    """One direction for all layers is directional ablation, bit for bit; of two, each is gone from its own layer's
    input and there alone; none at all changes nothing."""
    model, directions, ids = tiny_model(family, VOCABULARY).eval(), _directions(2), _ids()
    with directional_ablation(model, directions[0]):
        expected = _logits(model, ids)
    with layerwise_ablation(model, directions[[0, 0]]):
        assert torch.equal(_logits(model, ids), expected)
    with layerwise_ablation(model, torch.zeros_like(directions)):
        assert torch.equal(_logits(model, ids), _logits(copy.deepcopy(model), ids))
    with layerwise_ablation(model, directions), block_inputs(model, 7) as seen:
        _logits(model, ids)
    left = [[float((x.double() @ (d / d.norm())).abs().max()) for d in directions] for x in seen]
    assert left[0][0] < 1e-5 < 0.01 < left[0][1] and left[1][1] < 1e-5 < 0.01 < left[1][0]


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_addition_moves_the_input_of_one_block(family: str, tiny_model: Callable[..., Any]) -> None:
    """hidden_states[l] of transformers is the input of block l: it moves by the vector, the one before does not."""
    model, vector, ids = tiny_model(family, VOCABULARY).eval(), _directions(1)[0].float(), _ids()
    with torch.inference_mode():
        before = model(input_ids=ids, output_hidden_states=True)
        with activation_addition(model, vector, layer=1), block_inputs(model, 7) as seen:
            after = model(input_ids=ids, output_hidden_states=True)
    assert torch.equal(after.hidden_states[0], before.hidden_states[0])
    assert torch.allclose(seen[1], before.hidden_states[1] + vector, atol=1e-6)
    assert (after.logits - before.logits).abs().max() > 0.05


class _Left(Exception):
    """None that a model raises."""


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_logits_are_bit_equal_afterwards(family: str, tiny_model: Callable[..., Any]) -> None:
    """However the block is left."""
    model, ids, directions = tiny_model(family, VOCABULARY).eval(), _ids(), _directions(2)
    before = _logits(model, ids)
    for change, error in product(
        (
            lambda: directional_ablation(model, directions[0]),
            lambda: directional_ablation(model, directions),
            lambda: layerwise_ablation(model, directions),
            lambda: activation_addition(model, directions[0], 0),
        ),
        (False, True),
    ):
        with pytest.raises(_Left) if error else nullcontext(), change():
            assert not torch.equal(_logits(model, ids), before)
            if error:
                raise _Left
        assert torch.equal(_logits(model, ids), before)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class _Attention(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return super().forward(x), None


class _ToyBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = _Attention(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(x)[0]
        return x + self.mlp(x)


class _Toy(torch.nn.Module):
    """Two linear blocks with attention A = [[1, 1], [0, 1]] and MLP M = [[0, 1], [2, 0]] on a stream of size 2."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=2))
        self.model = torch.nn.Module()
        self.model.layers = torch.nn.ModuleList([_ToyBlock(), _ToyBlock()])
        for block in self.model.layers:
            block.self_attn.weight.data = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
            block.mlp.weight.data = torch.tensor([[0.0, 1.0], [2.0, 0.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.model.layers:
            x = block(x)
        return x


def test_exact_algebra_on_a_linear_toy() -> None:
    """x = (3, 4). A block maps x to (I + M)(I + A) x with I + A = [[2, 1], [0, 2]] and I + M = [[1, 1], [2, 1]]."""
    toy, x = _Toy(), torch.tensor([[3.0, 4.0]])
    # Block 0: (2*3 + 4, 2*4) = (10, 8), then (18, 28). Block 1: (64, 56), then (120, 184).
    assert toy(x).tolist() == [[120.0, 184.0]]
    # Ablating e1: x = (0, 4). Attention writes (4, 4), of which (0, 4) stays: (0, 8). The MLP writes (8, 0), of which
    # nothing stays: (0, 8). The same again: attention writes (8, 8) -> (0, 16), the MLP (16, 0) -> (0, 16).
    with directional_ablation(toy, torch.tensor([5.0, 0.0])):
        assert toy(x).tolist() == [[0.0, 16.0]]
    # Ablating (1, 1): the projector is [[.5, -.5], [-.5, .5]] and x = (-.5, .5). A x = (0, .5) -> (-.25, .25), so
    # (-.75, .75); M (-.75, .75) = (.75, -1.5) -> (1.125, -1.125), so (.375, -.375): each block is a factor -.75.
    with directional_ablation(toy, torch.tensor([2.0, 2.0])):
        assert torch.allclose(toy(x), torch.tensor([[-0.28125, 0.28125]]), atol=1e-6)
    # Adding (1, -1) to the input of block 1, (18, 28): (19, 27) -> (65, 54) -> (119, 184).
    with activation_addition(toy, torch.tensor([1.0, -1.0]), layer=1):
        assert toy(x).tolist() == [[119.0, 184.0]]
    # Both directions gone: nothing is left.
    with directional_ablation(toy, torch.tensor([[1.0, 1.0], [1.0, 0.0]])):
        assert toy(x).abs().max() < 1e-5
    assert toy(x).tolist() == [[120.0, 184.0]]


def test_basis_keeps_the_order_and_the_sign() -> None:
    """Gram-Schmidt by hand: (3, 4, 0) -> (.6, .8, 0); (1, 0, 1) - .6 (.6, .8, 0) = (.64, -.48, 1), over its length."""
    basis = orthonormal_basis(torch.tensor([[3.0, 4.0, 0.0], [1.0, 0.0, 1.0]]))
    length = (0.64**2 + 0.48**2 + 1) ** 0.5
    expected = torch.tensor([[0.6, 0.8, 0.0], [0.64 / length, -0.48 / length, 1 / length]], dtype=torch.float64)
    assert torch.allclose(basis, expected)


def test_bfloat16_leaves_no_rest(tiny_model: Callable[..., Any]) -> None:
    """A stream of large numbers in bfloat16: what remains along the direction is rounding of single numbers."""
    model, direction = tiny_model("llama", VOCABULARY).eval().to(torch.bfloat16), _directions(1)[0]
    unit = direction / direction.norm()
    with torch.no_grad():
        model.get_input_embeddings().weight += (50 * unit).to(torch.bfloat16)
    before = _logits(model, _ids())
    with directional_ablation(model, direction), block_inputs(model, 7) as seen:
        logits = _logits(model, _ids())
    assert logits.dtype == seen[-1].dtype == torch.bfloat16
    assert (seen[-1].double() @ unit).abs().max() < 0.05
    assert torch.equal(_logits(model, _ids()), before)


def test_left_padded_generation_with_cache(tiny_model: Callable[..., Any]) -> None:
    """A short prompt beside a long one gets the response that the orthogonalised copy gives it alone."""
    model, direction = tiny_model("llama", VOCABULARY).eval(), _directions(1)[0]
    expected = _orthogonalised(model, direction[None]).eval()
    long, short = _ids(1, 9)[0], _ids(1, 9)[0, :4]
    ids = torch.stack([long, torch.cat([torch.zeros(5, dtype=torch.long), short])])
    mask = torch.tensor([[1] * 9, [0] * 5 + [1] * 4])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with directional_ablation(model, direction):
        made = model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 9:]
    for row, prompt in zip(made, (long, short), strict=True):
        alone = expected.generate(input_ids=prompt[None], attention_mask=torch.ones(1, len(prompt)), **settings)
        assert torch.equal(row, alone[0, len(prompt) :])


def test_lora_writes_along_the_direction_are_removed_too(tiny_model: Callable[..., Any]) -> None:
    from peft import LoraConfig, get_peft_model

    model, direction = tiny_model("llama", VOCABULARY), _directions(1)[0]
    adapter = LoraConfig(r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.0)
    torch.manual_seed(1)
    tuned = get_peft_model(model, adapter).eval()
    merged = copy.deepcopy(tuned).merge_and_unload().eval()
    before = _logits(tuned, _ids())
    with directional_ablation(tuned, direction):
        assert torch.allclose(
            _logits(tuned, _ids()), _logits(_orthogonalised(merged, direction[None]), _ids()), atol=1e-4
        )
    assert torch.equal(_logits(tuned, _ids()), before)


def test_device_map_with_offloaded_blocks(tiny_model: Callable[..., Any], tmp_path: Any) -> None:
    """Blocks that are brought in only while they run (device_map with offloading to disk) are hooked the same way."""
    from accelerate import dispatch_model

    model, direction = tiny_model("llama", VOCABULARY).eval(), _directions(1)[0]
    with directional_ablation(model, direction):
        expected = _logits(model, _ids())
    places = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    spread = dispatch_model(copy.deepcopy(model), places, main_device="cpu", offload_dir=str(tmp_path))
    before = _logits(spread, _ids())
    with directional_ablation(spread, direction):
        assert torch.equal(_logits(spread, _ids()), expected)
    assert torch.equal(_logits(spread, _ids()), before)


def test_gradients_flow_through_the_ablation(tiny_model: Callable[..., Any]) -> None:
    """A training step with a direction made in inference mode: no gradient along what is projected away."""
    model = tiny_model("llama", VOCABULARY).train()
    with torch.inference_mode():
        direction = _directions(1)[0]
    ids = _ids()
    with directional_ablation(model, direction):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    unit = orthonormal_basis(direction[None])[0].float()
    gradient = model.model.layers[0].mlp.down_proj.weight.grad  # [H, M]
    assert gradient.norm() > 1e-3
    assert (unit @ gradient).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (torch.ones(1, 8), "8 components and the model's residual stream 32"),
        (torch.full((1, HIDDEN), float("nan")), "NaN"),
        (torch.zeros(1, HIDDEN), "zero"),
        (torch.ones(2, HIDDEN), "depend on one another"),
    ],
)
def test_directions_that_cannot_be_used(directions: torch.Tensor, message: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama", VOCABULARY)
    with pytest.raises(InputError, match=message), directional_ablation(model, directions):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_one_vector_is_added_and_not_several(tiny_model: Callable[..., Any]) -> None:
    """Two would be spread over two tokens."""
    model = tiny_model("llama", VOCABULARY)
    with pytest.raises(InputError, match=r"one vector \[H\], got a tensor of shape \[2, 32\]"):
        activation_addition(model, _directions(2), layer=1).__enter__()


def test_a_layer_that_is_not_there(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama", VOCABULARY)
    with pytest.raises(InputError, match="layers 0 to 1"), activation_addition(model, torch.ones(HIDDEN), layer=2):
        pass
    with pytest.raises(InputError, match="3 directions, and the model has 2 layers"):
        layerwise_ablation(model, _directions(3)).__enter__()


@pytest.mark.parametrize(
    ("family", "looked_for"), [("mamba", "looked for a list of blocks at model.layers.*backbone"), ("opt", "decoder")]
)
def test_a_model_that_cannot_be_hooked_says_what_was_looked_for(family, looked_for, tiny_model):
    with pytest.raises(InputError, match=looked_for):
        locate_blocks(tiny_model(family, VOCABULARY))


def test_blocks_without_an_mlp_say_so(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama", VOCABULARY)
    del model.model.layers[1].mlp
    with pytest.raises(InputError, match=r"model\.layers\.1 .*no MLP.*looked for mlp.*self_attn"):
        locate_blocks(model)
