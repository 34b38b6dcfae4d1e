"""Complete prompts to training rows: a model writes the responses, a judge says which are kept.

    python launch/complete_rows.py harmful=[FILE] helpful=[FILE] output=DIR model.name_or_path=DIR [key=value]

Leaves rows in output/rows, for launch/train.py and recipes. The same command continues where it was stopped.
"""

from __future__ import annotations

from derta.config.command import Command
from derta.config.completion import CompleteRunConfig


def run(config: CompleteRunConfig) -> None:
    from derta.triples.complete import complete, describe

    print(describe(complete(config), config.output))


main = Command("complete_rows", CompleteRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
