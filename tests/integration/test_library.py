"""DeRTaTrainer in a user's own script, on rows in TRL's formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from training_cases import helpful, says_text, triple, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.errors import InputError

SCRIPT = """\
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from derta import DeRTaConfig, DeRTaTrainer

rows = load_dataset("json", data_files="{rows}", split="train")
model, tokenizer = AutoModelForCausalLM.from_pretrained("{model}"), AutoTokenizer.from_pretrained("{model}")
args = DeRTaConfig(output_dir="{output}", max_steps=2, per_device_train_batch_size=4, max_length=200)
trainer = DeRTaTrainer(model, args=args, train_dataset=rows, processing_class=tokenizer)
trainer.train()
trainer.save_model()
"""


def plain_triple(i: int) -> dict[str, str]:
    """TRL's plain preference format."""
    return {
        "prompt": f"Question: zorblat request {i}\nAnswer:",
        "chosen": f" Sorry, I cannot help with quixlet {i}.",
        "rejected": f" Sure, vexmorn steps {i}. Step: mix.",
    }


def generate(model_dir: Path, prompt: str | None) -> str:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    if prompt is None:
        messages = [{"role": "user", "content": "Hello"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]
    return tokenizer.decode(generated[0])


@pytest.fixture
def fit(derta_args: Callable[..., Any], model_dir: Path) -> Callable[..., Any]:
    """fit(rows, **arguments): a trainer after two steps."""
    from derta import DeRTaTrainer

    def run(rows: list[dict[str, Any]], **arguments: Any) -> Any:
        trainer = DeRTaTrainer(
            AutoModelForCausalLM.from_pretrained(model_dir),
            args=derta_args(**{"max_steps": 2, "per_device_train_batch_size": 4, **arguments}),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_dir),
        )
        trainer.train()
        return trainer

    return run


def test_a_ten_line_script(command, model_dir, tmp_path):
    """Conversational preference rows, a script of its own, a directory that loads and generates."""
    rows = write_rows(tmp_path / "rows.jsonl", [triple(i) for i in range(8)])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(rows=rows, model=model_dir, output=tmp_path / "out"))
    assert len(SCRIPT.splitlines()) <= 11
    result = command(script)
    assert result.returncode == 0, result.stderr[-2000:]
    assert says_text(result.stdout + result.stderr) == []
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja", "derta_config.json"} <= names
    assert generate(tmp_path / "out", None)


TRIPLES, HELPFUL, PLAIN = ([make(i) for i in range(6)] for make in (triple, helpful, plain_triple))
# name: rows, and how many of them are trained on by MLE and by RTO
FORMATS: dict[str, tuple[list[dict[str, Any]], tuple[int, int]]] = {
    "conversational": (TRIPLES, (6, 6)),
    "plain strings": (PLAIN, (6, 6)),
    "mixed with helpful rows": ([*TRIPLES[:3], *HELPFUL[:3]], (6, 3)),
    "implicit prompt": (
        [{key: row["prompt"] + row[key] for key in ("chosen", "rejected")} for row in TRIPLES], (6, 6),
    ),
    "messages": ([{"messages": row["prompt"] + row["chosen"]} for row in HELPFUL], (6, 0)),
    "completion": ([{"prompt": row["prompt"], "completion": row["chosen"]} for row in HELPFUL], (6, 0)),
    "plain completion": ([{"prompt": row["prompt"], "completion": row["chosen"]} for row in PLAIN], (6, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, fit: Callable[..., Any], tmp_path: Path) -> None:
    rows, (mle, rto) = FORMATS[name]
    trainer = fit(rows, objective="derta" if rto else "vanilla")
    assert (trainer.row_report.mle_rows, trainer.row_report.rto_rows) == (mle, rto)
    trainer.save_model()
    stored = json.loads((tmp_path / "run" / "derta_config.json").read_text())
    assert stored["rows"]["rto_rows"] == rto
    generate(tmp_path / "run", "Question: hello\nAnswer:" if "plain" in name else None)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"text": "zorblat"}], "no prompt or no response"),
        ([{"prompt": "zorblat", "chosen": "", "rejected": ""}], "no prompt or no response"),
        ([{"messages": [{"role": "user", "content": "zorblat"}]}], "no prompt or no response"),
        (
            [{"messages": [{"role": "assistant", "content": "quixlet"}, {"role": "user", "content": "zorblat"}]}],
            "chosen holds the roles ['user']: expected one message of the assistant",
        ),
        ([{"prompt": [{"role": "user", "text": "zorblat"}], "chosen": [{"role": "assistant"}]}], "role and content"),
        ([{"prompt": 3, "chosen": 4, "rejected": 5}], "messages"),
    ],
)
def test_rows_that_cannot_be_used(rows: list[dict[str, Any]], expected: str, fit: Callable[..., Any]) -> None:
    with pytest.raises(InputError) as error:
        fit(rows)
    assert expected in str(error.value) and says_text(str(error.value)) == []


def test_ids_used_twice_are_refused_and_equal_rows_told_apart(fit: Callable[..., Any]) -> None:
    """Rows with one id would get the same draws."""
    with pytest.raises(InputError, match=r"rows with the same id would .*\n  - id 'a': rows 0, 2$"):
        fit([{"id": "a", **triple(0)}, triple(1), {"id": "a", **triple(2)}])
    table = fit([triple(0), triple(0), triple(1)], max_steps=1).train_dataset
    names = sorted(set(table["id"]))
    assert len(names) == 3 and sum(name.endswith("-2") for name in names) == 1


def test_no_rows_and_no_tokenizer(fit: Callable[..., Any], derta_args: Callable[..., Any], model_dir: Path) -> None:
    from derta import DeRTaTrainer

    with pytest.raises(InputError, match="the training data hold no rows"):
        fit([])
    with pytest.raises(InputError, match="needs processing_class"):
        DeRTaTrainer(str(model_dir), args=derta_args(), train_dataset=Dataset.from_list([triple(0)]))
