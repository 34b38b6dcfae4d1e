"""One adapter per public format, by name."""

from derta.data.sources import chat, miniature, triples
from derta.data.sources.record import Adapter
from derta.data.sources.triples import flat_triple

_ID = ("id",)
_REJECTED = ("rejected",)
_PKU_COLUMNS = ("prompt", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe")

ADAPTERS: dict[str, Adapter] = {
    "derta_source": flat_triple("instruction", "safe_response", "output"),  # the reference repository's safety triples
    "llm_lat": flat_triple("prompt", "chosen", "rejected"),  # LLM-LAT/harmful-dataset
    "circuit_breakers": flat_triple("prompt", "llama3_output", "output"),  # the circuit-breakers training JSON
    "cleaned_saferlhf": flat_triple("prompt", "safe_response", "unsafe_response"),  # yiksiu/cleaned_SafeRLHF
    "pku_saferlhf": Adapter(_PKU_COLUMNS, triples.pku_saferlhf),
    "beavertails": Adapter(("prompt", "response", "is_safe"), triples.beavertails, gather=triples.pair_responses),
    "preference": Adapter(("chosen",), chat.preference, optional=("prompt", "id"), somewhere=_REJECTED),
    "strings": Adapter(("prompt", "chosen"), chat.strings, optional=_ID, somewhere=_REJECTED),
    "messages": Adapter(("messages",), chat.conversation("messages"), optional=_ID),
    "sharegpt": Adapter(("conversations",), chat.conversation("conversations"), optional=_ID),
    "instruction_output": Adapter(("instruction", "output"), chat.instruction_output, optional=("input", "id")),
    "wildjailbreak": Adapter(("vanilla", "adversarial", "completion", "data_type"), chat.wildjailbreak),
    "derta_train": Adapter(("prefix", "text", "safe"), chat.derta_train),
    "miniature": Adapter(miniature.COLUMNS, miniature.convert, optional=_ID),
}
