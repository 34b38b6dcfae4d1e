"""DeRTaConfig: what SFTConfig offers and this trainer would pass over in silence is refused, all of it at once."""

from typing import Any

import pytest
import torch

from derta.errors import InputError

WITHOUT_EFFECT: dict[str, Any] = {
    "packing": True,
    "eval_packing": True,
    "packing_strategy": "wrapped",
    "label_smoothing_factor": 0.1,
    "completion_only_loss": False,
    "assistant_only_loss": True,
    "train_sampling_strategy": "group_by_length",
    "dataloader_drop_last": True,
    "shuffle_dataset": True,
    "dataset_text_field": "content",
    "chat_template_path": "template.jinja",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "auto_find_batch_size": True,
    "average_tokens_across_devices": False,
    "include_for_metrics": ["loss"],
    "batch_eval_metrics": True,
    "data_seed": 7,
    "dataset_kwargs": {"add_special_tokens": False},
    "accelerator_config": {"split_batches": True},
    "peak_flops": -1.0,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_refused_by_name(name, derta_args):
    with pytest.raises(InputError) as error:
        derta_args(**{name: WITHOUT_EFFECT[name]})
    _, line = str(error.value).splitlines()
    assert line.startswith(f"  - {name}") and len(line) > len(name) + 30, "with the reason"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_all_at_once(derta_args):
    names = ("packing", "completion_only_loss", "data_seed", "accelerator_config", "dataloader_drop_last")
    with pytest.raises(InputError) as error:
        more = {"rto_weight": -1.0, "objective": "dpo", "normalization": "mean", "rto_dropout": 1.0}
        derta_args(**{name: WITHOUT_EFFECT[name] for name in names}, **more)
    assert len(str(error.value).splitlines()) == 1 + len(names) + len(more)
    for part in (
        "objective='dpo'",
        "rto_dropout=1.0",
        "packing=True",
        "normalization=mean: expected one of token, per_objective",
    ):
        assert part in str(error.value)


def test_what_says_the_same_is_allowed(derta_args):
    args = derta_args(completion_only_loss=True, data_seed=42, seed=42, dataset_kwargs={"skip_prepare_dataset": True})
    assert args.shuffle
    assert derta_args(train_sampling_strategy="sequential").shuffle is False


def test_two_loaders(tiny_trainer):
    """One that the user looks at before training does not take anything from the one that trains."""
    settings = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    looked, plain = tiny_trainer(**settings), tiny_trainer(**settings)
    first, second = ([batch["input_ids"].tolist() for batch in looked.get_train_dataloader()] for _ in range(2))
    assert first == second and len(first) == 6
    for ready in (looked, plain):
        ready.train()
    assert all(torch.equal(*pair) for pair in zip(looked.model.parameters(), plain.model.parameters(), strict=True))
