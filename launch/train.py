"""Train a model.

    torchrun --nproc_per_node N launch/train.py [group=choice] [key=value] ...
    python launch/train.py +experiment=NAME ...     several groups at once, for example llama3_8b_full
    python launch/train.py                          the miniature on this machine

The same command again goes on where it was stopped.
Tab completion, in a checkout: eval "$(python launch/train.py -sc install=bash)"
"""

from derta.config import TrainRunConfig
from derta.config.command import Command


def run(config: TrainRunConfig) -> None:
    from derta.release.hub import train_and_push

    train_and_push(config)


main = Command("train", TrainRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
