"""`torchrun --nproc_per_node 2 measure_agreement.py`: what it costs that ranks agree on signals at every step.

Milliseconds of one agreement, and its share of a training step of two models under plain data parallelism (gloo, CPU).
Not a test: times depend on what else the machine does.
"""

import statistics
import time

import torch
import torch.distributed as dist
import transformers

from derta.training.preemption import agreed_signal

MODELS = {  # hidden size, layers, vocabulary; rows x tokens of a rank
    "tiny": ((32, 2, 400), (4, 64)),
    "larger": ((256, 6, 8000), (4, 256)),
}


def agreement(calls: int = 500) -> float:
    """Milliseconds of one call."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(calls):
        agreed_signal(0, torch.device("cpu"))
    return 1000 * (time.perf_counter() - began) / calls


def step(shape: tuple[int, int, int], batch: tuple[int, int], steps: int = 12) -> tuple[int, float]:
    """(parameters, median milliseconds of a step without the first two)."""
    hidden, layers, vocabulary = shape
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=vocabulary,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    ranks = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(ranks.parameters())
    ids = torch.randint(vocabulary, batch)
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        ranks(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(1000 * (time.perf_counter() - began))
    return parameters, statistics.median(taken[2:])


def main() -> None:
    dist.init_process_group("gloo")
    agreement()
    rounds = sorted(agreement() for _ in range(5))
    cost = rounds[2]
    steps = {name: step(*sizes) for name, sizes in MODELS.items()}
    if dist.get_rank() == 0:
        print(f"agreement: {cost:.3f} ms a step ({rounds[0]:.3f} to {rounds[-1]:.3f} in five rounds)")
        for name, (parameters, taken) in steps.items():
            print(f"{name}, {parameters / 1e6:.2f}M parameters: step {taken:.1f} ms, share {100 * cost / taken:.2f}%")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
