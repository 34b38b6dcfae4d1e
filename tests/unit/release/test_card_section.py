"""The evaluation in a model card: of this model alone, once, without paths or text."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from report_cases import write_run

from derta.config import ModelConfig
from derta.data.load import LoadedRows
from derta.errors import InputError
from derta.models.fingerprint import fingerprint
from derta.release.card_section import find_evaluation, named_evaluation, write_evaluation
from derta.training.card import Origin, write_model_card


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a card; what it consists of is its configuration."""
    place = tmp_path / "runs" / "guard"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    (place / "model.safetensors").write_bytes(b"weights")
    rows = LoadedRows(Dataset.from_list([]), "f" * 64, {"recipe_name": "mix", "recipe_sha256": "e" * 64, "sources": []})
    write_model_card(
        place / "README.md", name="guard", origin=Origin.of(ModelConfig(name_or_path="some/base"), rows),
        tags=["derta"], facts=["Objective: `derta`"], wandb_url=None,
    )  # fmt: skip
    return place


def evaluated(model: Path, folder: Path, sha256: str, successes: tuple[int, int]) -> Path:
    write_run(folder, "guard", successes, text="zorblat")
    summary = json.loads((folder / "summary.json").read_text())
    summary["identity"]["model"]["sha256"] = sha256
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_its_table_stands_in_the_card_once(model: Path) -> None:
    assert find_evaluation(model) is None
    folder = evaluated(model, model.parent / "evaluation" / "guard", fingerprint(str(model)), (5, 20))
    run = find_evaluation(model)
    assert run is not None and run.folder == folder
    write_evaluation(model / "README.md", run)
    card = (model / "README.md").read_text()
    assert "25.0" in card and "Judge: `miniature`" in card and "Recipe: `mix` (sha256 `eeeeeeeeeeee`)" in card
    assert card.index("## Data") < card.index("## Evaluation") < card.index("## Known limits")
    assert not [hidden for hidden in ("zorblat", "runs/", str(model.parent)) if hidden in card]
    write_evaluation(model / "README.md", run)
    assert (model / "README.md").read_text() == card
    inside = evaluated(model, model / "evaluation", fingerprint(str(model)), (10, 20))
    newer = find_evaluation(model)
    assert newer is not None and newer.folder == inside
    write_evaluation(model / "README.md", newer)
    assert (model / "README.md").read_text().count("## Evaluation") == 1
    assert "50.0" in (model / "README.md").read_text()


def test_another_models_evaluation_is_not_shown(model: Path, tmp_path: Path) -> None:
    folder = evaluated(model, model / "evaluation", "of other weights", (5, 20))
    assert find_evaluation(model) is None
    with pytest.raises(InputError, match="is of another model than guard"):
        named_evaluation(str(folder), model)
    with pytest.raises(InputError, match=r"no summary.json; run launch/evaluate.py"):
        named_evaluation(str(tmp_path), model)
