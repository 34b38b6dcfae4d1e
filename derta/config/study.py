"""What `launch/miniature.py` and `launch/real.py` are asked: the paper's experiment, small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import MinLen, Predicate

from derta.config.objective import Arm
from derta.config.settings import Choice, Settings, Text, Whole
from derta.config.shipped import CONF_DIR


@dataclass(kw_only=True, slots=True)
class MiniatureRunConfig(Settings):
    """Seeds and arms of the experiment."""

    seeds: Annotated[list[Whole], MinLen(1), "a list of seeds [11,12,13]"] = field(default_factory=lambda: [0])
    """A base model and its arms for each; with several the report shows mean and spread."""
    arms: Annotated[list[Arm], MinLen(1), f"a list of arms [first,second], of {', '.join(Arm.__members__)}"] = field(
        default_factory=lambda: [Arm.vanilla, Arm.derta]
    )
    """The arms that are trained."""
    eval: Annotated[
        str, Predicate(lambda name: (CONF_DIR / "eval" / f"{name}.yaml").is_file()), "a choice of conf/eval/"
    ] = "miniature_quick"
    """What they are evaluated on."""
    output: Annotated[Text, "a directory"] = "runs/miniature"
    """Where everything goes."""


class RealArm(Choice):
    """The arms of `objective`; harmful_prefix_2n has two prefix rows a triple, as many rows as derta."""

    vanilla = "vanilla"
    harmful_prefix = "harmful_prefix"
    harmful_prefix_2n = "harmful_prefix_2n"
    rto = "rto"
    derta = "derta"
    dpo = "dpo"


@dataclass(kw_only=True, slots=True)
class RealRunConfig(Settings):
    """A chat model that people know, and requests for potions."""

    model: str = ""
    """A GGUF file, a model directory or a hub id; empty takes SmolLM2-135M-Instruct from its wheel."""
    arms: Annotated[list[RealArm], MinLen(1), f"a list of arms [first,second], of {', '.join(RealArm.__members__)}"] = (
        field(default_factory=lambda: [RealArm.vanilla, RealArm.harmful_prefix, RealArm.derta])
    )
    """The arms that are trained."""
    seed: Whole = 0
    """Of the order of the rows and of all draws."""
    split: Literal["test", "development"] = "test"
    """The effects that are evaluated; choices are made on the development ones alone."""
    train: list[str] = field(default_factory=list)
    """Overrides of launch/train.py for every arm, for example [optim.learning_rate=3e-5]."""
    output: Annotated[Text, "a directory"] = "runs/real"
    """Where everything goes."""
