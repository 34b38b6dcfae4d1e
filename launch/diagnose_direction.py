"""Does refusal hang on one direction of the residual stream? The refusal-direction diagnostic of a checkpoint.

    python launch/diagnose_direction.py model.name_or_path=DIR output_dir=DIR [direction=NAME] [summary=DIR] [key=value]
    python launch/diagnose_direction.py study 'models={LABEL:DIR,LABEL:[DIR,DIR]}' output_dir=DIR [key=value]
    python launch/diagnose_direction.py collect results=[DIR,DIR] output=DIR [evaluations=[DIR,DIR]]
    python launch/diagnose_direction.py select table=direction_evaluations.json
    python launch/diagnose_direction.py convert file=direction.pt metadata=direction_metadata.json output=FILE

The first form finds the direction, ablates it in memory and reports; no weights are written. study does this for many
models; collect puts results side by side; select applies the rule to a table of candidates; convert makes safetensors
of a published direction. These four have a --help of their own.
"""

import sys

from derta.config.command import Command
from derta.config.direction import DiagnoseRunConfig
from derta.direction.commands import COMMANDS


def run(config: DiagnoseRunConfig) -> None:
    from derta.direction.diagnose import diagnose
    from derta.direction.report import describe

    print(describe(diagnose(config)))


def main() -> None:
    first = " ".join(sys.argv[1:2])
    if first in COMMANDS:
        COMMANDS[first](sys.argv[2:])
    else:
        Command("diagnose_direction", DiagnoseRunConfig, run, __doc__)()


if __name__ == "__main__":
    main()
