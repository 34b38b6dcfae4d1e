"""The paper's experiment in miniature, on a CPU: data, base model, fine-tuned arms, evaluation, report.

    python launch/miniature.py [seeds=[0]] [arms=[vanilla,derta]] [eval=miniature_quick] [output=runs/miniature]

seeds=[11,12,13] trains three base models and their arms and reports mean and spread. What is done already is not done
again.
"""

from derta.config.command import Command, listing
from derta.config.study import MiniatureRunConfig


def run(config: MiniatureRunConfig) -> None:
    from derta.sweep.miniature import run_study

    print(run_study(config))


main = Command("miniature", MiniatureRunConfig, run, __doc__, modern=listing("seeds", "arms"))

if __name__ == "__main__":
    main()
