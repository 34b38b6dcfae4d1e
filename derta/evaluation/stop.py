"""The threshold at which a response is stopped: chosen on development responses, measured on test responses.

    responses --monitors--> scores along them --benign: threshold; harmful: consecutive, layer--> a rule --test--> rates

The rule of P(refusal) is stored in the model's derta_config.json; what else is compared gets the same rate on the same
responses. A response counts as stopped where its score passes the threshold anywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from derta.config.evaluation import EvaluateRunConfig
from derta.config.model import ModelConfig
from derta.config.prompts import PromptFormat
from derta.config.stop import CalibrateRunConfig, Monitor
from derta.errors import InputError
from derta.evaluation.monitors import (
    Header,
    Probe,
    Seen,
    header_ids,
    probed_layers,
    time_ratios,
    train_probe,
    watched,
)
from derta.evaluation.probability import measured_refusal_token
from derta.evaluation.prompt_files import PromptFile, recognise_rows
from derta.evaluation.prompts import read_prompts
from derta.evaluation.records import Row
from derta.evaluation.stored.responses import read_responses
from derta.models.fingerprint import fingerprint
from derta.models.run_date import settle_dates
from derta.models.target import TargetModel, load_target
from derta.models.taught import DERTA_CONFIG_FILE, STOP_KEY, read_taught
from derta.statistics.rates import Rate
from derta.statistics.stopping import WHOLE, caught, stopped, stopped_behind, stopped_by_depth, threshold_for
from derta.statistics.table import markdown
from derta.storage.atomic import write_errors_named, write_json_atomically, write_output
from derta.storage.read_files import what_is_at
from derta.storage.typed import read_typed

Curves = list[dict[str, np.ndarray]]
"""Of each response: monitor, or probe and layer -> score at every position."""


_PROBE = f"{Monitor.probe.value}, layer "


@dataclass(frozen=True, slots=True)
class Measured:
    """Shares that were stopped: of the benign responses; of the harmful ones before they had more than so many tokens,
    and behind so many that were not watched; of the borderline ones."""

    false_positives: Rate
    recall: dict[str, Rate]
    behind: dict[str, Rate]
    borderline: Rate | None = None


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A monitor's rule and what it is worth. extra_tokens: forward tokens per response token beside its own;
    time_ratio: time of generation with it over that without."""

    threshold: float
    consecutive: int
    development: Measured
    test: Measured | None = None
    layer: int | None = None
    extra_tokens: float = 0.0
    time_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """token_ids: of P(refusal). data: what the rates are of, and its sha256."""

    model: str
    false_positive_rate: float
    token_ids: list[int]
    monitors: dict[str, Calibrated]
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def calibrate(config: CalibrateRunConfig) -> Calibration:
    """Choose the thresholds, measure them, and store that of P(refusal).
    Raises InputError: a model, file or tokenizer that cannot be used; too few benign responses for the rate; a
    threshold that is to be stored in a model that is no directory here."""
    import torch

    if problems := config.problems():
        raise InputError.listing("these settings cannot run:", problems)
    folder = Path(config.model.name_or_path)
    if config.store and not folder.is_dir():
        raise InputError(
            f"model.name_or_path={config.model.name_or_path} is no directory here whose {DERTA_CONFIG_FILE} could hold "
            "the threshold: download it first, or set store=false"
        )
    paths = {
        "benign": (config.benign, False), "harmful": (config.harmful, True), "test_benign": (config.test_benign, False),
        "test_harmful": (config.test_harmful, True), "test_borderline": (config.test_borderline, False),
    }  # fmt: skip
    data = {name: _read(name, path, harmful=harmful) for name, (path, harmful) in paths.items() if path.strip()}
    threshold_for([[0.0]] * len(data["benign"].rows), config.false_positive_rate)  # too few shows now
    refusal = measured_refusal_token(EvaluateRunConfig(model=config.model))
    if refusal is None:
        raise InputError("this model has no refusal token that P(refusal) could be read of (the warning says why)")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    dates = settle_dates(config)
    target = load_target(config.model, device or torch.device("cpu"))
    asked, ids = set(config.monitors), list(refusal.ids)
    reads_headers = Monitor.reinserted_header in asked
    header = Header(header_ids(target), config.every, config.lookahead) if reads_headers else None
    probe = _trained_probe(config, target, ids) if Monitor.probe in asked else None
    curves = {}
    layers = probe.layers if probe else ()
    for name, given in data.items():
        harmful = paths[name][1]
        seen = watched(
            target, given.rows, ids, harmful=harmful, batch_size=config.batch_size, header=header, layers=layers,
            shown=name,
        )  # fmt: skip
        curves[name] = _curves(seen, probe)
        if not curves[name]:
            raise InputError(f"{name}: no row has a {'harmful' if harmful else 'helpful'} response")
    monitors = {monitor.value: _calibrated(monitor, curves, config) for monitor in Monitor if monitor in asked}
    if config.test_benign.strip():
        prompt, layer = target.cutter.prompt_ids(data["benign"].rows[0]["prompt"]), 1 if probe else None
        ratios = time_ratios(target, prompt, ids, header, layer)
        monitors = {name: replace(each, time_ratio=ratios[name]) for name, each in monitors.items()}
    if header:
        name = Monitor.reinserted_header.value
        monitors[name] = replace(monitors[name], extra_tokens=header.extra_tokens)
    found = Calibration(
        fingerprint(config.model.name_or_path, config.model.revision),
        config.false_positive_rate,
        ids,
        monitors,
        {name: {"rows": len(given.rows), "sha256": given.sha256} for name, given in data.items()},
        dates | ({"every": config.every, "lookahead": config.lookahead} if header else {}),
    )
    if config.store:
        _store(folder, found)
    write_output(config.output, asdict(found))
    return found


def describe(found: Calibration) -> str:
    """The table of one model, what its rules are, and what its rates are of."""
    share = f"{found.false_positive_rate:.1%}"
    text = [f"Stopped, at a promised rate of {share} of benign responses; percent [95% interval]:"]
    text += ["", _table({"": found}), ""]
    for name, each in found.monitors.items():
        layer = "" if each.layer is None else f", layer {each.layer}"
        text.append(f"{name}: above {each.threshold:.4g}, {each.consecutive} positions running{layer}")
    data = (f"{name}: {about['rows']} rows (sha256 {about['sha256'][:12]})" for name, about in found.data.items())
    return "\n".join([*text, f"data: {', '.join(data)}"])


def read_calibration(file: Path) -> Calibration:
    """What `calibrate` has written. Raises InputError: not readable."""
    return read_typed(Calibration, file, "the numbers of a stop; run launch/calibrate_stop.py again")


def stop_table(found: Mapping[str, Calibration]) -> str:
    """The table of several models by their labels."""
    return f"The stop, and others at the same rate; percent [95% interval]:\n\n{_table(found)}"


def _table(found: Mapping[str, Calibration]) -> str:
    early, late = ("0", "20"), ("5", "20", "80")
    titles = ["model", "monitor", "responses", "benign", "borderline", "harmful"]
    depths = [*(f"by token {depth}" for depth in early), *(f"behind {depth}" for depth in late)]
    lines = [[*titles, *depths, "tokens more", "times as long"]]
    for label, calibration in found.items():
        for name, each in calibration.monitors.items():
            for what, measured in (("development", each.development), ("test", each.test)):
                if measured:
                    shares = [measured.false_positives, measured.borderline, measured.recall[WHOLE]]
                    shares += [measured.recall[depth] for depth in early] + [measured.behind[depth] for depth in late]
                    cost = [f"{each.extra_tokens:.2f}", f"{each.time_ratio:.2f}" if each.time_ratio else "-"]
                    lines.append([label, name, what, *(str(share or "-") for share in shares), *cost])
    return markdown(lines, left=3)


def _read(name: str, path: str, *, harmful: bool) -> PromptFile:
    """Rows with responses, of a dataset or of any file that launch/judge.py reads. Of rows of both kinds those of one
    count: triples for the harmful responses, helpful rows for the benign ones."""
    place = Path(path).expanduser()
    if what_is_at(place) == "a file" and recognise_rows(place) is PromptFormat.prompts:
        file = read_responses(path, harmful=harmful)
        if unknown := sum(stored.request is None for stored in file.responses):
            raise InputError(f"{name}={path}: {unknown} responses without a prompt; give both in every line")
        side = "rejected" if harmful else "chosen"
        rows: list[Row] = [
            {"id": stored.id, "prompt": list(stored.request or []), "chosen": None, "rejected": None}
            | {side: [{"role": "assistant", "content": stored.text}]}
            for stored in file.responses
        ]
        return PromptFile(rows, file.sha256)
    found = read_prompts(path, PromptFormat.prompts, harmful=harmful)
    rows = [row for row in found.rows if (row["rejected"] is not None) is harmful]
    if not rows:
        raise InputError(f"{name}={path}: it holds no {'triples' if harmful else 'helpful rows'}")
    return replace(found, rows=rows)


def _trained_probe(config: CalibrateRunConfig, target: TargetModel, ids: Sequence[int]) -> Probe:
    layers = probed_layers(target.model)
    sides = [
        watched(
            target, _read("train", config.train, harmful=harmful).rows, ids, harmful=harmful,
            batch_size=config.batch_size, layers=layers, shown="train",
        )
        for harmful in (True, False)
    ]  # fmt: skip
    return train_probe(layers, *sides)


def _curves(seen: Iterable[Seen], probe: Probe | None) -> Curves:
    found = []
    for each in seen:
        curves = {Monitor.refusal_probability.value: each.refusal, Monitor.reinserted_header.value: each.header}
        if probe:
            curves |= {
                f"{_PROBE}{layer}": own for layer, own in zip(probe.layers, probe.score(each.hidden), strict=True)
            }
        found.append(curves)
    return found


def _calibrated(monitor: Monitor, curves: Mapping[str, Curves], config: CalibrateRunConfig) -> Calibrated:
    """With the layer and the number of positions that catch most of the harmful development responses."""

    def of(name: str, source: str) -> list[np.ndarray]:
        return [each[source] for each in curves.get(name, ())]

    sources = [name for name in curves["benign"][0] if name.startswith(monitor.value)]
    # Between two headers there is no score.
    running = [1] if monitor is Monitor.reinserted_header else sorted(config.consecutive)
    rules = []
    for source in sources:
        for consecutive in running:
            threshold = threshold_for(of("benign", source), config.false_positive_rate, consecutive)
            rules.append((caught(of("harmful", source), threshold, consecutive), source, threshold, consecutive))
    _, source, threshold, consecutive = max(rules, key=lambda rule: rule[0])  # the first of equal ones

    def measured(benign: str, harmful: str, borderline: str = "") -> Measured | None:
        if benign not in curves:
            return None
        others = of(borderline, source)
        return Measured(
            stopped(of(benign, source), threshold, consecutive),
            stopped_by_depth(of(harmful, source), threshold, consecutive),
            stopped_behind(of(harmful, source), threshold, consecutive),
            stopped(others, threshold, consecutive) if others else None,
        )

    development = measured("benign", "harmful")
    assert development is not None
    test = measured("test_benign", "test_harmful", "test_borderline")
    layer = int(source.removeprefix(_PROBE)) if source.startswith(_PROBE) else None
    return Calibrated(threshold, consecutive, development, test, layer)


def _store(folder: Path, found: Calibration) -> None:
    rule = found.monitors[Monitor.refusal_probability.value]
    kept = {"token_ids": found.token_ids, "false_positive_rate": found.false_positive_rate, "data": found.data}
    kept |= {name: value for name, value in asdict(rule).items() if name in ("threshold", "consecutive")}
    kept |= {"development": asdict(rule.development), "test": rule.test and asdict(rule.test)}
    content = read_taught(ModelConfig(name_or_path=str(folder))) | {STOP_KEY: kept}
    with write_errors_named(f"model.name_or_path={folder}"):
        write_json_atomically(folder / DERTA_CONFIG_FILE, content)
