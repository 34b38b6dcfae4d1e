"""Training curves as sums over tokens, gathered once per log line.

Ratios of micro-batches are biased where a micro-batch holds no RTO token; so numerators and denominators are summed on
the device over micro-batches, steps and ranks, and divided once, when a line is written. What the host knows anyway
(how long the rows are) is summed on the host: no micro-batch waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from derta.models.flops import ModelFlops
from derta.training.throughput import Stopwatch

_ON_DEVICE = ("mle_nll", "mle_tokens", "mle_correct", "rto_nll", "rto_tokens", "refusal_prob")
_ON_HOST = ("tokens", "slots", "squares")


class TokenSums:
    """Running sums of one mode (training or evaluation).

    Logged: mle_loss, rto_loss (nats per token), mle_tokens, rto_tokens (supervised tokens in the window, all ranks),
    refusal_prob (mean P(refusal token) over RTO tokens), mle_token_accuracy, padding_share (of the tokens a batch has
    room for), tokens_per_second (input tokens without padding, all ranks), supervised_tokens_per_second, num_tokens
    (input tokens of the window; the trainer adds them up), and mfu where the model's FLOPs and the device's peak are
    known.

    Args:
        watch: what the rates are divided by; there are none while it has not been started.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self._on_device: torch.Tensor | None = None
        self._on_host = [0] * len(_ON_HOST)

    @torch.no_grad()
    def add(
        self,
        log_probs: torch.Tensor,
        correct: torch.Tensor,
        objective: torch.Tensor,
        lengths: Sequence[int],
        slots: int,
    ) -> None:
        """One micro-batch, without host synchronisation.

        Args:
            log_probs, correct, objective: [B, T].
            lengths: tokens of each row.
            slots: tokens the batch has room for, padding included.
        """
        mle, rto = objective == 1, objective == 2
        nothing = log_probs.new_zeros(())
        values = [
            -torch.where(mle, log_probs, nothing).sum(),
            mle.sum(),
            (correct.bool() & mle).sum(),
            -torch.where(rto, log_probs, nothing).sum(),
            rto.sum(),
            torch.where(rto, log_probs.exp(), nothing).sum(),
        ]
        # MPS has no float64; everywhere else counts stay exact far beyond one window.
        dtype = torch.float32 if log_probs.device.type == "mps" else torch.float64
        added = torch.stack([value.detach().to(dtype) for value in values])
        self._on_device = added if self._on_device is None else self._on_device + added
        known = (sum(lengths), slots, sum(length * length for length in lengths))
        self._on_host = [before + more for before, more in zip(self._on_host, known, strict=True)]

    def drain(
        self, accelerator: Accelerator, flops: ModelFlops | None = None, peak_flops: float | None = None
    ) -> dict[str, float]:
        """The window's curves, over all ranks; the sums start again. Every rank must call it.

        Args:
            flops: what the model computes per token; with peak_flops (of one device) it gives mfu.
        """
        if self._on_device is None:
            return {}
        sums = torch.cat([self._on_device, self._on_device.new_tensor(self._on_host)])
        total = dict(
            zip(_ON_DEVICE + _ON_HOST, accelerator.reduce(sums, reduction="sum").tolist(), strict=True)
        )  # fmt: skip
        elapsed = self.watch.read()
        self._on_device, self._on_host = None, [0] * len(_ON_HOST)
        supervised = total["mle_tokens"] + total["rto_tokens"]
        curves = {
            "mle_tokens": total["mle_tokens"],
            "rto_tokens": total["rto_tokens"],
            "padding_share": 1 - total["tokens"] / total["slots"],
            "num_tokens": total["tokens"],
        }
        if elapsed > 0:
            curves["tokens_per_second"] = total["tokens"] / elapsed
            curves["supervised_tokens_per_second"] = supervised / elapsed
            if flops is not None and peak_flops is not None:
                done = flops.total(tokens=total["tokens"], supervised=supervised, squares=total["squares"])
                curves["mfu"] = done / (elapsed * peak_flops * accelerator.num_processes)
        if total["mle_tokens"]:  # an absent objective has no curve, rather than a curve of zeros
            curves["mle_loss"] = total["mle_nll"] / total["mle_tokens"]
            curves["mle_token_accuracy"] = total["mle_correct"] / total["mle_tokens"]
        if total["rto_tokens"]:
            curves["rto_loss"] = total["rto_nll"] / total["rto_tokens"]
            curves["refusal_prob"] = total["refusal_prob"] / total["rto_tokens"]
        return curves
