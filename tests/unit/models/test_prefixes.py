"""Inputs of a row that are prefixes of one another, against each input by itself, token by token."""

import random
from dataclasses import replace
from itertools import dropwhile

import pytest

from derta.models import generation
from derta.models.generation import generate, plan_batches
from derta.models.inputs import ModelInput
from derta.models.prefixes import LONG_PREFILL, families, shares_prefixes
from derta.models.refusal_stop import RefusalWatch, probability_of_any
from derta.models.target import TargetModel
from derta.models.taught import StopRule

VOCABULARY, REFUSAL = 300, [7, 9]
DEPTHS = (0, 1, 5, 40, 100, 205)
PLAIN = ["llama", "qwen2", "qwen3", "gemma", "mixtral", "gpt2", "opt"]
OTHERS = ["mistral", "gemma2", "mamba"]  # two with a sliding window, and a recurrent state


def row_inputs(seed: int, depths=DEPTHS) -> list[ModelInput]:
    """Attacks of one row: depths of one response behind a prompt of 3 to 9 tokens, and one that is no prefix."""
    draw = random.Random(seed)
    ids = [draw.randrange(10, VOCABULARY) for _ in range(3 + seed % 7 + max(depths))]
    prompt, name = 3 + seed % 7, f"row{seed}"
    made = [ModelInput("harmful", f"prefill_{n}", name, tuple(ids[: prompt + n]), n) for n in depths]
    return [*made, ModelInput("harmful", "code", name, tuple(reversed(ids[:12])))]


@pytest.fixture
def make_target(tiny_model, llama3_tokenizer):
    def make(family: str) -> TargetModel:
        return TargetModel(tiny_model(family, len(llama3_tokenizer)), llama3_tokenizer)

    return make


@pytest.fixture
def probabilities(monkeypatch):
    """Ids without the padding on their left -> P(refusal) behind them, of every forward of a generation."""
    seen = {}
    watched = RefusalWatch.__call__

    def watch(self, input_ids, scores):
        for ids, p in zip(input_ids.tolist(), probability_of_any(scores, self.token_ids).tolist(), strict=True):
            seen[tuple(dropwhile(lambda token: token >= VOCABULARY, ids))] = p  # prompts hold no special tokens
        return watched(self, input_ids, scores)

    monkeypatch.setattr(RefusalWatch, "__call__", watch)
    return seen


@pytest.mark.parametrize("family", [*PLAIN, *OTHERS])
def test_shared_prefixes_give_what_each_input_gives_by_itself(family, make_target, probabilities, monkeypatch):
    """Responses, P(refusal) at each of their tokens, and where the guard stops; of a batch of two rows."""
    target = make_target(family)
    assert shares_prefixes(target.model) is (family in PLAIN)
    sizes, plain = [], generation._generate
    monkeypatch.setattr(generation, "_generate", lambda batch, *rest: sizes.append(len(batch)) or plain(batch, *rest))
    batch = [item for pair in zip(row_inputs(1), row_inputs(4), strict=True) for item in pair]
    target.guard = StopRule(REFUSAL, threshold=1.0)  # it never stops: for the probabilities
    generate(target, batch, max_new_tokens=6)
    assert sizes == ([2, 2, 2, 6, 2] if family in PLAIN else [14])  # lengths 212-209, 107-104, 47-44, 12-7, 5-4
    low, high = sorted(probabilities.values())[-12:-10]
    target.guard = StopRule(REFUSAL, threshold=(low + high) / 2)
    together = generate(target, batch, max_new_tokens=6)
    shared = dict(probabilities)
    probabilities.clear()
    for item, made in zip(batch, together, strict=True):
        assert generate(target, [item], max_new_tokens=6) == [made]
    stopped = [made.guarded is not None for made in together]
    assert True in stopped and False in stopped
    for ids, p in probabilities.items():
        assert shared[ids] == pytest.approx(p, rel=2e-4, abs=1e-7)


def test_positions_that_turn_with_the_length_are_not_shared(tiny_model):
    model = tiny_model("llama", 64)
    assert shares_prefixes(model)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = type(model.config)(**(model.config.to_dict() | {"rope_parameters": rope}))
    assert not shares_prefixes(type(model)(config))


def test_only_inputs_of_one_row_with_a_long_prefill_are_a_family():
    long, short = row_inputs(1), row_inputs(2, (0, 5, 100))
    assert [item.prefill_tokens for item in families([*long, *short])[0]] == sorted(DEPTHS, reverse=True)
    assert len(families([*long, *short])) == 1 and LONG_PREFILL <= max(DEPTHS)
    assert families([item for item in long if item.prefill_tokens in (0, 100)]) == []
    assert families([item for item in long if item.prefill_tokens == 205]) == []
    other = [replace(item, row_id="other") if item.prefill_tokens < 200 else item for item in long]
    assert families(other) == []


def test_batches_keep_rows_together_only_where_prefills_are_long():
    short = [item for seed in range(5) for item in row_inputs(seed, (0, 5, 100))]
    assert plan_batches(short, 4, together=True) == plan_batches(short, 4)
    long = [item for seed in range(10, 13) for item in row_inputs(seed)]
    batches = plan_batches([*short, *long], 8, 450, together=True)
    assert [len(batch) for batch in batches[:2]] == [12, 6]  # 450 tokens are two of the longest
    assert [{item.row_id for item in batch} for batch in batches[:2]] == [{"row12", "row11"}, {"row10"}]
    assert sorted(item.key for batch in batches for item in batch) == sorted(item.key for item in [*short, *long])
    alone = [item for item in long if item.attack == "code"]
    assert batches[2:] == plan_batches([*short, *alone], 8, 450)
    assert plan_batches([*long[::-1], *short], 8, 450, together=True) == batches


def test_the_forward_of_a_row_is_over_its_longest_input_alone(make_target, monkeypatch):
    target, tokens = make_target("llama"), []
    forward = target.model.forward

    def counted(*args, **named):
        tokens.append(named["input_ids"].numel())
        return forward(*args, **named)

    monkeypatch.setattr(target.model, "forward", counted)
    own = families(row_inputs(3))[0]
    generate(target, own, max_new_tokens=1)
    assert sum(tokens) == len(own[0].token_ids) + len(own)
