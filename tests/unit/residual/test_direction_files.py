"""Direction files: safetensors there and back, published `.pt` files converted, everything else refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from derta.direction.commands import COMMANDS
from derta.errors import InputError
from derta.residual.direction_files import Direction, convert_published, load_direction, save_direction

VECTOR = torch.tensor([0.5, -2.0, 8.0], dtype=torch.float64)


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    (tmp_path / "direction_metadata.json").write_text('{"pos": -2, "layer": 10}')
    return tmp_path / "direction_metadata.json"


def test_a_direction_comes_back_with_its_place(tmp_path: Path) -> None:
    save_direction(tmp_path / "new" / "direction.safetensors", Direction(VECTOR, -2, 10, {"model": "abc"}))
    found = load_direction(tmp_path / "new" / "direction.safetensors", hidden_size=3)
    assert torch.equal(found.vector, VECTOR)
    assert (found.position, found.layer, found.about) == (-2, 10, {"model": "abc"})


def test_a_published_file_is_converted(tmp_path: Path, metadata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(VECTOR.to(torch.bfloat16), tmp_path / "direction.pt")
    output = tmp_path / "direction.safetensors"
    COMMANDS["convert"].answer([f"file={tmp_path / 'direction.pt'}", f"metadata={metadata}", f"output={output}"])
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 3
    found = load_direction(output)
    assert torch.equal(found.vector, VECTOR) and (found.position, found.layer) == (-2, 10)


class _Marks:
    """Leaves a file where it is unpickled."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_a_pickle_is_neither_loaded_nor_run(tmp_path: Path, metadata: Path) -> None:
    """As .pt, as a bare pickle, and under the name of a safetensors file; the converter runs nothing either."""
    mark = tmp_path / "ran"
    bare, zipped, renamed = (tmp_path / name for name in ("bare.pt", "zipped.pt", "direction.safetensors"))
    bare.write_bytes(pickle.dumps(_Marks(mark)))
    torch.save(_Marks(mark), zipped)
    renamed.write_bytes(bare.read_bytes())
    for file in (bare, zipped, renamed):
        with pytest.raises(InputError, match=r"not a safetensors file.*convert"):
            load_direction(file)
    for file in (bare, zipped):
        with pytest.raises(InputError, match="plain tensors"):
            convert_published(file, metadata, tmp_path / "out.safetensors")
    assert not mark.exists() and not (tmp_path / "out.safetensors").exists()


def test_a_direction_of_another_model(tmp_path: Path) -> None:
    save_direction(tmp_path / "direction.safetensors", Direction(VECTOR, -1, 0))
    with pytest.raises(InputError, match="3 components and the model's residual stream 128"):
        load_direction(tmp_path / "direction.safetensors", hidden_size=128)


def test_files_that_hold_no_direction(tmp_path: Path) -> None:
    file = tmp_path / "direction.safetensors"
    with pytest.raises(InputError, match="no such direction file"):
        load_direction(file)
    for tensors, about in (
        ({"direction": VECTOR}, {}),
        ({"weight": VECTOR}, {"format": "derta-refusal-direction", "position": "-1", "layer": "0"}),
        ({"direction": VECTOR[None]}, {"format": "derta-refusal-direction", "position": "-1", "layer": "0"}),
        ({"direction": VECTOR}, {"format": "derta-refusal-direction", "position": "last", "layer": "0"}),
    ):
        save_file(tensors, file, metadata=about)
        with pytest.raises(InputError, match="not a direction file"):
            load_direction(file)
    file.write_bytes(b"cut short")
    with pytest.raises(InputError, match="not a direction file"):
        load_direction(file)


@pytest.mark.parametrize("vector", [torch.tensor([1.0, float("nan")]), torch.zeros(2)])
def test_nan_and_zero_directions(vector: torch.Tensor, tmp_path: Path, metadata: Path) -> None:
    torch.save(vector, tmp_path / "direction.pt")
    with pytest.raises(InputError, match="NaN or infinite numbers, or is zero"):
        convert_published(tmp_path / "direction.pt", metadata, tmp_path / "out.safetensors")
    save_direction(tmp_path / "direction.safetensors", Direction(vector, -1, 0))
    with pytest.raises(InputError, match="NaN or infinite numbers, or is zero"):
        load_direction(tmp_path / "direction.safetensors")


def test_what_the_converter_cannot_use(tmp_path: Path, metadata: Path) -> None:
    file, output = tmp_path / "direction.pt", tmp_path / "out.safetensors"
    torch.save({"a": VECTOR}, file)
    with pytest.raises(InputError, match="expected one vector .* found dict"):
        convert_published(file, metadata, output)
    torch.save(VECTOR[None], file)
    with pytest.raises(InputError, match=r"found a tensor of shape \[1, 3\]"):
        convert_published(file, metadata, output)
    with pytest.raises(InputError, match="ends in .safetensors"):
        convert_published(file, metadata, tmp_path / "out.pt")
    with pytest.raises(InputError, match="cannot be read"):
        convert_published(tmp_path / "missing.pt", metadata, output)
    metadata.write_text('{"pos": -2}')
    with pytest.raises(InputError, match='expected JSON like {"pos": -2, "layer": 10}'):
        convert_published(file, metadata, output)
