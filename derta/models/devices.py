"""What GPUs can do and hold: the one table that `mfu` and plans read.

Peaks are dense bfloat16 FLOP/s of the makers' data sheets (nvidia.com/en-us/data-center: a100, h100, h200, l40s, hgx,
gb200-nvl72; NVIDIA's Ada architecture paper for the RTX 4090, with float32 accumulation; AMD's MI300X sheet), most of
which print twice as much, with sparsity: H100 SXM and H200 1,979, HGX B200 4,500, GB200 5,000. The figures were
compared with those of torchtitan's `get_peak_flops`.
"""

from dataclasses import dataclass

from derta.config.plan import Device

GIB = 2**30
CONTEXT, HEADROOM = 3 * GIB // 2, 0.1

# The first name that is part of what CUDA calls the device counts.
_PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "GH200": 989e12, "H100": 989e12, "H200": 989e12, "GB200": 2500e12,
    "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165.2e12, "MI300X": 1307.4e12,
}  # fmt: skip


def known_peak(device_name: str) -> float | None:
    """FLOP/s of a GPU by its CUDA name; None for one that is not in the table."""
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


@dataclass(frozen=True)
class Gpu:
    """memory: bytes that torch sees of an empty device. peak: dense bfloat16 FLOP/s."""

    name: str
    memory: int
    peak: float

    @property
    def usable(self) -> int:
        """What a plan may fill. CONTEXT: CUDA, cuBLAS workspaces and NCCL's channels, before the first tensor. HEADROOM
        of the rest stays free: the allocator's fragmentation was not measured, and a plan that fills a GPU to the last
        GiB ends in an out-of-memory error when it is off by one."""
        return int((self.memory - CONTEXT) * (1 - HEADROOM))


# Memory: "total capacity" in torch's out-of-memory messages, the smallest of ten reports each on public issue trackers
# (39.38 to 39.56, 79.14 to 79.25 for A100 and H100 alike, 139.72 to 139.81 GiB; drivers and ECC make the difference),
# of a few for the L40S (44.40 to 44.42) and the RTX 4090 (23.52 to 23.68). For B200 (HGX: 1.4 TB in eight) and MI300X
# it is the data sheets' decimal GB, which is less than torch will see.
GPUS = {
    Device.a100_40: Gpu("A100 40 GB", int(39.38 * GIB), _PEAKS["A100"]),
    Device.a100: Gpu("A100 80 GB", int(79.14 * GIB), _PEAKS["A100"]),
    Device.h100: Gpu("H100 80 GB", int(79.14 * GIB), _PEAKS["H100"]),
    Device.h200: Gpu("H200 141 GB", int(139.72 * GIB), _PEAKS["H200"]),
    Device.b200: Gpu("B200 (HGX)", int(175e9), _PEAKS["B200"]),
    Device.l40s: Gpu("L40S 48 GB", int(44.40 * GIB), _PEAKS["L40S"]),
    Device.rtx4090: Gpu("RTX 4090 24 GB", int(23.52 * GIB), _PEAKS["RTX 4090"]),
    Device.mi300x: Gpu("MI300X 192 GB", int(192e9), _PEAKS["MI300X"]),
}
