"""What a run tells while it goes: progress bar, JSON lines, TensorBoard, and curves at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from pvt_mtl_perception.paths import naming, replaced
from pvt_mtl_perception.training.rows import keep_rows, read_rows

LOG_EVERY = 10
# Wide enough to smooth single batches away, narrow enough to show a change of phase.
_SMOOTHING = 0.03


class RunLog:
    """The bar, ``log.jsonl`` and ``tensorboard/`` of a run; a process that does not lead writes nothing.

    Args:
        folder: of the run.
        total: steps of the run.
        done: steps done before.
        active: whether anything is written and shown.
    """

    def __init__(self, folder: Path, total: int, done: int, active: bool) -> None:
        self.bar = tqdm(total=total, initial=done, unit="step", dynamic_ncols=True, disable=not active)
        self._path = folder / "log.jsonl"
        if active:
            keep_rows(self._path, done)
        self._file = self._path.open("a", buffering=1) if active else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=done) if active else None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def step(self, row: Mapping[str, Any]) -> None:
        """A step is done; the first and every ``LOG_EVERY``th are written.

        Args:
            row: ``step`` and numbers, or mappings of names to numbers.
        """
        self.bar.update()
        if row["step"] % LOG_EVERY and row["step"] != 1:
            return
        self.bar.set_postfix({task: f"{value:.3f}" for task, value in row["losses"].items()}, refresh=False)
        self._write(row)

    def validation(self, step: int, scores: Mapping[str, float]) -> None:
        """Scores of the averaged weights after a step."""
        self._write({"step": step, "validation": dict(scores)})

    def images(self, step: int, pictures: Mapping[str, npt.NDArray[np.uint8]]) -> None:
        """Pictures, uint8 (H, W, 3) RGB, by name."""
        if self._board is not None:
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")

    def _write(self, row: Mapping[str, Any]) -> None:
        if self._file is None or self._board is None:
            return
        with naming(self._path):
            self._file.write(json.dumps(row) + "\n")
        for key, value in row.items():
            if isinstance(value, Mapping):
                for name, number in value.items():
                    self._board.add_scalar(f"{key}/{name}", number, row["step"])
            elif key != "step":
                self._board.add_scalar(f"run/{key}", value, row["step"])


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``, one for each step at most, in order.

    Versions that did not drop the rows after a state logged some steps twice; the later line counts. A line
    cut off by a kill is left out.
    """
    return read_rows(path)


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    width = min(len(values), max(5, round(_SMOOTHING * len(values))))
    kernel = np.ones(width)
    inside = np.convolve(np.ones(len(values)), kernel, "same")
    smooth: npt.NDArray[np.float64] = np.convolve(values, kernel, "same") / inside
    return smooth


def plot_curves(log: Path, picture: Path) -> None:
    """Draws losses, task weights, learning rate, gradient norm and validation scores of a run.

    Args:
        log: a ``log.jsonl``.
        picture: the PNG file to write.

    Raises:
        ValueError: when the log has no line.
    """
    from matplotlib.figure import Figure

    rows = read_log(log)
    trained = [row for row in rows if "losses" in row]
    if not trained:
        raise ValueError(f"{log} has no line of a training step")
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()

    def curves(axis: Any, title: str, key: str, smooth: bool) -> None:
        names = sorted({name for row in trained for name in row.get(key, {})})
        for name in names:
            points = [(row["step"], row[key][name]) for row in trained if name in row.get(key, {})]
            steps, values = np.array(points, np.float64).T
            (line,) = axis.plot(steps, values, alpha=0.25 if smooth else 1.0, lw=1)
            if smooth:
                axis.plot(steps, _smoothed(values), color=line.get_color(), lw=1.8, label=name)
            else:
                line.set_label(name)
        axis.set(title=title, xlabel="step")
        if names:
            axis.legend()

    curves(axes[0], "loss by task", "losses", True)
    curves(axes[1], "weight of each task in the shared gradient", "weights", False)
    steps = np.array([row["step"] for row in trained])
    axes[2].plot(steps, [row["lr"] for row in trained])
    axes[2].set(title="learning rate", xlabel="step")
    norms = np.array([row["grad_norm"] for row in trained])
    axes[3].semilogy(steps, norms, alpha=0.25)
    axes[3].semilogy(steps, _smoothed(norms), color="C0")
    axes[3].set(title="gradient norm before clipping", xlabel="step")
    axes[4].plot(steps, [row["step_s"] for row in trained], label="whole step", lw=1)
    axes[4].plot(steps, [row["load_s"] for row in trained], label="waiting for the batch", lw=1)
    # The first step of a run, which starts the workers, would flatten all others.
    usual = np.percentile([row["step_s"] for row in trained], 95)
    axes[4].set(title="time of a step (s)", xlabel="step", ylim=(0, 1.5 * usual))
    axes[4].legend()
    validated = [row for row in rows if "validation" in row]
    for name in sorted({name for row in validated for name in row["validation"]}):
        points = [(r["step"], r["validation"][name]) for r in validated if name in r["validation"]]
        axes[5].plot(*np.array(points, np.float64).T, marker="o", label=name)
    axes[5].set(title="validation", xlabel="step")
    if validated:
        axes[5].legend(fontsize="small", framealpha=0.5)
    else:
        axes[5].text(0.5, 0.5, "none in this run", ha="center", va="center", transform=axes[5].transAxes)
    for axis in axes:
        axis.grid(alpha=0.3)
    with replaced(picture) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
