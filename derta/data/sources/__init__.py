"""One adapter per public format, by name.

To add a format, write its `Adapter` and add a line here (and in data_recipes/README.md).
"""

from __future__ import annotations

from derta.data.sources.beavertails import BEAVERTAILS
from derta.data.sources.chat import INSTRUCTION_OUTPUT, MESSAGES, PREFERENCE, SHAREGPT, STRINGS, WILDJAILBREAK
from derta.data.sources.derta_train import DERTA_TRAIN
from derta.data.sources.miniature import MINIATURE
from derta.data.sources.record import Adapter
from derta.data.sources.triples import PKU_SAFERLHF, flat_triple

ADAPTERS: dict[str, Adapter] = {
    # name: prompt, safe response, harmful response
    "derta_source": flat_triple("instruction", "safe_response", "output", "the reference repository's safety triples"),
    "llm_lat": flat_triple("prompt", "chosen", "rejected", "LLM-LAT/harmful-dataset"),
    "circuit_breakers": flat_triple("prompt", "llama3_output", "output", "the circuit-breakers training JSON"),
    "cleaned_saferlhf": flat_triple("prompt", "safe_response", "unsafe_response", "yiksiu/cleaned_SafeRLHF"),
    "pku_saferlhf": PKU_SAFERLHF,
    "beavertails": BEAVERTAILS,
    "preference": PREFERENCE,
    "strings": STRINGS,
    "messages": MESSAGES,
    "sharegpt": SHAREGPT,
    "instruction_output": INSTRUCTION_OUTPUT,
    "wildjailbreak": WILDJAILBREAK,
    "derta_train": DERTA_TRAIN,
    "miniature": MINIATURE,
}

__all__ = ["ADAPTERS", "Adapter"]
