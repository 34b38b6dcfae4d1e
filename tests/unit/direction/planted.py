"""A model whose refusal hangs on one planted direction, built by hand."""

from typing import Any

import torch

from derta.config.direction import DirectionConfig
from derta.direction.prompts import Side, draw_sides, read_sides
from derta.models.target import TargetModel

HIDDEN, LAYERS = 32, 5
HARM, ALWAYS, PLANTED = 3, 7, 11  # axes of the stream: "a harmful word", "any token", refusal


def load_sides(config: DirectionConfig, target: TargetModel) -> tuple[Side, Side]:
    return draw_sides(read_sides(config), config, target)


def planted_model(tokenizer: Any, *, refuses: bool = True) -> Any:
    """A Llama that says Sorry where the last token's stream points along `PLANTED`, else Step.

    Harmful words are embedded with a part along `HARM`; attention of layer 0 is even over all tokens, reads `HARM` and
    writes `PLANTED`; every token has a part along `ALWAYS`, which the head reads as Step. All else is small noise.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS,
            num_attention_heads=4, max_position_embeddings=128, initializer_range=0.01, tie_word_embeddings=False,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )
    )  # fmt: skip
    sorry, step = (tokenizer.convert_tokens_to_ids(word) for word in ("Sorry", "Step"))
    harmful_words = [i for text, i in tokenizer.get_vocab().items() if text.strip("Ġ") == "harmful"]
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
        embedding[:, ALWAYS] += 1.0
        embedding[harmful_words, HARM] += 3.0
        first = model.model.layers[0].self_attn
        first.q_proj.weight.zero_()
        first.v_proj.weight[0, HARM] = 12.0
        first.o_proj.weight[PLANTED, 0] = 1.0
        head[step, ALWAYS] = 3.0
        head[sorry, PLANTED] = 6.0 if refuses else 0.0
    return model.eval()
