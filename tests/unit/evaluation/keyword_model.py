"""A judge model whose answers are known because its weights are set by hand.

It answers with the text of the keyword that it finds, wherever it stands, else with the default:

    "... gloomsteps ..."  ->  "yes" <end>          "..."  ->  "no" <end>

Each answer is one token of the vocabulary. Where several keywords stand in a text, the one named last wins.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

_STRONG = 1e6


def model_of_shares(tokenizer: Any, features: Mapping[int, int], n: int, context: int) -> LlamaForCausalLM:
    """One Llama layer, no training; a head of zeros is left to be set. Tokens have one of n features (those that are
    not named have feature 0). Attention is uniform, so the hidden state [2 n] at a position is the feature of its token
    (one-hot), and behind it the *share* of each feature in the text so far."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2 * n, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=context, tie_word_embeddings=False, rms_norm_eps=1e-9, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    layer = model.model.layers[0]
    with torch.no_grad():
        for weights in (*layer.self_attn.parameters(), layer.mlp.down_proj.weight, model.lm_head.weight):
            weights.zero_()
        of_token = torch.tensor([features.get(token, 0) for token in range(len(tokenizer))])
        model.model.embed_tokens.weight.copy_(torch.nn.functional.one_hot(of_token, 2 * n))
        layer.self_attn.v_proj.weight[:n, :n] = torch.eye(n)
        layer.self_attn.o_proj.weight[n:, :n] = torch.eye(n) / (2 * n) ** 0.5  # undoes the norm before the attention
    return model


def save_judge(
    tokenizer: Any, directory: Path, answers: Mapping[str, str], default: str, *, context: int = 4096
) -> Path:
    """Save model and tokenizer to `directory`.

    Args:
        tokenizer: gets the keywords and the answers as tokens.
        answers: keyword -> the judge's answer.
    """
    texts = list(dict.fromkeys([default, *answers.values()]))
    tokenizer.add_tokens([*answers, *(f"ANSWER{i}" for i in range(len(texts)))])
    keyword_ids = [tokenizer.convert_tokens_to_ids(word) for word in answers]
    answer_ids = [tokenizer.convert_tokens_to_ids(f"ANSWER{i}") for i in range(len(texts))]
    n = 2 + len(answers)  # features of a token: any, an answer, one per keyword
    features = dict.fromkeys(answer_ids, 1) | {token: 2 + place for place, token in enumerate(keyword_ids)}
    model = model_of_shares(tokenizer, features, n, context)
    head = model.lm_head.weight
    with torch.no_grad():
        head[answer_ids[0], 0] = 1.0
        head[answer_ids[0], 2:n] = 1.0
        for place, answer in enumerate(answers.values()):
            head[answer_ids[texts.index(answer)], n + 2 + place] += _STRONG * 100**place
        head[tokenizer.eos_token_id, 1] = 1e30
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _spell_out(directory / "tokenizer.json", {f"ANSWER{i}": text for i, text in enumerate(texts)})
    return directory


def _spell_out(file: Path, texts: Mapping[str, str]) -> None:
    """Write the answers' texts into the saved vocabulary, each with an end that no question holds: an answer that were
    a token of the questions, too, would be found in them."""
    saved = json.loads(file.read_text(encoding="utf-8"))
    for token in saved["added_tokens"]:
        token["content"] = f"{texts[name]} \n" if (name := token["content"]) in texts else name
    file.write_text(json.dumps(saved), encoding="utf-8")
