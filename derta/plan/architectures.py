"""Architectures of public models, so that a plan needs neither weights nor a network.

Each entry holds what its config.json on the Hugging Face hub says, as far as it changes a shape; everything else is the
default of transformers' configuration class. `parameters` is the total that the hub shows for the safetensors files, or
the model's card: tests hold the instantiated architecture against it.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """model_type: as in transformers. parameters: the published count. fields: of its configuration class."""

    model_type: str
    parameters: int
    fields: dict[str, Any]


def _llama(hidden: int, inter: int, layers: int, heads: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    """The names that Llama and its relatives share; 8 key-value heads unless said otherwise."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inter,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "num_key_value_heads": 8,
        **more,
    }


_LLAMA, _QWEN = 128_256, 151_936  # vocabularies
_MIXTRAL = {"num_local_experts": 8, "num_experts_per_tok": 2}
_QWEN_MOE = {"moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "num_key_value_heads": 4}
_FAMILIES: tuple[tuple[str, int, dict[str, Any], str], ...] = (
    # model type, parameters, fields, names
    (
        "llama", 8_030_261_248, _llama(4096, 14336, 32, 32, _LLAMA),
        "meta-llama/Meta-Llama-3-8B meta-llama/Meta-Llama-3-8B-Instruct meta-llama/Llama-3.1-8B "
        "meta-llama/Llama-3.1-8B-Instruct",
    ),
    (
        "llama", 70_553_706_496, _llama(8192, 28672, 80, 64, _LLAMA),
        "meta-llama/Meta-Llama-3-70B meta-llama/Meta-Llama-3-70B-Instruct meta-llama/Llama-3.1-70B-Instruct "
        "meta-llama/Llama-3.3-70B-Instruct",
    ),
    (
        "llama", 1_235_814_400, _llama(2048, 8192, 16, 32, _LLAMA, tie_word_embeddings=True),
        "meta-llama/Llama-3.2-1B meta-llama/Llama-3.2-1B-Instruct",
    ),
    (
        "llama", 3_212_749_824, _llama(3072, 8192, 28, 24, _LLAMA, tie_word_embeddings=True),
        "meta-llama/Llama-3.2-3B meta-llama/Llama-3.2-3B-Instruct",
    ),
    ("mistral", 7_241_732_096, _llama(4096, 14336, 32, 32, 32_000), "mistralai/Mistral-7B-v0.1"),
    ("mixtral", 46_702_792_704, _llama(4096, 14336, 32, 32, 32_000, **_MIXTRAL), "mistralai/Mixtral-8x7B-v0.1"),
    ("qwen3", 8_190_735_360, _llama(4096, 12288, 36, 32, _QWEN, head_dim=128), "Qwen/Qwen3-8B"),
    ("qwen3", 32_762_123_264, _llama(5120, 25600, 64, 64, _QWEN, head_dim=128), "Qwen/Qwen3-32B"),
    ("qwen3_moe", 30_532_122_624, _llama(2048, 6144, 48, 32, _QWEN, head_dim=128, **_QWEN_MOE), "Qwen/Qwen3-30B-A3B"),
    (
        "gemma3_text", 999_885_952,
        _llama(1152, 6912, 26, 4, 262_144, num_key_value_heads=1, head_dim=256, tie_word_embeddings=True),
        "google/gemma-3-1b-it",
    ),
    (
        "gemma2", 9_241_705_984, _llama(3584, 14336, 42, 16, 256_000, head_dim=256, tie_word_embeddings=True),
        "google/gemma-2-9b-it",
    ),
    (
        "olmo2", 7_298_617_344, _llama(4096, 11008, 32, 32, 100_352, num_key_value_heads=32),
        "allenai/OLMo-2-1124-7B allenai/OLMo-2-1124-7B-Instruct",
    ),
)  # fmt: skip
ARCHITECTURES = {
    name: Architecture(model_type, parameters, fields)
    for model_type, parameters, fields, names in _FAMILIES
    for name in names.split()
}
