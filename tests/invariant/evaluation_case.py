"""`evaluation_case.py MODEL ROWS OUTPUT`: what DeRTaTrainer.evaluate says of the rows, as JSON, from rank 0."""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from derta.data.load import load_rows
from derta.training.config import DeRTaConfig
from derta.training.trainer import DeRTaTrainer


def evaluate(model: str, rows: str, output: Path, padding_free: bool) -> dict[str, float]:
    args = DeRTaConfig(
        output_dir=str(output.with_suffix("")), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
        max_length=100, per_device_eval_batch_size=4, padding_free=padding_free, dataloader_pin_memory=False,
    )  # fmt: skip
    dataset = load_rows(rows, "preference").dataset
    trainer = DeRTaTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=args,
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    return trainer.evaluate()


if __name__ == "__main__":
    target = Path(sys.argv[3])
    found = {
        kind: evaluate(sys.argv[1], sys.argv[2], target, padding_free=kind == "flattened")
        for kind in ("padded", "flattened")
    }
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_rank() == 0:
        target.write_text(json.dumps(found), encoding="utf-8")
