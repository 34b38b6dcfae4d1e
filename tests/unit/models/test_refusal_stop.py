"""The stop inside `generate`: a padded batch against one row at a time, position by position."""

import json
import shutil

import pytest
import torch

import derta
from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.models.generation import left_pad
from derta.models.refusal_stop import RefusalStop, RefusalWatch
from derta.models.taught import StopRule, stored_rule

IDS, NEW = (5, 11), 12


def curve(target, prompt, new, ids=IDS):
    """P(refusal) before each new token and behind the last but one, a full forward without padding for each."""
    found = []
    for length in range(len(new)):
        with torch.inference_mode():
            logits = target.model(input_ids=torch.tensor([[*prompt, *new[:length]]])).logits[0, -1]
        found.append(float(logits.softmax(-1)[list(ids)].sum()))
    return found


@pytest.fixture(scope="module")
def prompts(target, harmful_rows):
    found = [target.cutter.prompt_ids(row["prompt"]) for row in harmful_rows[:5]]
    assert len({len(prompt) for prompt in found}) > 1  # the padding has something to do
    return found


def written(target, prompts, stop=None, **other):
    input_ids, mask = left_pad(prompts, target.pad_token_id)
    processors = {"logits_processor": [stop]} if stop else {}
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": target.pad_token_id, "eos_token_id": None}
    output = target.model.generate(input_ids=input_ids, attention_mask=mask, **(settings | other), **processors)
    return output[:, input_ids.shape[1] :].tolist()


@pytest.mark.parametrize("consecutive", [1, 2])
def test_every_row_stops_where_scoring_it_alone_says(target, prompts, consecutive):
    free = written(target, prompts)
    curves = [curve(target, prompt, new) for prompt, new in zip(prompts, free, strict=True)]
    threshold = sorted(max(each) for each in curves)[2] - 1e-6  # some rows stop, some do not
    expected = []
    for each in curves:
        above = [p > threshold for p in each]
        places = [t for t in range(NEW) if t + 1 >= consecutive and all(above[t + 1 - consecutive : t + 1])]
        expected.append(places[0] if places else -1)
    assert len(set(expected)) > 1 or consecutive == 2
    watch = RefusalWatch(IDS, threshold, consecutive)
    assert written(target, prompts, watch) == free and watch.stopped.tolist() == expected
    assert written(target, prompts, watch) == free and watch.stopped.tolist() == expected  # another call starts anew
    end = 3
    stop = RefusalStop(IDS, threshold, consecutive, end_token_id=end)
    for ended, whole, place in zip(written(target, prompts, stop), free, expected, strict=True):
        assert ended[: place + 1] == [*whole[:place], end] if place >= 0 else ended == whole


@pytest.mark.parametrize("consecutive", [1, 2])
def test_drafts_that_are_taken_back_do_not_count(target, prompts, consecutive):
    """An untrained model repeats itself, so that drafts of a prompt lookup are taken and refused in turn; what it
    repeats is watched, since it becomes likelier."""
    said = written(target, prompts[:1])[0]
    p = curve(target, prompts[0], said, said[:1])
    for place in (3, 6):
        watch = RefusalWatch(said[:1], p[place] - 1e-6, consecutive)
        for drafts in ({}, {"prompt_lookup_num_tokens": 4}, {"assistant_model": target.model}):
            assert written(target, prompts[:1], watch, **drafts) == [said]
            assert watch.stopped.tolist() == [place + consecutive - 1]


def test_beams_are_refused(target, prompts):
    with pytest.raises(InputError, match="set num_beams=1"):
        written(target, prompts, RefusalStop(IDS, 1.0), num_beams=3)


def test_the_row_goes_on_from_the_likelier_form_of_the_refusal_token(target, prompts):
    stop = RefusalStop(IDS, threshold=0.0)  # at once
    for prompt, new in zip(prompts, written(target, prompts, stop), strict=True):
        with torch.inference_mode():
            logits = target.model(input_ids=torch.tensor([prompt])).logits[0, -1]
            after = target.model(input_ids=torch.tensor([[*prompt, new[0]]])).logits[0, -1]
        assert new[0] == max(IDS, key=lambda token: float(logits[token]))
        assert new[1] == int(after.argmax())
    assert stop.stopped.tolist() == [0] * len(prompts)


def test_the_rule_is_read_from_the_model(model_dir, tmp_path):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    with pytest.raises(InputError, match="no threshold for stopping .* run launch/calibrate_stop.py"):
        derta.RefusalStop.from_pretrained(folder)
    file = folder / "derta_config.json"
    rule = {"token_ids": [5, 11], "threshold": 0.25, "consecutive": 2, "test": None}
    file.write_text(json.dumps({"refusal_stop": rule}))
    assert stored_rule(ModelConfig(name_or_path=str(folder))) == StopRule((5, 11), 0.25, 2)
    stop = derta.RefusalStop.from_pretrained(str(folder), end_token_id=7)
    assert (stop.token_ids, stop.threshold, stop.consecutive, stop.end_token_id) == ([5, 11], 0.25, 2, 7)
    for damaged in ({"token_ids": []}, {"threshold": "high"}, {"consecutive": 0}, {"token_ids": ["a"]}):
        file.write_text(json.dumps({"refusal_stop": rule | damaged}))
        with pytest.raises(InputError, match="refusal_stop in its derta_config.json is damaged"):
            stored_rule(ModelConfig(name_or_path=str(folder)))
