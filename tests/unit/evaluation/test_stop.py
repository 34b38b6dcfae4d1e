"""The threshold is chosen, measured, stored and compared on a real tiny model."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from derta.config.model import ModelConfig
from derta.config.stop import CalibrateRunConfig, Monitor
from derta.errors import InputError
from derta.evaluation import monitors
from derta.evaluation.monitors import Header, Seen, header_ids, probed_layers, train_probe, watched
from derta.evaluation.stop import calibrate, describe, read_calibration, stop_table
from derta.miniature.rows import generate
from derta.models.taught import StopRule, stored_rule
from derta.objective.refusal_probability import longest_first, read_pass, response_cuts, response_logits
from derta.objective.refusal_token import resolve_refusal_token
from derta.statistics.stopping import caught, threshold_for


@pytest.fixture(scope="module")
def cuts(target, harmful_rows):
    """With the end of the turn, as the monitors see them, in their order."""
    found = response_cuts(target.cutter, harmful_rows, harmful=True, limit=None)
    return [replace(found[i], response=[*found[i].response, found[i].end]) for i in longest_first(found)]


def test_one_pass_in_pieces_equals_one_forward_for_each_score(target, harmful_rows, cuts):
    """ADA-RK and the hidden states against forwards without cache, padding or batch."""
    refusal = resolve_refusal_token(target.tokenizer)
    header = Header(header_ids(target), every=16, lookahead=3)
    layers = probed_layers(target.model)
    seen = list(watched(target, harmful_rows, refusal.ids, harmful=True, batch_size=4, header=header, layers=layers))
    passes = zip(cuts, response_logits(target.model, cuts, target.pad_token_id), strict=True)
    expected = [read_pass(cut, logits, refusal)[1] for cut, logits in passes]
    assert [len(each.refusal) for each in seen] == [len(cut.response) for cut in cuts]
    for each, curve in zip(seen, expected, strict=True):
        np.testing.assert_allclose(each.refusal, curve, atol=1e-6)
    for each, cut in list(zip(seen, cuts, strict=True))[::5]:
        with torch.inference_mode():
            whole = torch.tensor([[*cut.prompt, *cut.response[:-1]]])
            states = target.model(input_ids=whole, output_hidden_states=True).hidden_states
        for layer, own in zip(layers, each.hidden, strict=True):
            torch.testing.assert_close(own, states[layer][0, len(cut.prompt) - 1 :], atol=1e-5, rtol=1e-4)
        read = np.flatnonzero(np.isfinite(each.header)).tolist()
        assert read == list(range(0, len(cut.response), 16))
        assert each.header[0] == each.refusal[0]
        for place in read[1:]:
            ids, found = [*cut.prompt, *cut.response[:place], *header.ids], []
            for _ in range(header.lookahead):
                with torch.inference_mode():
                    logits = target.model(input_ids=torch.tensor([ids])).logits[0, -1]
                found.append(float(logits.softmax(-1)[list(refusal.ids)].sum()))
                ids.append(int(logits.argmax()))
            assert each.header[place] == pytest.approx(max(found), abs=1e-6)


def test_the_header_is_what_the_template_writes_behind_the_user(target):
    text = target.tokenizer.decode(list(header_ids(target)))
    prompt = target.cutter.prompt_text([{"role": "user", "content": "anything"}])
    assert prompt.endswith("anything" + text)


def test_the_probe_finds_a_direction_that_separates():
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(1, 400, 6, generator=generator) * torch.tensor([5.0, 1, 1, 1, 1, 1])
    bad = torch.randn(1, 300, 6, generator=generator)
    bad[..., 2] += 4

    def seen(states):
        return [Seen(np.zeros(states.shape[1]), np.zeros(states.shape[1]), states)]

    probe = train_probe([1], iter(seen(bad)), iter(seen(good)))
    scores = [probe.score(side)[0] for side in (bad, good)]
    assert (scores[0] > 0).mean() > 0.95 and (scores[1] < 0).mean() > 0.95
    assert int(probe.weight[0].abs().argmax()) == 2
    with pytest.raises(InputError, match="triples and helpful rows"):
        train_probe([1], iter([]), iter(seen(good)))


def test_a_probe_is_trained_on_the_first_of_many_responses(target, harmful_rows, benign_rows, monkeypatch):
    monkeypatch.setattr(monitors, "_POSITIONS", 50)
    sides = [
        watched(target, rows, [5], harmful=harmful, batch_size=1, layers=[1])
        for rows, harmful in ((harmful_rows, True), (benign_rows, False))
    ]
    probe = train_probe([1], *sides)
    assert probe.weight.isfinite().all() and next(sides[0], None) is not None  # not all were read


def dump(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write(path, rows, side):
    texts = [(row["id"], row["prompt"][0]["content"], row[side][0]["content"]) for row in rows]
    return dump(path, [dict(zip(("id", "prompt", "response"), text, strict=True)) for text in texts])


def test_a_rule_is_chosen_stored_and_held_against_test_responses(model_dir, tmp_path, monkeypatch):
    """Prompts with responses and rows do alike; monitors are compared at one rate; too few rows are refused."""
    monkeypatch.setattr(monitors, "_TIMED", 10)
    folder = shutil.copytree(model_dir, tmp_path / "model")
    (folder / "derta_config.json").write_text(json.dumps({"objective": "derta", "template_date": "2026-02-20"}))
    template = folder / "chat_template.jinja"
    template.write_text("{% set day = strftime_now('%d %b %Y') %}" + template.read_text())
    parts = {
        "benign": ("eval_benign_dev", 12), "harmful": ("eval_harmful_dev", 4), "test_benign": ("eval_benign", 6),
        "test_harmful": ("eval_harmful", 4),
    }  # fmt: skip
    rows = {name: list(generate(part, count, seed=1)) for name, (part, count) in parts.items()}
    rows["train"] = [*generate("safety", 2, seed=1), *generate("helpful", 2, seed=1)]
    paths = {name: dump(tmp_path / f"{name}.jsonl", some) for name, some in rows.items()}
    plain = CalibrateRunConfig(
        model=ModelConfig(name_or_path=str(folder)), benign=write(tmp_path / "plain.jsonl", rows["benign"], "chosen"),
        harmful=paths["harmful"], false_positive_rate=0.1, batch_size=4,
    )  # fmt: skip
    with pytest.raises(InputError, match="12 benign responses are too few .* at least 99"):
        calibrate(replace(plain, false_positive_rate=0.01))
    first = calibrate(plain)
    assert first.settings == {"template_date": "2026-02-20"}  # what it was taught with, and not today
    stored = json.loads((folder / "derta_config.json").read_text())
    assert stored["objective"] == "derta" and stored["refusal_stop"]["test"] is None
    mine = first.monitors["refusal_probability"]
    assert stored_rule(plain.model) == StopRule(tuple(first.token_ids), mine.threshold, mine.consecutive)
    assert mine.development.false_positives.n == 12 and mine.development.false_positives.count <= 1
    every = replace(
        plain, **paths, monitors=list(Monitor), every=32, lookahead=2, output=str(tmp_path / "found.json"), store=False
    )
    found = calibrate(every)
    assert list(found.monitors) == [monitor.value for monitor in Monitor]
    assert found.monitors["refusal_probability"].threshold == pytest.approx(mine.threshold, abs=1e-6)
    for each in found.monitors.values():
        assert each.test and each.test.false_positives.n == 6 and each.test.recall["whole"].n == 4
        assert each.time_ratio and each.time_ratio > 0
    assert found.monitors["reinserted_header"].consecutive == 1 and found.monitors["probe"].layer is not None
    assert json.loads((tmp_path / "found.json").read_text())["data"]["test_benign"]["rows"] == 6
    assert "reinserted_header: above" in describe(found)
    assert (
        stop_table({"derta": read_calibration(tmp_path / "found.json")}).count("| derta | probe") == 2
    )  # development and test


def test_the_rule_that_catches_most_is_taken(target, tmp_path, model_dir):
    """Over the numbers of positions asked for, against the definition."""
    folder = shutil.copytree(model_dir, tmp_path / "model")
    parts = {"benign": ("eval_benign_dev", 12), "harmful": ("eval_harmful_dev", 6)}
    rows = {name: list(generate(part, count, seed=2)) for name, (part, count) in parts.items()}
    paths = {name: dump(tmp_path / f"{name}.jsonl", some) for name, some in rows.items()}
    config = CalibrateRunConfig(model=ModelConfig(name_or_path=str(folder)), false_positive_rate=0.2, **paths)
    chosen = calibrate(config).monitors["refusal_probability"]
    refusal = resolve_refusal_token(target.tokenizer)
    curves = {
        name: [each.refusal for each in watched(target, some, refusal.ids, harmful=name == "harmful", batch_size=8)]
        for name, some in rows.items()
    }

    def worth(consecutive):
        return caught(curves["harmful"], threshold_for(curves["benign"], 0.2, consecutive), consecutive)

    assert chosen.consecutive == max((1, 2, 3), key=worth)
    shares = [rate.rate for rate in chosen.development.behind.values() if rate.n]
    assert sum(shares) / len(shares) == pytest.approx(worth(chosen.consecutive))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"monitors": [Monitor.probe]}, "train is empty"),
        ({"test_benign": "a"}, "test_benign and test_harmful belong together"),
        ({"test_borderline": "a"}, "test_borderline without test_benign"),
        ({"monitors": [Monitor.reinserted_header]}, "store=true without"),
        ({"false_positive_rate": 0.0}, "false_positive_rate=0.0: expected a share above 0"),
        ({"consecutive": []}, "consecutive"),
        ({"every": 0}, "every=0"),
    ],
)
def test_settings_that_contradict_each_other(settings, said):
    config = CalibrateRunConfig(model=ModelConfig(name_or_path="m"), benign="b", harmful="h", **settings)
    assert any(said in problem for problem in config.problems())
