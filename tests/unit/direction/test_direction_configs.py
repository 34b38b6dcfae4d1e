"""Every choice of `direction` composes; ranges; the command line without a model."""

from pathlib import Path

import pytest

from derta.config.compose import read
from derta.config.direction import DiagnoseRunConfig, DirectionConfig
from derta.config.prompts import PromptsConfig
from derta.config.shipped import CONF_DIR
from derta.errors import InputError

CHOICES = [path.stem for path in sorted((CONF_DIR / "direction").glob("*.yaml"))]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_is_sound(choice: str) -> None:
    files = ("direction.harmful.path=a.jsonl", "direction.harmless.path=b.jsonl")
    config = read("diagnose_direction", DiagnoseRunConfig, [f"direction={choice}", *files])[0]
    assert config.problems() == [] and config.direction.name == choice


def test_the_published_sizes_and_thresholds_are_the_defaults() -> None:
    """arXiv 2406.11717: splits of 128, 32 and 100; KL 0.1, induce 0, the top fifth of the layers left out."""
    config = DirectionConfig()
    assert (config.splits.train, config.splits.validation, config.splits.test) == (128, 32, 100)
    rule = config.selection
    assert (rule.kl_max, rule.induce_min, rule.top_layers) == (0.1, 0.0, 0.2)


def test_every_problem_is_named_at_once() -> None:
    config = DirectionConfig(
        harmful=PromptsConfig(path="a.jsonl"), positions=0, refusal_texts=[" "], batch_size=0, lora_scales=[-1.0]
    )
    config.splits.test, config.selection.kl_max, config.selection.top_layers = 0, -1.0, 1.0
    found = "\n".join(config.problems("direction"))
    for key in (
        "harmless.path is empty", "positions=0", "refusal_texts is empty", "batch_size=0", "lora_scales",
        "splits.test=0", "selection.kl_max", "selection.top_layers",
    ):  # fmt: skip
        assert f"direction.{key}" in found
    assert "harmful.path" not in found


def test_collect_needs_finished_diagnostics(tmp_path: Path) -> None:
    from derta.direction.commands import COMMANDS

    with pytest.raises(InputError, match="no direction.json"):
        COMMANDS["collect"].answer([f"results=[{tmp_path}]", f"output={tmp_path / 'table'}"])
    assert not (tmp_path / "table").exists()
