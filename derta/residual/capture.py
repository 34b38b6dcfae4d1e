"""The residual stream as a forward leaves it: what stands at the input of every block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from derta.residual.blocks import locate_blocks

if TYPE_CHECKING:
    import torch


@contextmanager
def block_inputs(model: Any, positions: int) -> Iterator[list[torch.Tensor]]:
    """A list that holds, after each forward, the last `positions` tokens of every block's input, [B, P, H] each."""
    blocks = locate_blocks(model)
    seen: list[Any] = [None] * len(blocks)

    def capture(layer: int) -> Any:
        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            seen[layer] = x[:, -positions:].clone()  # the whole [B, T, H] must not be kept alive

        return before

    with ExitStack() as hooks:
        for layer, block in enumerate(blocks.modules):
            handle = block.register_forward_pre_hook(capture(layer), with_kwargs=True)
            hooks.callback(handle.remove)
        yield seen
