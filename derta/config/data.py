"""`data`: the rows a run trains on."""

from __future__ import annotations

from dataclasses import dataclass, field

from derta.config.choice import Choice

NGRAM = 8  # consecutive words that make an overlap of training and evaluation prompts


class DataFormat(Choice):
    """derta: a directory from launch/build_data.py; preference: TRL preference rows (JSONL, parquet; messages, or
    plain strings, which are raw text without a chat template);
    reference_jsonl: the training file of the paper's code (`prefix`, `text`, `safe`), unchanged."""

    derta = "derta"
    reference_jsonl = "reference_jsonl"
    preference = "preference"


class LongPrompts(Choice):
    """What happens to a row whose prompt alone fills data.max_length: stop with an error, or drop and count it."""

    error = "error"
    drop = "drop"


class Contamination(Choice):
    """What happens to training data that overlap evaluation prompts: the run is refused, or warned of and allowed."""

    refuse = "refuse"
    allow = "allow"


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """path: dataset directory or file. max_length: tokens per row, prompt included; what is longer is truncated and
    counted. num_proc: processes that tokenise (null: one).

    The guard against contamination (derta/data/guard.py):
    evaluation_prompts: files or datasets that the model will be evaluated on; rows that overlap them are refused.
    contamination_ngram: consecutive words that make an overlap.
    contamination: refuse or allow. Without evaluation_prompts, `refuse` asks one thing: a dataset with borderline rows
        of other people's (not the miniature's) has to record in its manifest what it was decontaminated against.
    """

    path: str = ""
    format: DataFormat = DataFormat.derta
    max_length: int = 1024
    long_prompts: LongPrompts = LongPrompts.error
    num_proc: int | None = None
    evaluation_prompts: list[str] = field(default_factory=list)
    contamination_ngram: int = NGRAM
    contamination: Contamination = Contamination.refuse

    def problems(self) -> list[str]:
        found = []
        if not self.path.strip():
            found.append("data.path is empty: give a directory from launch/build_data.py or a rows file")
        if self.max_length < 2:
            found.append(f"data.max_length={self.max_length}: expected at least 2 tokens")
        if self.num_proc is not None and self.num_proc < 1:
            found.append(f"data.num_proc={self.num_proc}: expected null or at least 1")
        if self.contamination_ngram < 1:
            found.append(f"data.contamination_ngram={self.contamination_ngram}: expected at least 1 word")
        if not all(str(path).strip() for path in self.evaluation_prompts):
            found.append("data.evaluation_prompts names an empty path: give files, or [] for none")
        return found
