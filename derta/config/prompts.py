"""Where the prompts of an evaluation are, and their formats: those of training data, and the columns of public
benchmarks."""

from dataclasses import dataclass

from derta.config.settings import Choice, Settings


class PromptFormat(Choice):
    """derta, preference, reference_jsonl: as in `data.format`, with responses.

    Prompts alone, by the columns that hold them: prompt (`prompt`), question (`question`), instruction (`instruction`),
    conversation (`messages` or `conversations`), harmbench (`Behavior`), jailbreakbench (`Goal`), advbench (`goal`),
    strongreject (`forbidden_prompt`), xstest (`prompt`, `type`, and `label` or `focus`), or_bench (`prompt`,
    `category`), wildjailbreak (`adversarial`, `vanilla`, `data_type`), attack_prompts (`prompt` is an attack's text,
    `goal` what was wanted).

    prompts: whichever of all these the columns fit, rows with responses included; a file under `derta` is read so, too.
    """

    derta = "derta"
    preference = "preference"
    reference_jsonl = "reference_jsonl"
    prompts = "prompts"
    prompt = "prompt"
    question = "question"
    instruction = "instruction"
    conversation = "conversation"
    harmbench = "harmbench"
    jailbreakbench = "jailbreakbench"
    advbench = "advbench"
    strongreject = "strongreject"
    xstest = "xstest"
    or_bench = "or_bench"
    wildjailbreak = "wildjailbreak"
    attack_prompts = "attack_prompts"


@dataclass(kw_only=True, slots=True)
class PromptsConfig(Settings):
    """Where prompts are."""

    path: str = ""
    """Dataset directory or file; empty means eval.path (or direction.path), and without that a set is left out."""
    format: PromptFormat = PromptFormat.derta
    split: str = "train"
    """Split of a dataset directory."""
    source: str | None = None
    """Keep only the rows of this source (null: all)."""
