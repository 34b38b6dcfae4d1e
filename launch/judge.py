"""Score responses that are on disk, and compare with the labels they came with.

    python launch/judge.py responses=FILE                                                  refusal phrases
    python launch/judge.py responses=FILE judge=harmbench judging.model.name_or_path=DIR
    python launch/judge.py responses=FILE judge=rubric judging.endpoint.url=http://HOST:PORT/v1 \\
        judging.endpoint.model=NAME [prompts=FILE] [label=FIELD] [harmful=false] [output=DIR]

Reads lists of objects (question | instruction | prompt and response), bare strings, *_evaluations.json with its labels,
CSV, and results.jsonl of launch/evaluate.py (prompts=DATASET or [FILE,FILE]). Continues where it was stopped. No text
is printed.
"""

from derta.config.command import Command
from derta.config.evaluation import JudgeRunConfig


def run(config: JudgeRunConfig) -> None:
    from derta.evaluation.stored.score_file import describe, score_file

    print(describe(score_file(config)))


main = Command("judge", JudgeRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
