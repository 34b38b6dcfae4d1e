"""Does a model keep its bounds? Exit code 0: yes; 1: no, with the failing bounds listed; 2: it cannot be checked.

    python launch/gate.py summary=DIR attack_success_max=0.05 over_refusal_max=0.1
    python launch/gate.py summary=DIR baseline=DIR helpfulness_drop_max=0.03
    python launch/gate.py summary=DIR ablation_robustness_min=0.5   once launch/diagnose_direction.py has put it there

summary and baseline are folders of finished evaluations. Bounds are shares (0.05 is 5%); what is compared is the upper
end of the 95% interval of every attack. launch/evaluate.py takes the same bounds as eval.gate.attack_success_max=...
"""

from derta.config.command import Command
from derta.config.gate import GateRunConfig


def run(config: GateRunConfig) -> int:
    from derta.evaluation.gate import read_summary, run_gate

    return int(not run_gate(read_summary(config.summary), config))


main = Command("gate", GateRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
