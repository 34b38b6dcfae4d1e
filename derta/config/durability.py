"""What `launch/durability.py` is asked: how far later changes of a model bring an evaluation back."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from derta.config.evaluation import EvaluationConfig
from derta.config.model import ModelConfig
from derta.config.settings import Count, Name, Positive, Settings, Share, Text, Whole


@dataclass(kw_only=True, slots=True)
class DurabilityRunConfig(Settings):
    """One model, evaluated as it is, after plain fine-tuning on helpful rows, and with its adapter scaled down."""

    model: ModelConfig = field(default_factory=ModelConfig)
    eval: EvaluationConfig = field(default_factory=EvaluationConfig)
    helpful: str = ""
    """Helpful rows on topics that are in no training data: a dataset from launch/build_data.py or a file of rows."""
    steps: list[Count] = field(default_factory=lambda: [10, 50, 200])
    """Later steps after which it is evaluated, all of one run; [] for none."""
    lora_scales: list[Share] = field(default_factory=lambda: [1.0, 0.75, 0.5, 0.25, 0.0])
    """For an adapter: its delta times each of these, without later steps; [] for none."""
    learning_rate: Positive = 2e-5
    """Of AdamW in the later steps; constant, so that a model is the same however many steps follow."""
    batch_size: Count = 16
    """Rows a later step."""
    max_length: Annotated[int, Ge(2)] = 1024
    """Tokens of a row; what is beyond is cut off."""
    seed: Whole = 0
    """Of the order of the rows."""
    before: str = ""
    """Folder of a finished evaluation of the model as it is, with these settings (empty: it is evaluated here)."""
    keep_models: bool = False
    """Keep the models that were made, which are deleted once they are evaluated."""
    label: str | None = None
    """Name in tables and figures (null: that of `before`, or the model directory's)."""
    output_dir: Annotated[Text, "a directory for the results"] = "runs/durability"
    """Where the evaluations and the report go."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"
        if self.steps and not self.helpful.strip():
            yield f"{key('helpful')} is empty: give rows for the later steps, helpful=FILE, or set steps=[]"
