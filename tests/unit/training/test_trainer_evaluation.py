"""Evaluation: losses over all tokens, under transformers' names, on tables and on plain rows."""

import pytest
from datasets import Dataset

from derta.errors import InputError
from derta.training.config import DeRTaConfig


@pytest.fixture
def trainer(tiny_trainer, mixed_rows):
    helpful = [row for row in mixed_rows if row["rejected"] is None]
    sets = {"all": Dataset.from_list(mixed_rows), "helpful": Dataset.from_list(helpful)}
    return lambda **changes: tiny_trainer(rto_weight=2.0, more={"eval_dataset": sets}, **changes)


def test_loss_is_that_of_all_tokens(trainer):
    """Whatever the batches: 1 x MLE nll and 2 x RTO nll over 1 x MLE tokens and 2 x RTO tokens."""
    results = [trainer(per_device_eval_batch_size=size).evaluate() for size in (1, 5, 12)]
    mle, rto = results[0]["eval_all_mle_tokens"], results[0]["eval_all_rto_tokens"]
    nll = results[0]["eval_all_mle_loss"] * mle + 2 * results[0]["eval_all_rto_loss"] * rto
    for result in results:
        assert result["eval_all_loss"] == pytest.approx(nll / (mle + 2 * rto), rel=1e-5)
        assert (result["eval_all_mle_tokens"], result["eval_all_rto_tokens"]) == (mle, rto)


def test_helpful_rows_alone_and_plain_rows(trainer, mixed_rows):
    """A set without triples has no RTO curve, and its loss is its MLE loss."""
    ready = trainer()
    expected = ready.evaluate()
    assert expected["eval_helpful_loss"] == pytest.approx(expected["eval_helpful_mle_loss"])
    assert "eval_helpful_rto_loss" not in expected and "eval_all_rto_loss" in expected
    result = ready.evaluate(Dataset.from_list(mixed_rows))
    assert result["eval_loss"] == pytest.approx(expected["eval_all_loss"])


def test_several_gpus_in_one_process_are_refused(tiny_trainer, monkeypatch):
    """torch's DataParallel replicas would all call the first GPU's patched forward."""
    monkeypatch.setattr(DeRTaConfig, "n_gpu", 2)
    with pytest.raises(InputError, match="torchrun --nproc_per_node 2"):
        tiny_trainer()
