"""Prompt sets: seeded, disjoint, checked for overlap; refusal tokens; positions of the template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted import load_sides

from derta.config.direction import DirectionConfig, SplitsConfig
from derta.config.prompts import PromptFormat, PromptsConfig
from derta.direction.prompts import refusal_start_ids, template_positions
from derta.errors import InputError
from derta.models.target import TargetModel

Make = Callable[..., DirectionConfig]


def _write(path: Path, questions: list[str]) -> PromptsConfig:
    lines = (json.dumps({"id": str(i), "question": text}) + "\n" for i, text in enumerate(questions))
    path.write_text("".join(lines))
    return PromptsConfig(path=str(path), format=PromptFormat.question)


def test_splits_are_seeded_and_disjoint(planted: TargetModel, make_config: Make) -> None:
    splits = (SplitsConfig(train=16, validation=8, test=12, seed=seed) for seed in (1, 1, 2))
    drawn = [load_sides(make_config(splits=each), planted) for each in splits]
    assert drawn[0] == drawn[1]
    assert [row["id"] for row in drawn[0][0].rows] != [row["id"] for row in drawn[2][0].rows]
    for side in drawn[0]:
        assert (len(side.train), len(side.validation), len(side.test)) == (16, 8, 12)
        assert len({row["id"] for row in side.rows}) == 36


def test_a_prompt_on_both_sides_is_refused(planted: TargetModel, make_config: Make, tmp_path: Path) -> None:
    """White space and case do not hide it; it is named by its ids."""
    harmful = _write(tmp_path / "a.jsonl", [f"placeholder {i}" for i in range(36)])
    harmless = _write(tmp_path / "b.jsonl", [f"other {i}" for i in range(35)] + ["  Placeholder   7 "])
    with pytest.raises(InputError) as error:
        load_sides(make_config(harmful=harmful, harmless=harmless), planted)
    assert "harmful question-7 and harmless question-35 are the same prompt" in str(error.value)
    assert "laceholder" not in str(error.value)


def test_repeated_prompts_count_once_and_those_too_long_not_at_all(planted, make_config, tmp_path):
    harmful = _write(tmp_path / "a.jsonl", [f"placeholder {i % 20}" for i in range(40)])
    with pytest.raises(InputError, match=r"direction.harmful.path=a.jsonl: 20 prompts found \(left out: 20 repeated\)"):
        load_sides(make_config(harmful=harmful), planted)
    harmful = _write(tmp_path / "a.jsonl", [f"placeholder {i}" for i in range(36)] + ["long " * 200])
    harmful_side, _ = load_sides(make_config(harmful=harmful), planted)
    assert harmful_side.left_out == {"repeated": 0, "too long": 1}


def test_a_missing_file_is_named_as_the_direction_s(planted: TargetModel, make_config: Make, tmp_path: Path) -> None:
    _write(tmp_path / "a.jsonl", ["placeholder"])
    absent = PromptsConfig(path=str(tmp_path / "a.jsonl"), format=PromptFormat.question, source="nowhere")
    with pytest.raises(InputError, match=r"direction\.harmless: no rows .* source=nowhere"):
        load_sides(make_config(harmless=absent), planted)


def test_positions_are_the_template_s_tokens(planted: TargetModel, sides: Any) -> None:
    """Llama-3's template ends "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n": five tokens here."""
    row = sides[0].train[0]
    ids = planted.cutter.prompt_ids(row["prompt"])
    first, end = planted.cutter.instruction_span(row["prompt"])
    assert planted.tokenizer.decode(ids[first:end]) == row["prompt"][0]["content"]
    assert planted.tokenizer.decode(ids[end:]) == "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert template_positions(planted.cutter, sides[0].rows) == len(ids) - end


def test_refusal_tokens(planted: TargetModel) -> None:
    """The start form of each first token; a common opener is allowed here, a piece of a word is not."""
    tokenizer = planted.tokenizer
    sorry, step = (tokenizer.convert_tokens_to_ids(word) for word in ("Sorry", "Step"))
    assert refusal_start_ids(planted.tokenizer, ["Sorry, I cannot", "Step", "Sorry"]) == sorted([sorry, step])
    assert refusal_start_ids(planted.tokenizer, [], [5, 3, 5]) == [3, 5]


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        (["Xylophone"], None, "no refusal token.*'Xylophone': its first token, 'X', is not its first word"),
        (["  "], None, "there is no refusal token"),
        ([], None, "refusal_texts is empty"),
        (["Sorry"], [], "expected at least one id"),
        (["Sorry"], [10**6], "each from 0 to"),
    ],
)
def test_no_refusal_token(texts: list[str], ids: list[int] | None, message: str, planted: TargetModel) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        refusal_start_ids(planted.tokenizer, texts, ids)
