"""Do prompts overlap evaluation prompts? python launch/check_contamination.py data=FILE_OR_DIR against=[FILE,FILE]

Exit code 0: no overlap; 1: overlap; 2: something cannot be read.
"""

from derta.config.command import Command, listing
from derta.config.data import ContaminationRunConfig


def run(config: ContaminationRunConfig) -> int:
    from derta.data.decontaminate import EvaluationNgrams
    from derta.data.evaluation_prompts import read_prompt_rows, read_sets
    from derta.storage.atomic import write_output

    sets = read_sets(config.against)
    grams = EvaluationNgrams({one.name: one.prompts for one in sets}, config.ngram)
    found = grams.find(read_prompt_rows(config.data, config.column))
    print(f"{found.rows} rows against {sum(len(one.prompts) for one in sets)} prompts of {len(sets)} sets")
    print(found if found.ids else "no overlap")
    against = [{"name": one.name, "prompts": len(one.prompts), "sha256": one.sha256} for one in sets]
    write_output(config.output, {"against": against, **found.report()})
    return 1 if found.ids else 0


main = Command("check_contamination", ContaminationRunConfig, run, __doc__, modern=listing("against"))

if __name__ == "__main__":
    main()
