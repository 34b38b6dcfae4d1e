"""How long does it last? One evaluation after later fine-tuning on helpful rows, and with a LoRA delta scaled down.

    python launch/durability.py model.name_or_path=DIR helpful=ROWS output_dir=DIR [eval=NAME] \\
        ['steps=[10,50,200]'] [before=DIR] [key=value]
    python launch/durability.py model.name_or_path=ADAPTER 'steps=[]' 'lora_scales=[1,0.5,0]' output_dir=DIR

The later steps are what anybody might do next: TRL's SFTTrainer, on rows that hold nothing of ours. The models are
deleted once they are evaluated. output_dir/after-N and scale-S are folders of evaluations as launch/evaluate.py leaves
them; report.html has the curves of attack success and over-refusal. The same command goes on where it was stopped.
launch/report.py draws the same curves for several models, when it is given all of their folders.
"""

from derta.config.command import Command
from derta.config.durability import DurabilityRunConfig


def run(config: DurabilityRunConfig) -> None:
    from derta.sweep.durability import run_durability

    print(run_durability(config))


main = Command("durability", DurabilityRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
