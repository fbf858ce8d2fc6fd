"""Where the time of one forward pass goes, operator by operator: ``benchmarks/operators.py --help``.

In PyTorch eager by torch's profiler, and in OpenVINO by its own counters; of each operator of the graph the
shortest of all calls counts, so that what else the machine does falls out.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from torch.profiler import ProfilerActivity, profile

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.inference.backends.eager import EagerBackend
from pvt_mtl_perception.inference.backends.graph import output_names
from pvt_mtl_perception.inference.backends.openvino import (
    PRECISION_HINTS,
    compile_graph,
    graph_for_openvino,
    program_options,
)
from pvt_mtl_perception.model.checkpoint import build_network, load_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.paths import shipped_checkpoint

PARTS = r"(patch_embed|stages_\d|neck|classification|detection|segmentation)"
SHOWN = 14


def openvino_times(
    network: MultiTaskNetwork, size: tuple[int, int], calls: int, precision: str
) -> dict[tuple[str, str], float]:
    """Milliseconds by operator (with the kernel that ran it) and part of the network."""
    graph = graph_for_openvino(network, size)
    names = output_names(network, network.tasks)
    options = {**program_options(precision), "PERF_COUNT": True}
    request = compile_graph(openvino.Core(), graph, names, size, options).create_infer_request()
    images = np.random.default_rng(0).standard_normal((1, *size, 3), dtype=np.float32)
    best: dict[str, float] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for _ in range(calls):
        request.infer([images])
        for node in request.profiling_info:
            milliseconds = node.real_time.total_seconds() * 1000
            best[node.node_name] = min(milliseconds, best.get(node.node_name, milliseconds))
            part = re.search(PARTS, node.node_name)
            kinds[node.node_name] = f"{node.node_type} ({node.exec_type})", part[1] if part else "fused"
    return summed((kinds[name], value) for name, value in best.items())


def eager_times(forward: Callable[[], object], calls: int) -> dict[tuple[str, str], float]:
    """Milliseconds of one call by ATen operator, without those that it calls itself."""
    forward()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(calls):
            forward()
    return {(row.key, ""): row.self_cpu_time_total / 1000 / calls for row in profiler.key_averages()}


def summed(pairs: Iterable[tuple[Any, float]]) -> dict[Any, float]:
    sums: dict[Any, float] = defaultdict(float)
    for key, value in pairs:
        sums[key] += value
    return dict(sums)


def show(title: str, times: Mapping[tuple[str, str], float], by: int) -> None:
    sums = summed((key[by], value) for key, value in times.items())
    total = sum(sums.values())
    print(f"\n{title}, {total:.1f} ms")
    for name, value in sorted(sums.items(), key=lambda item: -item[1])[:SHOWN]:
        print(f"{100 * value / total:6.1f} %  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="model file; the one in models/ by default")
    parser.add_argument("--input", type=image_size, default=(384, 640), metavar="WxH")
    parser.add_argument("--precision", choices=list(PRECISION_HINTS), default="fp32", help="of OpenVINO")
    parser.add_argument("--calls", type=int, default=15, help="default: %(default)s")
    args = parser.parse_args()
    network = build_network(load_checkpoint(args.checkpoint or shipped_checkpoint()))
    images = torch.randn(1, 3, *args.input)
    measured = openvino_times(network, tuple(args.input), args.calls, args.precision)
    show("OpenVINO by operator", measured, 0)
    show("OpenVINO by part", measured, 1)
    eager = EagerBackend(network, torch.device("cpu"), "fp32")
    images = images.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        show("PyTorch eager by operator", eager_times(lambda: eager(images, network.tasks), args.calls), 0)


if __name__ == "__main__":
    main()
