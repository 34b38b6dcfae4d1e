"""`data`: the rows a run trains on; `probe`: those whose P(refusal) is measured while it trains."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from derta.config.settings import Count, Settings, Text

NGRAM = 8  # consecutive words that make an overlap of training and evaluation prompts


@dataclass(kw_only=True, slots=True)
class DataConfig(Settings):
    """The rows a run trains on, and the guard against rows that it will be evaluated on."""

    path: str = ""
    """A dataset directory from launch/build_data.py, or a rows file."""
    format: Literal["derta", "reference_jsonl", "preference"] = "derta"
    """derta: a directory from launch/build_data.py; preference: TRL preference rows (JSONL, parquet; messages, or
    plain strings, which are raw text without a chat template);
    reference_jsonl: the training file of the paper's code (`prefix`, `text`, `safe`), unchanged."""
    max_length: Annotated[int, Ge(2)] = 1024
    """Tokens per row, prompt included; what is longer is truncated and counted."""
    long_prompts: Literal["error", "drop"] = "error"
    """What happens to a row whose prompt alone fills data.max_length: stop with an error, or drop and count it."""
    num_proc: Count | None = None
    """Processes that tokenise (null: one)."""
    evaluation_prompts: Annotated[list[Text], "a list of files [FILE,FILE]"] = field(default_factory=list)
    """Files or datasets that the model will be evaluated on; rows that overlap them are refused."""
    contamination_ngram: Count = NGRAM
    """Consecutive words that make an overlap."""
    contamination: Literal["refuse", "allow"] = "refuse"
    """What happens to training data that overlap evaluation prompts (derta/data/guard.py): the run is refused, or
    warned of and allowed. Without evaluation_prompts, `refuse` asks one thing: a dataset with borderline rows of other
    people's (not the miniature's) has to record in its manifest what it was decontaminated against."""


@dataclass(kw_only=True, slots=True)
class ProbeConfig(Settings):
    """The rows whose P(refusal) is measured while a run trains, every `trainer.eval_steps`."""

    path: Text | None = None
    """A dataset directory (its hold-out split, else all of it) or a rows file; null takes the hold-out split of
    data.path, and turns the probe off where that has none."""
    rows: Annotated[int, Ge(1), "a whole number, at least 1 (trainer.eval_steps=0 turns the probe off)"] = 64
    """At most so many harmful and so many benign ones."""


@dataclass(kw_only=True, slots=True)
class BuildRunConfig(Settings):
    """What `launch/build_data.py` runs."""

    recipe: Annotated[Text, "a recipe, recipe=miniature"] = ""
    """A recipe of data_recipes/ or a path to a YAML file."""
    output: Annotated[Text, "the directory to make, output=DIR"] = ""
    """The directory to make; it appears only when it is complete."""
    workers: Count = 1
    """Processes for converting rows; the files are the same for any number."""
    overwrite: bool = False
    """Replace the dataset that is at output."""
    limit: Count | None = None
    """At most this many rows per source, for a quick look."""
    revision: Text | None = None
    """Commit hash of the hub source (for recipes with exactly one)."""


@dataclass(kw_only=True, slots=True)
class ContaminationRunConfig(Settings):
    """What `launch/check_contamination.py` runs."""

    data: Annotated[Text, "a data file or directory, data=FILE_OR_DIR"] = ""
    """What would be trained on: any data file, or a directory of them (a built dataset)."""
    against: Annotated[list[Text], MinLen(1), "evaluation sets, against=[FILE,FILE]"] = field(default_factory=list)
    """Evaluation sets: files or directories (XSTest, OR-Bench, HarmBench, ... or a dataset)."""
    ngram: Count = NGRAM
    """Consecutive words that make an overlap."""
    column: Text | None = None
    """The column of the prompts in `data` where it is not recognised."""
    output: Text | None = None
    """A JSON file for the report: counts and the ids or places of overlapping rows, never text."""
