"""Which model this is: a hash of what it consists of, so that other weights under the same name are noticed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.load import ADAPTER_CONFIG, check_source, is_adapter, shown
from derta.models.taught import BASE_WAS_DIRECTORY, read_taught

_WHOLE_FILE = 64 << 20  # bytes: larger weight files are fingerprinted by samples
_SAMPLES, _SAMPLE = 16, 1 << 20


def adapter_base(adapter: Path) -> Path | str:
    """Where the base of an adapter is: a directory (also one beside the adapter) or a hub id.
    Raises InputError: adapter_config.json names none, or one that is not there."""
    file = adapter / ADAPTER_CONFIG
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, OSError) as error:
        raise InputError(f"{shown(file)} is not valid JSON: save the adapter again") from error
    if not base:
        raise InputError(f"{shown(file)} names no base_model_name_or_path: fill in where the base model is")
    for candidate in (Path(base), adapter / base):
        if candidate.is_dir():
            return check_source(str(candidate))
    gone = InputError(
        f"the adapter {shown(adapter)} was trained on {base}, which is not here: put the base there, start from the "
        f"directory in which it was trained, or correct base_model_name_or_path in its {ADAPTER_CONFIG}"
    )
    if read_taught(ModelConfig(name_or_path=str(adapter))).get(BASE_WAS_DIRECTORY):
        raise gone  # what was a directory is never asked of the hub, whoever owns that name there
    try:
        return check_source(base)
    except InputError as error:
        raise gone from error


def base_of(model: ModelConfig) -> ModelConfig:
    """The model itself, or what it is an adapter of. Raises InputError: as `adapter_base`."""
    source = check_source(model.name_or_path)
    return replace(model, name_or_path=str(adapter_base(Path(source)))) if is_adapter(source) else model


def fingerprint(name_or_path: str, revision: str | None = None) -> str:
    """sha256 that changes when the model does: weights, configuration, tokenizer, chat template; for an adapter its
    base too. Weight files above 64 MiB enter with their size and 16 samples of 1 MiB. A hub id enters as its name and
    revision.
    """
    source = check_source(name_or_path)
    digest = hashlib.sha256()
    if isinstance(source, str):
        digest.update(f"{source}@{revision or 'main'}".encode())
        return digest.hexdigest()
    names = ("config.json", ADAPTER_CONFIG, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = [source / name for name in names if (source / name).is_file()]
    for file in [*files, *sorted(source.glob("*.safetensors"))]:
        digest.update(f"{file.name}:{file.stat().st_size}:".encode())
        _hash_content(file, digest)
    if is_adapter(source):
        digest.update(fingerprint(str(adapter_base(source)), revision).encode())
    return digest.hexdigest()


def _hash_content(file: Path, digest: Any) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE_FILE:
            digest.update(stream.read())
            return
        for sample in range(_SAMPLES):
            stream.seek((size - _SAMPLE) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
