"""Make training rows of prompts alone: a model of your own writes the responses, a judge says which are kept.

    python launch/complete_rows.py model.name_or_path=DIR output=DIR 'harmful=[FILE]' 'helpful=[FILE]' \\
        ['borderline=[FILE]'] [judge=NAME] [key=value]

Harmful responses are sampled and kept where the judge says that they answer; safe responses are templates, or
written by the model when it is told to refuse; helpful responses are the model's own. The same command goes on where
it was stopped. The rows are TRL preference rows in output/rows/; they may be harmful, so all files are their owner's
alone.
"""

from derta.config.command import Command
from derta.config.completion import CompleteRunConfig


def run(config: CompleteRunConfig) -> None:
    from derta.triples.complete import complete, describe

    print(describe(complete(config), config.output))


main = Command("complete_rows", CompleteRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
