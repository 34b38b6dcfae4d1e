"""The arms that hold a model against itself before its first step, against a reference that is as naive as can be.

At the first step the two models are equal and the losses say nothing of their coefficients, so the second one is
looked at: the weights it starts from, and the first ones for the reference. Rows, tolerances and how gradients are
compared are those of test_naive_reference.py.
"""

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from test_naive_reference import (
    LOSS_TOLERANCE,
    W_MLE,
    W_RTO,
    GradientsBeforeStep,
    check_gradients,
    check_loss,
    naive_rows,
    one_step,
)
from transformers import TrainerCallback

from derta.training.trainer import DeRTaTrainer

BETAS, BETA = [0.7, 1.9, 0.3], 0.4
TAU, LARGEST = 0.4, 1.5


class WeightsAfterStep(TrainerCallback):
    def __init__(self, model: torch.nn.Module):
        self.model = model

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            self.weights = copy.deepcopy(self.model.state_dict())


def log_prob(model: Any, ids: list[int], position: int, label: int) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, position - 1], dim=-1)[label]


def naive_constrained(model: Any, first: Any, rows: list[dict[str, Any]], tokenizer: Any) -> torch.Tensor:
    """Mean over all tokens of -(2 / b_t) log sigma(b_t (log pi - log pi_ref)); b_1, b_2..b_5, b_6.."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ids, supervised in naive_rows(rows, tokenizer, dropout=0.0, arm="vanilla"):
        for t, (position, label, _) in enumerate(supervised, start=1):
            beta = BETAS[0] if t == 1 else BETAS[1] if t <= 5 else BETAS[2]
            with torch.no_grad():
                known = log_prob(first, ids, position, label)
            ratio = log_prob(model, ids, position, label) - known
            total = total - 2 / beta * torch.log(1 / (1 + torch.exp(-beta * ratio)))
            count += 1
    return total / count


def naive_door(model: Any, first: Any, rows: list[dict[str, Any]], tokenizer: Any, other: Any = None) -> torch.Tensor:
    """Weighted over all supervised tokens: nll behind harmful prefixes, and (2 / b) log(1 + (pi / pi_ref)^b) of whole
    harmful responses. What test_naive_reference.py calls an RTO row is the harmful response, at its own tokens. With
    another model the nll of a triple's safe response times (pi_other / pi_ref)^(1 / tau), up to the largest weight."""
    total, weight, factors = torch.zeros((), dtype=torch.float64), 0.0, []
    built = [
        (row["rejected"] is not None, *made) for row in rows for made in naive_rows([row], tokenizer, 0.0, "derta")
    ]
    for is_triple, ids, supervised in built:
        if supervised[0][2] == "mle":
            for position, label, _ in supervised:
                factor = 1.0
                if other is not None and is_triple:
                    with torch.no_grad():
                        ratio = log_prob(other, ids, position, label) - log_prob(first, ids, position, label)
                    factor = min(torch.exp(ratio).item() ** (1 / TAU), LARGEST)
                    factors.append(factor)
                total = total - W_MLE * factor * log_prob(model, ids, position, label)
            weight += W_MLE * len(supervised)
            continue
        ratio = torch.zeros((), dtype=torch.float64)
        for position, _, _ in supervised:
            with torch.no_grad():
                known = log_prob(first, ids, position, ids[position])
            ratio = ratio + log_prob(model, ids, position, ids[position]) - known
        total = total + W_RTO * 2 / BETA * torch.log(1 + torch.exp(ratio) ** BETA)
        weight += W_RTO * len(supervised)
    assert other is None or (min(factors) < 0.9 and max(factors) == LARGEST and any(1 < f < LARGEST for f in factors))
    return total / weight


@pytest.mark.parametrize("padding_free", [False, True])
@pytest.mark.parametrize(
    ("arm", "count", "naive"),
    [("constrained", 8, naive_constrained), ("door", 12, naive_door), ("w_door", 12, naive_door)],
)
def test_arm(arm, count, naive, padding_free, llama3_tokenizer, tiny_model, mixed_rows, derta_args, tmp_path):
    model, other = tiny_model("llama", len(llama3_tokenizer)), tiny_model("llama", len(llama3_tokenizer), seed=3)
    other.save_pretrained(tmp_path / "other")
    args = one_step(
        derta_args, rows=count, micro_batch=4, objective=arm, constrained_betas=BETAS, door_beta=BETA, redraw=False,
        weight_model=str(tmp_path / "other"), weight_tau=TAU, weight_max=LARGEST, padding_free=padding_free,
        learning_rate=0.01, lr_scheduler_type="constant",
    )  # fmt: skip
    args.max_steps = 2
    first, after, capture = copy.deepcopy(model).double(), WeightsAfterStep(model), GradientsBeforeStep(model)
    rows = Dataset.from_list(mixed_rows)
    trainer = DeRTaTrainer(
        model, args=args, train_dataset=rows, processing_class=llama3_tokenizer, callbacks=[capture, after]
    )
    trainer.train()
    second = copy.deepcopy(first)
    second.load_state_dict(after.weights)
    expected = naive(second, first, mixed_rows, llama3_tokenizer, *([other.double()] if arm == "w_door" else []))
    expected.backward()
    line = trainer.state.log_history[1]
    check_loss(line["loss"], expected)
    if arm != "constrained":
        mle_loss = line["mle_loss" if arm == "door" else "weighted_mle_loss"]
        parts = W_MLE * line["mle_tokens"] * mle_loss, W_RTO * line["unlearn_tokens"] * line[f"{arm}_loss"]
        curve = sum(parts) / (W_MLE * line["mle_tokens"] + W_RTO * line["unlearn_tokens"])
        assert line["unlearn_loss"] > trainer.state.log_history[0]["unlearn_loss"]
    else:
        curve = line["constrained_loss"]
    assert abs(curve - expected.item()) <= 10 * LOSS_TOLERANCE * max(1.0, expected.item())
    assert abs(line["loss"] - trainer.state.log_history[0]["loss"]) > 0.01, "the models differ by now"
    check_gradients(capture.gradients, second)
