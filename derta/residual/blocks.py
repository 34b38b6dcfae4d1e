"""Where a decoder's residual stream can be reached and read: its blocks, and in each the modules that write to it.

    x0 = embedding --> [block 0: x + attention(x), x + MLP(x)] --> x1 --> [block 1] --> ...
                   ^ block input                      ^ writers

A *writer* is the module whose output is added to the stream: attention and MLP, or, in architectures that normalise
these outputs before adding them (Gemma-2 and -3, OLMo-2), the norms behind them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from derta.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

# Path of the list of blocks -> architectures. Under PEFT the same paths stand below the wrapped model.
_BLOCK_LISTS = (
    "model.layers",  # Llama, Mistral, Mixtral, Qwen2, Qwen3, Gemma, Phi-3, OLMo
    "transformer.h",  # GPT-2, Falcon, Bloom, GPT-J
    "gpt_neox.layers",  # Pythia
    "model.language_model.layers",  # multimodal Gemma-3, Qwen-VL
    "language_model.model.layers",
    "layers",
    "h",
)
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "block_sparse_moe", "feed_forward")
_POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True, slots=True)
class Blocks:
    """modules: one per layer. attention: one per layer. writers: per layer, the modules that add to the stream."""

    modules: tuple[nn.Module, ...]
    attention: tuple[nn.Module, ...]
    writers: tuple[tuple[nn.Module, ...], ...]
    hidden_size: int

    def __len__(self) -> int:
        return len(self.modules)


def locate_blocks(model: Any) -> Blocks:
    """The blocks of a causal language model, whatever wraps it (PEFT, DDP, DeepSpeed).

    Raises:
        InputError: none of the known places holds blocks with an attention and an MLP; the message says what was
            looked for and what is there.
    """
    inner = unwrapped(model)
    for path in _BLOCK_LISTS:
        found = _follow(inner, path)
        if found is None or not hasattr(found, "__len__") or not len(found):
            continue
        modules = tuple(found)
        attention = tuple(_child(module, _ATTENTION, path, i, "attention") for i, module in enumerate(modules))
        mlp = tuple(_child(module, _MLP, path, i, "MLP") for i, module in enumerate(modules))
        writers = tuple(map(_writers, modules, attention, mlp))
        return Blocks(modules, attention, writers, inner.config.get_text_config().hidden_size)
    there = ", ".join(name for name, _ in inner.named_children()) or "none"
    raise InputError(
        f"the residual stream of {type(inner).__name__} cannot be reached: looked for a list of blocks at "
        f"{', '.join(_BLOCK_LISTS)}; its modules are: {there}. Give a decoder with such blocks (Llama, Mistral, "
        "Mixtral, Qwen, Gemma, GPT-2, ...)"
    )


def unwrapped(model: Any) -> Any:
    """The transformers model inside of DDP, DeepSpeed and PEFT; LoRA layers stay in it."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def block_inputs(model: Any, positions: int) -> Iterator[list[torch.Tensor]]:
    """A list that holds, after each forward, the last `positions` tokens of every block's input, [B, P, H] each."""
    blocks = locate_blocks(model)
    seen: list[Any] = [None] * len(blocks)

    def capture(layer: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        seen[layer] = x[:, -positions:].clone()  # the whole [B, T, H] must not be kept alive

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks.modules):
            hooks.callback(block.register_forward_pre_hook(partial(capture, layer), with_kwargs=True).remove)
        yield seen


def _writers(block: nn.Module, attention: nn.Module, mlp: nn.Module) -> tuple[nn.Module, ...]:
    # Behind the MLP alone: Llama's post_attention_layernorm stands *before* its MLP and writes nothing.
    if hasattr(block, _POST_NORMS[1]):
        return tuple(getattr(block, name) for name in _POST_NORMS)
    return attention, mlp


def _follow(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _child(block: nn.Module, names: tuple[str, ...], path: str, layer: int, what: str) -> nn.Module:
    if known := [getattr(block, name) for name in names if getattr(block, name, None) is not None]:
        return known[0]
    there = ", ".join(name for name, _ in block.named_children()) or "none"
    raise InputError(
        f"{path}.{layer} ({type(block).__name__}) has no {what} to hook: looked for {', '.join(names)}; its modules "
        f"are: {there}. Give a decoder whose blocks have attention and MLP as modules of their own"
    )
