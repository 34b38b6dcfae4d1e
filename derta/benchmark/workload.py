"""What is measured on: the miniature's rows and tokenizer, and Llamas of any vocabulary with random weights.

The paper trains on 60k helpful rows (Evol-Instruct) and 3k triples, at most 1024 tokens (section 4.1). The lengths of
that mix are drawn here, as its rows are not: lognormal, with medians (prompt, response) of 100 and 300 tokens for
helpful rows, 20, 80 and 200 for prompt, safe and harmful response of triples. These medians are assumptions.
"""

import random
from functools import lru_cache
from itertools import islice
from typing import Any

MAX_LENGTH = 320  # of the miniature's rows
_HELPFUL, _PROMPT, _SAFE, _HARMFUL = (100, 300), 20, 80, 200
_SPREAD = 0.7
PAPER_LENGTH = 1024  # tokens per row, paper section 4.1; longer ones lose their end, as in the reference


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    from derta.miniature.tokenizer import build_tokenizer

    return build_tokenizer()


def miniature_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of data_recipes/miniature.yaml: a triple to every three helpful rows, shuffled."""
    from derta.miniature.rows import generate

    rows: list[dict[str, Any]] = [dict(row) for row in islice(generate("safety", count // 4, seed), count // 4)]
    rows += [dict(row) for row in islice(generate("helpful", count - len(rows), seed), count - len(rows))]
    for index, row in enumerate(rows):
        row["id"] = f"row-{index}"
    random.Random(seed).shuffle(rows)
    return rows


def paper_mix(count: int, scale: float) -> list[dict[str, Any]]:
    """Chat rows with the paper's mix of lengths, every length multiplied by `scale`; text is words of the miniature.
    Every 21st row is a triple: 3k of 63k.
    """
    rng = random.Random(0)
    words = sorted(token[1:] for token in tokenizer().get_vocab() if token[:1] == "Ġ" and token[1:].isalpha())

    def text(median: int, longest: int = PAPER_LENGTH) -> str:
        length = max(2, round(scale * median * rng.lognormvariate(0, _SPREAD)))
        return " ".join(rng.choice(words) for _ in range(min(length, round(scale * longest))))

    rows = []
    for index in range(count):
        is_triple = index % 21 == 10
        prompt, chosen = (_PROMPT, _SAFE) if is_triple else _HELPFUL
        rows.append(
            {
                "id": f"row-{index}",
                "prompt": [{"role": "user", "content": text(prompt, longest=PAPER_LENGTH // 2)}],
                "chosen": [{"role": "assistant", "content": text(chosen)}],
                "rejected": [{"role": "assistant", "content": text(_HARMFUL)}] if is_triple else None,
            }
        )
    return rows


def dataset(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{key: row[key] for key in ("id", "prompt", "chosen", "rejected")} for row in rows])


def llama(
    vocabulary: int, hidden: int = 128, layers: int = 3, seed: int = 0, dtype: str = "float32", **shape: Any
) -> Any:
    """A Llama with random weights, by default in the miniature's shape. shape: more of LlamaConfig."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(seed)
    own = {"intermediate_size": hidden * 21 // 8, "num_attention_heads": 4, "tie_word_embeddings": False}
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, max_position_embeddings=2048,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, **{**own, **shape},
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
