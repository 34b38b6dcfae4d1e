"""The paper's claim on a chat model that people know, with nothing harmful: training, evaluation, report.

    python launch/real.py [arms=[vanilla,harmful_prefix,derta]] [model=DIR|FILE.gguf|OWNER/NAME] [seeds=[0]] [key=value]
    python launch/real.py arms=[vanilla,derta] seeds=[1,2,3] cells=DIR output=DIR        a study with intervals
    python launch/real.py cells=DIR only_table=true                                      its table
    python launch/real.py stop=true ...                                                  a stop for every model
    python launch/real.py depth=true ...                                                 prefills up to 2,000 tokens

The model is SmolLM2-135M-Instruct from a wheel of the package registry unless you name another. Potions stand in for
harm: the model's own recipes are the harmful responses. At the end three requests stand with the responses of all
models side by side. What is done already is not done again.
"""

from derta.config.command import Command, listing
from derta.config.study import RealRunConfig


def run(config: RealRunConfig) -> None:
    from derta.sweep.real import run_real

    print(run_real(config))


main = Command("real", RealRunConfig, run, __doc__, modern=listing("arms"))

if __name__ == "__main__":
    main()
