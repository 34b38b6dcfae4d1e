"""Evaluate a model: attack success, over-refusal, helpfulness, and where it refuses.

    python launch/evaluate.py model.name_or_path=DIR output_dir=DIR [eval=NAME] [label=NAME] [key=value]
    torchrun --nproc_per_node N launch/evaluate.py ...      the same results, each rank with its share of the prompts

Leaves results.jsonl, summary.json and report.html in output_dir. The same command continues where it was stopped, and
measures nothing again when all is done.

With eval.gate.attack_success_max=0.05 (or over_refusal_max, helpfulness_drop_max, ...) the exit code is 1 if the model
breaks a bound; see launch/gate.py.
"""

from derta.config.command import Command
from derta.config.evaluation import EvaluateRunConfig


def run(config: EvaluateRunConfig) -> int:
    from derta.evaluation.gate import read_summary, run_gate
    from derta.evaluation.ranks import Ranks
    from derta.evaluation.suite import evaluate
    from derta.release.curves import log_evaluation
    from derta.report.report import write_page
    from derta.report.runs import load_runs
    from derta.report.table import render_table

    gate = config.eval.gate
    if gate.active and gate.baseline:
        read_summary(gate.baseline)  # a wrong path shows now, not after hours
    with Ranks.connected(tensors=config.eval.placement == "tensor_parallel") as ranks:
        summary = evaluate(config, ranks)
    if ranks.rank != 0:
        return 0
    runs = load_runs([config.output_dir])
    print(render_table(runs))
    if log_evaluation(config.model.name_or_path, summary):
        print("logged to the W&B run of the model")
    print(f"report: {write_page(runs, config.output_dir, command=summary.run.command)}")
    return int(gate.active and not run_gate(summary, gate))


main = Command("evaluate", EvaluateRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
