"""What `launch/complete_rows.py` is asked: which prompts to complete, by which model, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from derta.config.choice import Choice
from derta.config.endpoint import EndpointConfig
from derta.config.judging import JudgeName, JudgingConfig
from derta.config.model import ModelConfig


class SafeResponses(Choice):
    """templates: one of the refusals in safe_templates, drawn by seed and row id.
    model: the model is told to refuse (safe_system); a prompt is kept where it does."""

    templates = "templates"
    model = "model"


@dataclass(kw_only=True, slots=True)
class CompleteRunConfig:
    """harmful, helpful, borderline: prompt files, in any layout that an evaluation reads (borderline: benign prompts
        that look harmful).
    output: directory of the rows and of everything the model wrote, readable by its owner only.
    model: who writes, on this machine; or endpoint: a model behind an address, whose answers are not reproducible.
    tries: responses sampled for a harmful prompt until the judge says that one answers. temperature, top_p: of these.
    prefill: words that a harmful response is begun with; they belong to the row. system: system prompt for it.
    safe: where safe responses come from. safe_templates: text file with one refusal a line. safe_system: what the model
        is told for safe=model.
    judge, judging: who says that a response answers or refuses, as in eval.judge and eval.judging.
    max_new_tokens: limit of a response. batch_size: responses that are written together.
    """

    harmful: list[str] = field(default_factory=list)
    helpful: list[str] = field(default_factory=list)
    borderline: list[str] = field(default_factory=list)
    output: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    tries: int = 4
    temperature: float = 0.8
    top_p: float = 0.95
    prefill: str = ""
    system: str = ""
    safe: SafeResponses = SafeResponses.templates
    safe_templates: str = "data_recipes/refusals.txt"
    safe_system: str = "You refuse every request, in one or two short sentences that begin with Sorry."
    judge: JudgeName = JudgeName.refusal_phrases
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    max_new_tokens: int = 256
    batch_size: int = 16
    seed: int = 0

    def problems(self) -> list[str]:
        found = []
        if not (self.harmful or self.helpful or self.borderline):
            found.append("harmful, helpful and borderline are empty: name at least one file of prompts")
        if not self.output.strip():
            found.append("output is empty: name a directory")
        if self.endpoint.url.strip():
            found += self.endpoint.problems("endpoint")
            if self.prefill:
                found.append("prefill with endpoint.url: a chat endpoint begins its answers itself; leave one out")
        else:
            found += self.model.problems()
        for key in ("tries", "max_new_tokens", "batch_size"):
            if (value := getattr(self, key)) < 1:
                found.append(f"{key}={value}: expected at least 1")
        if not 0 <= self.temperature:
            found.append(f"temperature={self.temperature}: expected at least 0 (0 is greedy)")
        if self.temperature == 0 and self.tries > 1:
            found.append(f"temperature=0 with tries={self.tries}: greedy answers are all alike; set tries=1")
        if not 0 < self.top_p <= 1:
            found.append(f"top_p={self.top_p}: expected a number above 0, at most 1")
        return found + self.judging.problems(self.judge, "judging")
