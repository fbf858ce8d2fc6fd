"""Raw network outputs to results in source pixels: boxes, masks and class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from pvt_mtl_perception.inference.preprocess import LetterboxGeometry
from pvt_mtl_perception.model.anchors import (
    RETINANET_CODER,
    anchor_points,
    distances_to_boxes,
    expected_distances,
    flatten_levels,
    retinanet_anchors,
)
from pvt_mtl_perception.model.heads import DetectionOutput, RetinaNetOutput
from pvt_mtl_perception.result import Classification, Detections, Segmentation

SEGMENTATION_STRIDE = 4
MAX_CANDIDATES = 1000
# Bounds the memory of the mask's interpolation: in a CPU's cache, and to some hundred MB on a GPU.
CELLS_AT_ONCE = {"cpu": 4096, "cuda": 1 << 18}


@dataclass(frozen=True)
class DetectionSettings:
    """What counts as a detection.

    Attributes:
        score_threshold: candidates below it are dropped, 0..1.
        nms_threshold: of two boxes of one class whose IoU is above it the lower-scored is dropped, 0..1.
        max_detections: at most so many are kept an image, the best-scored ones.

    Raises:
        ValueError: when a value is out of its range, naming it.
    """

    score_threshold: float = 0.35
    nms_threshold: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        for name, value in (("score_threshold", self.score_threshold), ("nms_threshold", self.nms_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must lie in 0..1")
        if not 1 <= self.max_detections <= MAX_CANDIDATES:
            raise ValueError(f"max_detections is {self.max_detections}; it must lie in 1..{MAX_CANDIDATES}")


def decode_detection(
    output: DetectionOutput | RetinaNetOutput,
    strides: Sequence[int],
    geometries: Sequence[LetterboxGeometry],
    settings: DetectionSettings,
) -> list[Detections]:
    """Boxes of a batch: threshold, the best ``MAX_CANDIDATES`` an image, class-wise NMS.

    Equal scores keep the order of levels, rows, columns and classes, so the result is deterministic. Boxes
    are clipped to the image before NMS; those that lie outside it altogether are dropped.

    Args:
        output: of either detection head for B images.
        strides: of its levels in input pixels.
        geometries: of the B images.
        settings: thresholds and limits.

    Returns:
        B detections in source pixels, sorted by falling score.
    """
    logits = output.logits if isinstance(output, RetinaNetOutput) else flatten_levels(output.logits)
    device = logits.device
    probabilities = logits.float().sigmoid()
    image, anchor, label = torch.nonzero(probabilities >= settings.score_threshold, as_tuple=True)
    scores = probabilities[image, anchor, label]
    order = torch.sort(scores, descending=True, stable=True).indices
    order = order[torch.sort(image[order], stable=True).indices]
    ends = torch.searchsorted(image[order], torch.arange(len(geometries), device=device), right=True).tolist()
    kept = [order[start:end][:MAX_CANDIDATES] for start, end in zip([0, *ends], ends, strict=False)]
    counts = [len(indices) for indices in kept]
    candidates = torch.cat(kept)
    image, anchor, label = image[candidates], anchor[candidates], label[candidates]
    scores = scores[candidates]

    boxes_input = _boxes_input(output, strides, image, anchor)
    scales = torch.tensor([g.scale * 2 for g in geometries], device=device)
    limits = torch.tensor([(g.source_width, g.source_height) * 2 for g in geometries], device=device)
    boxes_source = (boxes_input * scales[image]).clamp(min=0).minimum(limits[image])

    # Image by image, because suppression is quadratic in the boxes it sees.
    rows = []
    per_image = (torch.split(values, counts) for values in (boxes_source, scores, label))
    for boxes, score, cls in zip(*per_image, strict=True):
        survivors = batched_nms(boxes, score, cls, settings.nms_threshold)
        rows.append(torch.cat((boxes, score[:, None], cls[:, None]), dim=1)[survivors])
    downloaded = np.split(torch.cat(rows).cpu().numpy(), np.cumsum([len(r) for r in rows])[:-1])
    return [_detections(row, settings.max_detections) for row in downloaded]


def _boxes_input(
    output: DetectionOutput | RetinaNetOutput, strides: Sequence[int], image: Tensor, anchor: Tensor
) -> Tensor:
    """Boxes (N, 4) in input pixels of N anchors, or anchor points, of the images with these indices."""
    if isinstance(output, RetinaNetOutput):
        anchors = retinanet_anchors(output.sizes, strides, anchor.device)
        decoded: Tensor = RETINANET_CODER.decode_single(output.deltas[image, anchor].float(), anchors[anchor])
        return decoded
    sizes = [(level.shape[2], level.shape[3]) for level in output.distances]
    points, point_strides = anchor_points(sizes, strides, anchor.device)
    distances = flatten_levels(output.distances)[image, anchor]
    return distances_to_boxes(points[anchor], expected_distances(distances) * point_strides[anchor, None])


def _detections(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]], limit: int) -> Detections:
    rows = rows[(rows[:, 2] > rows[:, 0]) & (rows[:, 3] > rows[:, 1])][:limit]
    return Detections(rows[:, :4].copy(), rows[:, 4].copy(), rows[:, 5].astype(np.int64))


def decode_segmentation(
    logits: Tensor, geometries: Sequence[LetterboxGeometry], confidence: bool
) -> list[Segmentation]:
    """Masks of a batch at source size.

    The logits are enlarged to the network's input size (bilinear), the best class is taken, and the mask is
    brought to source size by nearest neighbour.

    Args:
        logits: (B, classes, input_height / 4, input_width / 4), at most 256 classes.
        geometries: of the B images.
        confidence: whether to fill ``Segmentation.confidence``: the class probabilities enlarged
            (bilinear), of the class that the mask names.
    """
    masks, confidences = enlarged_argmax(logits, confidence)
    at_source = [
        _downloaded([geometry.mask_to_source(one) for geometry, one in zip(geometries, maps, strict=True)])
        for maps in (masks, confidences)
        if maps is not None
    ]
    return [Segmentation(*parts) for parts in zip(*at_source, strict=True)]


def _downloaded(maps: Sequence[Tensor]) -> list[npt.NDArray[np.uint8]]:
    """Maps of any sizes as arrays; from a GPU in one transfer, since each waits for all work before it."""
    if maps[0].device.type == "cpu":
        return [one.numpy() for one in maps]
    flat = torch.cat([one.flatten() for one in maps]).cpu()
    parts = torch.split(flat, [one.numel() for one in maps])
    return [part.view(one.shape).numpy() for part, one in zip(parts, maps, strict=True)]


def enlarged_argmax(logits: Tensor, confidence: bool) -> tuple[Tensor, Tensor | None]:
    """The best class of logits enlarged bilinearly by ``SEGMENTATION_STRIDE``, without enlarging them all.

    A point between four pixels is a convex combination of them: where all four agree on the best class it is
    the best class in between, too. Only the cells whose corners disagree, a tenth to a quarter of a street
    scene, are interpolated. The result is that of ``F.interpolate(mode="bilinear", align_corners=False)`` and
    argmax, in a fraction of the time and memory.

    Args:
        logits: (B, C, h, w), C at most 255.
        confidence: whether to compute the second result.

    Returns:
        uint8 (B, 4h, 4w), class ids, and uint8 (B, 4h, 4w), the equally enlarged softmax probability of that
        class scaled to 0..255, or None.
    """
    step = SEGMENTATION_STRIDE
    batch, _, height, width = logits.shape
    device = logits.device
    # Class by class, so that the comparison of classes runs along long contiguous rows.
    planes = logits.transpose(0, 1).flatten(1).float().contiguous()
    winner = _best_class(planes.clone()).view(batch, height, width)

    pixels, weights = _cells(batch, height, width, device)

    def assemble(points: Tensor) -> Tensor:
        """(16, B (h + 1) (w + 1)) to (B, 4h, 4w)."""
        grid = points.view(step, step, batch, height + 1, width + 1).permute(2, 3, 0, 4, 1)
        full = grid.reshape(batch, step * (height + 1), step * (width + 1))
        return full[:, step // 2 : -(step // 2), step // 2 : -(step // 2)]

    winners = _corners(winner)
    mixed = torch.nonzero((winners[1:] != winners[0]).any(dim=0))[:, 0]
    classes = winners[0].repeat(step * step, 1)
    certainty = None
    if confidence:
        probabilities = planes.softmax(dim=0)
        certainty = torch.matmul(weights, _corners(probabilities.amax(dim=0).view(winner.shape)))
    for cells in torch.split(mixed, CELLS_AT_ONCE[device.type]):
        corners = pixels[:, cells]
        values = planes.index_select(1, corners.flatten()).view(len(planes), *corners.shape)
        best = _best_class(torch.matmul(weights, values))
        classes.index_copy_(1, cells, best)
        if certainty is not None:
            of_best = probabilities.take(best.long() * winner.numel() + corners[:, None])
            certainty.index_copy_(1, cells, torch.einsum("pk,kpn->pn", weights, of_best))
    if certainty is None:
        return assemble(classes), None
    return assemble(classes), assemble((certainty * 255).round().to(torch.uint8))


@lru_cache(maxsize=16)
def _cells(batch: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The pixels at the corners of all cells, and what each adds to the points in between.

    Cell (i, j) lies between the centres of the pixels i - 1 and i, j - 1 and j; the border repeats its
    pixels. In it lie step x step points, whose distances from its corners are the same in each cell.

    Returns:
        int64 (4, B (h + 1) (w + 1)), positions in flattened maps (B, h, w); and float32 (step^2, 4).
    """
    step = SEGMENTATION_STRIDE
    with torch.inference_mode(False):
        positions = torch.arange(batch * height * width, device=device).view(batch, height, width)
        fraction = (torch.arange(step, device=device, dtype=torch.float32) + 0.5) / step
        ends = torch.stack((1 - fraction, fraction), dim=1)
        weights = (ends[:, None, :, None] * ends[None, :, None, :]).reshape(step * step, 4)
        return _corners(positions), weights


def _corners(maps: Tensor) -> Tensor:
    """(B, h, w) to (4, B (h + 1) (w + 1)): the values at the corners of the cells, see ``_cells``."""
    _, height, width = maps.shape
    rows = torch.arange(-1, height + 1, device=maps.device).clamp(0, height - 1)
    columns = torch.arange(-1, width + 1, device=maps.device).clamp(0, width - 1)
    padded = maps[:, rows[:, None], columns]
    around = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    return torch.stack([corner.flatten() for corner in around])


def _best_class(values: Tensor) -> Tensor:
    """float32 (C, ...), which is overwritten, to uint8 (...): the first of the highest classes.

    Three vectorised passes take a quarter of the time of torch's argmax on a CPU.
    """
    classes = len(values)
    falling = torch.arange(classes, 0, -1, device=values.device, dtype=values.dtype)
    falling = falling.view(-1, *[1] * (values.ndim - 1))
    best = classes - values.eq_(values.amax(dim=0)).mul_(falling).amax(dim=0)
    # Nothing equals NaN, which a half-precision overflow can bring; the id must stay in range.
    return best.clamp_(max=classes - 1).to(torch.uint8)


def decode_classification(logits: Mapping[str, Tensor]) -> list[Classification]:
    """Softmax of each label group: (B, classes) by group to B classifications."""
    groups = {group: values.float().softmax(-1).cpu().numpy() for group, values in logits.items()}
    batch = len(next(iter(groups.values())))
    return [Classification({group: p[i].copy() for group, p in groups.items()}) for i in range(batch)]
