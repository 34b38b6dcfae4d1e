"""What a forward leaves for its backward, and what the largest step between the two takes besides.

    H hidden   A = heads x head width   K = key-value heads x head width   I feed-forward width   L layers
    k experts per token   s tokens per row   V vocabulary

Bytes per token and decoder layer that torch saves, in bfloat16 and with an attention that keeps no s x s scores
(Korthikanti et al., arXiv 2205.05198 section 4 count the same way for GPT; here for transformers' Llama family):

    two RMS norms     the float32 copy of the input (4H), the normalised input (2H), the output (2H)     16 H
    attention         rotated queries, keys and values repeated for every head, output                    8 A
    feed-forward      gate, its activation, up, their product; k times with experts                       8 I k
    experts           each chosen expert's input and output                                               4 H k
    norms of q and k  where the model has them                                                            6 (A + K)
    mask              turned into numbers of the attention's precision; s is of all rows where they are
                      flattened, and there is none with varlen, flex_attention and flash_attention        2 s
    eager attention   scores in float32 and bfloat16, and once more where they are capped                 6 or 8 heads s

A float32 residual stream takes 26 H: inputs and normalised inputs in float32, and a bfloat16 copy of the output for
each of q, k, v, gate and up, which autocast casts one by one. A frozen base keeps less (no input of a weight that gets
no gradient). Its adapters keep what comes out of A, and of every input a bfloat16 copy where the input is dropped or
cast (float32 adapters), and one byte of mask where it is dropped.

At work, besides: the gradients of gate, up and their product, less what they replace (4 I k), or in the forward of an
adapted layer its product (2 I k), hidden states that nothing saves (10 H), and where adapters are float32 the input of
the down projection in float32 (4 I k), once more where it is dropped. A base in four bits saves what any frozen base
does; its largest linear layer is made whole in 16 bits for each product. Activations that wait on the host
(trainer.activation_offloading) leave the five last ones on the GPU (TRL's max_fwd_stash_size); not held against a GPU.

tests/unit/plan/test_activations.py holds all this against what torch saves and holds at its peak on small models. On
one H200 (Llama 3, 16 rows of at most 1,024 tokens, float32 adapters or masters; the longest row was not recorded):

    allocated at the peak, GiB             measured    planned for 1,024 tokens    for 900
    8B, LoRA r=96, checkpointing             28.9                29.7                28.3
    1B, full, no checkpointing               51.1                55.6                51.4
"""

from derta.plan.settings import Settings
from derta.plan.shape import ModelShape

_STASH = 5
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768  # of TRL's fused head: trl.kernels.chunked_logprob, trl.trainer.utils


def layer_bytes(shape: ModelShape, settings: Settings) -> int:
    """What one decoder layer saves of one micro-batch."""
    h, a, k, i = shape.hidden, shape.attention, shape.key_value, shape.feed_forward * shape.experts_per_token
    per_token = 8.0 * a + 4 * shape.heads
    if not settings.lora:
        per_token += (26 if settings.wide else 16) * h + 8 * i
    elif _own_inputs(settings):
        inputs = (2 + settings.dropout) * shape.adapted_inputs
        per_token += 8 * h + 6 * i + (2 * shape.adapter_rank + inputs) / shape.layers
    else:
        per_token += (10 if shape.experts else 12) * h + 8 * i + 2 * shape.adapter_rank / shape.layers
    if shape.experts:
        per_token += 4 * h * shape.experts_per_token
    if shape.normed_queries:
        per_token += 6 * (a + k)
    if shape.attention_implementation == "eager":
        per_token += (8 if shape.capped else 6) * shape.heads * settings.keys
    else:
        per_token += 2 * settings.keys
    return int(per_token * settings.tokens) + 2 * shape.adapted_stack


def kept_bytes(shape: ModelShape, settings: Settings) -> int:
    """From forward to backward: with checkpointing each layer's input alone, else all that it saves, and the bfloat16
    copies of float32 weights."""
    if settings.checkpointing:
        return shape.layers * (4 if settings.wide else 2) * shape.hidden * settings.tokens
    return shape.layers * layer_bytes(shape, settings) + _cast_weights(shape, settings)


def stashed_bytes(shape: ModelShape, settings: Settings) -> int:
    """What stays of `kept_bytes` where the rest goes to the host: five of the widest tensors, and the cast weights."""
    width = (4 if settings.wide else 2) * shape.hidden
    if settings.checkpointing:
        return _STASH * width * settings.tokens
    widest = max(4 * shape.hidden, 2 * shape.feed_forward * shape.experts_per_token, 2 * settings.keys)
    return _STASH * widest * settings.tokens + _cast_weights(shape, settings)


def working_bytes(shape: ModelShape, settings: Settings) -> int:
    """The largest of three moments: the head's backward; a layer's, which checkpointing computes again; and, with
    checkpointing, the end of the forward, until which autocast keeps its copies of all weights."""
    trained_head = 0 if settings.lora else shape.embedding
    held = settings.weight * trained_head if shape.tied else 0  # waits for the gradient of the embedding
    layer = _passing_bytes(shape, settings) + held
    if not settings.checkpointing:
        return max(_head_bytes(shape, settings, trained_head), layer)
    layer += layer_bytes(shape, settings)
    return max(
        _head_bytes(shape, settings, trained_head),
        layer + _cast_weights(shape, settings) // shape.layers,
        _head_bytes(shape, settings, 0) + _cast_weights(shape, settings),
    )


def _own_inputs(settings: Settings) -> bool:
    """Adapters save inputs of their own, not the base's."""
    return settings.dropout or settings.wide_adapters


def _cast_weights(shape: ModelShape, settings: Settings) -> int:
    """Autocast's bfloat16 copies of float32 weights, made once in a forward; embedding and fused head have none."""
    if settings.wide:
        return 2 * (shape.parameters - shape.embedding * (1 if shape.tied else 2))
    return 2 * shape.trainable if settings.wide_adapters else 0


def _passing_bytes(shape: ModelShape, settings: Settings) -> int:
    """What a layer makes besides and saves not."""
    i = shape.feed_forward * shape.experts_per_token
    backward = forward = 4 * i
    if settings.lora and _own_inputs(settings):
        forward = 10 * shape.hidden + 2 * i + settings.wide_adapters * (4 + 4 * settings.dropout) * i
    whole = settings.weight * shape.largest_linear if settings.four_bits else 0
    return max(backward, forward) * settings.tokens + whole


def _head_bytes(shape: ModelShape, settings: Settings, trained: int) -> int:
    """The final norm (8H per token) and TRL's fused head: no [b, s, V] logits, but tiles of at most 4,096 tokens x
    32,768 entries, made anew in the backward pass. That sums gradients in float32: of the hidden states (4H per
    position, and twice more in their own precision), and of the head's `trained` weights (4 V H, and once more as they
    are handed on in bfloat16). Every position counted as supervised."""
    positions = settings.rows * (settings.length - 1)
    tile = 2 * min(positions, TILE_TOKENS) * TILE_VOCABULARY
    states = shape.hidden * (positions * (12 if settings.wide else 8) + 8 * settings.tokens)
    return tile + states + trained * (4 if settings.weight == 4 else 6)
