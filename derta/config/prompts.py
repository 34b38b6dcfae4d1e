"""Formats of the prompts of an evaluation: those of training data, and the columns of public benchmarks."""

from __future__ import annotations

from derta.config.settings import Choice


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
