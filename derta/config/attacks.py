"""`eval.attack`: settings of the attacks that have any. Which attacks run is named in `eval.sets.*.attacks`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from derta.config.model import EndpointConfig, ModelConfig
from derta.config.settings import Count, Name, NotNegative, Settings, Share, Text, Whole, shown

TopP = Annotated[float, Gt(0), Le(1)]


@dataclass(kw_only=True, slots=True)
class DecodingConfig(Settings):
    """`decoding`: the plain prompt, answered greedily and then with every temperature x top-p; the worst response
    counts. Settings after Huang et al. 2024 ("Catastrophic jailbreak of open-source LLMs")."""

    temperatures: Annotated[list[Annotated[float, Gt(0), Le(10)]], MinLen(1)] = field(
        default_factory=lambda: [0.5, 0.75, 1.0]
    )
    """Temperatures that are tried."""
    top_p: Annotated[list[TopP], MinLen(1)] = field(default_factory=lambda: [0.7, 0.9, 1.0])
    """Values of top-p that are tried with each temperature."""
    samples: Count = 1
    """Responses of each setting."""

    def conflicts(self, key: Name) -> Iterator[str]:
        for name, values in (("temperatures", self.temperatures), ("top_p", self.top_p)):
            if len(set(values)) < len(values):
                yield f"{key(name)}={shown(values)}: name each value once"


@dataclass(kw_only=True, slots=True)
class GCGConfig(Settings):
    """`gcg`: a suffix found by gradients (Zou et al. 2023); it needs the weights."""

    steps: Count = 250
    """Budget per row; a row that greedy search answers with the whole target ends earlier."""
    initial: Annotated[Text, "the word that the suffix starts as, for example !"] = "!"
    """The word that the suffix starts as, `suffix_tokens` times."""
    suffix_tokens: Count = 20
    """Length of the suffix."""
    candidates: Count = 256
    """Exchanges tried per step."""
    top_k: Count = 128
    """Tokens considered per place."""
    candidate_batch: Count = 64
    """Prompts per forward, for memory only."""
    target_tokens: Count = 32
    """How much of the response to aim at."""
    ascii_only: bool = True
    """Whether the suffix has to be ASCII."""
    save_steps: Count = 10
    """Steps between two checkpoints."""


@dataclass(kw_only=True, slots=True)
class ChatModelConfig(Settings):
    """A model that helps an attack."""

    kind: Literal["none", "endpoint", "local", "miniature"] = "none"
    """endpoint: an OpenAI-compatible server; local: a Hugging Face model in this process; miniature: the scripted
    attacker of the fictional world (attackers only); none: no model."""
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    temperature: NotNegative = 1.0
    """Of its answers; 0 is greedy."""
    top_p: TopP = 0.9
    """Of its answers."""
    max_tokens: Count = 500
    """Limit of an answer."""
    batch_size: Count = 8
    """Answers that a local model writes together."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.kind == "endpoint" and not self.endpoint.url.strip():
            yield f"{key('endpoint.url')} is empty: give the address of the server, http://HOST:PORT/v1"
        if self.kind == "local" and not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"


@dataclass(kw_only=True, slots=True)
class PairConfig(Settings):
    """`pair`: an attacker model rewrites the query and learns from the answers (Chao et al. 2023). streams x iterations
    is the budget of target responses per row, as in the paper's 20 x 3; a row ends with the first response rated 10."""

    streams: Count = 20
    """Conversations of the attacker per row."""
    iterations: Count = 3
    """Prompts per conversation."""
    attacker: ChatModelConfig = field(default_factory=ChatModelConfig)
    """The model that writes."""
    judge: ChatModelConfig = field(default_factory=lambda: ChatModelConfig(temperature=0.0, top_p=1.0, max_tokens=20))
    """The model that rates (none: the evaluation's judge)."""
    response_tokens: Count = 150
    """Length of the responses the attacker learns from."""
    batch_size: Count = 20
    """Of those responses, together."""
    memory: Count = 3
    """Earlier tries an attacker sees."""
    retries: Whole = 2
    """Further tries where the attacker gives no usable prompt."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.judge.kind == "miniature":
            yield f"{key('judge.kind')}=miniature: the scripted attacker rates nothing; none: the evaluation's judge"


@dataclass(kw_only=True, slots=True)
class AutoDANConfig(Settings):
    """`autodan`: a genetic search over whole prompts for a likely harmful response (Liu et al. 2023); it needs the
    model's probabilities."""

    steps: Count = 100
    """Budget per row; a row that greedy search answers with the whole target ends earlier."""
    population: Annotated[int, Ge(2)] = 64
    """Prompts alive."""
    templates: str = "role_play"
    """Where the prompts start: a folder or the name of a shipped one (as eval.attack.templates)."""
    word_steps: Whole = 4
    """Steps that exchange words between two that cross whole prompts."""
    elites: Share = 0.1
    """Share that lives on unchanged."""
    crossover: Share = 0.5
    """Probability that two parents mix."""
    points: Count = 5
    """Sentences at which two parents mix, at most."""
    mutation: Share = 0.1
    """Probability that a child is rewritten, by `mutator` or, where that is none, by `synonyms`."""
    synonyms: str = "general"
    """A file of synonyms, or the name of a shipped one."""
    mutator: ChatModelConfig = field(default_factory=ChatModelConfig)
    """The model that rewrites."""
    target_tokens: Count = 32
    """How much of the response to aim at."""
    batch_size: Count = 16
    """Prompts per forward."""
    save_steps: Count = 5
    """Steps between two checkpoints."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.mutator.kind == "miniature":
            yield f"{key('mutator.kind')}=miniature: take none, with synonyms=miniature"


@dataclass(kw_only=True, slots=True)
class AttackConfig(Settings):
    """Settings of the attacks that have any."""

    seed: Whole = 0
    """Of everything that attacks draw."""
    target: Annotated[Text, "the start of a response that complies, for example Sure, here is"] = "Sure, here is"
    """What optimising attacks aim at where a row has no harmful (or helpful) response."""
    templates: str = "role_play"
    """Folder of *.txt files with one {query} each, or the name of a shipped one (conf/eval/templates), for the
    role_play_file attacks."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    gcg: GCGConfig = field(default_factory=GCGConfig)
    pair: PairConfig = field(default_factory=PairConfig)
    autodan: AutoDANConfig = field(default_factory=AutoDANConfig)
