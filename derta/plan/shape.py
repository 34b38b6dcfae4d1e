"""A model's shape from its configuration alone: instantiated on the meta device, which holds no data.

Counting the parameters of a 70B model this way takes a second; PEFT adapts the empty model as it would the real one.
"""

import contextlib
import logging
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from derta.config import PeftMethod, TrainRunConfig
from derta.errors import InputError, first_line
from derta.plan.architectures import ARCHITECTURES


@dataclass(frozen=True)
class ModelShape:
    """What memory and time depend on. Counts are of parameters, widths of elements.

    source: where the architecture comes from.
    parameters, trainable: all (adapters included), and those with a gradient.
    active: those a token is multiplied with; of experts the chosen ones, the input embedding only where it is tied.
    adapted_inputs: input widths of all LoRA modules, summed over the model.
    adapter_rank: ranks of all LoRA modules, summed.
    adapted_stack: parameters of a layer that PEFT adapts as a whole (experts): each forward makes W + BA of them.
    linear, largest_linear: parameters of all linear layers but the head, which QLoRA rounds to four bits, and of the
        largest of them.
    largest, largest_trained: parameters of the largest tensor, and of the largest that is trained; layer: of one
        decoder layer; small: in tensors of at most 10 x hidden elements, which ZeRO-3 does not partition.
    attention, key_value: heads x head width of queries, and of keys.
    normed_queries: queries and keys have a norm of their own; capped: attention scores are soft-capped.
    feed_forward: width inside the (expert's) feed-forward network; experts_per_token: 1 without experts.
    """

    name: str
    source: str
    parameters: int
    trainable: int
    active: int
    adapted_inputs: int
    adapter_rank: int
    adapted_stack: int
    linear: int
    largest_linear: int
    largest: int
    largest_trained: int
    layer: int
    small: int
    hidden: int
    layers: int
    heads: int
    attention: int
    key_value: int
    feed_forward: int
    vocabulary: int
    tied: bool
    experts: int
    experts_per_token: int
    normed_queries: bool
    capped: bool
    attention_implementation: str

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, and of the head."""
        return self.vocabulary * self.hidden


def read_architecture(config: TrainRunConfig) -> tuple[Any, str]:
    """transformers' configuration of the model, and where it was found.

    A directory and the local hub cache come first, then the figures in architectures.py, then the hub.
    Raises InputError: none of them has it."""
    from transformers import AutoConfig

    name, model = config.model.name_or_path, config.model
    read = partial(AutoConfig.from_pretrained, name, revision=model.revision, trust_remote_code=model.trust_remote_code)
    source = "config.json of the directory" if Path(name).is_dir() else "hub"
    if source == "hub":
        with contextlib.suppress(OSError, ValueError):
            return read(local_files_only=True), "hub cache"
        if name in ARCHITECTURES:
            known = ARCHITECTURES[name]
            return AutoConfig.for_model(known.model_type, **known.fields), "figures of derta/plan/architectures.py"
    try:
        return read(), source
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.name_or_path={name}: its architecture cannot be read ({first_line(error)}): give a directory with "
            f"config.json, or one of the models known without a network: {', '.join(sorted(ARCHITECTURES))}"
        ) from error


def empty_model(config: TrainRunConfig) -> tuple[Any, str]:
    """The model on the meta device, with its adapter where the configuration asks for one; and the source.
    Raises InputError: an unknown architecture; LoRA targets that are not there."""
    import torch
    from transformers import AutoModelForCausalLM

    import derta.models.varlen  # noqa: F401  (registers an attention implementation)

    architecture, source = read_architecture(config)
    if config.model.attn_implementation is not None:
        architecture._attn_implementation = config.model.attn_implementation
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture, dtype=torch.bfloat16)
        if config.peft.method is PeftMethod.none:
            return model, source
        from peft import get_peft_model

        from derta.models.load import check_lora_targets
        from derta.training.arguments import lora_config

        adapter: Any = lora_config(config)
        if config.peft.target_modules != ["all-linear"]:
            check_lora_targets(model, config.peft.target_modules)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return get_peft_model(model, adapter), source
            except ValueError as error:
                raise InputError(f"peft: {first_line(error)}") from error


def model_shape(config: TrainRunConfig) -> ModelShape:
    """Raises InputError as `empty_model` does."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model, source = empty_model(config)
    text = model.config.get_text_config()
    hidden, heads = text.hidden_size, text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or hidden // heads
    experts = getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 0
    chosen = getattr(text, "num_experts_per_tok", 1) if experts else 1
    named = list(model.named_parameters())
    adapters = [(name, p) for name, p in named if "lora_" in name]
    base = [(name, p) for name, p in named if "lora_" not in name]
    stacks = [p for name, p in base if experts and p.ndim == 3 and p.shape[0] == experts]
    stacked = {id(p) for p in stacks}
    tied = bool(text.tie_word_embeddings)
    embedding = model.get_input_embeddings().weight.numel()
    active = sum(p.numel() * (chosen / experts if id(p) in stacked else 1) for _, p in base)
    layers = [p for name, p in base if ".layers.0." in name or ".h.0." in name]
    wrapped = tuple(name.split(".experts.")[0] + ".experts." for name, _ in adapters if ".experts." in name)
    adapted = [p for name, p in base if id(p) in stacked and name.startswith(wrapped)]
    inputs = [p for name, p in adapters if "lora_A" in name and not (experts and ".experts." in name)]
    linear = _linear_sizes(model)
    return ModelShape(
        name=config.model.name_or_path,
        source=source,
        parameters=sum(p.numel() for _, p in named),
        trainable=sum(p.numel() for _, p in named if p.requires_grad),
        active=int(active) - (0 if tied else embedding),
        adapted_inputs=sum(p.shape[1] for p in inputs),
        adapter_rank=sum(p.shape[0] for p in inputs),
        adapted_stack=sum(p.numel() for p in adapted) // text.num_hidden_layers,
        linear=sum(linear),
        largest_linear=max(linear, default=0),
        largest=max(p.numel() for _, p in base),
        largest_trained=max(p.numel() for _, p in named if p.requires_grad),
        layer=sum(p.numel() for p in layers),
        small=sum(p.numel() for _, p in named if p.numel() <= 10 * hidden),
        hidden=hidden,
        layers=text.num_hidden_layers,
        heads=heads,
        attention=heads * head_width,
        key_value=(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        feed_forward=_feed_forward(text, experts),
        vocabulary=text.vocab_size,
        tied=tied,
        experts=experts,
        experts_per_token=chosen,
        normed_queries=any(".q_norm." in name for name, _ in base),
        capped=getattr(text, "attn_logit_softcapping", None) is not None,
        attention_implementation=config.model.attn_implementation or "sdpa",
    )


def _linear_sizes(model: Any) -> list[int]:
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and "lora_" not in name]
    return [layer.weight.numel() for layer in layers if layer is not head]


def _feed_forward(text: Any, experts: int) -> int:
    names = ("moe_intermediate_size", "intermediate_size") if experts else ("intermediate_size", "n_inner")
    width = next((value for name in names if (value := getattr(text, name, None))), None)
    return width or 4 * text.hidden_size
