"""Pictures of results: coloured masks, and frames with boxes, masks and classes drawn on them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from pvt_mtl_perception.labels import LabelSet, TaskLabels
from pvt_mtl_perception.result import Classification, Detections, Result

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def colorize(mask: npt.NDArray[np.uint8], label_set: LabelSet) -> Image:
    """A mask in the colours of its label set.

    Args:
        mask: uint8 (H, W), class ids.
        label_set: what the ids mean.

    Returns:
        uint8 (H, W, 3) RGB; ids without a class are black.
    """
    # A tenth of the time of palette[mask].
    colored = cv2.applyColorMap(np.ascontiguousarray(mask), label_set.palette[:, None])
    return np.asarray(colored, np.uint8)


def draw_overlay(image_rgb: Image, result: Result, labels: TaskLabels, opacity: float = 0.5) -> Image:
    """The frame with what was found in it: mask, boxes with class and score, classes of the whole image.

    Args:
        image_rgb: uint8 (H, W, 3), left as it is.
        result: of this image; a task that is None is not drawn.
        labels: label sets of the result's ids.
        opacity: of the mask, 0 (invisible) to 1 (hides the image).

    Returns:
        uint8 (H, W, 3) RGB, a new array.

    Raises:
        ValueError: when image and result differ in size, or opacity is out of its range.
    """
    if image_rgb.shape != (result.height, result.width, 3):
        raise ValueError(
            f"the image has shape {image_rgb.shape}; the result is of ({result.height}, {result.width}, 3)"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; it must lie in 0..1")
    if result.segmentation is not None and labels.segmentation is not None:
        canvas = _blend(image_rgb, result.segmentation.mask, labels.segmentation, opacity)
    else:
        canvas = np.array(image_rgb, order="C")
    if result.detections is not None and labels.detection is not None:
        _draw_detections(canvas, result.detections, labels.detection)
    if result.classification is not None:
        _draw_classification(canvas, result.classification, labels)
    return canvas


def _blend(image: Image, mask: npt.NDArray[np.uint8], label_set: LabelSet, opacity: float) -> Image:
    image = np.ascontiguousarray(image)
    colored = colorize(mask, label_set)
    cv2.copyTo(image, (mask >= len(label_set)).view(np.uint8), colored)
    blended = cv2.addWeighted(image, 1 - opacity, colored, opacity, 0)
    return np.asarray(blended, np.uint8)


def _line_width(canvas: Image) -> int:
    return max(1, round(int(min(canvas.shape[:2])) / 360))


def _text_scale(canvas: Image) -> float:
    """Letters about a fiftieth of the image high, and legible on small images."""
    return max(0.35, int(min(canvas.shape[:2])) / 1200)


def _contrast(color: Color) -> Color:
    red, green, blue = color
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else WHITE  # luma, ITU-R BT.601


def _text_size(text: str, scale: float, width: int) -> tuple[int, int, int]:
    """Width, height above and height below the baseline, in pixels."""
    (across, above), below = cv2.getTextSize(text, FONT, scale, width)
    return across, above, below


def _draw_detections(canvas: Image, detections: Detections, label_set: LabelSet) -> None:
    height, width = canvas.shape[:2]
    line = _line_width(canvas)
    scale = _text_scale(canvas)
    text_line = max(1, line // 2)
    # From the lowest score up, so that the surest boxes and their labels lie on top.
    order = range(len(detections) - 1, -1, -1)
    # A box edge at x lies between the pixels x - 1 and x; the outline's centre belongs inside the box.
    corners = np.rint(detections.boxes).astype(int) - np.array([0, 0, 1, 1])
    for i in order:
        x1, y1, x2, y2 = (int(v) for v in corners[i])
        color = label_set.colors[detections.labels[i]]
        cv2.rectangle(canvas, (x1, y1), (x2, y2), _contrast(color), line + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, line, cv2.LINE_AA)
    for i in order:
        x1, y1, x2, y2 = (int(v) for v in corners[i])
        color = label_set.colors[detections.labels[i]]
        text = f"{label_set.names[detections.labels[i]]} {detections.scores[i]:.2f}"
        across, above, below = _text_size(text, scale, text_line)
        margin = max(1, above // 4)
        box_height = above + below + margin
        left = max(0, min(x1, width - across - 2 * margin))
        # Above the box; where the image ends there, inside it.
        top = y1 - box_height if y1 >= box_height else min(y1, height - box_height)
        corner = (left + across + 2 * margin, top + box_height)
        cv2.rectangle(canvas, (left, top), corner, color, cv2.FILLED)
        origin = (left + margin, top + margin + above)
        cv2.putText(canvas, text, origin, FONT, scale, _contrast(color), text_line, cv2.LINE_AA)


def _draw_classification(canvas: Image, classification: Classification, labels: TaskLabels) -> None:
    """A panel at the top left: the likeliest class of each group over a bar as long as its probability."""
    scale = _text_scale(canvas)
    text_line = max(1, _line_width(canvas) // 2)
    rows = []
    for group, probabilities in classification.probabilities.items():
        best = int(probabilities.argmax())
        label_set = labels.classification[group]
        text = f"{group}: {label_set.names[best]} {probabilities[best]:.2f}"
        rows.append((text, float(probabilities[best]), label_set.colors[best]))
    sizes = [_text_size(text, scale, text_line) for text, _, _ in rows]
    above = max(size[1] for size in sizes)
    margin = max(2, above // 2)
    bar = max(2, above // 4)
    gap = max(size[2] for size in sizes) + bar // 2
    row_height = above + gap + bar + margin
    inner_width = max(size[0] for size in sizes)
    panel = canvas[: margin + row_height * len(rows), : inner_width + 2 * margin]
    cv2.convertScaleAbs(panel, dst=panel, alpha=0.35)
    for i, (text, probability, color) in enumerate(rows):
        baseline = margin + i * row_height + above
        cv2.putText(canvas, text, (margin, baseline), FONT, scale, WHITE, text_line, cv2.LINE_AA)
        start = (margin, baseline + gap)
        end = (margin + round(inner_width * probability), baseline + gap + bar - 1)
        cv2.rectangle(canvas, start, end, color, cv2.FILLED)
