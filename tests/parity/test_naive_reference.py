"""DeRTaTrainer's loss and gradients against a reference that is as naive as can be.

The reference tokenises the pieces of a Llama-3 conversation one by one, builds every row with Python lists, runs each
row alone (no padding) through the model's own forward in float64 with full logits, and adds up -log P in loops over
rows and positions. It uses nothing of derta but the draws: the number k, and which RTO positions are kept.

    token           sum_i w_o(i) nll_i / (w_mle N_mle + w_rto N_rto)
    per_objective   w_mle (sum of MLE nll) / N_mle + w_rto (sum of RTO nll) / N_rto
"""

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from derta.objective.draws import kept_positions, prefix_length
from derta.training.trainer import DeRTaTrainer

SEED, W_MLE, W_RTO, ZERO_FRACTION = 7, 0.7, 1.6, 1 / 3
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 1e-5
RESET = "~"  # a token of the tests' tokenizer that no row holds


def naive_rows(
    rows: list[dict[str, Any]], tokenizer: Any, dropout: float, arm: str = "derta"
) -> list[tuple[list[int], list[tuple]]]:
    """Per training row: its ids, and what is supervised as (position, label, "mle" | "rto")."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    sorry, space_sorry = ids("Sorry"), ids(" Sorry")
    assert len(sorry) == len(space_sorry) == 1 and sorry != space_sorry
    [eot] = ids("<|eot_id|>")
    reset = ids(RESET) if arm.startswith("reset") else []
    built = []
    for row in rows:
        prompt = ids("<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n")
        prompt += [*ids(row["prompt"][0]["content"]), eot]
        prompt += ids("<|start_header_id|>assistant<|end_header_id|>\n\n")
        safe = row["chosen"][0]["content"].strip()
        draw = {"seed": SEED, "epoch": 0, "example_id": row["id"], "copy": 0}
        if row["rejected"] is None or arm == "vanilla":
            context, response = prompt, [*ids(safe), eot]
        else:
            harmful = ids(row["rejected"][0]["content"])
            k = prefix_length(len(harmful), zero_fraction=ZERO_FRACTION, **draw)
            context = prompt + harmful[:k]
            response = [*ids(" " + safe if k > 0 else safe), eot]
            if reset and k > 0:  # the turn begins anew behind it, so the response reads as at its start
                response = [*reset, *ids(safe), eot]
        built.append((context + response, [(len(context) + i, label, "mle") for i, label in enumerate(response)]))
        if row["rejected"] is not None and arm not in ("reset", "vanilla"):
            kept = kept_positions(len(harmful) + 1, dropout=dropout, **draw)
            targets = [sorry[0]] + (reset or space_sorry) * len(harmful)  # the last one in the slot of <|eot_id|>
            supervised = [(len(prompt) + i, target, "rto") for i, target in enumerate(targets) if kept[i]]
            built.append(([*prompt, *harmful, eot], supervised))
    return built


def naive_router_loss(router_probs: list[torch.Tensor], experts: int, top_k: int) -> torch.Tensor:
    """Load-balancing loss of one micro-batch: experts * sum over (slot, expert) of share routed * mean probability.

    router_probs: one [experts] vector per real token and layer, all layers together, as in Mixtral.
    """
    tokens = len(router_probs)
    total = torch.zeros((), dtype=torch.float64)
    for expert in range(experts):
        mean_probability = sum(p[expert] for p in router_probs) / tokens
        routed = sum(1 for p in router_probs if expert in p.topk(top_k).indices.tolist()) / tokens
        total = total + routed * mean_probability
    return experts * total


def naive_loss(model: Any, built: list, normalization: str, micro_batch: int) -> torch.Tensor:
    sums = {"mle": torch.zeros((), dtype=torch.float64), "rto": torch.zeros((), dtype=torch.float64)}
    counts = {"mle": 0, "rto": 0}
    is_moe = hasattr(model.config, "num_local_experts")
    router_losses, probs = [], []
    for number, (ids, supervised) in enumerate(built):
        outputs = model(torch.tensor([ids]), use_cache=False, **({"output_router_logits": True} if is_moe else {}))
        for position, label, objective in supervised:
            logits = outputs.logits[0, position - 1]  # the token before says what comes next
            sums[objective] = sums[objective] - torch.log_softmax(logits, dim=-1)[label]
            counts[objective] += 1
        if is_moe:
            for layer in outputs.router_logits:
                probs += list(torch.softmax(layer, dim=-1))
            if (number + 1) % micro_batch == 0 or number + 1 == len(built):
                config = model.config
                router_losses.append(naive_router_loss(probs, config.num_local_experts, config.num_experts_per_tok))
                probs = []
    if normalization == "token":
        loss = (W_MLE * sums["mle"] + W_RTO * sums["rto"]) / (W_MLE * counts["mle"] + W_RTO * counts["rto"])
    else:
        loss = W_MLE * sums["mle"] / counts["mle"] + W_RTO * sums["rto"] / counts["rto"]
    if is_moe:  # mean over the micro-batches of the step
        loss = loss + model.config.router_aux_loss_coef * sum(router_losses) / len(router_losses)
    return loss


class GradientsBeforeStep(TrainerCallback):
    """Copies the accumulated gradients of the first optimizer step."""

    def __init__(self, model: torch.nn.Module):
        self.model, self.gradients = model, {}

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.gradients = {name: None if p.grad is None else p.grad.clone() for name, p in self.model.named_parameters()}


def one_step(derta_args: Any, rows: int, micro_batch: int, **changes: Any) -> Any:
    assert rows % micro_batch == 0
    return derta_args(
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        max_steps=1,
        max_grad_norm=0.0,  # gradients as they are, not clipped
        seed=SEED,
        shuffle=False,
        mle_weight=W_MLE,
        rto_weight=W_RTO,
        zero_prefix_fraction=ZERO_FRACTION,
        **changes,
    )


def check_loss(found: float, expected: torch.Tensor) -> None:
    assert abs(found - expected.item()) <= LOSS_TOLERANCE * max(1.0, expected.item()), (found, expected.item())


def check_gradients(found: dict[str, torch.Tensor], reference: torch.nn.Module) -> None:
    """Every parameter's, relative to its own size."""
    largest = max(p.grad.norm().item() for p in reference.parameters())
    assert [name for name, _ in reference.named_parameters()] == list(found)
    for name, parameter in reference.named_parameters():
        if parameter.grad.norm() < 1e-9 * largest:
            # Zero in exact arithmetic (a key bias shifts all scores of a query alike): float32 leaves rounding only.
            assert found[name].norm() < 1e-6 * largest, name
        else:
            error = (found[name].double() - parameter.grad).norm() / parameter.grad.norm()
            assert error <= GRADIENT_TOLERANCE, (name, error)


@pytest.fixture
def check_parity(llama3_tokenizer, tiny_model, mixed_rows, derta_args):
    def check(
        family: str = "llama", tied: bool = False, rows: int = 12, micro_batch: int = 4, accepts_loss: bool = True,
        **changes: Any,
    ) -> None:  # fmt: skip
        """All rows (4 triples = 8 rows, 4 helpful) as one optimizer step."""
        model = tiny_model(family, len(llama3_tokenizer), tied=tied)
        args = one_step(derta_args, rows, micro_batch, **changes)
        if not accepts_loss:
            model.accepts_loss_kwargs = False
        reference = copy.deepcopy(model).double()
        if hasattr(reference.config, "num_local_experts"):
            reference.set_experts_implementation("eager")
        capture, dataset = GradientsBeforeStep(model), Dataset.from_list(mixed_rows)
        trainer = DeRTaTrainer(
            model, args=args, train_dataset=dataset, processing_class=llama3_tokenizer, callbacks=[capture]
        )
        trainer.train()
        built = naive_rows(mixed_rows, llama3_tokenizer, args.rto_dropout, args.objective)
        expected = naive_loss(reference, built, args.normalization, micro_batch)
        expected.backward()
        check_loss(trainer.state.log_history[0]["loss"], expected)
        check_gradients(capture.gradients, reference)

    return check


@pytest.mark.parametrize("normalization", ["token", "per_objective"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", ["llama", "mistral", "mixtral", "qwen2", "qwen3", "gpt2"])
def test_loss_and_gradients(family, tied, normalization, check_parity):
    check_parity(family, tied, normalization=normalization)


@pytest.mark.parametrize(
    "settings",
    [
        # Micro-batches without RTO tokens, whose own means would be undefined or weigh too much; and all rows at once.
        {"micro_batch": 1, "normalization": "per_objective"},
        {"micro_batch": 12, "normalization": "per_objective"},
        {"rto_dropout": 0.6},
        {"objective": "reset", "reset_token": RESET, "rows": 8},
        {"objective": "reset_rto", "reset_token": RESET},
        # transformers divides the loss of such a model by the accumulation steps once more, unless told not to.
        {"accepts_loss": False},
    ],
)
def test_other_settings(settings, check_parity):
    check_parity(**settings)


def test_reference_notices_a_wrong_label(llama3_tokenizer, check_parity):
    """The comparison itself can fail: with the start form at every RTO position the losses differ."""
    with pytest.raises(AssertionError):
        check_parity(refusal_token_ids=[llama3_tokenizer.convert_tokens_to_ids("Sorry")])
