"""Every check and figure that only a GPU can show, in one command: ``python benchmarks/gpu_suite.py --help``.

It needs torch, torchvision, timm, safetensors, jsonargparse, PyYAML and tqdm, and no ROS. A backend or part
that lacks a package (onnx, onnxruntime-gpu, tensorrt; torchjd for training) is left out, with the reason. The
JSON file grows with the table, row by row: what was measured before the time ran out is kept. At the end each
target stands beside what was measured for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._pytree import tree_map  # noqa: E402

from pvt_mtl_perception.cli.model_arguments import image_size  # noqa: E402
from pvt_mtl_perception.evaluation.cost import count_flops  # noqa: E402
from pvt_mtl_perception.inference.agreement import compare  # noqa: E402
from pvt_mtl_perception.inference.backends.backend import DTYPES  # noqa: E402
from pvt_mtl_perception.inference.predictor import Predictor  # noqa: E402
from pvt_mtl_perception.inference.process import prepare_script  # noqa: E402
from pvt_mtl_perception.model.checkpoint import Checkpoint, load_checkpoint  # noqa: E402
from pvt_mtl_perception.model.network import MultiTaskNetwork  # noqa: E402
from pvt_mtl_perception.model.spec import TASKS  # noqa: E402
from pvt_mtl_perception.paths import replaced  # noqa: E402

Image = npt.NDArray[np.uint8]
Row = dict[str, Any]
BATCHES = (1, 6, 32)
BACKENDS = ("eager", "cuda_graphs", "onnxruntime", "tensorrt", "compile")
ONE_SHAPE = ("compile", "tensorrt")
"""Backends that prepare a program for minutes: a few cases of them have to do."""


@dataclass(frozen=True)
class Target:
    """A figure to reach.

    Attributes:
        name: for people.
        part: of the report.
        row: how the ``what`` of the rows that count ends.
        key: of the row; the best row counts.
        bound: the figure.
        at_most: whether less is better.
    """

    name: str
    part: str
    row: str
    key: str
    bound: float
    at_most: bool = True


TARGETS = (
    Target("batch 1 in fp16, predictor, ms", "latency", "fp16, batch 1", "predictor ms", 1.5),
    Target("batch 6 in fp16, predictor, ms", "latency", "fp16, batch 6", "predictor ms", 3.0),
    Target("batch 32 in fp16, images/s", "latency", "fp16, batch 32", "images/s", 5000.0, at_most=False),
    Target("six cameras in one batch / six predictors", "cameras", "fp16", "ratio to the faster", 2.5, False),
    Target("all tasks / three single-task networks", "tasks", "fp16, batch 1", "ratio", 0.38),
    Target("all tasks / three, six images", "tasks", "fp16, batch 6", "ratio", 0.38),
)


def verdicts(parts: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Each target with what was measured for it."""
    found = []
    for target in TARGETS:
        rows = parts.get(target.part, ())
        values = [row[target.key] for row in rows if row["what"].endswith(target.row) and target.key in row]
        best = (min if target.at_most else max)(values, default=None)
        met = best is not None and (best <= target.bound if target.at_most else best >= target.bound)
        found.append(
            {
                "what": target.name,
                "target": f"{'<=' if target.at_most else '>='} {target.bound:g}",
                "measured": best if best is not None else "nothing",
                "verdict": "not measured" if best is None else "met" if met else "missed",
            }
        )
    return found


class Suite:
    """What the parts share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.checkpoint = load_checkpoint(args.checkpoint)
        self.size = tuple(args.size)
        self.calls = args.calls
        self.precisions = ("fp32", "fp16", "bf16") if self.device.type == "cuda" else ("fp32",)
        self.backends = args.backends
        self.end = time.monotonic() + 60 * args.minutes
        self.rates: dict[str, float] = {}

    @property
    def seconds_left(self) -> float:
        """Of ``--minutes``."""
        return self.end - time.monotonic()

    @property
    def fastest_precision(self) -> str:
        """What most figures are about."""
        return "fp16" if self.device.type == "cuda" else "fp32"

    def precisions_of(self, backend: str) -> Sequence[str]:
        """Those that a backend is tried in."""
        return (self.fastest_precision,) if backend in ONE_SHAPE else self.precisions

    @property
    def quick_backends(self) -> list[str]:
        """Those that any shape can be asked of."""
        return [name for name in self.backends if name not in ONE_SHAPE]

    def frames(self, count: int, height: int | None = None, width: int | None = None) -> list[Image]:
        """Rendered street scenes, or noise where OpenCV is absent."""
        height, width = height or self.size[0], width or self.size[1]
        try:
            from pvt_mtl_perception.data.synthetic import render_frame
        except ImportError:
            noise = np.random.default_rng(0).integers(0, 256, (min(count, 8), height, width, 3), np.uint8)
            pictures = list(noise)
        else:
            pictures = [render_frame(i, width, height, "test").image for i in range(min(count, 8))]
        return [pictures[i % len(pictures)] for i in range(count)]

    def predictor(self, precision: str, backend: str, checkpoint: Checkpoint | None = None) -> Predictor:
        """Of the suite's model and input size."""
        return Predictor(
            checkpoint or self.checkpoint,
            str(self.device),
            precision,
            input_size=(self.size[0], self.size[1]),
            backend=backend,
        )

    def wait(self) -> None:
        """Until the device has done all its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, call: Callable[[], object], calls: int | None = None) -> npt.NDArray[np.float64]:
        """Times of a call, after some to warm up; the device has finished at the end of each."""
        times = []
        for number in range(5 + (calls or self.calls)):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            if number >= 5:
                times.append(1000 * (time.perf_counter() - start))
        return np.array(times)


def machine(suite: Suite) -> Iterator[Row]:
    """What the device can do: bytes moved and multiply-adds in a second, measured with torch."""
    count = 1 << (28 if suite.device.type == "cuda" else 22)
    source = torch.zeros(count, dtype=torch.uint8, device=suite.device)
    target = torch.empty_like(source)
    seconds = np.median(suite.milliseconds(lambda: target.copy_(source), 20)) / 1000
    suite.rates["bytes"] = 2 * count / seconds
    yield {"what": "memory, read and write", "value": suite.rates["bytes"] / 1e9, "unit": "GB/s"}
    side = 8192 if suite.device.type == "cuda" else 512
    for precision in suite.precisions:
        a = torch.randn(side, side, device=suite.device, dtype=DTYPES[precision])
        # In TF32, in which cuDNN's convolutions of float32 compute by default.
        torch.backends.cuda.matmul.allow_tf32 = True
        seconds = np.median(suite.milliseconds(lambda a=a: a @ a, 10)) / 1000
        torch.backends.cuda.matmul.allow_tf32 = False
        suite.rates[precision] = 2 * side**3 / seconds
        yield {
            "what": f"matrix product, {precision}",
            "value": suite.rates[precision] / 1e12,
            "unit": "TFLOP/s",
        }


def parity(suite: Suite) -> Iterator[Row]:
    """Precisions and backends against eager fp32 on the same device, and that against the CPU."""
    frames = suite.frames(8)
    reference = suite.predictor("fp32", "eager")
    if suite.device.type == "cuda":
        host = Predictor(suite.checkpoint, "cpu", input_size=(suite.size[0], suite.size[1]))

        def on_device(images: Tensor, tasks: Any) -> Any:
            output = reference.forward(images.to(suite.device), tasks)
            return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf, output)

        yield {"what": "eager fp32 against the CPU", **_agreement(compare(host, on_device, frames))}
    for backend in suite.backends:
        for precision in suite.precisions_of(backend):
            if (backend, precision) == ("eager", "fp32") or suite.seconds_left < 0:
                continue
            try:
                other = suite.predictor(precision, backend)
                found = _agreement(compare(reference, other.forward, frames))
            except Exception as error:  # engines have exceptions of their own
                yield {"what": f"{backend} {precision}", "skipped": _reason(error)}
                continue
            yield {"what": f"{backend} {precision}", **found}


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _agreement(found: Any) -> Row:
    return {
        "logits within": max(found.outputs.values()),
        "boxes matched": f"{found.matched_boxes}/{found.boxes}",
        "mask pixels equal": found.mask_pixels,
        "probabilities within": found.probability_difference,
    }


def latency(suite: Suite) -> Iterator[Row]:
    """From uint8 frames in memory to results in memory, and of the network alone."""
    for backend in suite.backends:
        for precision in suite.precisions_of(backend):
            try:
                predictor = suite.predictor(precision, backend)
                for batch in BATCHES[: 2 if backend in ONE_SHAPE else None]:
                    yield _latency_row(suite, predictor, batch, f"{backend} {precision}")
            except Exception as error:  # engines have exceptions of their own
                yield {"what": f"{backend} {precision}", "skipped": _reason(error)}


def _latency_row(suite: Suite, predictor: Predictor, batch: int, name: str) -> Row:
    frames = suite.frames(batch)
    with torch.inference_mode():
        images, _ = predictor.preprocess(frames)
        network = suite.milliseconds(lambda: predictor.forward(images, predictor.tasks))
    whole = suite.milliseconds(lambda: predictor.predict(frames))
    return {
        "what": f"{name}, batch {batch}",
        "network ms": float(np.median(network)),
        "predictor ms": float(np.median(whole)),
        "p95 ms": float(np.percentile(whole, 95)),
        "images/s": 1000 * batch / float(np.median(whole)),
    }


def stream(suite: Suite) -> Iterator[Row]:
    """Batch after batch of 1280x720 frames: one call after the other, and always one batch ahead."""
    precision = suite.fastest_precision
    for backend in suite.quick_backends:
        for batch in BATCHES[1:]:
            batches = [suite.frames(batch, 720, 1280)] * (10 if suite.device.type == "cuda" else 2)
            try:
                predictor = suite.predictor(precision, backend)
                calls, ahead = [], []
                for _ in range(3):
                    calls.append(
                        suite.milliseconds(lambda p=predictor, b=batches: list(map(p.predict, b)), 1)
                    )
                    ahead.append(
                        suite.milliseconds(lambda p=predictor, b=batches: list(p.predict_stream(b, list)), 1)
                    )
                expected = predictor.predict(batches[0])
                equal = all(
                    np.array_equal(a.segmentation.mask, b.segmentation.mask)
                    for _, results in predictor.predict_stream(batches[:3], list)
                    for a, b in zip(expected, results, strict=True)
                    if a.segmentation is not None and b.segmentation is not None
                )
            except Exception as error:  # engines have exceptions of their own
                yield {"what": f"{backend} {precision}, batch {batch}", "skipped": _reason(error)}
                continue
            images = batch * len(batches)
            one, other = (1000 * images / float(np.median(values)) for values in (calls, ahead))
            yield {
                "what": f"{backend} {precision}, batch {batch}",
                "calls images/s": one,
                "one ahead images/s": other,
                "ratio": other / one,
                "masks equal": equal,
            }


def floor(suite: Suite) -> Iterator[Row]:
    """The least time at the measured rates: for all multiply-adds, and for each tensor once out and in."""
    flops = count_flops(suite.checkpoint, *suite.size)["total"]
    network = MultiTaskNetwork(suite.checkpoint.spec, suite.checkpoint.labels).eval()
    elements = 0

    def count(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal elements
        elements += output.numel() if isinstance(output, Tensor) else 0

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, *suite.size))
    weights = sum(parameter.numel() for parameter in network.parameters())
    for precision in suite.precisions:
        width = DTYPES[precision].itemsize
        for batch in BATCHES:
            computing = 1000 * batch * flops / suite.rates[precision]
            moving = 1000 * width * (weights + 2 * batch * elements) / suite.rates["bytes"]
            yield {
                "what": f"{precision}, batch {batch}",
                "GFLOP": batch * flops / 1e9,
                "MB": width * (weights + 2 * batch * elements) / 1e6,
                "computing ms": computing,
                "moving ms": moving,
            }


def cameras(suite: Suite) -> Iterator[Row]:
    """Six 1280x720 cameras: in one batch, and with a predictor for each, in turn and in threads."""
    precision = suite.fastest_precision
    for backend in suite.quick_backends:
        frames = suite.frames(6, 720, 1280)
        try:
            predictors = [suite.predictor(precision, backend) for _ in frames]
            together = np.median(suite.milliseconds(lambda p=predictors[0], f=frames: p.predict(f)))
        except Exception as error:  # engines have exceptions of their own
            yield {"what": f"{backend} {precision}", "skipped": _reason(error)}
            continue
        pairs = list(zip(predictors, frames, strict=True))
        in_turn = np.median(suite.milliseconds(lambda pairs=pairs: [p.predict([f]) for p, f in pairs]))
        with ThreadPoolExecutor(6) as pool:

            def beside(pool: ThreadPoolExecutor = pool, pairs: Any = pairs) -> None:
                list(pool.map(lambda pair: pair[0].predict([pair[1]]), pairs))

            threads = np.median(suite.milliseconds(beside))
        yield {
            "what": f"{backend} {precision}",
            "one batch ms": float(together),
            "six predictors in turn ms": float(in_turn),
            "six in threads ms": float(threads),
            "ratio to the faster": float(min(in_turn, threads) / together),
        }


def tasks(suite: Suite) -> Iterator[Row]:
    """One multi-task network against three single-task ones, all outputs decoded."""
    precision = suite.fastest_precision
    spec = suite.checkpoint.spec
    for backend in suite.quick_backends:
        for batch in (1, 6):
            frames = suite.frames(batch)
            try:
                many = suite.predictor(precision, backend)
                singles = [
                    suite.predictor(precision, backend, _single(suite.checkpoint, task))
                    for task in spec.tasks
                ]
                one = np.median(suite.milliseconds(lambda p=many, f=frames: p.predict(f)))
                three = sum(
                    np.median(suite.milliseconds(lambda p=p, f=frames: p.predict(f))) for p in singles
                )
            except Exception as error:  # engines have exceptions of their own
                yield {"what": f"{backend} {precision}, batch {batch}", "skipped": _reason(error)}
                continue
            yield {
                "what": f"{backend} {precision}, batch {batch}",
                "multi-task ms": float(one),
                "three single-task ms": float(three),
                "ratio": float(one / three),
            }


def _single(checkpoint: Checkpoint, task: str) -> Checkpoint:
    spec = replace(checkpoint.spec, **{other: None for other in TASKS if other != task})
    network = MultiTaskNetwork(spec)
    state = network.state_dict()
    known = {k: v for k, v in checkpoint.state_dict.items() if k in state and v.shape == state[k].shape}
    return replace(checkpoint, spec=spec, labels=network.labels, state_dict={**state, **known})


def training(suite: Suite) -> Iterator[Row]:
    """``benchmarks/training.py`` on the device: images a second, parts of a step, memory."""
    script = str(ROOT / "benchmarks" / "training.py")
    height, width = suite.size
    common = [sys.executable, script, "--device", str(suite.device), "--size", f"{width}x{height}"]
    if suite.device.type == "cuda":
        common += ["--bf16", "--batch-size", "16"]
        rounds = ["--rounds", "10"]
        waiting = ["--wait", "--workers", "8", "--steps", "120"]
        commands = [
            [*rounds],
            [*rounds, "--backbone", "pvt_v2_b2"],
            [*waiting],
            [*waiting, "--backbone", "pvt_v2_b2"],
        ]
    else:
        commands = [["--no-memory", "--rounds", "2"]]
    for extra in commands:
        what = " ".join(extra)
        try:
            done = subprocess.run(
                [*common, *extra],
                capture_output=True,
                text=True,
                check=False,
                timeout=max(1.0, min(240.0, suite.seconds_left)),
                env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
            )
        except subprocess.TimeoutExpired as error:
            yield {"what": what, "skipped": f"no answer in {error.timeout:.0f} s"}
            continue
        if done.returncode:
            yield {"what": what, "skipped": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        for line in done.stdout.splitlines():
            yield {"what": what, "line": line}


PARTS: dict[str, Callable[[Suite], Iterator[Row]]] = {
    part.__name__: part for part in (machine, latency, cameras, tasks, stream, parity, floor, training)
}


def show(row: Row) -> str:
    """A row for the terminal."""
    cells = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    ]
    return "  " + "   ".join(cells[1:] if set(row) == {"what", "line"} else [str(row["what"]), *cells[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit status is 1 where a part failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "models" / "pvt_v2_b0_driving.safetensors")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=image_size, default=(384, 640), metavar="WxH")
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--calls", type=int, default=50, help="timed ones of each case")
    parser.add_argument("--minutes", type=float, default=9.0, help="no case begins after this")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args(arguments)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; --device cpu runs the same parts on the CPU")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    suite = Suite(args)
    name = torch.cuda.get_device_name(suite.device) if suite.device.type == "cuda" else "CPU"
    started = time.monotonic()
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "size": list(suite.size),
        "targets": [asdict(target) for target in TARGETS],
        "parts": {},
    }
    print(f"{name}, torch {torch.__version__}, input {suite.size[1]}x{suite.size[0]}")

    def keep() -> None:
        if args.json:
            with replaced(args.json) as unfinished:
                unfinished.write_text(json.dumps(report, indent=1) + "\n")

    failed = False
    needed = ["machine"] if "floor" in args.parts else []
    for part in dict.fromkeys([*needed, *args.parts]):
        rows: list[Row] = report["parts"].setdefault(part, [])
        minutes = (time.monotonic() - started) / 60
        print(f"{part}, after {minutes:.1f} min: {(PARTS[part].__doc__ or '').splitlines()[0]}", flush=True)
        if suite.seconds_left < 0:
            rows.append({"what": part, "skipped": "no time left"})
            print(show(rows[-1]))
            continue
        try:
            for row in PARTS[part](suite):
                rows.append(row)
                print(show(row), flush=True)
                keep()
                if suite.seconds_left < 0:
                    rows.append({"what": part, "skipped": "no time left for the rest of it"})
                    print(show(rows[-1]), flush=True)
                    break
        except Exception as error:  # the other parts are worth having
            failed = True
            rows.append({"what": part, "failed": f"{type(error).__name__}: {error}"})
            print(show(rows[-1]), flush=True)
        keep()
    report["verdicts"] = verdicts(report["parts"])
    print("targets")
    for row in report["verdicts"]:
        print(show(row))
    keep()
    return int(failed)


if __name__ == "__main__":
    prepare_script()
    sys.exit(main())
