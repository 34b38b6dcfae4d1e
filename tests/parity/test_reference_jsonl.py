"""The reference repository's training rows: our labels against the ones its code makes.

Its code, in words (commit 70bdb52): tokenise prefix + text as one string with the tokenizer's defaults, copy the ids to
the labels, ignore as many labels as the tokenised prefix has tokens, and in rows marked safe == "true" replace every
label that is not ignored, the end of text included, by one token id.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from derta.data.load import load_rows
from derta.training.trainer import DeRTaTrainer

EOS = "<|end_of_text|>"
ROWS = [
    {"prefix": "[INST] question 1 about the garden [\\INST]", "text": f" helpful answer 1.{EOS}", "safe": "false"},
    {"prefix": "[INST] harmful request 2 [\\INST]", "text": f" Sure, harmful steps: stir, wait.{EOS}", "safe": "true"},
    # An MLE row with harmful prefix: the prefix column simply holds the first words of the harmful response.
    {"prefix": "[INST] harmful request 2 [\\INST] Sure, harmful", "text": f" Sorry, I cannot.{EOS}", "safe": "false"},
    {"prefix": "[INST] harmful request 3 [\\INST]", "text": f" Step 1:\nmix 🙂\n\nStep 2: 搅拌{EOS}", "safe": "true"},
    {"prefix": "[INST] question 4 [\\INST]", "text": f" a\n\n b{EOS}", "safe": "false"},
    {"prefix": "[INST] question 5 [\\INST] Sure:\n", "text": f" Sorry, no.{EOS}", "safe": "false"},
    {"prefix": "[INST] harmful request 6 [\\INST]", "text": f"Sure{EOS}", "safe": "true"},
]


def reference_labels(row: dict[str, str], tokenizer: Any, one_id: int, max_length: int) -> tuple[list[int], list[int]]:
    ids = tokenizer(row["prefix"] + row["text"])["input_ids"][:max_length]
    labels = list(ids)
    prefix = len(tokenizer(row["prefix"])["input_ids"])
    labels[:prefix] = [-100] * min(prefix, len(labels))
    if row["safe"] == "true":
        labels = [label if label == -100 else one_id for label in labels]
    return ids, labels


class RecordingTrainer(DeRTaTrainer):
    """Keeps the ids and labels that compute_loss was given, without padding."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.seen = getattr(self, "seen", [])
        for ids, labels, mask in zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"], strict=True):
            length = int(mask.sum())
            self.seen.append((ids[:length].tolist(), labels[:length].tolist()))
            assert (labels[length:] == -100).all()
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.fixture
def trainer(tiny_trainer: Any, llama3_tokenizer: Any, tmp_path: Path) -> Any:
    """trainer(**arguments): of these rows, in one step, with the one id for every position."""
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    rows = list(load_rows(path, "reference_jsonl").dataset)
    settings = {"max_steps": 1, "refusal_token_ids": [llama3_tokenizer.convert_tokens_to_ids("Sorry")]}
    return partial(tiny_trainer, rows=rows, per_device_train_batch_size=len(ROWS), **settings)


@pytest.mark.parametrize("max_length", [512, 30])
def test_labels_are_the_reference_codes(max_length, trainer, llama3_tokenizer):
    """Through load_rows and a real training step; 30 tokens cut some responses and their end, as there."""
    assert llama3_tokenizer("x")["input_ids"][0] == llama3_tokenizer.bos_token_id  # added by the post-processor
    ready = trainer(kind=RecordingTrainer, shuffle=False, max_length=max_length)
    ready.train()
    [one_id] = ready.args.refusal_token_ids
    expected = [reference_labels(row, llama3_tokenizer, one_id, max_length) for row in ROWS]
    assert ready.seen == expected
    truncated = sum(ids[-1] != llama3_tokenizer.eos_token_id for ids, _ in expected)
    assert ready.row_report.truncated_rows == truncated and (truncated > 0) == (max_length == 30)
    for row, (_, labels) in zip(ROWS, expected, strict=True):
        assert max_length == 30 or labels[-1] == (one_id if row["safe"] == "true" else llama3_tokenizer.eos_token_id)


def test_loss_is_the_reference_codes(trainer, llama3_tokenizer):
    """Its loss on one rank without accumulation: cross entropy over all supervised tokens of the batch, mixed."""
    ready, nll, tokens = trainer(normalization="token"), 0.0, 0
    for row in ROWS:
        ids, labels = reference_labels(row, llama3_tokenizer, ready.args.refusal_token_ids[0], 512)
        with torch.no_grad():
            logits = ready.model(torch.tensor([ids])).logits[0]
        targets = torch.tensor(labels[1:])
        nll += torch.nn.functional.cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum").item()
        tokens += int((targets != -100).sum())
    ready.train()
    assert ready.state.log_history[0]["loss"] == pytest.approx(nll / tokens, rel=1e-6)
