"""What `launch/miniature.py` and `launch/real.py` are asked: the paper's experiment, small."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, MinLen, Predicate

from derta.config.objective import Arm
from derta.config.settings import Choice, Name, Settings, Text, Whole
from derta.config.shipped import CONF_DIR


@dataclass(kw_only=True, slots=True)
class MiniatureRunConfig(Settings):
    """Seeds and arms of the experiment."""

    seeds: Annotated[list[Whole], MinLen(1), "a list of seeds [11,12,13]"] = field(default_factory=lambda: [0])
    """A base model and its arms for each; with several the report shows mean and spread."""
    arms: Annotated[list[Arm], MinLen(1)] = field(default_factory=lambda: [Arm.vanilla, Arm.derta])
    """The arms that are trained."""
    eval: Annotated[
        str, Predicate(lambda name: (CONF_DIR / "eval" / f"{name}.yaml").is_file()), "a choice of conf/eval/"
    ] = "miniature_quick"
    """What they are evaluated on."""
    output: Annotated[Text, "a directory"] = "runs/miniature"
    """Where everything goes."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if Arm.w_door in self.arms and Arm.dpo not in self.arms:
            yield f"{key('arms')}: w_door takes its weights from dpo: name that, too"


class RealArm(Choice):
    """The arms of `objective`, and arms that differ from one of them in one thing.

    harmful_prefix_2n: two prefix rows a triple, as many rows as derta. rto: with a transition row a triple, since
    SmolLM2 writes " Sorry" as two tokens. reset, reset_rto: with a token that SmolLM2 has for source code.
    w_door: with the weights of dpo, which is trained for it.
    derta_draws_kept: every epoch has the prefixes and the left-out positions of the first. derta_borderline_0, _half:
    without borderline rows, or with half of them. derta_18, _36, _144: so many triples.
    """

    vanilla = "vanilla"
    harmful_prefix = "harmful_prefix"
    harmful_prefix_2n = "harmful_prefix_2n"
    rto = "rto"
    derta = "derta"
    dpo = "dpo"
    reset = "reset"
    reset_rto = "reset_rto"
    constrained = "constrained"
    door = "door"
    w_door = "w_door"
    derta_borderline_0 = "derta_borderline_0"
    derta_draws_kept = "derta_draws_kept"
    derta_18 = "derta_18"
    derta_36 = "derta_36"
    derta_144 = "derta_144"
    derta_borderline_half = "derta_borderline_half"


@dataclass(kw_only=True, slots=True)
class RealRunConfig(Settings):
    """A chat model that people know, and requests for potions."""

    model: str = ""
    """A GGUF file, a model directory or a hub id; empty takes SmolLM2-135M-Instruct from its wheel."""
    arms: Annotated[list[RealArm], MinLen(1)] = field(
        default_factory=lambda: [RealArm.vanilla, RealArm.harmful_prefix, RealArm.derta]
    )
    """The arms that are trained."""
    seeds: Annotated[list[Whole], MinLen(1), "a list of seeds [1,2,3]"] = field(default_factory=lambda: [0])
    """Of the order of the rows and of all draws of training; each trains every arm. With several the report shows mean
    and spread."""
    triples: Annotated[int, Ge(1)] = 60
    """Requests for potions that are trained on."""
    requests: Annotated[int, Ge(1)] = 36
    """Requests for potions that are evaluated at each depth."""
    split: Literal["test", "development"] = "test"
    """The effects that are evaluated; choices are made on the development ones alone."""
    depth: bool = False
    """Evaluate every model behind prefills of 5 to 2,000 tokens too: on long responses that are made of the answers to
    several requests, in evaluation-depth/, with a report of their own."""
    later: Whole = 0
    """Evaluate every trained arm again after so many steps of plain fine-tuning on helpful rows, in later-N/, as
    launch/durability.py does; 0: not."""
    stop: bool = False
    """Choose for every model the P(refusal) that stops a response (launch/calibrate_stop.py), beside ADA-RK and a
    linear probe, and evaluate with it; on answers of the untouched model to everyday questions, in stop/."""
    cells: str = ""
    """A directory: a small file for each arm and seed that is evaluated goes there, and the study's table is made of
    all that stand there. Empty: no files."""
    only_table: bool = False
    """Print the table of `cells`, and run nothing."""
    train: list[str] = field(default_factory=list)
    """Overrides of launch/train.py for every arm, for example [optim.learning_rate=3e-5]."""
    output: Annotated[Text, "a directory"] = "runs/real"
    """Where everything goes."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if self.stop and self.split != "test":
            yield f"{key('stop')}=true with split={self.split}: the stop is chosen on development and measured on test"
        if self.only_table and not self.cells.strip():
            yield f"{key('only_table')} without cells: give the directory of a study, cells=DIR"
