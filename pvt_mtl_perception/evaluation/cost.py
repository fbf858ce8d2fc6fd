"""What a model costs: parameters and multiply-adds by part, latency of whole frames, and memory."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from timm.layers.config import set_fused_attn, use_fused_attn
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pvt_mtl_perception.inference.backends.backend import DTYPES
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import Checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork, count_parameters

Image = npt.NDArray[np.uint8]

WARM_UP = 5
"""Calls before the timed ones: allocation, autotuning and caches belong to no frame."""


def count_flops(checkpoint: Checkpoint, height: int, width: int) -> dict[str, int]:
    """Floating-point operations of the forward pass of one image, two a multiply-add.

    Counted are convolutions, matrix products and attention, as ``torch.utils.flop_counter`` has formulas for
    them. Nothing is computed: the network lies on torch's meta device.

    Returns:
        by part as ``count_parameters`` names them, and in ``total``.
    """
    # The counter sees the matrix products of attention, whichever kernel runs them; the switch acts on
    # networks that are built while it is off.
    fused = use_fused_attn()
    set_fused_attn(False)
    try:
        network = MultiTaskNetwork(checkpoint.spec, checkpoint.labels).eval().to("meta")
    finally:
        set_fused_attn(fused)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty(1, 3, height, width, device="meta"))
    parts = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    kept = {}
    for name, flops in parts.items():
        part = name.partition(".")[2]
        if part in ("backbone", "neck") or (part.startswith("heads.") and part.count(".") == 1):
            kept[part] = int(flops)
    return {**kept, "total": int(counter.get_total_flops())}


def measure_latency(predictor: Predictor, frames: Sequence[Image], calls: int) -> dict[str, float | int]:
    """Times of ``predict``, from uint8 frames in memory to results in memory: pre-processing, network,
    decoding and non-maximum suppression.

    Args:
        predictor: with the thresholds of use, which decide how many boxes go through suppression.
        frames: uint8 (H, W, 3) RGB, one call's batch.
        calls: how many are timed, after ``WARM_UP`` others.

    Returns:
        ``batch``, ``width`` and ``height`` of the first frame, ``calls``, ``median_ms`` and ``p95_ms`` of a
        call, and ``frames_per_s`` at the median.
    """
    times = []
    for number in tqdm(range(WARM_UP + calls), unit="call", desc=f"latency of {len(frames)}", leave=False):
        start = time.perf_counter()
        # Results are on the host, so a GPU has finished when the call returns.
        predictor.predict(frames)
        if number >= WARM_UP:
            times.append(1000 * (time.perf_counter() - start))
    median = float(np.median(times))
    height, width = frames[0].shape[:2]
    return {
        "batch": len(frames),
        "width": width,
        "height": height,
        "calls": calls,
        "median_ms": median,
        "p95_ms": float(np.percentile(times, 95)),
        "frames_per_s": 1000 * len(frames) / median,
    }


_SEEN_BY_TORCH = {"cpu": ("eager",), "cuda": ("eager", "compile")}
"""By device the backends whose memory torch's own tracking sees as they use it. The others allocate by
themselves, or, as CUDA graphs, once and for all."""


def peak_memory(predictor: Predictor, frames: Sequence[Image]) -> dict[str, int | None]:
    """The most memory that one call of ``predict`` holds.

    Args:
        predictor: warmed up.
        frames: one call's batch.

    Returns:
        ``peak_bytes`` that torch held at once on the device beyond the weights, None for a backend that
        torch does not see the memory of (``_SEEN_BY_TORCH``). The growth of the process does not stand for
        it: an engine keeps what its first call took, and so does the process (``prepare_process``).
        ``process_bytes``, the largest resident size of the whole process so far, with interpreter and
        libraries.
    """
    peak: int | None
    if predictor.backend not in _SEEN_BY_TORCH.get(predictor.device.type, ()):
        peak = None
    elif predictor.device.type == "cuda":
        torch.cuda.synchronize(predictor.device)
        torch.cuda.reset_peak_memory_stats(predictor.device)
        before = torch.cuda.memory_allocated(predictor.device)
        predictor.predict(frames)
        peak = int(torch.cuda.max_memory_allocated(predictor.device) - before)
    else:
        # torch's allocator keeps no statistics on a CPU, so its calls are followed one by one.
        tracker = MemTracker()
        with tracker:
            predictor.predict(frames)
        held = tracker.get_tracker_snapshot("peak").get(torch.device("cpu"), {})
        counted = (_MemRefType.ACT, _MemRefType.TEMP, _MemRefType.OTH)
        peak = int(sum(size for kind, size in held.items() if kind in counted))
    # Linux counts it in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_bytes": peak, "process_bytes": process}


def measure_cost(
    checkpoint: Checkpoint, predictor: Predictor, frame: Image, batch: int = 6, calls: int = 30
) -> dict[str, Any]:
    """Everything above for one model.

    Args:
        checkpoint: of the model.
        predictor: of the same model, on the device to be measured.
        frame: uint8 (H, W, 3) RGB, of the size that a camera delivers.
        batch: frames of the second latency, beside a single one; a vehicle has some six cameras.
        calls: timed ones at each batch size.

    Returns:
        ``parameters`` and ``flops`` by part, ``weights_bytes`` at the predictor's precision, ``latency`` and
        ``memory`` (lists, batch 1 first), ``device``, ``backend``, ``precision``, ``threads``,
        ``input_size`` (height, width), ``torch``.
    """
    size = predictor.preprocessing
    parameters = count_parameters(MultiTaskNetwork(checkpoint.spec, checkpoint.labels))
    latency, memory = [], []
    for count in sorted({1, batch}):
        frames = [frame] * count
        latency.append(measure_latency(predictor, frames, calls))
        memory.append({"batch": count, **peak_memory(predictor, frames)})
    device = str(predictor.device)
    if predictor.device.type == "cuda":
        device = torch.cuda.get_device_name(predictor.device)
    return {
        "parameters": parameters,
        "flops": count_flops(checkpoint, size.height, size.width),
        "weights_bytes": sum(tensor.numel() for tensor in checkpoint.state_dict.values())
        * DTYPES[predictor.precision].itemsize,
        "latency": latency,
        "memory": memory,
        "device": device,
        "backend": predictor.backend,
        "precision": predictor.precision,
        "threads": torch.get_num_threads(),
        "input_size": [size.height, size.width],
        "torch": torch.__version__,
    }
