"""The model under evaluation: a full model or a LoRA adapter with its base, from a directory or the hub.

safetensors only and `trust_remote_code=False`: nothing from a checkpoint is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derta.config.evaluation import Placement
from derta.config.failures import world_size
from derta.config.model import EndpointConfig, ModelConfig
from derta.errors import InputError
from derta.models.conversation import ConversationCutter, check_tokenizer
from derta.models.fingerprint import base_of
from derta.models.load import load_model, load_tokenizer
from derta.models.precision import resolve_dtype
from derta.models.served import Server
from derta.models.taught import StopRule, reset_id

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

HELLO = [{"role": "user", "content": "Hello"}], [{"role": "assistant", "content": "Hello"}]


class TargetModel:
    """Model and tokenizer under evaluation. White-box attacks get this whole; others need the tokenizer only.

    The sampling settings that came with the model are dropped (`generate` would merge a repetition penalty into
    greedy search, say); its end tokens are kept.
    """

    server: Server | None = None
    """Generates in place of the weights, where there is one (derta.models.served)."""
    reset_id: int | None = None
    """What the model was taught to take back with all that its response holds before it."""
    guard: StopRule | None = None
    """Where responses would be stopped, if it is to be known."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase):
        self._use(tokenizer, model.generation_config.eos_token_id)
        self.model = self._ready(model)

    def _use(self, tokenizer: PreTrainedTokenizerBase, ends: int | list[int] | None) -> None:
        check_tokenizer(tokenizer, needs_chat_template=False)
        self.tokenizer = tokenizer
        self.cutter = ConversationCutter(tokenizer)
        self.pad_token_id: int = tokenizer.pad_token_id
        self._configured_ends = [ends] if isinstance(ends, int) else list(ends or [])

    @staticmethod
    def _ready(model: Any) -> Any:
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig()
        return model.eval()

    @cached_property
    def end_token_ids(self) -> list[int]:
        """Ids that end a response: the tokenizer's EOS, the model's own, and what the template ends a turn with."""
        ends = {self.tokenizer.eos_token_id, *self._configured_ends}
        if self.tokenizer.chat_template:
            ends.add(self.cutter.cut(*HELLO).end)
        return sorted(ends)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)  # type: ignore[return-value]

    @property
    def context_length(self) -> int | None:
        """Tokens the position embedding was made for; None where the architecture names no limit."""
        return getattr(self.model.config, "max_position_embeddings", None)


class ServedTarget(TargetModel):
    """A model that a server generates for. The weights are loaded here only if something asks for them: P(refusal),
    a white-box attack, a benchmark."""

    def __init__(self, source: Path | str, tokenizer: PreTrainedTokenizerBase, server: Server, load: Callable[[], Any]):
        from transformers import GenerationConfig

        try:
            ends = GenerationConfig.from_pretrained(str(source)).eos_token_id
        except OSError:  # a model without generation_config.json: the tokenizer and the template name its ends
            ends = None
        self._use(tokenizer, ends)
        self.server = server
        self._load = load

    @cached_property
    def model(self) -> Any:
        return self._ready(self._load())


def load_target(
    config: ModelConfig,
    device: torch.device | str,
    placement: Placement = "copy_per_rank",
    server: EndpointConfig | None = None,
    kind: type[TargetModel] = TargetModel,
) -> TargetModel:
    """Load a model, or a LoRA adapter on its base, for generation.
    Raises InputError: no such directory, no safetensors, pickle only, an adapter without its base, a tokenizer without
    EOS or pad token; a placement that this machine or model does not allow; a server that cannot be used."""
    base = base_of(config)
    adapter, tokenizer = base is not config, target_tokenizer(config)

    def load() -> Any:
        model = load_placed(base, device, placement, adapter=adapter)
        if not adapter:
            return model
        from peft import PeftModel

        return PeftModel.from_pretrained(model, config.name_or_path)

    if server is not None and server.url:
        target: TargetModel = ServedTarget(base.name_or_path, tokenizer, Server(server), load)
    else:
        target = kind(load(), tokenizer)
    target.reset_id = reset_id(config)
    return target


def target_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer; an adapter's own, else its base's. Raises InputError: as `load_target`."""
    base = base_of(config)
    own = base is config or (Path(config.name_or_path) / "tokenizer_config.json").is_file()
    return load_tokenizer(config if own else base)


def load_placed(config: ModelConfig, device: torch.device | str, placement: Placement, *, adapter: bool) -> Any:
    """The weights where they belong: whole on one device, over all devices of this process, or cut across the ranks.
    Raises InputError: a placement that does not go with the number of processes, or with an adapter."""
    import torch

    dtype, world = resolve_dtype(config), world_size()
    if placement == "copy_per_rank":
        return load_model(config, dtype).to(torch.device(device))  # type: ignore[arg-type]
    if placement == "device_map":
        if world > 1:
            raise InputError(
                f"eval.placement=device_map spreads one model over all devices of one process, and torchrun started "
                f"{world}: start it with plain python, or choose eval.placement=tensor_parallel"
            )
        return load_model(config, dtype, device_map="auto")
    if world < 2:
        raise InputError(
            "eval.placement=tensor_parallel cuts the model across processes, and there is one: start it with "
            "torchrun --nproc_per_node N, or choose eval.placement=device_map"
        )
    if adapter:
        raise InputError(
            "eval.placement=tensor_parallel cannot cut a LoRA adapter: merge it into its base first "
            "(launch/export.py), or choose eval.placement=device_map"
        )
    return load_model(config, dtype, tp_plan="auto")
