"""Directions as files: safetensors with the place they were found at; and the published `.pt` files, converted.

    direction.safetensors    "direction" [H] float32, unnormalised (harmful mean - harmless mean)
                             metadata: format, position, layer, and what the direction was computed on

Pickles can run code, so they are refused; `convert` reads a published file with `weights_only=True`, which builds
nothing but tensors and containers.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from derta.errors import InputError, first_line
from derta.models.load import shown

if TYPE_CHECKING:
    import torch

FORMAT = "derta-refusal-direction"
_NAME = "direction"
_EQUAL = 1e-6  # of the means' own length: below it the difference is rounding


@dataclass(frozen=True, slots=True)
class Direction:
    """vector: [H] float64 on the CPU. about: for the record, text to text (model, prompts)."""

    vector: torch.Tensor
    position: int
    layer: int
    about: dict[str, str] = field(default_factory=dict)


def save_direction(path: Path, direction: Direction) -> None:
    """Write a direction; parents are made."""
    import torch
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"format": FORMAT, "position": str(direction.position), "layer": str(direction.layer)}
    tensors = {_NAME: direction.vector.to(torch.float32).contiguous()}
    path.write_bytes(save(tensors, metadata={**direction.about, **place}))  # save_file() writes for the owner alone


def load_direction(path: str | Path, hidden_size: int | None = None) -> Direction:
    """Read a direction file.

    Args:
        hidden_size: of the model it is meant for (None: any).

    Raises:
        InputError: no such file, a pickle, no direction file, NaN, or another hidden size.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{shown(path)}: no such direction file")
    if path.suffix != ".safetensors" or _is_pickle(path):
        raise InputError(
            f"{shown(path)} is not a safetensors file: pickles (.pt, .bin) can run code and are not loaded; convert a "
            "published one with: launch/diagnose_direction.py convert --file FILE --metadata FILE --output FILE"
        )
    try:
        with safe_open(path, "pt") as content:
            about = dict(content.metadata() or {})
            vector = content.get_tensor(_NAME).to(torch.float64)
        if about.pop("format") != FORMAT or vector.ndim != 1:
            raise KeyError(FORMAT)
        position, layer = int(about.pop("position")), int(about.pop("layer"))
    except (SafetensorError, KeyError, ValueError) as error:
        problem = f"{shown(path)} is not a direction file ({error})"
        raise InputError(f"{problem}: give one that launch/diagnose_direction.py wrote") from None
    _check(vector, shown(path))
    if hidden_size is not None and len(vector) != hidden_size:
        raise InputError(
            f"{shown(path)}: the direction has {len(vector)} components and the model's residual stream {hidden_size}; "
            "it belongs to another model"
        )
    return Direction(vector, position, layer, about)


def convert_published(file: str | Path, metadata: str | Path, output: str | Path) -> Direction:
    """direction.pt and direction_metadata.json of github.com/andyrdt/refusal_direction as a direction file.

    Raises:
        InputError: files that are missing, hold anything but one vector, or are not what they should be.
    """
    import torch

    file, metadata, output = Path(file), Path(metadata), Path(output)
    if output.suffix != ".safetensors":
        raise InputError(f"--output {shown(output)}: expected a name that ends in .safetensors")
    try:
        place = json.loads(metadata.read_text(encoding="utf-8"))
        position, layer = int(place["pos"]), int(place["layer"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f'{shown(metadata)}: expected JSON like {{"pos": -2, "layer": 10}}') from None
    try:
        vector = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        said = first_line(error)
        raise InputError(f"{shown(file)} cannot be read as plain tensors, and nothing else is: {said}") from None
    is_tensor = isinstance(vector, torch.Tensor)
    if not is_tensor or vector.ndim != 1:
        found = f"a tensor of shape {list(vector.shape)}" if is_tensor else type(vector).__name__
        raise InputError(f"{shown(file)}: expected one vector [H], found {found}")
    _check(vector, shown(file))
    direction = Direction(vector.to(torch.float64), position, layer, {"converted_from": file.name})
    save_direction(output, direction)
    return direction


def _check(vector: torch.Tensor, name: str) -> None:
    if not bool(vector.isfinite().all()) or not bool(vector.any()):
        raise InputError(f"{name}: the direction holds NaN or infinite numbers, or is zero; compute it anew")


def _is_pickle(path: Path) -> bool:
    """Zip archives (torch.save) and bare pickles, whatever their name says; the header of safetensors is JSON."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head[:2] == b"PK" or head[:1] == b"\x80" and head[1:2] <= b"\x05" and head[8:] != b"{"


def differences(harmful: torch.Tensor, harmless: torch.Tensor) -> torch.Tensor:
    """harmful - harmless, [P, L, H]; exactly zero where the two means are equal up to rounding.

    They are equal at the input of layer 0: the template's tokens have the same embedding whatever was asked.
    """
    found = harmful - harmless
    scale = (harmful.norm(dim=-1) + harmless.norm(dim=-1)) / 2
    return found * (found.norm(dim=-1) > _EQUAL * scale)[..., None]
