"""Plan: what a training run needs (memory, disk, time), whether it fits, and the cheapest choice that does.

    python launch/plan.py +experiment=llama3_8b_full world_size=8 device=h100 [mfu=0.3] [output=plan.json]
    python launch/plan.py model=llama3_70b peft=lora distributed=zero3 data.max_length=512 output=plan.json

From the configuration alone, without weights, GPU or network.
"""

from derta.config.command import Command
from derta.config.plan import PlanRunConfig


def run(config: PlanRunConfig) -> None:
    from derta.plan.plan import make_plan, render
    from derta.storage.atomic import write_output

    made = make_plan(config)
    print(render(made))
    write_output(config.output, made.to_dict())


main = Command("plan", PlanRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
