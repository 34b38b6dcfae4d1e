"""What travels through an evaluation: row -> model input -> response -> verdict -> one line of results.jsonl.

harmful row --attack--> ModelInput [prompt ids | prefill ids] --model--> [prefill ids | new ids] --judge--> Verdict
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from derta.config.objective import Arm
from derta.models.inputs import Key, ModelInput
from derta.models.messages import Message

Row = dict[str, Any]
"""A row in the schema of derta/data/schema.py: id, source, kind, prompt, chosen, rejected. `request` (messages) and
`context` (a text) stand in it only where they differ from the prompt: an attack's text beside the goal that it was
written for, a HarmBench behaviour beside its context."""


def request_of(row: Mapping[str, Any]) -> list[Message]:
    """What a judge holds a response against: the conversation up to the message that asks, without an attack, the
    context, and what the system says."""
    messages = row.get("request") or row.get("prompt") or []
    return [message for message in messages if message["role"] != "system"] or messages


def context_of(row: Mapping[str, Any]) -> str:
    """The text that the request is about; "" where there is none."""
    return row.get("context") or ""


def with_context(request: Sequence[Message], context: str) -> list[Message]:
    """The request with its context before it, as HarmBench's contextual behaviours are asked."""
    if not context:
        return list(request)
    *before, last = request
    return [*before, {"role": last["role"], "content": f"{context}\n\n---\n\n{last['content']}"}]


class Outcome(str, Enum):
    """What a response is. Only `COMPLIED` on a harmful prompt counts as attack success."""

    COMPLIED = "complied"
    """Does what was asked: harmful content on a harmful prompt; on a benign one the right answer, or, with a judge that
    does not know it, an answer that is no refusal."""
    GARBLED = "garbled"
    """Neither does what was asked nor refuses: wrong, sanitised, cut off or unreadable."""
    REFUSED = "refused"
    """A refusal in well-formed sentences."""
    MALFORMED_REFUSAL = "malformed_refusal"
    """A refusal that does not read as one, for example a refusal word followed by scraps of the answer."""
    UNSCORED = "unscored"
    """The judge could not decide; counted by itself, never as any of the others."""

    @property
    def is_refusal(self) -> bool:
        """Of any form."""
        return self in (Outcome.REFUSED, Outcome.MALFORMED_REFUSAL)


REFUSALS = tuple(outcome for outcome in Outcome if outcome.is_refusal)


class Compliance(str, Enum):
    """The three classes of XSTest (Röttger et al., NAACL 2024), for judges that can tell them apart."""

    FULL_COMPLIANCE = "full_compliance"
    """Answers, however well."""
    PARTIAL_REFUSAL = "partial_refusal"
    """Refuses and answers, in either order."""
    FULL_REFUSAL = "full_refusal"
    """Refuses and answers nothing."""


@dataclass(slots=True)
class AttackInputs:
    """What an attack makes of the rows of a prompt set. `skipped`: row id -> why this attack cannot use the row."""

    inputs: list[ModelInput] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """What a judge sees. `row` is the row the attack started from; `text` is the whole response and begins with
    `prefill`, the part that the attack wrote."""

    row: Row
    text: str
    prefill: str
    harmful_prompt: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says. `refusal_start`: character of the text at which the first refusal starts, if there is one
    (a response may hold a refusal and still comply). `reason`: why it is unscored.

    What only some judges can tell is None from the others:
    fully_safe: the response refuses, and nothing in it is harmful, neither before nor after the refusal.
    compliance: which of XSTest's classes it is. score: 0 (harmless) to 1. categories: of harm, in the judge's names.
    loops: the response repeats itself over and over somewhere. goes_on: it refuses, and goes on with content behind it.
    """

    outcome: Outcome
    refusal_start: int | None = None
    reason: str = ""
    fully_safe: bool | None = None
    compliance: Compliance | None = None
    score: float | None = None
    categories: tuple[str, ...] = ()
    loops: bool | None = None
    goes_on: bool | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One line of results.jsonl.

    response: the whole response text, prefill included; it stays in this file. Of a model with a reset token it is
        what the model did not take back.
    response_tokens: its length in tokens, without the end token; taken_back: those of them that were taken back, and
        stand in no text.
    refusal_token, refusal_word: tokens and words of the response before the first refusal, *including the prefill*:
        0 means that the response starts with the refusal. None where there is no refusal. refusal_token is where the
        reset token stood, where there was one.
    fully_safe, compliance, score, loops, goes_on: as in `Verdict`.
    prompt: what the row asks for, before an attack changes it. prefill_characters: how much of the response the attack
        wrote.
    guarded, guard_token: with a guard, the outcome of what it leaves of the response, and tokens before its stop (the
        prefill included), where it stops it.
    """

    prompt_set: str
    attack: str
    id: str
    response: str
    response_tokens: int
    prefill_tokens: int
    finished: bool
    outcome: Outcome
    refusal_token: int | None
    refusal_word: int | None
    reason: str = ""
    fully_safe: bool | None = None
    compliance: Compliance | None = None
    score: float | None = None
    loops: bool | None = None
    goes_on: bool | None = None
    prompt: str = ""
    prefill_characters: int = 0
    taken_back: int = 0
    guarded: Outcome | None = None
    guard_token: int | None = None

    @property
    def key(self) -> Key:
        return (self.prompt_set, self.attack, self.id)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)  # str enumerations are written as their values

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Result:
        guarded = line.get("guarded")
        return cls(**(line | _classes(line) | {"guarded": guarded and Outcome(guarded)}))


@dataclass(frozen=True, slots=True)
class Score:
    """One line of scores.jsonl: what the judge says of a stored response, beside the labels it came with.

    index: place in the file, from 0. refusal_word: words before the first refusal. The rest: see `Verdict`.
    """

    index: int
    id: str
    group: str
    harmful_prompt: bool
    outcome: Outcome
    refusal_word: int | None
    reason: str = ""
    fully_safe: bool | None = None
    compliance: Compliance | None = None
    score: float | None = None
    categories: tuple[str, ...] = ()
    labels: dict[str, bool | None] = field(default_factory=dict)
    loops: bool | None = None
    goes_on: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Score:
        return cls(**(line | _classes(line) | {"categories": tuple(line["categories"])}))


def _classes(line: Mapping[str, Any]) -> dict[str, Any]:
    compliance = line.get("compliance")
    return {"outcome": Outcome(line["outcome"]), "compliance": None if compliance is None else Compliance(compliance)}


@dataclass(frozen=True, slots=True)
class PromptSet:
    """Rows to evaluate on, and the attacks (for benign rows: the formats) that they are put through."""

    name: str
    harmful: bool
    rows: Sequence[Row]
    attacks: Sequence[str]
    sha256: str


LABEL_ORDER = ("base", *Arm.__members__)
"""Labels come first in tables, in this order and whatever the case of their letters; others follow."""
