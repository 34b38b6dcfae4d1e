"""A GGUF file made here, quantised, and read back: every tensor, the tokenizer, and what is no such file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.errors import InputError
from derta.models.gguf import import_gguf

HEADS, KV_HEADS, HIDDEN, FEED_FORWARD, LAYERS = 4, 2, 64, 96, 2
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
Shapes = dict[str, tuple[int, int]]


def write_gguf(
    path: Path, tokenizer: Any, *, family: str = "llama", parts: int = 1, with_tokens: bool = True
) -> Shapes:
    """A Llama with random weights, its matrices in blocks of Q8_0; the shapes of its matrices."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(vocabulary))
    if parts > 1:
        writer.add_uint16("split.count", parts)
    if with_tokens:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([token for token, _ in vocabulary])
        writer.add_token_types([1] * len(vocabulary))
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
        writer.add_token_merges([" ".join(pair) for pair in merges])
        writer.add_eos_token_id(tokenizer.eos_token_id)
        writer.add_pad_token_id(tokenizer.pad_token_id)
        writer.add_chat_template(TEMPLATE)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"token_embd": (len(vocabulary), HIDDEN), "output": (len(vocabulary), HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (FEED_FORWARD, HIDDEN), "ffn_up": (FEED_FORWARD, HIDDEN), "ffn_down": (HIDDEN, FEED_FORWARD),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}"] = shape
    random = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        blocks = gguf.quantize(random.normal(0, 0.1, shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    norms = ["output_norm", *(f"blk.{i}.{part}_norm" for i in range(LAYERS) for part in ("attn", "ffn"))]
    for name in norms:
        writer.add_tensor(f"{name}.weight", random.normal(1, 0.1, HIDDEN).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return shapes


def place(name: str) -> str:
    """transformers' name of a matrix of llama.cpp."""
    if not name.startswith("blk."):
        return {"token_embd": "model.embed_tokens", "output": "lm_head"}[name]
    _, layer, part = name.split(".")
    kind, side = part.split("_")
    inner = f"self_attn.{side[0]}_proj" if kind == "attn" else f"mlp.{side}_proj"
    return f"model.layers.{layer}.{inner}"


def in_order_of_transformers(matrix: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp keeps the two halves that rotate together side by side within each head; transformers apart."""
    return matrix.reshape(heads, -1, 2, matrix.shape[1]).transpose(1, 2).reshape(matrix.shape)


def test_every_tensor_is_what_the_file_stands_for(tmp_path: Path, llama3_tokenizer: Any) -> None:
    shapes = write_gguf(tmp_path / "tiny.gguf", llama3_tokenizer)
    about = import_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    read = {tensor.name.removesuffix(".weight"): tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    for name, shape in shapes.items():
        wanted = torch.from_numpy(gguf.dequantize(read[name].data, read[name].tensor_type).copy()).reshape(shape)
        if name.endswith(("attn_q", "attn_k")):
            wanted = in_order_of_transformers(wanted, HEADS if name.endswith("q") else KV_HEADS)
        assert torch.equal(stored[f"{place(name)}.weight"], wanted), name
    assert about["parameters"] == sum(tensor.numel() for tensor in stored.values())
    assert json.loads((tmp_path / "model" / "imported_from.json").read_text())["sha256"] == about["sha256"]
    assert about["sha256"] in (tmp_path / "model" / "README.md").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_the_directory_is_an_ordinary_model_with_its_tokenizer(tmp_path: Path, llama3_tokenizer: Any) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama3_tokenizer)
    import_gguf(tmp_path / "tiny.gguf", tmp_path / "model", dtype="bfloat16")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.chat_template == TEMPLATE and loaded.eos_token_id == llama3_tokenizer.eos_token_id
    text = "Sorry, I cannot help with that."
    ours, given = (each(text, add_special_tokens=False)["input_ids"] for each in (loaded, llama3_tokenizer))
    assert ours == given
    assert model.dtype is torch.bfloat16 and model.generation_config.eos_token_id == llama3_tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, tokenizer: path.write_bytes(b"no model"), "does not begin with GGUF"),
        (lambda path, tokenizer: path.write_bytes(b"GGUF\x03"), "cannot be read as GGUF"),
        (lambda path, tokenizer: None, "cannot be read as GGUF"),
        (lambda path, tokenizer: write_gguf(path, tokenizer, family="rwkv7"), "family rwkv7; llama, qwen2"),
        (lambda path, tokenizer: write_gguf(path, tokenizer, parts=3), "one of 3 parts"),
        (lambda path, tokenizer: write_gguf(path, tokenizer, with_tokens=False), "holds no tokenizer"),
    ],
)
def test_what_cannot_be_imported_is_named_and_leaves_nothing(
    make: Callable[[Path, Any], Any], message: str, tmp_path: Path, llama3_tokenizer: Any
) -> None:
    make(tmp_path / "bad.gguf", llama3_tokenizer)
    with pytest.raises(InputError, match=message):
        import_gguf(tmp_path / "bad.gguf", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        import_gguf(tmp_path / "tiny.gguf", tmp_path / "model")
    assert (tmp_path / "model" / "mine.txt").read_text() == "kept"
