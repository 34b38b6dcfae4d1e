"""Scores along given responses that could stop them: P(refusal), ADA-RK and a linear probe, in one pass.

    prompt | r1 .. rn | r(n+1) .. r2n |         forwards of n tokens with a KV cache; logits and hidden states of each
                      | H a1 .. am              the chat template's header H and m - 1 greedy tokens, then forgotten

    P(refusal)     at every position; the position before the token that ends the turn is one of them
    ADA-RK         arXiv 2510.18081, section 4: behind every n-th token the end of the turn and the assistant's header
                   are inserted, and a model that is asked anew sees what it has begun. Score: the highest P(refusal) at
                   m positions behind the header; at position 0, where the header stands already, P(refusal) itself.
                   Ours differs in that a probability is read instead of phrases in a generated text.
    linear probe   w h + b of a hidden state h [H], a logistic regression: which positions are of harmful responses?

Shapes: B rows, n response tokens (the end included), V vocabulary, H hidden size.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from derta.config.stop import Monitor
from derta.errors import InputError
from derta.evaluation.attacks.disguises import written_behind
from derta.models.conversation import Cut
from derta.models.generation import left_pad
from derta.models.refusal_stop import probability_of_any
from derta.models.target import TargetModel
from derta.objective.refusal_probability import longest_first, response_cuts
from derta.progress import progress

PROBED = 8
"""Layers that a probe is tried on, evenly spaced."""
_POSITIONS = 20_000
"""Positions of either kind that a probe is trained on, at most."""
_TIMED, _REPEATS = 33, 3


@dataclass(frozen=True, slots=True)
class Header:
    """What is inserted: token ids; how many response tokens lie between two of them; positions read behind each."""

    ids: tuple[int, ...]
    every: int
    lookahead: int

    @property
    def extra_tokens(self) -> float:
        """Forward tokens per response token that are not of the response."""
        return (len(self.ids) + self.lookahead - 1) / self.every


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one response: P(refusal) [n]; ADA-RK's score [n], -inf where it is not read; hidden states [layers, n, H]."""

    refusal: np.ndarray
    header: np.ndarray
    hidden: torch.Tensor


def header_ids(target: TargetModel) -> tuple[int, ...]:
    """The end of a turn and the assistant's header. Raises InputError: the chat template writes none."""
    row = {"prompt": [{"role": "user", "content": ""}]}
    return tuple(target.cutter.rendered_ids(written_behind(row, target, "monitors=[reinserted_header]"))[0])


def probed_layers(model: Any) -> list[int]:
    """Of the hidden states of a model, 1 being the output of its first block."""
    count = model.config.get_text_config().num_hidden_layers
    return sorted({round(layer) for layer in np.linspace(1, count, min(PROBED, count))})


def watched(
    target: TargetModel,
    rows: Sequence[Mapping[str, Any]],
    refusal_ids: Sequence[int],
    *,
    harmful: bool,
    batch_size: int,
    header: Header | None = None,
    layers: Sequence[int] = (),
    shown: str = "",
) -> Iterator[Seen]:
    """Every row that has a response of this kind, longest first. Responses end where the context does."""
    limit = target.context_length
    room = 0 if header is None else len(header.ids) + header.lookahead
    cuts = response_cuts(target.cutter, rows, harmful=harmful, limit=None if limit is None else limit - 1 - room)
    order = [cuts[row_id] for row_id in longest_first(cuts)]
    with progress(len(order), shown, shown=bool(shown)) as bar:
        for start in range(0, len(order), batch_size):
            batch = [replace(cut, response=[*cut.response, cut.end]) for cut in order[start : start + batch_size]]
            with torch.inference_mode():
                seen = _watch(target, batch, list(refusal_ids), header, layers)
            yield from seen  # not under inference_mode, which would then hold for whoever reads them
            bar.update(len(batch))


def _watch(
    target: TargetModel, cuts: Sequence[Cut], ids: list[int], header: Header | None, layers: Sequence[int]
) -> list[Seen]:
    longest = max(len(cut.response) for cut in cuts)
    step = header.every if header else longest
    stream = Stream(target, [cut.prompt for cut in cuts], bool(layers))
    given = torch.full((len(cuts), longest), target.pad_token_id)
    for row, cut in enumerate(cuts):
        given[row, : len(cut.response)] = torch.tensor(cut.response)
    refusal, hidden = [probability_of_any(stream.logits, ids).cpu()], [stream.hidden(layers)]
    checks = {0: refusal[0][:, 0]}
    # What follows the last token is not read: logits of all response tokens but the last of the longest row.
    for start in range(0, longest - 1, step):
        stream.feed(given[:, start : min(start + step, longest - 1)])
        refusal.append(probability_of_any(stream.logits, ids).cpu())
        hidden.append(stream.hidden(layers))
        position = start + step
        if header and position < longest:
            checks[position] = stream.look_behind(header, ids)
    p, states = torch.cat(refusal, 1), torch.cat(hidden, 2)
    read = torch.full_like(p, -torch.inf)
    for position, score in checks.items():
        read[:, position] = score
    lengths = [len(cut.response) for cut in cuts]
    return [Seen(p[i, :n].numpy(), read[i, :n].numpy(), states[:, i, :n].clone()) for i, n in enumerate(lengths)]


class Stream:
    """A batch that is fed token by token or in pieces: prompts padded on the left, one KV cache."""

    def __init__(self, target: TargetModel, prompts: Sequence[Sequence[int]], hidden: bool = False):
        from transformers import DynamicCache

        self.model, self.with_hidden = target.model, hidden
        self.cache = DynamicCache(config=self.model.config)
        input_ids, mask = left_pad(prompts, target.pad_token_id)
        self.mask = mask[:, :0]
        self.feed(input_ids, mask, keep=1)

    def feed(self, tokens: torch.Tensor, mask: torch.Tensor | None = None, *, keep: int = 0) -> None:
        """Tokens [B, t] behind what was fed; `logits` [B, t, V] are then those of the tokens that follow each; keep:
        only the last so many."""
        device = self.model.device
        new = torch.ones_like(tokens) if mask is None else mask
        self.mask = torch.cat([self.mask, new], 1)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self.model(
            input_ids=tokens.to(device), attention_mask=self.mask.to(device), position_ids=positions.to(device),
            past_key_values=self.cache, use_cache=True, logits_to_keep=keep, output_hidden_states=self.with_hidden,
        )  # fmt: skip
        self.logits, self.states = output.logits, output.hidden_states

    def hidden(self, layers: Sequence[int]) -> torch.Tensor:
        """[layers, B, t, H] float32 on the CPU, of the positions that `logits` are of."""
        if not layers:
            return torch.empty(0, *self.logits.shape[:2], 0)
        return torch.stack([self.states[layer][:, -self.logits.shape[1] :].float().cpu() for layer in layers])

    def look_behind(self, header: Header, ids: list[int]) -> torch.Tensor:
        """The highest P(refusal) [B] behind a header, which is then forgotten with its lookahead."""
        length, mask, logits, states = self.mask.shape[1], self.mask, self.logits, self.states
        self.feed(torch.tensor([header.ids]).expand(len(mask), -1), keep=1)
        found = probability_of_any(self.logits, ids).cpu()
        for _ in range(header.lookahead - 1):
            self.feed(self.logits[:, -1].argmax(-1, keepdim=True).cpu(), keep=1)
            found = torch.maximum(found, probability_of_any(self.logits, ids).cpu())
        self.cache.crop(length - self.mask.shape[1])
        self.mask, self.logits, self.states = mask, logits, states
        return found[:, 0]


@dataclass(frozen=True, slots=True)
class Probe:
    """w h + b, per layer: weight [layers, H], bias [layers]."""

    layers: list[int]
    weight: torch.Tensor
    bias: torch.Tensor

    def score(self, hidden: torch.Tensor) -> np.ndarray:
        """[layers, n] of hidden states [layers, n, H]."""
        return (torch.einsum("lnh,lh->ln", hidden, self.weight) + self.bias[:, None]).numpy()


def train_probe(layers: list[int], harmful: Iterable[Seen], benign: Iterable[Seen]) -> Probe:
    """One for each layer. Raises InputError: no response of one kind."""
    bad, good = _gathered(harmful), _gathered(benign)
    if bad is None or good is None:
        raise InputError("train: the probe needs triples and helpful rows to learn from, and one of the two is missing")
    fitted = [_logistic(*pair) for pair in zip(bad, good, strict=True)]
    return Probe(layers, torch.stack([weight for weight, _ in fitted]), torch.stack([bias for _, bias in fitted]))


def _gathered(side: Iterable[Seen]) -> torch.Tensor | None:
    """[layers, positions, H] of the first rows that make up enough positions; None of no rows."""
    found, count = [], 0
    for seen in side:
        found.append(seen.hidden)
        count += seen.hidden.shape[1]
        if count >= _POSITIONS:
            break
    return torch.cat(found, 1) if found else None


def _logistic(bad: torch.Tensor, good: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [H] and bias of a logistic regression on standardised hidden states [n, H], both kinds weighing alike,
    with a ridge of 1e-3 |w|^2 beside the mean loss."""
    x = torch.cat([bad, good])
    mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    x = (x - mean) / spread
    y = torch.cat([torch.ones(len(bad)), torch.zeros(len(good))])
    share = torch.cat([torch.full((len(bad),), 0.5 / len(bad)), torch.full((len(good),), 0.5 / len(good))])
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y, share, reduction="sum")
        value = value + 1e-3 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    weight = weight.detach() / spread
    return weight, bias.detach() - weight @ mean


def time_ratios(
    target: TargetModel, prompt: Sequence[int], ids: list[int], header: Header | None, layer: int | None
) -> dict[str, float]:
    """Monitor -> time of writing a response token by token with it, over the time without; one row, greedy, medians of
    interleaved repeats."""
    weight = torch.ones(target.model.config.get_text_config().hidden_size, device=target.model.device)
    checks: dict[str, Callable[[Stream, int], Any]] = {
        "": lambda stream, token: None,
        Monitor.refusal_probability.value: lambda stream, token: float(probability_of_any(stream.logits, ids).cpu()),
    }
    if header:
        checks[Monitor.reinserted_header.value] = lambda stream, token: (
            token and token % header.every == 0 and stream.look_behind(header, ids)
        )
    if layer is not None:
        checks[Monitor.probe.value] = lambda stream, token: float(stream.states[layer][0, -1].float() @ weight)

    def seconds(monitor: str) -> float:
        stream = Stream(target, [prompt], hidden=monitor == Monitor.probe.value)
        begin = time.perf_counter()
        for token in range(_TIMED):
            checks[monitor](stream, token)
            stream.feed(stream.logits[:, -1].argmax(-1, keepdim=True).cpu())
        return time.perf_counter() - begin

    with torch.inference_mode():
        taken = [{monitor: seconds(monitor) for monitor in checks} for _ in range(_REPEATS)]
    median = {monitor: float(np.median([each[monitor] for each in taken])) for monitor in checks}
    return {monitor: value / median[""] for monitor, value in median.items() if monitor}
