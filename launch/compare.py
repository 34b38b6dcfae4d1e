"""Two evaluated checkpoints, prompt by prompt: differences of outcomes, length and format with 95% intervals.

    python launch/compare.py before=DIR after=DIR [output=FILE.json] [seed=0]

Both are folders of finished evaluations of the same prompts with the same judge. Prompts are resampled, together with
both checkpoints' responses to them (paired bootstrap).
"""

from dataclasses import asdict

from derta.config.command import Command
from derta.config.evaluation import CompareRunConfig


def run(config: CompareRunConfig) -> None:
    from derta.evaluation.compare import compare_evaluations, describe_comparison
    from derta.storage.atomic import write_output

    compared = compare_evaluations(config.before, config.after, seed=config.seed)
    print(describe_comparison(compared))
    write_output(config.output, asdict(compared))


main = Command("compare", CompareRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
