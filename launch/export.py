"""Export: a plain Hugging Face directory out of a run; a LoRA adapter is merged into its base, and logits are compared.

    python launch/export.py source=RUN output=DIR [base=DIR] [dtype=bfloat16] [tolerance=0.1]

source may also be a checkpoint (runs/NAME/checkpoint-N), or an unfinished run, whose newest complete one is taken.
"""

from derta.config.command import Command
from derta.config.export import ExportConfig


def run(config: ExportConfig) -> None:
    import logging

    from derta.release.export import export

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(export(config))


main = Command("export", ExportConfig, run, __doc__)

if __name__ == "__main__":
    main()
