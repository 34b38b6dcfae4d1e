"""A fresh miniature model: an ordinary Hugging Face directory with an untrained tiny Llama and its tokenizer.

python -m derta.miniature.model output=DIR seed=0
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from derta.config.command import Command
from derta.config.settings import Settings, Text, Whole
from derta.errors import InputError
from derta.miniature.tokenizer import MODEL_MAX_LENGTH, build_tokenizer
from derta.storage.atomic import new_folder

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(kw_only=True, slots=True)
class FreshModelConfig(Settings):
    """What `python -m derta.miniature.model` makes."""

    output: Annotated[Text, "the directory to make, output=DIR"] = ""
    """The directory to make; nothing is done where it holds the same model."""
    seed: Whole = 0
    """Of the weights."""


def fresh_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained float32 Llama of about 0.8M parameters.

    What matters at this size is how soon the copying circuit forms, without which nothing else is learnt. Besides
    wide initial weights and a small rope_theta, three matrices begin as copies of others, each free to change (after
    the mimetic initialisation of arXiv 2305.09828): keys equal to queries, so that a token attends to its like;
    attention outputs equal to the transposed values, so that what is attended to passes through; the output head
    equal to the input embedding, so that what passes through is said. Together they shorten the plateau before copying.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=336,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MODEL_MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.06,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    config.update({"miniature_seed": seed})  # kept in config.json, so that a directory tells which model it holds
    with torch.random.fork_rng(devices=[]):  # the caller's random state is not ours to move
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
            layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    return model


def write_fresh_model(output_dir: str | Path, seed: int) -> Path:
    """Writes weights (safetensors), config, tokenizer and chat template; does nothing if this model is already there.

    The directory appears at once and complete, by renaming. Raises InputError if `output_dir` holds something else."""
    output = Path(output_dir)
    if _holds_model(output, seed):
        return output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(
            f"output={output} exists and holds no miniature model of seed {seed}; give a new directory or remove it"
        )
    tokenizer = build_tokenizer()
    with new_folder(output, f"output={output}") as folder:
        tokenizer.save_pretrained(folder)
        fresh_model(tokenizer, seed).save_pretrained(folder)
    return output


def _holds_model(directory: Path, seed: int) -> bool:
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (directory / "model.safetensors").is_file() and config.get("miniature_seed") == seed


def run(config: FreshModelConfig) -> None:
    print(f"fresh miniature model: {write_fresh_model(config.output, config.seed)}")


main = Command("fresh_model", FreshModelConfig, run, __doc__)

if __name__ == "__main__":
    main()
