"""Tokenizer and model of a run, loaded the same way on a laptop and under ZeRO-3.

safetensors only and no code from the checkpoint, unless `model.trust_remote_code` asks for it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config import ModelConfig
from derta.config.shipped import shipped_file
from derta.errors import InputError, first_line
from derta.models.template_date import fix_date

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def shown(path: Path | str) -> str:
    """A path for a message: relative where it lies under the working directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def check_source(name_or_path: str) -> Path | str:
    """A model directory with safetensors as a `Path`, or a hub id as it stands.
    Raises InputError: neither; or a directory without weights that may be loaded."""
    path = Path(name_or_path)
    if path.is_dir():
        files = {file.name for file in path.iterdir()}
        if not files & {"config.json", ADAPTER_CONFIG}:
            raise InputError(
                f"model.name_or_path={shown(path)} holds neither config.json nor {ADAPTER_CONFIG}: "
                "give the directory that a training run saved its model in"
            )
        if not any(name.endswith(".safetensors") for name in files):
            pickled = sorted(name for name in files if name.endswith(_PICKLES))
            found = f"only pickled weights ({', '.join(pickled[:3])})" if pickled else "no weights"
            raise InputError(
                f"model.name_or_path={shown(path)} holds {found}: pickles can run code, so only *.safetensors are "
                "loaded; save the model again with save_pretrained()"
            )
        return path
    if path.exists() or not _HUB_ID.fullmatch(name_or_path) or name_or_path.startswith("runs/"):
        raise InputError(f"model.name_or_path={shown(path)}: no such directory, and not a hub id (owner/name)")
    return name_or_path


def is_adapter(source: Path | str) -> bool:
    """Whether a model that `check_source` has passed is an adapter, which needs its base."""
    return isinstance(source, Path) and (source / ADAPTER_CONFIG).is_file()


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with the chat template and special tokens the configuration adds.
    Raises InputError: it cannot be loaded; a special token outside its vocabulary; a template that is not there."""
    from transformers import AutoTokenizer

    source = check_source(config.name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source), revision=config.revision, trust_remote_code=config.trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises bare Exceptions for files it cannot read
        remedy = "correct model.name_or_path, or see to the network, the revision and your access to it"
        if isinstance(source, Path):
            remedy = "the directory needs a tokenizer as tokenizer.save_pretrained() writes it"
        raise InputError(
            f"the tokenizer of {_named(source)} cannot be loaded: {_first_line(error)}; {remedy}"
        ) from error
    for key in ("pad_token", "eos_token"):
        token = getattr(config, key)
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise InputError(f"model.{key}={token!r} is not in the vocabulary of {config.name_or_path}: name one of it")
        setattr(tokenizer, key, token)
    if config.chat_template is not None:
        tokenizer.chat_template = _read_template(config.chat_template)
    if config.template_date is not None and fix_date(tokenizer, config.template_date) is None:
        logger.warning("model.template_date=%s: the chat template writes no date", config.template_date)
    return tokenizer


def _read_template(name: str) -> str:
    path = shipped_file(name)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"model.chat_template={name} is no UTF-8 text: {_first_line(error)}") from error
    if not path.is_dir():
        raise InputError(f"model.chat_template={name}: no such file or tokenizer directory")
    from transformers import AutoTokenizer

    try:
        template = AutoTokenizer.from_pretrained(str(path)).chat_template
    except Exception as error:
        raise InputError(
            f"model.chat_template={name}: no tokenizer can be loaded there ({_first_line(error)})"
        ) from error
    if not isinstance(template, str):
        raise InputError(f"model.chat_template={name}: the tokenizer there has no chat template")
    return template


def load_model(config: ModelConfig, dtype: str, **placement: Any) -> PreTrainedModel:
    """The causal language model, on the CPU or, under ZeRO-3, sharded as it is read.
    dtype: torch's name of the precision the weights are held in. placement: transformers' `device_map` or `tp_plan`,
    for models that are only evaluated.
    Raises InputError: it cannot be loaded, or its files lack some of its weights."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    import derta.models.varlen  # noqa: F401  (registers an attention implementation)

    if config.trust_remote_code:
        logger.warning("model.trust_remote_code=true: code that comes with %s will run", config.name_or_path)
    source = check_source(config.name_or_path)
    if is_adapter(source):
        raise InputError(
            f"model.name_or_path={shown(source)} is a LoRA adapter: merge it into its base, or train from the base"
        )
    if config.attn_implementation is not None:
        placement["attn_implementation"] = config.attn_implementation
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            str(source),
            revision=config.revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=config.trust_remote_code,
            output_loading_info=True,
            **placement,
        )
    except SafetensorError as error:
        raise InputError(
            f"the weights of {_named(source)} cannot be read: {error}; are the *.safetensors files complete, and not "
            "pointers of Git LFS?"
        ) from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise InputError(f"model.name_or_path={_named(source)} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(set(loaded["missing_keys"]) & {name for name, _ in model.named_parameters()}):
        raise InputError(
            f"model.name_or_path={_named(source)}: its files lack {len(missing)} of its weights ({missing[0]}, ...), "
            "which would start at random: give a complete causal language model"
        )
    return model


def embedded_tokens(model: PreTrainedModel) -> int | None:
    """How many token ids the model has an embedding for; None where its embedding does not say."""
    embedding = model.get_input_embeddings()
    return getattr(getattr(embedding, "base_layer", embedding), "num_embeddings", None)  # below an adapter


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError if the tokenizer has ids that the model has no embedding for."""
    rows = embedded_tokens(model)
    if rows is not None and len(tokenizer) > rows:
        raise InputError(
            f"the tokenizer has {len(tokenizer)} tokens and the model embeds {rows}: they do not belong together; "
            "give a model directory whose tokenizer is its own, or resize its embeddings"
        )


def add_end_tokens(model: PreTrainedModel, tokens: Iterable[int | None]) -> None:
    """Let generation stop at these tokens, too; a base model's own configuration may not know them."""
    known = model.generation_config.eos_token_id
    ends = [known] if isinstance(known, int) else list(known or [])
    new = [token for token in dict.fromkeys(tokens) if token is not None and token not in ends]
    if new:
        model.generation_config.eos_token_id = [*ends, *new]


def check_positions(model: PreTrainedModel, longest_row: int) -> None:
    """Raises InputError if rows are longer than the model has positions for (learned ones would crash)."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest_row > positions:
        raise InputError(
            f"the longest row has {longest_row} tokens and the model {positions} positions: set data.max_length to at "
            f"most {positions}"
        )


def check_lora_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raises InputError if LoRA would find none of its modules, or one that it cannot adapt; warns of missing ones."""
    import torch
    from transformers.pytorch_utils import Conv1D

    can_adapt = (torch.nn.Linear, torch.nn.Embedding, Conv1D)
    modules = dict(model.named_modules())
    known = sorted({name.rsplit(".", 1)[-1] for name, module in modules.items() if isinstance(module, can_adapt)})
    missing = []
    for target in targets:
        matched = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not matched:
            missing.append(target)
        elif not all(isinstance(module, can_adapt) for module in matched):
            raise InputError(
                f"peft.target_modules: LoRA cannot adapt {target} ({type(matched[0]).__name__}); "
                f"this model has {', '.join(known)}"
            )
    if len(missing) == len(targets):
        raise InputError(
            f"peft.target_modules={list(targets)}: the model has none of these modules; it has {', '.join(known)}"
        )
    if missing:
        logger.warning("peft.target_modules: the model has no %s; it has %s", ", ".join(missing), ", ".join(known))


def check_adapted_ends(model: PeftModel) -> None:
    """Raises InputError for adapters on an embedding or head that are tied: merged they would say something else."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    inner: Any = model.get_base_model()
    embedding, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    adapted = any(isinstance(end, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for end in (embedding, head))
    if adapted and inner.config.get_text_config().tie_word_embeddings:
        raise InputError(
            "peft.target_modules holds the token embedding, and this model's LM head is tied to it: merging would "
            "change the head, which the adapter does not; leave the embedding out, or take a model whose head is its "
            "own (tie_word_embeddings=false)"
        )


def _named(source: Path | str) -> str:
    """A directory as a path; a hub id with the remark that no directory of that name is here."""
    return shown(source) if isinstance(source, Path) else f"{source} (a hub id: no such directory here)"


def _first_line(error: Exception) -> str:
    return first_line(error).removesuffix(" For details look at the above report!").rstrip(":.")
