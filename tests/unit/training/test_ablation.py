"""Training with the refusal direction ablated: what is computed, for which rows, and that nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from derta.errors import InputError
from derta.objective.rows import View
from derta.residual.direction_files import load_direction
from derta.residual.interventions import directional_ablation
from derta.training.ablation import DIRECTION_FILE, direction_prompts
from derta.training.collator import ABLATED
from derta.training.trainer import DeRTaTrainer

STEPS = 4


class Recording(DeRTaTrainer):
    """Keeps what a training step was given, and the loss it made of it."""

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.seen = getattr(self, "seen", [])
        given = {name: value.clone() for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        before = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        loss = super().training_step(model, inputs, *args, **kwargs)
        used = None if self.ablation is None else self.ablation.current
        self.seen.append((given, before, used, loss.detach()))
        return loss


@pytest.fixture
def train(tiny_trainer: Callable[..., Any]) -> Callable[..., Recording]:
    def run(resume: str | None = None, **changes: Any) -> Recording:
        settings = {
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "zero_prefix_fraction": 0.0,
            "ablation_prompts": 3,
            "ablation_refresh_steps": 2,
            **changes,
        }
        trainer = tiny_trainer(kind=Recording, **settings)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def same(one: DeRTaTrainer, other: DeRTaTrainer) -> bool:
    """The weights, to the last bit."""
    ours, theirs = (trainer.model.state_dict() for trainer in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def written_out(model: Any, ids: torch.Tensor, mask: torch.Tensor, u: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Logits of a Llama, block by block; in `rows` [B] the unit vector u is taken out of the stream and of what
    attention and MLP add to it."""

    def without(x: torch.Tensor) -> torch.Tensor:
        return torch.where(rows[:, None, None], x - (x @ u)[..., None] * u, x)

    inner, length = model.model, ids.shape[1]
    x = inner.embed_tokens(ids)
    rotary = inner.rotary_emb(x, torch.arange(length)[None])
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None] & mask.bool()[:, None, None]
    causal = causal | torch.eye(length, dtype=torch.bool)
    bias = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    for block in inner.layers:
        x = without(x)
        x = x + without(block.self_attn(block.input_layernorm(x), position_embeddings=rotary, attention_mask=bias)[0])
        x = x + without(block.mlp(block.post_attention_layernorm(x)))
    return model.lm_head(inner.norm(x))


def test_loss_and_gradient_of_a_mixed_batch_written_out(train: Any, tiny_model: Any, llama3_tokenizer: Any) -> None:
    trainer = train(ablation_probability=0.5, max_steps=1, gradient_accumulation_steps=4, objective="derta")
    batches = [seen for seen in trainer.seen if seen[0][ABLATED].any() and not seen[0][ABLATED].any(1).all()]
    assert batches  # some of its rows are ablated and some are not
    given, before, direction, loss = batches[0]
    model = tiny_model("llama", len(llama3_tokenizer))
    model.load_state_dict(before)
    u = (direction.vector / direction.vector.norm()).float()
    rows, objective = given[ABLATED].any(1), given["objective"][:, 1:]

    logits = written_out(model, given["input_ids"], given["attention_mask"], u, rows)
    targets = given["labels"][:, 1:].clamp(min=0)
    log_p = logits[:, :-1].log_softmax(-1).gather(2, targets[..., None])[..., 0]
    total = sum(int((seen[0]["objective"][:, 1:] > 0).sum()) for seen in trainer.seen)  # of the whole step
    expected = -log_p[objective > 0].sum() / total
    assert loss == pytest.approx(float(expected.detach()), abs=1e-6)
    expected.backward()
    gradient = model.model.layers[0].mlp.down_proj.weight.grad.clone()

    model.zero_grad()
    with directional_ablation(model, direction.vector, tokens=given[ABLATED]):
        hooked = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    log_p = hooked[:, :-1].log_softmax(-1).gather(2, targets[..., None])[..., 0]
    (-log_p[objective > 0].sum() / total).backward()
    assert torch.allclose(model.model.layers[0].mlp.down_proj.weight.grad, gradient, atol=1e-6)
    assert gradient.abs().max() > 1e-4


def test_only_rows_with_harmful_prefix_are_ablated(train: Any) -> None:
    trainer = train(ablation_probability=1.0)
    rto = mle = 0
    for given, *_ in trainer.seen:
        for ablated, ids, objective in zip(given[ABLATED], given["attention_mask"], given["objective"], strict=True):
            assert not (ablated & ~ids.bool()).any()  # no padding
            if (objective == 2).any():
                rto += 1
                assert not ablated.any()
            elif ablated.any():
                mle += 1
                assert torch.equal(ablated, ids.bool())  # all of the row
    triples, helpful = 4, 4
    epochs = STEPS * 8 / (2 * triples + helpful)
    assert rto >= triples * int(epochs) and mle >= triples * int(epochs)


def test_off_is_off_and_looking_leaves_no_trace(train: Any) -> None:
    """With a probability so small that no row is drawn, no direction is needed, but computed all the same; the weights
    must be those of a run without, to the last bit."""
    plain = train()
    looked = train(ablation_probability=1e-15)
    assert plain.ablation is None and ABLATED not in plain.seen[0][0]
    assert looked.ablation.current is not None
    assert same(plain, looked)
    ablated = train(ablation_probability=1.0)
    assert not same(plain, ablated)
    blocks = ablated.model.model.layers
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in blocks.modules())


def test_direction_is_that_of_the_model_as_it_stands(train: Any, tiny_model: Any, llama3_tokenizer: Any) -> None:
    """Recomputed by hand from the weights of that step: mean of harmful minus mean of harmless block inputs."""
    trainer = train(ablation_probability=1.0, ablation_refresh_steps=3, ablation_positions=[-2], ablation_layers=[1])
    steps = [int(used.about["step"]) for _, _, used, _ in trainer.seen]
    assert steps == [0, 0, 0, 0, 0, 0, 3, 3]  # two micro-batches a step
    _, before, used, _ = trainer.seen[6]
    model = tiny_model("llama", len(llama3_tokenizer)).eval()
    model.load_state_dict(before)
    means = []
    for side in direction_prompts(trainer.train_dataset, 3).values():
        with torch.no_grad():
            states = [model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in side]
        means.append(torch.stack([state[1][0, -2].double() for state in states]).mean(0))
    assert torch.allclose(used.vector.double(), means[0] - means[1], atol=1e-5)
    assert (used.position, used.layer) == (-2, 1)


def test_of_several_places_the_one_that_refusal_rests_on_most(train: Any) -> None:
    trainer = train(ablation_probability=1.0, max_steps=1, ablation_positions=[-1, -2, -3], ablation_layers=[0, 1])
    direction, found = trainer.ablation, {}
    model = trainer.model
    chosen = trainer.seen[0][2]
    model.load_state_dict(trainer.seen[0][1])
    for place in [(p, n) for p in (-1, -2, -3) for n in (0, 1)]:
        direction.places = [place]
        try:
            vector = direction._compute(0).vector
        except InputError as error:  # at layer 0 the template's tokens are the same on both sides
            assert place[1] == 0 and "same mean" in str(error)
            continue
        prompts = [torch.tensor([ids]) for ids in direction_prompts(trainer.train_dataset, 3)["harmful"]]
        with directional_ablation(model.eval(), vector), torch.no_grad():
            p = torch.stack([model(ids).logits[0, -1].softmax(-1)[direction.refusal_id] for ids in prompts])
        found[place] = float((p / (1 - p)).log().mean())
    assert len(found) >= 3
    assert (chosen.position, chosen.layer) == min(found, key=lambda place: found[place])


@pytest.mark.parametrize("checkpoint", [1, 2])
def test_resumed_as_if_it_had_never_stopped(checkpoint: int, train: Any, tmp_path: Path) -> None:
    """At step 1 the direction in use is that of step 0, whose weights are gone; at step 2 a new one is due."""
    whole = train(ablation_probability=0.5, save_strategy="steps", save_steps=1, ablation_refresh_steps=2)
    folder = tmp_path / "run" / f"checkpoint-{checkpoint}"
    assert load_direction(folder / DIRECTION_FILE).about == {"step": "0"}
    resumed = train(str(folder), ablation_probability=0.5, ablation_refresh_steps=2, save_strategy="no")
    assert len(resumed.seen) == 2 * (STEPS - checkpoint)
    assert same(whole, resumed)


def test_flattened_rows_and_activation_checkpointing(train: Any) -> None:
    padded = train(ablation_probability=0.5)
    for change in ({"padding_free": True}, {"gradient_checkpointing": True}):
        other = train(ablation_probability=0.5, **change)
        losses = [(float(a[3]), float(b[3])) for a, b in zip(padded.seen, other.seen, strict=True)]
        assert all(one == pytest.approx(two, abs=1e-4) for one, two in losses), change
    assert tuple(other.seen[0][0][ABLATED].shape) == tuple(other.seen[0][0]["input_ids"].shape)


def test_harmless_prompts_that_end_as_the_harmful_ones_do() -> None:
    rows = [([1, 7, 9], View.MLE_WITH_PREFIX), ([2, 3], View.MLE), ([4, 7, 9], View.MLE), ([5, 9], View.MLE)]
    table = Dataset.from_list([{"prompt_ids": ids, "view": int(view), "copy": 0} for ids, view in rows])
    assert direction_prompts(table, 2) == {"harmful": [[1, 7, 9]], "harmless": [[4, 7, 9], [5, 9]]}
    with pytest.raises(InputError, match="1 of triples and 0 of helpful rows"):
        direction_prompts(table.select([0]), 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ablation_probability": 1.5}, "ablation_probability=1.5: expected a number, at least 0 and at most 1"),
        ({"ablation_probability": 0.5, "objective": "rto"}, "this arm has none"),
        ({"ablation_probability": 0.5, "ablation_layers": [7]}, "the model has the layers 0 to 1"),
        ({"ablation_probability": 0.5, "ablation_positions": [-99]}, "the shortest prompt has"),
        ({"ablation_probability": 0.5, "ablation_positions": [1]}, "ablation_positions=.* numbers below 0"),
        ({"ablation_probability": 0.5, "ablation_layers": [0]}, "same mean at position -1, layer 0"),
        (
            {"ablation_probability": 0.5, "ablation_refresh_steps": 0},
            "ablation_refresh_steps=0: expected a whole number, at least 1",
        ),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str, train: Any) -> None:
    with pytest.raises(InputError, match=message):
        train(max_steps=1, **changes)
