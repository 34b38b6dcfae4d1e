"""What `launch/export.py` and `launch/import_model.py` are asked: what becomes a plain Hugging Face directory."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Predicate

from derta.config.model import Dtype
from derta.config.settings import NotNegative, Settings, Text


@dataclass(kw_only=True, slots=True)
class ExportConfig(Settings):
    """What is exported, and where to."""

    source: Annotated[Text, "the directory of a run, of a checkpoint or of an adapter"] = ""
    """A run, one of its checkpoints, or an adapter."""
    output: Annotated[Text, "a directory for the model"] = ""
    """A directory that is not there yet."""
    base: Annotated[Text, "a model directory or a hub id"] | None = None
    """Where an adapter's base model is now, if not where adapter_config.json says."""
    revision: str | None = None
    """Revision of a base on the hub."""
    dtype: Dtype = Dtype.auto
    """Precision of the weights written; auto keeps that of the final model (of ZeRO state that says none: bfloat16)."""
    tolerance: NotNegative | None = None
    """Largest difference of a logit that is accepted; null: 1e-3 where nothing is rounded, else 5% of the largest
    logit."""
    evaluation: str | None = None
    """output_dir of this model's evaluation, whose table the card shows; null looks beside the model (in
    SOURCE/evaluation, or where a sweep puts it)."""


@dataclass(kw_only=True, slots=True)
class ImportConfig(Settings):
    """A GGUF file, and where its model goes."""

    source: Annotated[Text, "a GGUF file"] = ""
    """A file of llama.cpp's format, quantised or not."""
    output: Annotated[Text, "a directory for the model"] = ""
    """A directory that is not there yet."""
    dtype: Annotated[Dtype, Predicate(lambda dtype: dtype is not Dtype.auto), "float32 or bfloat16"] = Dtype.float32
    """Precision of the weights written; float32 keeps every number that the file stands for."""
