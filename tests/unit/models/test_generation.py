import json
import shutil

import pytest
import torch

from derta.config.model import ModelConfig
from derta.errors import InputError
from derta.evaluation.attacks.build import build_attack
from derta.models.generation import check_logits, generate, left_pad, plan_batches
from derta.models.inputs import Generation, ModelInput
from derta.models.target import TargetModel, load_target


def naive_greedy(target, token_ids, max_new_tokens):
    """One token after the other, a full forward without cache or padding for each."""
    ids, new = list(token_ids), []
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            token = int(target.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in target.end_token_ids:
            return new, True
        ids.append(token)
        new.append(token)
    return new, False


def test_batched_generation_equals_one_prompt_at_a_time(target, harmful_rows):
    inputs = [
        item
        for name in ("direct", "prefill_20", "cipher", "completion")
        for item in build_attack(name).inputs(harmful_rows[:2], target, "harmful").inputs
    ]
    assert len({len(item.token_ids) for item in inputs}) > 3  # the padding has something to do
    for item, generation in zip(inputs, generate(target, inputs, max_new_tokens=8), strict=True):
        new, finished = naive_greedy(target, item.token_ids, 8)
        prefill = list(item.token_ids[len(item.token_ids) - item.prefill_tokens :])
        assert list(generation.token_ids) == prefill + new
        assert generation.finished is finished


def test_generation_stops_at_the_end_of_the_turn(target, harmful_rows, monkeypatch):
    item = build_attack("direct").inputs(harmful_rows[:1], target, "harmful").inputs[0]
    free = generate(target, [item], max_new_tokens=6)[0]
    assert len(free.token_ids) == 6 and not free.finished
    end = free.token_ids[3]
    monkeypatch.setattr(target, "end_token_ids", [*target.end_token_ids, end])
    stopped = generate(target, [item], max_new_tokens=6)[0]
    assert stopped.finished
    assert stopped.token_ids == free.token_ids[: free.token_ids.index(end)]


def test_sampling_settings_of_the_model_are_not_merged_into_greedy_search(model_dir, harmful_rows):
    plain = load_target(ModelConfig(name_or_path=str(model_dir)), device="cpu")
    item = build_attack("direct").inputs(harmful_rows[:1], plain, "harmful").inputs[0]
    settings = plain.model.generation_config
    settings.repetition_penalty, settings.eos_token_id = 50.0, 7
    changed = TargetModel(plain.model, plain.tokenizer)
    assert 7 in changed.end_token_ids  # the end tokens of the model are kept
    new, _ = naive_greedy(changed, item.token_ids, 8)
    assert list(generate(changed, [item], max_new_tokens=8)[0].token_ids) == new


def test_end_tokens_hold_what_the_template_ends_a_turn_with(target):
    assert target.tokenizer.convert_tokens_to_ids("<|end|>") in target.end_token_ids


def test_batches_hold_every_input_once_longest_first_whatever_the_order():
    lengths = [3, 9, 5, 9, 1]
    inputs = [ModelInput("harmful", "direct", str(i), tuple(range(length))) for i, length in enumerate(lengths)]
    batches = plan_batches(inputs, 2)
    assert [[len(item.token_ids) for item in batch] for batch in batches] == [[9, 9], [5, 3], [1]]
    assert plan_batches(reversed(inputs), 2) == batches
    bounded = plan_batches(inputs, 3, tokens=12)  # 9 alone, 9 alone, 5 with 3: padded to 10 tokens
    assert [[len(item.token_ids) for item in batch] for batch in bounded] == [[9], [9], [5, 3], [1]]
    assert [len(batch) for batch in plan_batches(inputs, 3, tokens=2)] == [1] * 5
    with pytest.raises(ValueError, match="batch_size is 0"):
        plan_batches(inputs, 0)


def test_left_padding_ends_all_rows_together():
    ids, mask = left_pad([[5, 6, 7], [8]], pad_token_id=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_nan_weights_are_found_before_anything_is_generated(model_dir, harmful_rows):
    broken = load_target(ModelConfig(name_or_path=str(model_dir)), device="cpu")
    item = build_attack("direct").inputs(harmful_rows[:1], broken, "harmful").inputs[0]
    check_logits(broken, [item])
    with torch.no_grad():
        broken.model.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        check_logits(broken, [item])


def test_what_stands_before_the_last_reset_token_is_taken_back(model_dir, harmful_rows, tmp_path):
    """Of a model whose own file says which token that is; the prefill goes, too."""
    item = ModelInput("harmful", "prefill_2", "a", (1, 2, 3, 4), prefill_tokens=2)
    assert Generation.cut(item, [5, 9, 6, 9, 7, 8, 0], [0], 9) == Generation((7, 8), finished=True, taken_back=6)
    assert Generation.cut(item, [5, 9], [0], 9) == Generation((), finished=False, taken_back=4)
    assert Generation.cut(item, [5, 0, 9], [0], 9) == Generation((3, 4, 5), finished=True)  # behind the end of the turn
    taught = shutil.copytree(model_dir, tmp_path / "taught")
    plain = load_target(ModelConfig(name_or_path=str(model_dir)), device="cpu")
    prompt = build_attack("prefill_20").inputs(harmful_rows[:1], plain, "harmful").inputs[0]
    free = generate(plain, [prompt], max_new_tokens=6)[0].token_ids
    token = {"continued_id": free[-3], "is_reset": True}
    (taught / "derta_config.json").write_text(json.dumps({"refusal_token": token}))
    found = generate(load_target(ModelConfig(name_or_path=str(taught)), device="cpu"), [prompt], max_new_tokens=6)[0]
    last = max(place for place, token in enumerate(free) if token == free[-3])
    assert (found.token_ids, found.taken_back) == (free[last + 1 :], last + 1)
    token["is_reset"] = False
    (taught / "derta_config.json").write_text(json.dumps({"refusal_token": token}))
    assert load_target(ModelConfig(name_or_path=str(taught)), device="cpu").reset_id is None
