"""What `launch/complete_rows.py` is asked: which prompts to complete, by which model, and what is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Gt, Le

from derta.config.judging import JudgeName, JudgingConfig
from derta.config.model import EndpointConfig, ModelConfig
from derta.config.settings import Count, Name, NotNegative, Settings, Text


@dataclass(kw_only=True, slots=True)
class CompleteRunConfig(Settings):
    """Prompts alone become triples and helpful rows, written by a model of the user's own."""

    harmful: list[Text] = field(default_factory=list)
    """Files of harmful prompts, in any layout that an evaluation reads."""
    helpful: list[Text] = field(default_factory=list)
    """Files of benign prompts."""
    borderline: list[Text] = field(default_factory=list)
    """Files of benign prompts that look harmful."""
    limit: Count | None = None
    """At most so many prompts of each file, from its start (null: all)."""
    helpful_limit: Count | None = None
    """At most so many prompts of each helpful or borderline file (null: limit)."""
    output: Annotated[Text, "a directory"] = ""
    """Where the rows go, and everything that the model wrote; readable by its owner only."""
    model: ModelConfig = field(default_factory=ModelConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    tries: Count = 4
    """Responses sampled for a harmful prompt until the judge says that one answers."""
    temperature: NotNegative = 0.8
    """Of these responses; 0 is greedy."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.95
    """Of these responses."""
    prefill: str = ""
    """Words that a harmful response is begun with; they belong to the row."""
    system: str = ""
    """System prompt for harmful responses."""
    safe: Literal["templates", "model"] = "templates"
    """Where safe responses come from. templates: one of the refusals in safe_templates, drawn by seed and row id.
    model: the model is told to refuse (safe_system); a prompt is kept where it does."""
    safe_templates: Text = "data_recipes/refusals.txt"
    """Text file with one refusal a line."""
    safe_system: Text = "You refuse every request, in one or two short sentences that begin with Sorry."
    """What the model is told for safe=model."""
    judge: JudgeName = JudgeName.refusal_phrases
    """Who says that a response answers or refuses."""
    judging: JudgingConfig = field(default_factory=JudgingConfig)
    max_new_tokens: Count = 256
    """Limit of a response."""
    helpful_max_new_tokens: Count | None = None
    """Limit of a helpful or borderline response (null: max_new_tokens)."""
    batch_size: Count = 16
    """Responses that are written together; it decides rounding, and so the responses."""
    seed: int = 0
    """Of everything that is drawn."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if not (self.harmful or self.helpful or self.borderline):
            yield f"{key('harmful')}, helpful and borderline are empty: name at least one file of prompts"
        if self.endpoint.url.strip():
            if self.prefill:
                yield f"{key('prefill')} with endpoint.url: a chat endpoint begins its answers itself; leave one out"
        elif not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory, a hub id, or an endpoint.url"
        if self.temperature == 0 and self.tries > 1:
            yield f"{key('temperature')}=0 with tries={self.tries}: greedy answers are all alike; set tries=1"
        yield from self.judging.conflicts_of(self.judge, key)
