"""Parameters and multiply-adds of PVT v2 and RegNetY by neck: ``benchmarks/model_cost.py --help``.

``fpn`` and ``bifpn`` have dense heads; ``light`` is the shipped checkpoint's FPN and heads, all separable.

Says which RegNetY is nearest to each PVT v2 by parameters and by cost, as a fair HydraNet-style baseline
needs. The networks lie on torch's meta device: shapes are counted and nothing is computed.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import set_fused_attn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from pvt_mtl_perception.cli.model_arguments import image_size
from pvt_mtl_perception.model.network import MultiTaskNetwork, count_parameters
from pvt_mtl_perception.model.spec import (
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    NeckSpec,
    SegmentationSpec,
)

PVT = ("pvt_v2_b0", "pvt_v2_b1", "pvt_v2_b2", "pvt_v2_b2_li")
REGNET = tuple(f"regnety_{size}" for size in ("002", "004", "006", "008", "016", "032", "040", "064"))
NECKS = ("fpn", "bifpn", "light")
SIZES = ((224, 224), (384, 640), (736, 1280))
"""Height and width; 736x1280 is a 720p frame, padded to multiples of 32."""


@dataclass(frozen=True)
class Cost:
    """One network.

    Attributes:
        backbone, neck: names.
        parameters: in millions, by ``backbone``, ``neck``, ``heads`` and ``total``.
        gmac: in 10^9 multiply-adds an image, of backbone and of the whole network, by size.
    """

    backbone: str
    neck: str
    parameters: dict[str, float]
    gmac: dict[tuple[int, int], tuple[float, float]]


def driving_spec(backbone: str, neck: str) -> ModelSpec:
    groups = {name: f"driving_{name}" for name in ("weather", "scene", "timeofday")}
    return ModelSpec(
        backbone=BackboneSpec(backbone),
        neck=NeckSpec("bifpn" if neck == "bifpn" else "fpn", separable=neck == "light"),
        classification=ClassificationSpec(groups),
        detection=DetectionSpec(separable=neck == "light"),
        segmentation=SegmentationSpec(separable=neck == "light"),
    )


def gmac(network: nn.Module, size: tuple[int, int]) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.empty(1, 3, *size, device="meta"))
    return counter.get_total_flops() / 2e9


def cost(backbone: str, neck: str, sizes: Sequence[tuple[int, int]]) -> Cost:
    with torch.device("meta"):
        network = MultiTaskNetwork(driving_spec(backbone, neck)).eval()
    counts = count_parameters(network)
    parts = {part: counts[part] / 1e6 for part in ("backbone", "neck", "total")}
    parts["heads"] = parts["total"] - parts["backbone"] - parts["neck"]
    return Cost(
        backbone, neck, parts, {size: (gmac(network.backbone, size), gmac(network, size)) for size in sizes}
    )


def print_table(costs: Sequence[Cost], sizes: Sequence[tuple[int, int]]) -> None:
    names = " | ".join(f"GMAC {w}x{h}" for h, w in sizes)
    print(f"| backbone | neck | M parameters: backbone | neck | heads | total | {names} |")
    print("|---" * (6 + len(sizes)) + "|")
    for row in costs:
        p = row.parameters
        values = " | ".join("{:.2f} / {:.2f}".format(*row.gmac[size]) for size in sizes)
        print(
            f"| {row.backbone} | {row.neck} | {p['backbone']:.2f} | {p['neck']:.2f} | {p['heads']:.2f} "
            f"| {p['total']:.2f} | {values} |"
        )
    print("GMAC: backbone / whole network with its three heads.\n")


def nearest(value: float, others: dict[str, float]) -> str:
    name = min(others, key=lambda other: abs(math.log(others[other] / value)))
    return f"{name} ({others[name] / value:.2f}x)"


def print_matches(costs: Sequence[Cost], sizes: Sequence[tuple[int, int]]) -> None:
    """The nearest RegNetY with BiFPN to each PVT v2 with FPN, by the ratio to it."""
    pvt = [c for c in costs if c.backbone.startswith("pvt") and c.neck == "fpn"]
    regnet = [c for c in costs if c.backbone.startswith("regnet") and c.neck == "bifpn"]
    if not pvt or not regnet:
        return
    heading = " | ".join(f"cost {w}x{h}" for h, w in sizes)
    print(f"| with FPN | nearest with BiFPN: parameters | {heading} |")
    print("|---" * (2 + len(sizes)) + "|")
    for own in pvt:
        by_parameters = nearest(own.parameters["total"], {c.backbone: c.parameters["total"] for c in regnet})
        by_cost = " | ".join(
            nearest(own.gmac[size][1], {c.backbone: c.gmac[size][1] for c in regnet}) for size in sizes
        )
        print(f"| {own.backbone} | {by_parameters} | {by_cost} |")
    print("In brackets: the RegNetY network's value divided by the PVT network's.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbones", nargs="+", default=[*PVT, *REGNET], help="timm models")
    parser.add_argument("--necks", nargs="+", default=NECKS, choices=NECKS)
    parser.add_argument("--sizes", nargs="+", type=image_size, default=SIZES, metavar="WIDTHxHEIGHT")
    args = parser.parse_args()
    # The counter sees the matrix products of attention, whichever kernel would run them.
    set_fused_attn(False)
    networks = tqdm(list(itertools.product(args.backbones, args.necks)), unit="network", leave=False)
    costs = [cost(backbone, neck, args.sizes) for backbone, neck in networks]
    print_table(costs, args.sizes)
    print_matches(costs, args.sizes)


if __name__ == "__main__":
    main()
