"""Plain TRL on the safe and helpful responses of a built dataset: what start-up is compared with.

python -m derta.benchmark.plain_sft MODEL DATA OUTPUT
"""

import sys


def main(model: str, data: str, output: str) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    rows = load_dataset("parquet", data_files=f"{data}/train.parquet", split="train")
    rows = rows.rename_column("chosen", "completion").select_columns(["prompt", "completion"])
    args = SFTConfig(
        output_dir=output, max_steps=1, per_device_train_batch_size=8, max_length=320, save_strategy="no",
        use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(model, args=args, train_dataset=rows)
    trainer.train()
    trainer.save_model(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
