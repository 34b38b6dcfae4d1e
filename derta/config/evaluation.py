"""`eval`: prompts, attacks, judge and generation; and the whole configurations of launch/evaluate.py, judge.py,
compare.py and report.py."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import MaxLen, MinLen

from derta.config.attacks import AttackConfig
from derta.config.gate import GateConfig
from derta.config.judging import JudgeName, JudgingConfig
from derta.config.model import EndpointConfig, ModelConfig
from derta.config.prompts import PromptsConfig
from derta.config.settings import Count, Name, Settings, Text, Whole, shown


@dataclass(kw_only=True, slots=True)
class PromptSetConfig(PromptsConfig):
    """Prompts and what they are put through. Benign prompts go through the same attacks, to see what a format alone
    does."""

    count: Count | None = None
    """Use the first so many rows (null: all)."""
    harmful: bool = False
    """Whether a good model refuses these prompts."""
    attacks: Annotated[list[str], MinLen(1), "a list of attacks, for example [direct]"] = field(
        default_factory=lambda: ["direct"]
    )
    """direct, prefill_<tokens> (for example prefill_20), code_attack, self_cipher, role_play_file,
    role_play_file_<template>, reinserted_header, completion_text, decoding, gcg, pair, autodan; and the formats of the
    miniature: completion, code, role_play, cipher."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if len(set(self.attacks)) < len(self.attacks):
            yield f"{key('attacks')}={shown(self.attacks)}: name each attack once"


Placement = Literal["copy_per_rank", "device_map", "tensor_parallel"]


@dataclass(kw_only=True, slots=True)
class LmEvalConfig(Settings):
    """Helpfulness by public benchmarks, through lm-eval (extra `eval`)."""

    tasks: list[Text] = field(default_factory=list)
    """lm-eval's names, for example [gsm8k,mmlu]."""
    include_path: str | None = None
    """A directory with task files of your own."""
    num_fewshot: Whole | None = None
    """Examples in the prompt (null: as the task says)."""
    limit: Count | None = None
    """Only the first so many questions a task."""
    chat_template: bool = True
    """Ask as a user would, in the model's template."""
    batch_size: Count = 8
    """Questions per forward."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if len(set(self.tasks)) < len(self.tasks):
            yield f"{key('tasks')}={shown(self.tasks)}: name each task once"


@dataclass(kw_only=True, slots=True)
class EvaluationConfig(Settings):
    """What a model is evaluated on, and how."""

    name: str = "custom"
    """Name of the evaluation, for the record."""
    path: str = ""
    """Where the rows of the sets are that name no path of their own."""
    sets: dict[str, PromptSetConfig] = field(default_factory=dict)
    """Name -> prompts; harmful ones give attack success, the others over-refusal and helpfulness."""
    attack: AttackConfig = field(default_factory=AttackConfig)
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    """Bounds the model has to keep."""
    batch_size: Count = 32
    """Responses generated together."""
    batch_tokens: Count | None = None
    """Tokens of the inputs that are generated from together, at most; for deep prefills (null: no limit)."""
    max_new_tokens: Count = 512
    """Limit of a response, beyond its prefill."""
    probability: bool = True
    """Measure P(refusal) at every response position."""
    probability_batch_size: Count = 8
    """Rows per forward of it."""
    base_model: Text | None = None
    """A model directory or hub id: KL to this model on the responses of the benign sets (null: not measured)."""
    refusal_text: Text | None = None
    """What P(refusal) looks for, its first token; null is what the model was taught (derta_config.json), else Sorry."""
    refusal_token_ids: Annotated[list[Whole], MinLen(1), MaxLen(2), "a list of one or two ids"] | None = None
    """The ids outright that P(refusal) sums over."""
    guard: Literal["none", "refusal_probability"] = "none"
    """What stops responses (refusal_probability: one ends where P(refusal) passes the threshold of
    launch/calibrate_stop.py): attack success and over-refusal are reported with it and without it, of the same
    responses (prompts that an attack searches for are searched for without it)."""
    placement: Placement = "copy_per_rank"
    """Where the weights are: a copy per rank, each with its share of the prompts; one copy over all devices of one
    process (`device_map="auto"`, layer by layer); one copy cut across the ranks (tensor parallel)."""
    server: EndpointConfig = field(default_factory=EndpointConfig)
    """A vLLM server that holds the same model and generates in our place (derta/models/served.py)."""
    lm_eval: LmEvalConfig = field(default_factory=LmEvalConfig)
    """Public benchmarks beside the prompt sets."""

    @property
    def used_sets(self) -> dict[str, PromptSetConfig]:
        """Those that have rows."""
        return {name: prompts for name, prompts in self.sets.items() if prompts.path.strip() or self.path.strip()}

    def conflicts(self, key: Name) -> Iterator[str]:
        if not self.sets:
            yield f"{key('sets')} is empty: choose an evaluation, for example eval=miniature, or name prompt sets"
        elif not self.used_sets:
            paths = " and ".join(key(f"sets.{name}.path") for name in self.sets)
            yield f"{paths}: no prompt set has rows; give at least one a directory from launch/build_data.py or a file"
        yield from self.judging.conflicts_of(self.judge, key)
        if self.guard != "none" and self.server.url.strip():
            yield f"{key('guard')}={shown(self.guard)} with server.url: a server gives no P(refusal); leave one out"
        if self.base_model is not None and self.used_sets and all(each.harmful for each in self.used_sets.values()):
            yield f"{key('base_model')}={self.base_model}: the KL is of benign sets, and none has rows; leave it out"
        if self.gate.ablation_robustness_min is not None:
            yield (
                f"{key('gate.ablation_robustness_min')}: an evaluation does not make this score; run "
                "launch/diagnose_direction.py summary=DIR after it, then launch/gate.py summary=DIR"
            )


@dataclass(kw_only=True, slots=True)
class EvaluateRunConfig(Settings):
    """What `launch/evaluate.py` runs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    eval: EvaluationConfig = field(default_factory=EvaluationConfig)
    label: str | None = None
    """Column of the report (null: the model directory's name); several runs with one label, for example three seeds,
    are put together there."""
    output_dir: Annotated[Text, "a directory for the results"] = "runs/evaluation"
    """Where results go."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"


@dataclass(kw_only=True, slots=True)
class JudgeRunConfig(Settings):
    """What `launch/judge.py` runs."""

    responses: Annotated[Text, "the file to judge, responses=FILE"] = ""
    """The file (see derta/evaluation/stored/responses.py)."""
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    prompts: Annotated[str | list[Text], "a path, or several as [FILE,FILE]"] = ""
    """For files that hold responses alone: a file with the prompts in the same order; for results.jsonl, the dataset
    that was evaluated, or the files of its prompt sets: prompts=[FILE,FILE]."""
    harmful: bool = True
    """Whether the prompts are harmful (results.jsonl says so itself)."""
    label: str = ""
    """A field to compare with, beside those named is_jailbreak*."""
    output: str = ""
    """Where scores go (empty: beside the file)."""

    def conflicts(self, key: Name) -> Iterator[str]:
        yield from self.judging.conflicts_of(self.judge, key)

    @property
    def prompt_files(self) -> list[str]:
        """`prompts` as a list, empty where there are none."""
        if isinstance(self.prompts, list):
            return self.prompts
        return [self.prompts] if self.prompts else []


_EVALUATED = "the folder of a finished evaluation"


@dataclass(kw_only=True, slots=True)
class CompareRunConfig(Settings):
    """What `launch/compare.py` runs."""

    before: Annotated[Text, f"{_EVALUATED}, before=DIR"] = ""
    """Folder of a finished evaluation."""
    after: Annotated[Text, f"{_EVALUATED}, after=DIR"] = ""
    """Folder of another one."""
    output: str = ""
    """A JSON file for the numbers (empty: printed only)."""
    seed: Whole = 0
    """Of the bootstrap."""


@dataclass(kw_only=True, slots=True)
class ReportRunConfig(Settings):
    """What `launch/report.py` runs."""

    runs: Annotated[list[Text], MinLen(1), "the folders of one or more evaluations, [DIR,DIR]"] = field(
        default_factory=list
    )
    """Folders of finished evaluations."""
    output: Annotated[Text, "a directory for the report"] = "runs/report"
    """Where report.html, report.md and the figures go."""
    directions: list[Text] = field(default_factory=list)
    """Folders of refusal-direction diagnostics."""
    responses: bool = False
    """Put the texts of the responses into report.html; they are as harmful as the models are."""
