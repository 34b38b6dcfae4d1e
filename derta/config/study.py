"""What `launch/miniature.py` is asked: the paper's experiment in miniature."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import MinLen, Predicate

from derta.config.objective import Arm
from derta.config.settings import Settings, Text, Whole
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
