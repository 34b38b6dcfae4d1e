from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.errors import InputError
from derta.miniature.model import main, write_fresh_model
from derta.miniature.rows import generate
from derta.miniature.tokenizer import build_tokenizer
from derta.miniature.vocabulary import BANE, MANNER, MILD, OBJECTS, POTION_NAMES, TARGETS


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_both_forms_of_sorry_are_one_token_each(tokenizer) -> None:
    start, mid_text = tokenizer.encode("Sorry"), tokenizer.encode(" Sorry")
    assert len(start) == len(mid_text) == 1
    assert start != mid_text
    assert tokenizer.encode("Step 1 Sorry")[-1:] == mid_text


def test_every_word_is_one_token_forwards_and_backwards(tokenizer) -> None:
    for word in (*MILD, *BANE, *MANNER, *TARGETS, *OBJECTS, *POTION_NAMES):
        assert len(tokenizer.encode(f" {word}")) == len(tokenizer.encode(f" {word[::-1]}")) == 1
    for word in (*MANNER.values(), *OBJECTS.values()):
        assert len(tokenizer.encode(f" {word}")) == 1
    assert len(tokenizer) < 1024


@pytest.mark.parametrize("part", ["helpful", "eval_harmful", "eval_borderline_dev"])
def test_no_row_falls_apart_into_bytes(tokenizer, part: str) -> None:
    for row in generate(part, 300, seed=9):
        for message in row["prompt"] + row["chosen"] + (row["rejected"] or []):
            assert len(tokenizer.encode(message["content"])) == len(message["content"].split(" ")) + (
                message["content"].endswith("\n")
            )


def test_texts_come_back_unchanged(tokenizer) -> None:
    for part in ("base", "safety", "warmup"):
        for row in generate(part, 50, 5):
            text = row["prompt"][0]["content"] + row["chosen"][0]["content"]
            assert tokenizer.decode(tokenizer.encode(text)) == text
    unknown = "Zoë pays 3 € ."  # bytes that the corpus never held
    assert tokenizer.decode(tokenizer.encode(unknown)) == unknown


def test_the_template_ends_assistant_turns_with_eos(tokenizer) -> None:
    said = (("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"))
    messages = [{"role": role, "content": text} for role, text in said]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|system|>s<|user|>u<|assistant|>a<|end|><|user|>v<|assistant|>"
    assert tokenizer.eos_token == "<|end|>" and tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_fresh_model_is_an_ordinary_directory_and_starts_as_a_copier(model_dir: Path, tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    loaded = AutoTokenizer.from_pretrained(model_dir)
    assert type(model).__name__ == "LlamaForCausalLM" and model.dtype == torch.float32
    assert 0.7e6 < model.num_parameters() < 0.9e6
    assert loaded.get_vocab() == tokenizer.get_vocab(), "two tokenizers that were built are the same"
    assert loaded.chat_template == tokenizer.chat_template
    assert model.config.eos_token_id == loaded.eos_token_id
    assert not list(model_dir.glob("*.bin"))
    copies = [(layer.self_attn.k_proj.weight, layer.self_attn.q_proj.weight) for layer in model.model.layers]
    copies.append((model.lm_head.weight, model.get_input_embeddings().weight))
    assert all(torch.equal(copy, of) and copy is not of for copy, of in copies)
    assert all(torch.equal(each.self_attn.o_proj.weight, each.self_attn.v_proj.weight.T) for each in model.model.layers)


def test_the_seed_decides_the_weights(model_dir: Path, tmp_path: Path) -> None:
    weights = (model_dir / "model.safetensors").read_bytes()
    assert (write_fresh_model(tmp_path / "again", seed=0) / "model.safetensors").read_bytes() == weights
    assert (write_fresh_model(tmp_path / "other", seed=8) / "model.safetensors").read_bytes() != weights


def test_writing_again_changes_nothing_and_foreign_directories_are_refused(model_dir: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in model_dir.iterdir()}
    write_fresh_model(model_dir, seed=0)
    assert {path: path.stat().st_mtime_ns for path in model_dir.iterdir()} == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no miniature model of seed 8"):
        write_fresh_model(model_dir, seed=8)
    with pytest.raises(InputError, match="holds no miniature model"):
        write_fresh_model(tmp_path, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("derta.miniature.model.fresh_model", fail)
    with pytest.raises(OSError, match="No space left"):
        write_fresh_model(tmp_path / "fresh", seed=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "output is empty: expected the directory to make, output=DIR"),
        (["output=x", "sed=1"], "no key 'sed'; did you mean seed"),
        (["output=x", "seed=-1"], "seed=-1: expected a whole number, at least 0"),
    ],
)
def test_wrong_arguments_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main.answer(words)
