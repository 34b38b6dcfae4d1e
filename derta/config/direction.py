"""`direction`: the refusal-direction diagnostic; and what the commands of launch/diagnose_direction.py are asked."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge, Lt, MinLen, Predicate

from derta.config.judging import JudgeName, JudgingConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptsConfig
from derta.config.settings import Count, Name, NotNegative, Settings, Text


@dataclass(kw_only=True, slots=True)
class SelectionConfig(Settings):
    """Which candidate directions are valid (Arditi et al., arXiv 2406.11717, appendix C; their code's values)."""

    kl_max: NotNegative = 0.1
    """Largest KL(model || ablated) on harmless prompts, in nats."""
    induce_min: float = 0.0
    """Smallest refusal metric of harmless prompts with the direction added."""
    top_layers: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share of the layers, from the last one down, that holds no candidates: so close to the output a direction is the
    refusal *word*, not the decision."""


@dataclass(kw_only=True, slots=True)
class SplitsConfig(Settings):
    """Prompts of either side; no two splits have one in common. The published sizes."""

    train: Count = 128
    """For the means."""
    validation: Count = 32
    """For the choice."""
    test: Count = 100
    """For the report."""
    seed: int = 42
    """Who goes where."""

    @property
    def total(self) -> int:
        return self.train + self.validation + self.test


@dataclass(kw_only=True, slots=True)
class SuffixConfig(Settings):
    """Suffix analysis."""

    path: str = ""
    """JSON Lines {"id": of a harmful row, "suffix": text}, or the folder attacks/SET/gcg of an evaluation (empty: no
    analysis)."""
    count: Count = 32
    """Prompts."""
    heads: Count = 8
    """How many heads, those that write most along the direction."""


@dataclass(kw_only=True, slots=True)
class DirectionConfig(Settings):
    """The refusal-direction diagnostic."""

    name: str = "custom"
    """Name of these settings, for the record."""
    path: str = ""
    """Rows of the sides that name no path of their own."""
    harmful: PromptsConfig = field(default_factory=PromptsConfig)
    """Prompts of one side, as in `eval.sets`."""
    harmless: PromptsConfig = field(default_factory=PromptsConfig)
    """Prompts of the other side."""
    splits: SplitsConfig = field(default_factory=SplitsConfig)
    positions: Count | None = None
    """How many tokens, counted from the end of the prompt, are candidates (null: the template's tokens after the
    instruction)."""
    refusal_texts: list[str] = field(default_factory=lambda: ["Sorry"])
    """Words refusals start with; the first token of each, as the template writes it at the start of a response, is in
    the refusal metric."""
    refusal_token_ids: list[int] | None = None
    """These ids instead of the words."""
    filter_prompts: bool = True
    """Means and choice only from harmful prompts that the model refuses and harmless ones that it does not, by the
    metric."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    subspace: Count = 4
    """Ablate up to so many orthogonal directions."""
    references: list[str] = field(default_factory=list)
    """Model directories or direction files whose direction is applied to this model too (for example its base)."""
    lora_scales: list[NotNegative] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    """For an adapter: its delta times each of these, with and without ablation."""
    suffix: SuffixConfig = field(default_factory=SuffixConfig)
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    batch_size: Count = 32
    """Prompts per forward, and per generation."""
    max_new_tokens: Count = 512
    """Limit of a response."""

    def conflicts(self, key: Name) -> Iterator[str]:
        for side, prompts in (("harmful", self.harmful), ("harmless", self.harmless)):
            if not (prompts.path.strip() or self.path.strip()):
                yield (
                    f"{key(side)}.path is empty: give a directory from launch/build_data.py or a file, with "
                    f"{self.splits.total} prompts (the sum of {key('splits')}.train, .validation and .test)"
                )
        if self.refusal_token_ids is None and not any(text.strip() for text in self.refusal_texts):
            yield f"{key('refusal_texts')} is empty: name the words refusals start with, for example [Sorry]"
        yield from self.judging.conflicts_of(self.judge, key)


@dataclass(kw_only=True, slots=True)
class DiagnoseRunConfig(Settings):
    """What `launch/diagnose_direction.py` runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    direction: DirectionConfig = field(default_factory=DirectionConfig)
    label: str | None = None
    """Name in tables (null: the model directory's)."""
    summary: str = ""
    """Folder of this model's finished evaluation, whose summary gets the score."""
    output_dir: Annotated[Text, "a directory for the results"] = "runs/direction"
    """Where the results go."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"


@dataclass(kw_only=True, slots=True)
class StudyRunConfig(DiagnoseRunConfig):
    """What `launch/diagnose_direction.py study` runs: the diagnostic of several models, with these settings for all."""

    models: Annotated[
        dict[str, Text | list[Text]], MinLen(1), "models by their label, models={LABEL:DIR,LABEL:[DIR,DIR]}"
    ] = field(default_factory=dict)
    """Models by the label they have in the table; seeds of one arm share one."""
    output_dir: Annotated[Text, "a directory for results, table and figure"] = "runs/direction-study"
    """Where results, table and figure go."""

    def conflicts(self, key: Name) -> Iterator[str]:
        yield from ()  # which models, is said by `models`


@dataclass(kw_only=True, slots=True)
class CollectRunConfig(Settings):
    """What `launch/diagnose_direction.py collect` runs: finished diagnostics side by side."""

    results: Annotated[list[Text], MinLen(1), "the folders of finished diagnostics, [DIR,DIR]"] = field(
        default_factory=list
    )
    """Folders of finished diagnostics."""
    output: Annotated[Text, "a folder for table and figure, output=DIR"] = ""
    """Folder for direction_table.md and ablation.png."""
    evaluations: list[Text] = field(default_factory=list)
    """Folders of finished evaluations of the same models."""


@dataclass(kw_only=True, slots=True)
class SelectRunConfig(SelectionConfig):
    """What `launch/diagnose_direction.py select` runs: a direction out of a table of candidates, as JSON."""

    table: Annotated[Text, "a table of candidates, table=direction_evaluations.json"] = ""
    """direction_evaluations.json"""
    layers: Count | None = None
    """Layers of the model (null: the table's last layer + 1)."""


@dataclass(kw_only=True, slots=True)
class ConvertRunConfig(Settings):
    """What `launch/diagnose_direction.py convert` runs: safetensors of a published direction."""

    file: Annotated[Text, "a published direction, file=direction.pt"] = ""
    """direction.pt"""
    metadata: Annotated[Text, "its metadata, metadata=direction_metadata.json"] = ""
    """direction_metadata.json"""
    output: Annotated[
        Text, Predicate(lambda name: name.endswith(".safetensors")), "a name that ends in .safetensors"
    ] = ""
    """A name that ends in .safetensors."""
