"""What `launch/calibrate_stop.py` is asked: the threshold at which a response is stopped."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Gt, Lt, MinLen

from derta.config.model import ModelConfig
from derta.config.settings import Choice, Count, Name, Settings, Text

_ROWS = "a dataset, a file of rows, or a file of prompts with responses"


class Monitor(Choice):
    """refusal_probability: P(refusal) at every position; it costs nothing.
    reinserted_header: ADA-RK (arXiv 2510.18081): every few tokens the chat template's header is put behind the
        response, and P(refusal) is read there.
    probe: a logistic regression on a hidden state, trained on the rows of `train`.
    """

    refusal_probability = "refusal_probability"
    reinserted_header = "reinserted_header"
    probe = "probe"


@dataclass(kw_only=True, slots=True)
class CalibrateRunConfig(Settings):
    """Responses that are given; nothing is generated."""

    model: ModelConfig = field(default_factory=ModelConfig)
    benign: Annotated[Text, f"{_ROWS}, benign=PATH"] = ""
    """Benign development responses: the threshold is chosen on them. Of a dataset, the helpful rows."""
    harmful: Annotated[Text, f"{_ROWS}, harmful=PATH"] = ""
    """Harmful development responses: how many consecutive positions, and which layer, is chosen on them."""
    false_positive_rate: Annotated[float, Gt(0), Lt(1), "a share above 0 and below 1 (0.01 is 1%)"] = 0.01
    """Share of benign responses that may be stopped."""
    consecutive: Annotated[list[Count], MinLen(1), "a list of whole numbers from 1, for example [1,2,3]"] = field(
        default_factory=lambda: [1, 2, 3]
    )
    """For how many positions running the score must be above the threshold; of several, what stops most."""
    test_benign: str = ""
    """Benign test responses: what the promise is measured on."""
    test_harmful: str = ""
    """Harmful test responses."""
    test_borderline: str = ""
    """Benign test responses to prompts that look harmful; the promise is not made for them."""
    monitors: Annotated[list[Monitor], MinLen(1)] = field(default_factory=lambda: [Monitor.refusal_probability])
    """What is compared at the same rate; refusal_probability is what is stored."""
    train: str = ""
    """Rows that the probe is trained on: triples and helpful rows."""
    every: Count = 16
    """Response tokens between two headers."""
    lookahead: Count = 4
    """Tokens behind the header at which P(refusal) is read; the highest counts."""
    batch_size: Count = 8
    """Rows per forward."""
    store: bool = True
    """Write the threshold into the model's derta_config.json."""
    output: str = ""
    """A JSON file for all numbers (empty: none)."""

    def conflicts(self, key: Name) -> Iterator[str]:
        if not self.model.name_or_path.strip():
            yield f"{key('model.name_or_path')} is empty: give a model directory or a hub id"
        if Monitor.probe in self.monitors and not self.train.strip():
            yield f"{key('train')} is empty: monitors=[probe] needs rows to train on, train=DATASET"
        if bool(self.test_benign.strip()) != bool(self.test_harmful.strip()):
            yield f"{key('test_benign')} and test_harmful belong together: give both or neither"
        elif self.test_borderline.strip() and not self.test_benign.strip():
            yield f"{key('test_borderline')} without test_benign and test_harmful, beside which it counts: add them"
        if self.store and Monitor.refusal_probability not in self.monitors:
            yield f"{key('store')}=true without monitors=[refusal_probability], which is what is stored: add it"
