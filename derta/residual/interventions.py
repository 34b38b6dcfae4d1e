"""Interventions on the residual stream: hooks while a `with` block runs, nothing afterwards.

    directional ablation   x <- x - (x . r^) r^           at every block input and every writer's output, all tokens
                           x <- x - sum_i (x . u_i) u_i   the same for several, with an orthonormal basis u_1 ... u_n
    layerwise ablation     x <- x - (x . r_l^) r_l^       at the input and the writers of layer l, for every l
    activation addition    x <- x + r                     at the input of one block, all tokens

Weights are never touched, so the model computes bit for bit what it did before once the block is left, however it is
left. Padding tokens are changed too, which nobody sees: attention masks them. Keys and values in a cache come from
the changed stream, so a cache belongs to the intervention it was filled under.

Source: Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction" (arXiv 2406.11717), section 2.4.
Shapes: B rows, L tokens, H hidden size, n directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from derta.errors import InputError
from derta.residual.blocks import Blocks, locate_blocks

if TYPE_CHECKING:
    import torch

    Change = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def directional_ablation(model: Any, directions: torch.Tensor, *, tokens: torch.Tensor | None = None) -> Iterator[None]:
    """Remove one direction [H] from the stream, or the span of several [n, H], which need not be orthogonal.

    Args:
        tokens: bool, in the shape of `input_ids` ([B, L], or [1, L] flattened): where to; None is everywhere. What
            the model computes for rows without a token in it is what it would compute anyway.

    Works under autograd too: a loss computed inside flows through the projection. With gradient checkpointing, keep
    the block open until backward is done, because the forward runs again there.

    Raises:
        InputError: directions that do not fit the model, are zero or not finite, or depend on one another; a model
            without reachable blocks, or whose blocks see other tokens than `tokens` names.
    """
    blocks = locate_blocks(model)
    basis = orthonormal_basis(directions if directions.ndim > 1 else directions[None], blocks.hidden_size)
    remove = _projection(basis)
    if tokens is not None:
        remove = _only_at(tokens, remove)
    with _changed(blocks, [remove] * len(blocks)):
        yield


@contextmanager
def layerwise_ablation(model: Any, directions: torch.Tensor) -> Iterator[None]:
    """Remove from every layer a direction of its own: `directions` [L, H], zero where nothing is to be removed.

    Raises:
        InputError: they do not fit the model or are not finite; a model without reachable blocks.
    """
    blocks = locate_blocks(model)
    if len(directions) != len(blocks):
        raise InputError(f"{len(directions)} directions, and the model has {len(blocks)} layers: give one for each")
    bases = [orthonormal_basis(own[None], blocks.hidden_size) if bool(own.any()) else None for own in directions]
    with _changed(blocks, [None if basis is None else _projection(basis) for basis in bases]):
        yield


@contextmanager
def activation_addition(model: Any, vector: torch.Tensor, layer: int) -> Iterator[None]:
    """Add `vector` [H] to the input of block `layer` (from 0), at every token.

    Raises:
        InputError: the vector does not fit the model or is not finite; no such layer.
    """
    blocks = locate_blocks(model)
    if not 0 <= layer < len(blocks):
        raise InputError(f"layer={layer}: the model has the layers 0 to {len(blocks) - 1}")
    if vector.ndim != 1:
        raise InputError(f"expected one vector [H], got a tensor of shape {list(vector.shape)}: choose one row")
    _check(vector, blocks.hidden_size)
    moved = _per_device(vector)
    with ExitStack() as hooks:
        _change_input(blocks.modules[layer], lambda x: (x + moved(x)).to(x.dtype), hooks)
        yield


def orthonormal_basis(directions: torch.Tensor, hidden_size: int | None = None) -> torch.Tensor:
    """Orthonormal rows [n, H] in float64 that span `directions` [n, H], in their order (the first only scaled).

    Raises:
        InputError: not finite, zero, of another hidden size, or linearly dependent.
    """
    import torch

    directions = directions.detach().to("cpu", torch.float64)
    _check(directions, hidden_size)
    lengths = directions.norm(dim=1)
    if not bool((lengths > 0).all()):
        raise InputError("a direction is zero, so it points nowhere: give a mean difference that is not")
    q, r = torch.linalg.qr((directions / lengths[:, None]).T)  # [H, n], [n, n]
    if len(directions) > directions.shape[1] or not bool((r.diagonal().abs() > 1e-6).all()):
        raise InputError(f"the {len(directions)} directions depend on one another: leave out those in others' span")
    return (q * r.diagonal().sign()).T.contiguous()


def _check(directions: torch.Tensor, hidden_size: int | None) -> None:
    import torch

    if hidden_size is not None and directions.shape[-1] != hidden_size:
        raise InputError(
            f"the direction has {directions.shape[-1]} components and the model's residual stream {hidden_size}: it "
            "belongs to another model; compute it anew for this one"
        )
    if not bool(torch.isfinite(directions).all()):
        raise InputError("the direction holds NaN or infinite numbers: compute it anew, with model.dtype=float32")


def _projection(basis: torch.Tensor) -> Change:
    """x -> x without its part in the basis; products in float32 at least, so that bfloat16 does not leave a rest."""
    import torch

    moved = _per_device(basis)

    def remove(x: torch.Tensor) -> torch.Tensor:
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        u = moved(x).to(precise.dtype)  # [n, H]
        return (precise - (precise @ u.T) @ u).to(x.dtype)

    return remove


def _only_at(tokens: torch.Tensor, change: Change) -> Change:
    import torch

    def changed(x: torch.Tensor) -> torch.Tensor:
        if x.shape[:-1] != tokens.shape:
            raise InputError(
                f"a block sees {list(x.shape[:-1])} tokens where the batch has {list(tokens.shape)}: single rows of "
                "this model cannot be ablated"
            )
        return torch.where(tokens.to(x.device)[..., None], change(x), x)

    return changed


def _per_device(tensor: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The tensor where it is needed: with `device_map` the blocks of one model lie on several devices."""
    import torch

    copies: dict[tuple[Any, Any], torch.Tensor] = {}

    def at(x: torch.Tensor) -> torch.Tensor:
        key = (x.device, x.dtype)
        if key not in copies:
            # A tensor made in inference mode could not take part in a training step, so this copy is not one.
            with torch.inference_mode(False):
                copies[key] = tensor.detach().clone().to(x.device, torch.promote_types(x.dtype, torch.float32))
        return copies[key]

    return at


@contextmanager
def _changed(blocks: Blocks, changes: Sequence[Change | None]) -> Iterator[None]:
    """Every layer's own change at its input and at the outputs of its writers."""
    with ExitStack() as hooks:
        for block, writers, change in zip(blocks.modules, blocks.writers, changes, strict=True):
            if change is not None:
                _change_input(block, change, hooks)
                for writer in writers:
                    _change_output(writer, change, hooks)
        yield


def _change_input(block: Any, change: Change, hooks: ExitStack) -> None:
    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)


def _change_output(writer: Any, change: Change, hooks: ExitStack) -> None:
    def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):  # attention: (output, attention weights, ...)
            return (change(output[0]), *output[1:])
        return change(output)

    hooks.callback(writer.register_forward_hook(after).remove)
