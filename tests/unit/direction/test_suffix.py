"""Suffix analysis: which tokens are what, what a head writes, and where the suffixes come from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import LAYERS

from derta.config.attacks import AttackConfig, GCGConfig
from derta.config.direction import DiagnoseRunConfig, SuffixConfig
from derta.config.evaluation import EvaluateRunConfig, EvaluationConfig, PromptSetConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat, PromptsConfig
from derta.direction.diagnose import diagnose
from derta.direction.examine import examine
from derta.direction.figures import write_figures
from derta.direction.suffix import CONDITIONS, _heads, _prompts, read_suffixes
from derta.errors import InputError
from derta.evaluation.ranks import Ranks
from derta.evaluation.suite import evaluate
from derta.models.target import TargetModel

SUFFIX = " steps and steps"


@pytest.fixture
def suffix_file(sides: Any, tmp_path: Path) -> Path:
    lines = (json.dumps({"id": row["id"], "suffix": SUFFIX}) + "\n" for row in sides[0].rows[:5])
    (tmp_path / "suffixes.jsonl").write_text("".join(lines))
    return tmp_path / "suffixes.jsonl"


def test_prompts_of_the_three_conditions(planted: TargetModel, sides: Any, suffix_file: Path) -> None:
    """Without suffix the plain prompt; with it, what a user who types it would send; random is as long."""
    rows = sides[0].rows
    prompts = _prompts(planted, rows, read_suffixes(str(suffix_file), rows), count=3, seed=1)
    assert [len(prompts[name]) for name in CONDITIONS] == [3, 3, 3]
    for i, row in enumerate(rows[:3]):
        none, drawn, adversarial = (prompts[name][i] for name in CONDITIONS)
        query = row["prompt"][0]["content"]
        typed = [{"role": "user", "content": query + SUFFIX}]
        assert none.ids == planted.cutter.prompt_ids(row["prompt"])
        assert adversarial.ids == planted.cutter.prompt_ids(typed)
        assert planted.tokenizer.decode(adversarial.ids[slice(*adversarial.instruction)]) == query
        assert planted.tokenizer.decode(adversarial.ids[slice(*adversarial.suffix)]) == SUFFIX
        assert len(drawn.ids) == len(adversarial.ids) and drawn.ids != adversarial.ids


def test_heads_add_up_to_what_attention_writes(tiny_model: Callable[..., Any], llama3_tokenizer: Any) -> None:
    """Per layer, the sum over heads is the attention output along the direction (no bias in Llama, one in GPT-2)."""
    unit = torch.zeros(32, dtype=torch.float64)
    unit[5] = 1.0
    ids = torch.tensor([[9, 8, 7, 6]])
    for family, path, bias in (("llama", "model.layers", False), ("gpt2", "transformer.h", True)):
        model = tiny_model(family, len(llama3_tokenizer)).eval()
        seen: list[torch.Tensor] = []
        blocks = model.get_submodule(path)
        attention = [block.attn if bias else block.self_attn for block in blocks]
        handles = [a.register_forward_hook(lambda _, __, out, to=seen: to.append(out[0][0, -1])) for a in attention]
        with torch.inference_mode(), _heads(model, unit) as written:
            model(input_ids=ids)
        for handle in handles:
            handle.remove()
        for layer, output in enumerate(seen):
            fixed = float(attention[layer].c_proj.bias @ unit.float()) if bias else 0.0
            assert float(written[layer].sum()) == pytest.approx(float(output.double() @ unit) - fixed, abs=1e-5)


def test_analysis_of_the_planted_model(planted, sides, suffix_file, make_config, tmp_path):
    """Head 0 of layer 0 writes the planted direction, looking evenly at all tokens; harmless words in a suffix thin the
    harmful ones out."""
    before = planted.model.config._attn_implementation
    suffix = SuffixConfig(path=str(suffix_file), count=4, heads=1)
    report = examine(planted, *sides, make_config(positions=1, subspace=1, suffix=suffix)).report
    found = report["suffix"]
    assert found["prompts"] == 4
    assert (found["heads"][0]["layer"], found["heads"][0]["head"]) == (0, 0)
    none, adversarial = found["conditions"]["none"], found["conditions"]["adversarial"]
    assert len(none["cosines"]) == LAYERS and none["cosines"][2] > adversarial["cosines"][2] > 0.5
    assert none["metric"] > adversarial["metric"]
    assert none["attention"]["suffix"] == 0.0
    length = len(planted.cutter.prompt_ids(sides[0].rows[0]["prompt"]))
    own = len(planted.tokenizer(SUFFIX, add_special_tokens=False)["input_ids"])
    assert adversarial["attention"]["suffix"] == pytest.approx(own / (length + own), abs=0.03)
    assert planted.model.config._attn_implementation == before
    write_figures(report | {"label": "planted"}, tmp_path)
    assert (tmp_path / "suffix.png").stat().st_size > 5000


def test_suffixes_of_gcg_s_checkpoints(sides: Any, tmp_path: Path) -> None:
    rows = sides[0].rows
    for number, (row, content) in enumerate(
        ((rows[0], rows[0]["prompt"][0]["content"] + SUFFIX), (rows[1], None), (rows[2], "another query"))
    ):
        state = {"identity": {"row": row["id"]}, "state": {"done": True, "content": content}}
        (tmp_path / f"{number}.json").write_text(json.dumps(state))
    assert read_suffixes(str(tmp_path), rows) == {rows[0]["id"]: SUFFIX}
    (tmp_path / "9.json").write_text("[]")
    with pytest.raises(InputError, match="9.json .* not the checkpoint of an attack"):
        read_suffixes(str(tmp_path), rows)


def test_suffix_files_that_cannot_be_used(sides: Any, tmp_path: Path) -> None:
    rows, file = sides[0].rows, tmp_path / "suffixes.jsonl"
    with pytest.raises(InputError, match="no such file or folder"):
        read_suffixes(str(file), rows)
    file.write_text('{"id": "a"}\nnot json\n')
    with pytest.raises(InputError, match="line 2: expected one JSON object per line"):
        read_suffixes(str(file), rows)
    good = '{"id": "b", "suffix": "x"}\n'
    file.write_text(f'{{"id": "a"}}\n{good}{good}{{"id": "c", "suffix": 3}}\n')
    with pytest.raises(InputError) as error:
        read_suffixes(str(file), rows)
    assert [f"line {n}, field" in str(error.value) for n in (1, 2, 3, 4)] == [True, False, True, True]
    file.write_text('{"id": "stranger", "suffix": " x"}\n')
    with pytest.raises(InputError, match="no suffix for any of the 36 harmful prompts"):
        read_suffixes(str(file), rows)


def test_from_a_gcg_attack_to_the_figure(planted_dir, make_config, tmp_path):
    """Evaluation with a tiny budget, its checkpoints, the diagnostic of the same model with them."""
    rows = [
        {
            "id": f"row-{i}",
            "prompt": [{"role": "user", "content": f"harmful request {i} about the garden"}],
            "chosen": [{"role": "assistant", "content": "Sorry"}],
            "rejected": [{"role": "assistant", "content": "Step one"}],
        }
        for i in range(36)
    ]
    file = tmp_path / "harmful.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = PromptSetConfig(
        path=str(file), format=PromptFormat.preference, harmful=True, attacks=["direct", "gcg"], count=2
    )
    gcg = GCGConfig(steps=2, initial="and", suffix_tokens=3, candidates=8, top_k=8, save_steps=1)
    settings = EvaluationConfig(sets={"harmful": prompts}, attack=AttackConfig(gcg=gcg), max_new_tokens=2, batch_size=4)
    model, place = ModelConfig(name_or_path=str(planted_dir)), tmp_path / "evaluation"
    evaluate(EvaluateRunConfig(model=model, eval=settings, output_dir=str(place)), Ranks())
    suffix = SuffixConfig(path=str(place / "attacks" / "harmful" / "gcg"), heads=1)
    harmful = PromptsConfig(path=str(file), format=PromptFormat.preference)
    config = make_config(harmful=harmful, positions=1, subspace=1, suffix=suffix)
    found = diagnose(DiagnoseRunConfig(model=model, direction=config, output_dir=str(tmp_path / "out")))["suffix"]
    assert (found["reason"], found["prompts"]) == ("", 2)
    assert list(found["conditions"]) == list(CONDITIONS)
    assert found["conditions"]["adversarial"]["attention"]["suffix"] > 0
    assert (tmp_path / "out" / "suffix.png").stat().st_size > 5000
