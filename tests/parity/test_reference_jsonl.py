"""The reference repository's training rows: our labels against the ones its code makes.

Its code, in words (commit 70bdb52): tokenise prefix + text as one string with the tokenizer's defaults, copy the ids to
the labels, ignore as many labels as the tokenised prefix has tokens, and in rows marked safe == "true" replace every
label that is not ignored, the end of text included, by one token id.
"""

import json
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
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("max_length", [512, 30])
def test_labels_are_the_reference_codes(max_length, rows_file, llama3_tokenizer, tiny_model, derta_args):
    """Through load_rows and a real training step; 30 tokens cut some responses and their end, as there."""
    assert llama3_tokenizer("x")["input_ids"][0] == llama3_tokenizer.bos_token_id  # added by the post-processor
    one_id = llama3_tokenizer.convert_tokens_to_ids("Sorry")
    args = derta_args(
        per_device_train_batch_size=len(ROWS),
        max_steps=1,
        shuffle=False,
        refusal_token_ids=[one_id],
        max_length=max_length,
    )
    trainer = RecordingTrainer(
        tiny_model("llama", len(llama3_tokenizer)),
        args=args,
        train_dataset=load_rows(rows_file, "reference_jsonl").dataset,
        processing_class=llama3_tokenizer,
    )
    trainer.train()
    expected = [reference_labels(row, llama3_tokenizer, one_id, max_length) for row in ROWS]
    assert trainer.seen == expected
    truncated = sum(ids[-1] != llama3_tokenizer.eos_token_id for ids, _ in expected)
    assert trainer.row_report.truncated_rows == truncated and (truncated > 0) == (max_length == 30)
    for row, (_, labels) in zip(ROWS, expected, strict=True):
        assert max_length == 30 or labels[-1] == (one_id if row["safe"] == "true" else llama3_tokenizer.eos_token_id)


def test_loss_is_the_reference_codes(rows_file, llama3_tokenizer, tiny_model, derta_args):
    """Its loss on one rank without accumulation: cross entropy over all supervised tokens of the batch, mixed."""
    one_id = llama3_tokenizer.convert_tokens_to_ids("Sorry")
    model = tiny_model("llama", len(llama3_tokenizer))
    nll, tokens = 0.0, 0
    for row in ROWS:
        ids, labels = reference_labels(row, llama3_tokenizer, one_id, 512)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        targets = torch.tensor(labels[1:])
        nll += torch.nn.functional.cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum").item()
        tokens += int((targets != -100).sum())
    args = derta_args(
        per_device_train_batch_size=len(ROWS), max_steps=1, refusal_token_ids=[one_id], normalization="token"
    )
    trainer = DeRTaTrainer(
        model,
        args=args,
        train_dataset=load_rows(rows_file, "reference_jsonl").dataset,
        processing_class=llama3_tokenizer,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(nll / tokens, rel=1e-6)
