"""A plain Hugging Face directory out of any run: an adapter merged into its base, or a full model as it is.

    source -> model -> logits of a probe -> merge -> hidden folder -> read again -> the same logits? -> output

An adapter of QLoRA was trained against a base in four bits and merges into the base as it was before. The output
appears only when what was read back says the same. Weights come from safetensors. Only where a run kept none beside its
ZeRO state (stage3_gather_16bit_weights_on_model_save=false) are that state's pickles read, by DeepSpeed's own
converter, and only inside a run of derta's.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from derta.config import Dtype, ModelConfig
from derta.config.export import ExportConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter
from derta.models.fingerprint import adapter_base
from derta.models.load import (
    ADAPTER_CONFIG,
    add_end_tokens,
    check_vocabulary,
    embedded_tokens,
    load_model,
    load_tokenizer,
    shown,
)
from derta.models.precision import stored_dtype
from derta.models.taught import DERTA_CONFIG_FILE, read_taught
from derta.release.card_section import find_evaluation, named_evaluation, write_evaluation
from derta.storage.atomic import new_folder, write_errors_named
from derta.training.resume import CONFIG_FILE, RECORD, complete_checkpoints

logger = logging.getLogger(__name__)

_CARD = "README.md"
_PROBE_ROWS, _PROBE_LENGTH = 4, 32
_EXACT = 1e-3
_ROUNDED = 0.05


@dataclass(frozen=True)
class Exported:
    """difference: largest of a logit between source and output. largest: of a logit's size. kind: what source was."""

    output: Path
    kind: str
    dtype: str
    difference: float
    largest: float
    tolerance: float
    same_top_token: float

    def __str__(self) -> str:
        return (
            f"{shown(self.output)}: {self.kind}, {self.dtype}; logits differ by at most {self.difference:.2e} "
            f"(largest logit {self.largest:.1f}, accepted {self.tolerance:.2e}), the most likely token is the same at "
            f"{100 * self.same_top_token:.1f}% of the probe's positions"
        )


def export(config: ExportConfig) -> Exported:
    """Write the model, its tokenizer and template, derta_config.json and the card to `config.output`. Raises
    InputError: nothing to export there; an output that exists; a base that is not there; logits that differ."""
    source, output = find_model(Path(config.source)), Path(config.output)
    if output.exists():
        raise InputError(f"output={shown(output)} exists: name a directory that is not there yet")
    run = named_evaluation(config.evaluation, source) if config.evaluation else find_evaluation(source)
    model, kind, own = _load(source, config)
    tokenizer = _saved_tokenizer(source, config)
    check_vocabulary(model, tokenizer)
    dtype = own if config.dtype is Dtype.auto else config.dtype.value
    expected = probe_logits(model)
    if kind == "merged adapter":
        model = model.merge_and_unload(safe_merge=True)
    add_end_tokens(model, _end_tokens(tokenizer))
    named = f"output={shown(output)}"
    with new_folder(output, named) as partial, write_errors_named(named):
        model.to(getattr(torch, dtype)).save_pretrained(partial)
        del model
        tokenizer.save_pretrained(partial)
        for name in (DERTA_CONFIG_FILE, _CARD):
            if (found := _beside(source, name)) is not None:
                shutil.copyfile(found, partial / name)
        if kind == "merged adapter" and (partial / _CARD).is_file():  # the card is that of an adapter
            card = (partial / _CARD).read_text(encoding="utf-8")
            card = card.replace("library_name: peft\n", "library_name: transformers\n", 1)
            (partial / _CARD).write_text(card, encoding="utf-8")
        if run is not None and (partial / _CARD).is_file():
            write_evaluation(partial / _CARD, run)
        again = probe_logits(load_model(ModelConfig(name_or_path=str(partial)), "float32"))
        rounded = dtype != "float32" and (kind != "full model" or dtype != stored_dtype(str(source)))
        difference, largest = float((expected - again).abs().max()), float(expected.abs().max())
        accepted = config.tolerance if config.tolerance is not None else _ROUNDED * largest if rounded else _EXACT
        same = float((expected.argmax(-1) == again.argmax(-1)).float().mean())
        result = Exported(output, kind, dtype, difference, largest, accepted, same)
        if not torch.isfinite(again).all() or not difference <= accepted:
            raise InputError(
                f"nothing was exported, because the model read back differs: {result}; see tolerance, dtype"
            )
        return result


def find_model(source: Path) -> Path:
    """The directory to export: the source itself where it holds a model, else its newest complete checkpoint. Raises
    InputError: neither."""
    if not source.is_dir():
        raise InputError(f"source={shown(source)}: no such directory")
    if _has_weights(source) or _has_zero_state(source):
        return source
    if checkpoints := complete_checkpoints(source):
        logger.info("%s has no final model; its newest complete checkpoint is %s", shown(source), checkpoints[-1].name)
        return checkpoints[-1]
    raise InputError(f"source={shown(source)} holds no model, no adapter and no complete checkpoint")


def _has_weights(directory: Path) -> bool:
    named = (directory / "config.json").is_file() or (directory / ADAPTER_CONFIG).is_file()
    return named and any(directory.glob("*.safetensors"))


def _has_zero_state(directory: Path) -> bool:
    latest = directory / "latest"  # names the folder of DeepSpeed's state
    if not latest.is_file() or not (directory / "config.json").is_file():
        return False
    state = directory / latest.read_text(encoding="utf-8").strip()
    return state.is_dir() and state.parent == directory


def _load(source: Path, config: ExportConfig) -> tuple[Any, str, str]:
    """The model in float32 (merging in 16 bits would round twice), what it is, and the precision of its base."""
    if (source / ADAPTER_CONFIG).is_file():
        from peft import PeftModel

        stored = json.loads((source / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = config.base or str(adapter_base(source))
        revision = config.revision or (stored.get("revision") if config.base is None else None)
        model = load_model(ModelConfig(name_or_path=base, revision=revision), "float32")
        precision = stored_dtype(base, revision)
        return PeftModel.from_pretrained(model, str(source)).eval(), "merged adapter", precision
    if config.base is not None:
        raise InputError(f"base={config.base}: source={shown(source)} is no adapter, so it has no base; drop base")
    final = read_taught(ModelConfig(name_or_path=str(source))).get("dtype")  # a checkpoint may hold float32 masters
    if not _has_weights(source):
        return _from_zero_state(source), "weights from ZeRO state", final or "bfloat16"
    model = load_model(ModelConfig(name_or_path=str(source)), "float32").eval()
    return model, "full model", final or stored_dtype(str(source))


def _from_zero_state(checkpoint: Path) -> Any:
    """The model with the float32 masters of a ZeRO checkpoint, on the CPU. Raises InputError: a checkpoint outside a
    run of derta's, or an incomplete one; DeepSpeed cannot put it together."""
    try:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    except ModuleNotFoundError as error:
        raise InputError(
            f"source={shown(checkpoint)} holds DeepSpeed's state alone, and DeepSpeed is not installed here: export it "
            "where the run was trained, or pip install deepspeed"
        ) from error

    # Every checkpoint holds a config.yaml of its own: what counts is that of the run around it.
    is_checkpoint = (checkpoint / RECORD).is_file() or checkpoint.name.startswith("checkpoint-")
    home = checkpoint.parent if is_checkpoint else checkpoint
    if not (home / CONFIG_FILE).is_file() or (is_checkpoint and not (checkpoint / RECORD).is_file()):
        raise InputError(
            f"source={shown(checkpoint)} holds DeepSpeed's pickled state alone, which can run code when it is read: it "
            f"is read only from a complete checkpoint inside a run of derta's ({CONFIG_FILE} above it, {RECORD} in it)"
        )
    logger.warning(
        "%s holds no safetensors: DeepSpeed's pickles in it are read, which runs code if somebody has changed them",
        shown(checkpoint),
    )
    try:
        state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
    except Exception as error:  # DeepSpeed raises bare exceptions for shards that are missing or do not match
        raise InputError(f"source={shown(checkpoint)}: its ZeRO state cannot be put together: {error}") from error
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(checkpoint)))
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing and not (missing == ["lm_head.weight"] and model.config.get_text_config().tie_word_embeddings):
        raise InputError(f"source={shown(checkpoint)}: its ZeRO state lacks {len(missing)} weights ({missing[0]}, ...)")
    return model.float().eval()


def _saved_tokenizer(source: Path, config: ExportConfig) -> Any:
    if (source / "tokenizer_config.json").is_file():
        return AutoTokenizer.from_pretrained(str(source))
    if (source / ADAPTER_CONFIG).is_file():
        return load_tokenizer(ModelConfig(name_or_path=config.base or str(adapter_base(source))))
    raise InputError(f"source={shown(source)} holds no tokenizer: put the tokenizer's files beside the model")


def _end_tokens(tokenizer: Any) -> list[int | None]:
    """Where training ended its turns."""
    if not tokenizer.chat_template:
        return [tokenizer.eos_token_id]
    turn = [{"role": "user", "content": "Hello"}], [{"role": "assistant", "content": "Hello"}]
    return [tokenizer.eos_token_id, ConversationCutter(tokenizer).cut(*turn).end]


def _beside(source: Path, name: str) -> Path | None:
    """A file of the model, or of the run that the checkpoint belongs to."""
    places = [source, source.parent] if (source / RECORD).is_file() else [source]
    return next((place / name for place in places if (place / name).is_file()), None)


def probe_logits(model: Any) -> Any:
    """float32 [4, 32, V]: what the model says of fixed pseudo-random tokens."""
    vocabulary = embedded_tokens(model)
    assert vocabulary is not None
    ids = torch.randint(vocabulary, (_PROBE_ROWS, _PROBE_LENGTH), generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()
