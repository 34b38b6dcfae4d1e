"""Training with the refusal direction ablated, so that refusal does not come to hang on one direction.

    harmful prompts  --mean of a block input-->
                                                 difference = direction --> ablated in rows with harmful prefix, each
    harmless prompts --mean of a block input-->                             with probability p, forward and backward

A row that is ablated has to arrive at its safe response without the direction; RTO and helpful rows are left alone.
Which rows, is drawn from a hash of (seed, epoch, example id), as the prefixes are. The direction is that of the model
as it stands, computed anew every `ablation_refresh_steps` optimizer steps from the same few prompts of the training
rows: one forward of each, and one of the harmful prompts per place where there are several to choose from (the whole
selection of derta/direction/, with three forwards per place and the harmless prompts too, would be too dear). A
checkpoint carries the direction in use, so that a resumed run goes on as if it had never stopped.

Source: Yu et al., "Robust LLM safeguarding via refusal feature adversarial training" (ReFAT, arXiv 2409.20089).
Shapes: N prompts, P positions, L layers, H hidden size.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import Trainer

from derta.config import AblationConfig
from derta.errors import InputError
from derta.models.generation import left_pad
from derta.objective.rows import IGNORE, View
from derta.residual.blocks import block_inputs, locate_blocks
from derta.residual.direction_files import Direction, differences, load_direction, save_direction
from derta.residual.interventions import directional_ablation
from derta.training.collator import ABLATED
from derta.training.undisturbed import evenly, undisturbed

logger = logging.getLogger(__name__)

DIRECTION_FILE = "ablation_direction.safetensors"  # in a checkpoint
_TAIL = 16  # tokens compared to find harmless prompts that end as the harmful ones do
_LOOKED_AT = 2000  # harmless rows among which they are looked for

Prompts = list[list[int]]


def direction_prompts(table: Dataset, count: int) -> dict[str, Prompts]:
    """The "harmful" and "harmless" prompts that directions are computed from, as token ids; the same ones on every rank
    and after a resume: at most `count` of either side from a table of training rows, at even distances. Of the harmless
    prompts those that end most like the harmful ones, so that the two means differ by what is asked, not by its form.

    Raises:
        InputError: the rows hold no harmful or no harmless prompt.
    """
    entries = list(zip(table["view"], table["copy"], strict=True))

    def prompts(view: View, at_most: int) -> Prompts:
        places = evenly([place for place, entry in enumerate(entries) if entry == (view, 0)], at_most)
        return table.select(places)["prompt_ids"][:] if places else []

    harmful, others = prompts(View.MLE_WITH_PREFIX, count), prompts(View.MLE, _LOOKED_AT)
    if not harmful or not others:
        raise InputError(
            f"objective.ablation needs prompts of both sides in the training rows, and there are {len(harmful)} of "
            f"triples and {len(others)} of helpful rows: give data with both, or set objective.ablation.probability=0"
        )
    likeness = [max(_common_tail(prompt, other) for other in harmful) for prompt in others]
    best = sorted(range(len(others)), key=lambda i: (-likeness[i], i))[:count]
    return {"harmful": harmful, "harmless": [others[i] for i in sorted(best)]}


class TrainingDirection:
    """The refusal direction of the model that is being trained.

    Args:
        trainer: whose model it is of.
        prompts: of `direction_prompts`.
        settings: where it may be read, and for how many steps it is kept.
        refusal_id: the token whose probability says how much the model refuses.

    Raises:
        InputError: layers that the model does not have, prompts shorter than the positions, a model whose blocks
            cannot be reached.
    """

    def __init__(self, trainer: Trainer, prompts: dict[str, Prompts], settings: AblationConfig, refusal_id: int):
        self.trainer, self.refresh_steps, self.refusal_id = trainer, settings.refresh_steps, refusal_id
        depth, positions = len(locate_blocks(trainer.model)), settings.positions
        layers = [depth // 2] if settings.layers is None else settings.layers
        if too_high := [layer for layer in layers if layer >= depth]:
            raise InputError(f"objective.ablation.layers={too_high}: the model has the layers 0 to {depth - 1}")
        self.places = [(position, layer) for position in positions for layer in layers]
        reach = -min(positions)
        shortest = min(len(ids) for some in prompts.values() for ids in some)
        if shortest < reach:
            given = f"objective.ablation.positions={list(positions)}"
            raise InputError(f"{given}: the shortest prompt has {shortest} tokens")
        tokenizer: Any = trainer.processing_class
        self._reach, self._pad_token_id = reach, tokenizer.pad_token_id
        self._batches = {side: self._cut(some) for side, some in prompts.items()}
        self.current: Direction | None = None

    @contextlib.contextmanager
    def ablated(self, batch: dict[str, Any]) -> Iterator[None]:
        """For one micro-batch, forward and backward (with activation checkpointing the blocks run again there): its
        ablated rows go without the direction. Every rank must enter it."""
        tokens = batch.pop(ABLATED)
        direction = self.at(self.trainer.state.global_step)
        if not tokens.any():
            yield
            return
        with directional_ablation(self.trainer.model, direction.vector, tokens=tokens):
            yield

    def at(self, step: int) -> Direction:
        """The direction for the optimizer step behind `step` others. Every rank must call it."""
        if self.current is None or step % self.refresh_steps == 0 and self.current.about["step"] != str(step):
            self.current = self._compute(step)
            place = self.current.position, self.current.layer
            said = "ablation: from step %d on the direction at position %d, layer %d; its length is %.3g"
            logger.info(said, step, *place, float(self.current.vector.norm()))
        return self.current

    def save(self, checkpoint: Path) -> None:
        if self.current is not None:
            save_direction(checkpoint / DIRECTION_FILE, self.current)

    def load(self, checkpoint: Path | None) -> None:
        """Take a checkpoint's direction; one without a file was saved by a run without ablation."""
        self.current = None
        if checkpoint is not None and (checkpoint / DIRECTION_FILE).is_file():
            hidden_size = locate_blocks(self.trainer.model).hidden_size
            self.current = load_direction(checkpoint / DIRECTION_FILE, hidden_size)

    def _compute(self, step: int) -> Direction:
        with undisturbed(self.trainer) as model:
            found = differences(*(self._mean(model, some) for some in self._batches.values()))  # [P, L, H]
            vectors = {place: found[place] for place in self.places if bool(found[place].any())}
            if not vectors:
                raise InputError(
                    "objective.ablation: harmful and harmless prompts have the same mean at "
                    f"{', '.join(f'position {p}, layer {n}' for p, n in self.places)}: read the direction at a higher "
                    "layer or at a token of the instruction (objective.ablation.layers, positions)"
                )
            refusal = {}
            if len(vectors) > 1:
                for place, vector in vectors.items():
                    with directional_ablation(self.trainer.model, vector):
                        refusal[place] = self._refusal(model)
        chosen = min(vectors, key=lambda place: refusal.get(place, 0.0))
        # float32, as the file has it: a resumed run must go on with the same bits.
        vector = vectors[chosen].to(torch.float32)
        if self.trainer.args.world_size > 1:  # equal up to rounding is not equal
            packed = torch.cat([vector, torch.tensor(chosen, dtype=torch.float32)]).to(self.trainer.args.device)
            torch.distributed.broadcast(packed, src=0)
            vector, chosen = packed[:-2].cpu(), (int(packed[-2]), int(packed[-1]))
        return Direction(vector, *chosen, {"step": str(step)})

    def _cut(self, prompts: Prompts) -> list[dict[str, torch.Tensor]]:
        """Left-padded batches; behind every prompt the refusal token, the only label.

        pad pad  p p p p  S     the direction is read at the tokens before S
         -   -   - - - -  S     log P(S | prompt) is what the head gives
        """
        size = self.trainer.args.per_device_train_batch_size  # fits with gradients, so it fits without
        ordered = sorted(prompts, key=len)
        batches = []
        for first in range(0, len(ordered), size):
            rows = [[*ids, self.refusal_id] for ids in ordered[first : first + size]]
            input_ids, mask = left_pad(rows, self._pad_token_id)
            labels = torch.full_like(input_ids, IGNORE)
            labels[:, -1] = input_ids[:, -1]
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            batch = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions, "labels": labels}
            batches.append({name: tensor.to(self.trainer.args.device) for name, tensor in batch.items()})
        return batches

    def _forward(self, model: Any, batches: list[dict[str, torch.Tensor]]) -> Iterator[torch.Tensor]:
        for batch in batches:
            with self.trainer.compute_loss_context_manager():
                yield model(**batch, use_cache=False, fused_lm_head=True).log_probs[:, -1].double()

    def _mean(self, model: Any, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """[P, L, H] float64 on the CPU: mean block input at the last P tokens of the prompts."""
        total, count = torch.zeros(()), 0
        with block_inputs(self.trainer.model, self._reach + 1) as seen:
            for log_probs in self._forward(model, batches):
                count += len(log_probs)
                # The last token is the refusal token's.
                total = total + torch.stack([x[:, :-1].double().sum(0).cpu() for x in seen], 1)
        return total / count

    def _refusal(self, model: Any) -> float:
        """Mean log-odds of the refusal token behind the harmful prompts."""
        log_p = torch.cat(list(self._forward(model, self._batches["harmful"])))
        return float((log_p - (-torch.expm1(log_p)).clamp(min=1e-12).log()).mean())


def _common_tail(one: list[int], other: list[int]) -> int:
    return len(os.path.commonprefix([one[: -_TAIL - 1 : -1], other[: -_TAIL - 1 : -1]]))  # of lists as of paths
