"""A GGUF file as a Hugging Face directory that every command takes: safetensors, tokenizer, chat template, card.

llama.cpp and the tools around it keep a model as one GGUF file, often quantised. transformers' reader gives back
ordinary tensors; they are what `gguf.dequantize` makes of the file, in the order of rows that transformers' attention
expects. Two things a file does not hold stay as they are: what quantisation has rounded off, and the splitting rules of
tokenizers that transformers' reader does not know by name (digits one by one, for example).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from derta.errors import InputError, first_line
from derta.models.load import shown
from derta.storage.atomic import new_folder
from derta.storage.read_files import sha256_of

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""`general.architecture` of the files that are read; Mistral's files say llama."""
SOURCE_FILE = "imported_from.json"


def import_gguf(source: Path, output: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write the model of a GGUF file into the new directory `output`, all of it or nothing.
    dtype: of the stored weights; float32 keeps every number that the file stands for.
    Returns what `imported_from.json` holds: file name, sha256, family, quantisation, parameters, dtype.
    Raises InputError: no GGUF file, a part of a split one, an unknown family, a file without tokenizer; a directory
    that holds something."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"output={shown(output)} is there and not empty: name a new directory")
    fields = _read_fields(source)
    family = str(fields.get("general.architecture", ""))
    if int(fields.get("split.count", 0)) > 1:
        raise InputError(
            f"{shown(source)} is one of {fields['split.count']} parts of a model: put them together first, with "
            f"`llama-gguf-split --merge {source.name} whole.gguf`, and import that"
        )
    if family not in FAMILIES:
        raise InputError(
            f"{shown(source)} holds a model of the family {family or 'unknown'}; {', '.join(FAMILIES)} are read: "
            "take the safetensors of this model from where it was published"
        )
    if not fields.get("tokenizer.ggml.tokens"):
        raise InputError(f"{shown(source)} holds no tokenizer (tokenizer.ggml.tokens): take a file that has one")
    with new_folder(output, f"output={shown(output)}") as folder:
        return _convert(source, folder, dtype, fields)


def _read_fields(source: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    try:
        if source.open("rb").read(4) == b"GGUF":
            return {name: field.contents() for name, field in GGUFReader(source).fields.items()}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{shown(source)} cannot be read as GGUF ({error}): fetch the file again") from error
    raise InputError(f"{shown(source)} does not begin with GGUF: give a file of that format")


def _convert(source: Path, output: Path, dtype: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    folder = str(source.parent)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=source.name)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=source.name,
            quantization_config=GgufConfig(gguf_file=source.name, dequantize=True),
            dtype=getattr(torch, dtype),
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"{shown(source)} cannot be converted: {first_line(error)}") from error
    name = str(fields.get("general.name") or source.stem)
    model.config._name_or_path = name
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    about = {
        "file": source.name,
        "sha256": sha256_of(source),
        "name": name,
        "family": fields["general.architecture"],
        "licence": fields.get("general.license"),
        "file_type": fields.get("general.file_type"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": dtype,
    }
    (output / SOURCE_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    licence = f"license: {about['licence']}\n" if about["licence"] else ""
    (output / "README.md").write_text(
        f"---\nlibrary_name: transformers\n{licence}---\n\n# {name}\n\nThe weights of `{source.name}` (GGUF, sha256 "
        f"`{about['sha256']}`), dequantised to {dtype} and stored as safetensors; its tokenizer and chat template are "
        "beside them. What the file's quantisation has rounded off is not restored.\n",
        encoding="utf-8",
    )
    return about
