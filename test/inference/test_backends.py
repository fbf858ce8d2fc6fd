from __future__ import annotations

import copy
import importlib
import os
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoints import make_checkpoint

from pvt_mtl_perception.data.synthetic import render_frame
from pvt_mtl_perception.inference.agreement import compare
from pvt_mtl_perception.inference.backends import backend as backend_module
from pvt_mtl_perception.inference.backends import openvino as openvino_module
from pvt_mtl_perception.inference.backends import registry
from pvt_mtl_perception.inference.backends.backend import BackendUnavailableError
from pvt_mtl_perception.inference.backends.cache import (
    KEPT_FILES,
    cache_folder,
    read_cached,
    write_cached,
)
from pvt_mtl_perception.inference.backends.covered import BackgroundBackend, CoveredBackend
from pvt_mtl_perception.inference.backends.graph import (
    export_graph,
    named_outputs,
    network_digest,
    network_output,
    output_names,
    serialized_graph,
    subgraph,
)
from pvt_mtl_perception.inference.backends.openvino import OpenVinoBackend
from pvt_mtl_perception.inference.backends.rewrites import (
    ChannelsLastGroupNorm,
    for_engines,
    interval_means,
)
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.checkpoint import build_network, load_checkpoint
from pvt_mtl_perception.model.network import MultiTaskNetwork, NetworkOutput
from pvt_mtl_perception.model.spec import (
    TASKS,
    BackboneSpec,
    ClassificationSpec,
    DetectionSpec,
    ModelSpec,
    SegmentationSpec,
)
from pvt_mtl_perception.paths import shipped_checkpoint

CPU = torch.device("cpu")
SIZE = (96, 160)
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))
    for name in ("onnxruntime", "openvino")
    for missing in [backend_module.missing_packages(*registry.ENGINES[name].packages)]
]
# Another order of summation moves a logit by some 1e-5; decisions of a trained network are far wider apart.
LOGIT_TOLERANCE = 2e-3


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """Graphs are exported once for the module, and none of the user's are read or dropped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model") / "small.safetensors", height=SIZE[0], width=SIZE[1]
    )


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return [render_frame(seed, 160 + 40 * seed, 96, "test").image for seed in range(3)]


@pytest.fixture(scope="module")
def eager(checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, "cpu")


def assert_equal_outputs(a, b, tolerance: float = LOGIT_TOLERANCE) -> None:
    expected, found = named_outputs(a), named_outputs(b)
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].float(), tensor.float(), atol=tolerance, rtol=1e-4, msg=name)


@pytest.fixture(scope="module", params=ENGINES)
def predictor(request, checkpoint: Path) -> Predictor:
    return Predictor(checkpoint, "cpu", backend=request.param)


def test_an_engine_agrees_with_eager_on_rendered_scenes(
    eager: Predictor, predictor: Predictor, frames: list[np.ndarray]
) -> None:
    agreement = compare(eager, predictor.forward, frames)
    assert max(agreement.outputs.values()) < LOGIT_TOLERANCE
    assert agreement.boxes > 20
    assert agreement.matched_boxes >= agreement.boxes - 1  # a score may lie on the threshold
    assert agreement.mask_pixels >= 0.999
    assert agreement.probability_difference < 1e-3


def test_an_engine_gives_a_batch_what_it_gives_its_images(
    predictor: Predictor, frames: list[np.ndarray]
) -> None:
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames)
        together = named_outputs(predictor.forward(batch, predictor.tasks))
        for i in range(len(frames)):
            alone = named_outputs(predictor.forward(batch[i : i + 1], predictor.tasks))
            for name, tensor in alone.items():
                torch.testing.assert_close(together[name][i], tensor[0], atol=LOGIT_TOLERANCE, rtol=1e-4)


def test_earlier_outputs_stay_valid(predictor: Predictor, frames: list[np.ndarray]) -> None:
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames)
        first = predictor.forward(batch[:1], predictor.tasks).segmentation
        before = first.clone()
        predictor.forward(batch[1:2], predictor.tasks)
    assert torch.equal(first, before)


@pytest.mark.parametrize("tasks", [("detection",), ("classification", "segmentation")], ids="+".join)
def test_an_engine_computes_only_what_is_asked_for(
    eager: Predictor, predictor: Predictor, frames: list[np.ndarray], tasks: Collection[str]
) -> None:
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames[:1])
        found = predictor.forward(batch, tasks)
        assert_equal_outputs(eager.forward(batch, tasks), found)
    # All of the rest is absent from the program, not merely left out of its answer.
    if predictor.backend == "openvino":
        outputs = predictor._backend._kept[SIZE, tuple(tasks)][1].shapes
    else:
        outputs = predictor._backend._sessions[SIZE, tuple(tasks)].get_outputs()
    assert len(outputs) == len(named_outputs(found))


openvino_only = pytest.mark.skipif(
    bool(backend_module.missing_packages("openvino", "onnx")), reason="openvino is not installed"
)


def idle_requests(predictor: Predictor) -> dict[int, int]:
    """How many requests of each program of OpenVINO's are free, by the images that it computes at once."""
    programs = predictor._backend._kept[SIZE, TASKS]
    return {at_once: program.idle.qsize() for at_once, program in programs.items()}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each image that OpenVINO starts: how many its program computes at once, and how many it does now."""
    images: list[tuple[int, int]] = []
    programs: dict[int, tuple[int, Any]] = {}
    start, prepared = openvino_module._start, OpenVinoBackend._prepared

    def keeping(backend, size, names, at_once) -> Any:
        program = prepared(backend, size, names, at_once)
        for request in [program.idle.get() for _ in range(at_once)]:
            programs[id(request)] = at_once, program.idle
            program.idle.put(request)
        return program

    def recording(request, image, outputs) -> None:
        at_once, idle = programs[id(request)]
        images.append((at_once, at_once - idle.qsize()))
        start(request, image, outputs)

    monkeypatch.setattr(OpenVinoBackend, "_prepared", keeping)
    monkeypatch.setattr(openvino_module, "_start", recording)
    return images


@openvino_only
@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1)] * 2),  # half of the threads would have nothing to do
        (3, [(4, 1), (4, 2), (4, 3)]),
        (4, [(4, 1), (4, 2), (4, 3), (4, 4)]),
        (5, [(4, 1), (4, 2), (4, 3), (4, 4), (1, 1)]),
        (7, [(4, 1), (4, 2), (4, 3), (4, 4), (4, 1), (4, 2), (4, 3)]),
    ],
)
def test_openvino_computes_as_many_images_of_a_batch_at_once_as_there_are_threads(
    checkpoint: Path, eager: Predictor, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch,
    started: list[tuple[int, int]], count: int, expected: list[tuple[int, int]],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    predictor = Predictor(checkpoint, "cpu", backend="openvino")
    with torch.inference_mode():
        batch, _ = predictor.preprocess([*frames, *frames[::-1], frames[1]])
        predictor.forward(batch, TASKS)
        started.clear()
        found = predictor.forward(batch[:count], TASKS)
        assert_equal_outputs(eager.forward(batch[:count], TASKS), found)
    assert started == expected
    assert idle_requests(predictor) == {1: 1, 4: 4}


@openvino_only
def test_a_larger_batch_brings_a_program_for_more_images(
    checkpoint: Path, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    predictor = Predictor(checkpoint, "cpu", backend="openvino")
    with torch.inference_mode():
        batch, _ = predictor.preprocess([*frames, *frames])
        for count, programs in ((1, [1]), (2, [1, 2]), (6, [1, 4]), (3, [1, 4])):
            predictor.forward(batch[:count], TASKS)
            assert idle_requests(predictor) == {at_once: at_once for at_once in programs}


@openvino_only
def test_openvino_computes_calls_at_once_on_a_part_of_the_threads_each(
    checkpoint: Path, eager: Predictor, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch,
    started: list[tuple[int, int]],
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    predictor = Predictor(checkpoint, "cpu", backend="openvino", calls=3)
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames)
        expected = eager.forward(batch, TASKS)
        predictor.forward(batch[:1], TASKS)  # prepares both programs, though it is alone
        assert idle_requests(predictor) == {1: 1, 2: 2}
        with monkeypatch.context() as patch:
            patch.setattr(predictor._backend, "_calls", 1)  # of somebody else
            predictor.forward(batch[:1], TASKS)
    assert [at_once for at_once, _ in started] == [1, 2]

    def forward(_: int) -> NetworkOutput:
        with torch.inference_mode():
            return predictor.forward(batch, TASKS)

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(forward, range(9)):
            assert_equal_outputs(expected, found)
    assert idle_requests(predictor) == {1: 1, 2: 2}


class FailingRequest:
    """A request whose result nobody can have."""

    def __init__(self, request: Any, method: str) -> None:
        self._request, self._method = request, method

    def __getattr__(self, name: str) -> Any:
        if name != self._method:
            return getattr(self._request, name)
        self._request.wait()
        raise RuntimeError("no memory")


@openvino_only
@pytest.mark.parametrize("method", ["wait", "start_async"])
@pytest.mark.parametrize("position", range(3))
def test_openvino_has_its_requests_back_when_one_of_several_images_has_failed(
    checkpoint: Path, eager: Predictor, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch,
    position: int, method: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    predictor = Predictor(checkpoint, "cpu", backend="openvino")
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames)
        predictor.forward(batch, TASKS)
        idle = predictor._backend._kept[SIZE, TASKS][3].idle
        requests = [idle.get() for _ in range(3)]
        for i, request in enumerate(requests):
            idle.put(FailingRequest(request, method) if i == position else request)
        with pytest.raises(RuntimeError, match="no memory"):
            predictor.forward(batch, TASKS)
        assert idle_requests(predictor) == {1: 1, 3: 3}
        for _ in range(3):
            idle.get()
        for request in requests:
            idle.put(request)
        assert_equal_outputs(eager.forward(batch, TASKS), predictor.forward(batch, TASKS))


def test_the_part_of_a_graph_for_one_task_lacks_the_weights_of_the_others(checkpoint: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network = build_network(load_checkpoint(checkpoint))
    whole = serialized_graph(network, SIZE)
    part = onnx.load_from_string(subgraph(whole, output_names(network, ["classification"])))
    onnx.checker.check_model(part)
    assert [output.name for output in part.graph.output] == output_names(network, ["classification"])
    sizes = [
        sum(int(np.prod(w.dims)) for w in graph.initializer)
        for graph in (part.graph, onnx.load_from_string(whole).graph)
    ]
    heads = sum(p.numel() for name, p in network.named_parameters() if "heads.d" in name or "heads.s" in name)
    assert sizes[1] - sizes[0] >= heads


def test_a_graph_is_exported_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    network = build_network(load_checkpoint(checkpoint))
    first = serialized_graph(network, SIZE)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported again"))
    assert serialized_graph(network, SIZE) == first


def test_other_weights_are_another_graph(checkpoint: Path) -> None:
    network = build_network(load_checkpoint(checkpoint))
    before = network_digest(network)
    assert network_digest(build_network(load_checkpoint(checkpoint))) == before
    with torch.no_grad():
        next(network.parameters()).flatten()[0] += 1e-6
    assert network_digest(network) != before


@pytest.mark.parametrize(("length", "count"), [(7, 7), (12, 7), (20, 7), (3, 7), (96, 7), (5, 2)])
def test_interval_means_are_adaptive_pooling(length: int, count: int) -> None:
    x = torch.rand(2, 4, length)
    expected = F.adaptive_avg_pool1d(x, count)
    torch.testing.assert_close(x @ interval_means(length, count).T, expected)


def test_rewritten_group_norm_is_group_norm() -> None:
    norm = torch.nn.GroupNorm(4, 24)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    # Far from zero, where E[x^2] - E[x]^2 would cancel.
    x = torch.randn(2, 24, 9, 7) * torch.rand(24, 1, 1) + 100 * torch.randn(24, 1, 1)
    torch.testing.assert_close(ChannelsLastGroupNorm(norm)(x), norm(x), atol=1e-4, rtol=1e-4)


# At 64 kB the sixteen rows of the first stage are cut into five strips of three and one of one.
@pytest.mark.parametrize("strip_bytes", [None, 64 << 10])
def test_rewriting_leaves_the_network_and_its_outputs_as_they_are(
    checkpoint: Path, strip_bytes: int | None
) -> None:
    network = build_network(load_checkpoint(checkpoint))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        rewritten = for_engines(network, (64, 96), torch.float32, strip_bytes)
        assert_equal_outputs(network(images), rewritten(images), 1e-4)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in rewritten.modules())
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        pytest.param(
            ModelSpec(BackboneSpec("pvt_v2_b2_li"), segmentation=SegmentationSpec()), 1, id="linear attention"
        ),
        pytest.param(ModelSpec(detection=DetectionSpec("retinanet")), 2, id="retinanet"),
    ],
)
def test_other_networks_export_too(spec: ModelSpec, names: int) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = MultiTaskNetwork(spec).eval()
    keys = list(network.state_dict())
    graph = export_graph(network, (64, 96)).SerializeToString()
    assert list(network.state_dict()) == keys
    images = torch.randn(3, 3, 64, 96)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    found = [torch.from_numpy(array) for array in session.run(None, {"images": images.numpy()})]
    assert len(found) == names
    with torch.inference_mode():
        expected = network(images)
    rebuilt = network_output(
        dict(zip(output_names(network, network.tasks), found, strict=True)), spec, (64, 96)
    )
    assert_equal_outputs(expected, rebuilt)
    if expected.detection is not None:
        assert rebuilt.detection.sizes == expected.detection.sizes


def test_output_names_are_those_of_the_outputs(checkpoint: Path) -> None:
    network = build_network(load_checkpoint(checkpoint))
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for tasks in (TASKS, TASKS[:1], TASKS[1:]):
            output = network(images, tasks)
            named = named_outputs(output)
            assert list(named) == output_names(network, tasks)
            assert_equal_outputs(output, network_output(named, network.spec, (64, 96)), 0)


def test_auto_takes_the_fastest_that_is_installed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(absent: Collection[str], precision: str = "fp32") -> str:
        monkeypatch.setattr(
            registry, "missing_packages", lambda *packages: [p for p in packages if p in absent]
        )
        monkeypatch.setattr(registry, "_load", lambda name, *_: name)
        return registry.build_backend("auto", None, CPU, precision)

    assert chosen([]) == "openvino"
    assert chosen(["openvino"]) == "onnxruntime"
    assert chosen(["openvino", "onnxruntime"]) == "eager"
    assert chosen(["onnx"]) == "eager"


def test_auto_passes_over_a_backend_without_the_precision(checkpoint: Path) -> None:
    predictor = Predictor(checkpoint, "cpu", "bf16", backend="auto")
    if predictor.backend == "openvino":
        import openvino

        assert "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    else:
        assert predictor.backend == "eager"


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named_with_its_extra(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module = importlib.import_module(f"pvt_mtl_perception.inference.backends.{name}")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        backend_module.importlib.util, "find_spec", lambda package: None if package == name else real(package)
    )
    assert module.require is backend_module.require
    with pytest.raises(
        BackendUnavailableError, match=rf"{name} is not installed: pip install '.*\[{name}\]'"
    ):
        Predictor(checkpoint, "cpu", backend=name)


def test_unknown_backends_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="backend 'tvm' is not known; known: auto, eager"):
        Predictor(checkpoint, "cpu", backend="tvm")


@pytest.mark.parametrize("name", ["cuda_graphs", "tensorrt"])
def test_what_needs_a_gpu_says_so_on_a_cpu(checkpoint: Path, name: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"backend '{name}' runs on cuda, not on cpu"):
        Predictor(checkpoint, "cpu", backend=name)


@pytest.mark.parametrize("name", ENGINES)
def test_a_precision_that_an_engine_lacks_is_refused(checkpoint: Path, name: str) -> None:
    with pytest.raises(ValueError, match="precision"):
        Predictor(checkpoint, "cpu", "fp16", backend=name)
    with pytest.raises(ValueError, match="known: fp32, fp16, bf16"):
        Predictor(checkpoint, "cpu", "int8", backend=name)


def test_the_cache_keeps_the_files_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert read_cached("absent") is None
    for i in range(KEPT_FILES):
        os.utime(write_cached(f"file{i}", b"%d" % i), (i, i))
    assert read_cached("file0") == b"0"  # used now, so file1 is the oldest
    write_cached("one more", b"x")
    kept = {path.name for path in cache_folder().iterdir()}
    assert kept == {"one more", "file0", *(f"file{i}" for i in range(2, KEPT_FILES))}


def test_a_damaged_file_is_absent_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write_cached("graph", b"content")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[1:], b"", b"Content" + whole[7:]):
        path.write_bytes(damaged)
        assert read_cached("graph") is None
        assert f"{path} is damaged" in caplog.text
    write_cached("graph", b"content")
    assert read_cached("graph") == b"content"


def test_a_damaged_graph_is_exported_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = build_network(load_checkpoint(checkpoint))
    first = serialized_graph(network, SIZE)
    (path,) = cache_folder().iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert serialized_graph(network, SIZE) == first
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert write_cached("graph", b"x") is None
    assert read_cached("graph") is None


@pytest.mark.skipif(not os.environ.get("SLOW_TESTS"), reason="compiles for minutes: SLOW_TESTS=1 runs it")
@pytest.mark.parametrize("backbone", ["test_resnet", "pvt_v2_b0"])
def test_a_compiled_network_agrees_with_eager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    spec = ModelSpec(
        BackboneSpec(backbone), classification=ClassificationSpec({"weather": "driving_weather"})
    )
    torch.manual_seed(0)
    network = MultiTaskNetwork(spec).eval()
    compiled = registry.build_backend("compile", copy.deepcopy(network), CPU, "fp32")
    images = torch.randn(2, 3, 32, 64)
    with torch.inference_mode():
        assert_equal_outputs(network(images), compiled(images, ["classification"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["cuda_graphs", "onnxruntime", "tensorrt"])
def test_a_backend_on_a_gpu_agrees_with_eager_there(
    checkpoint: Path, frames: list[np.ndarray], name: str, precision: str
) -> None:
    eager = Predictor(checkpoint, "cuda", "fp32")
    try:
        other = Predictor(checkpoint, "cuda", precision, backend=name)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    for count in (len(frames), 1, 2, 1):  # recordings of other batch sizes in between
        agreement = compare(eager, other.forward, frames[:count])
        assert agreement.mask_pixels > (0.999 if precision == "fp32" else 0.97)
        assert agreement.matched_boxes > 0.9 * agreement.boxes


def camvid_frames(root: Path, count: int) -> list[np.ndarray]:
    import cv2

    paths = sorted((root / "val").iterdir())
    return [
        cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB) for p in paths[:: len(paths) // count][:count]
    ]


@pytest.mark.parametrize("name", ENGINES)
def test_the_shipped_model_agrees_with_eager_on_camera_frames(camvid_root: Path, name: str) -> None:
    frames = camvid_frames(camvid_root, 3)
    size = (192, 256)
    eager = Predictor(shipped_checkpoint(), "cpu", input_size=size)
    agreement = compare(
        eager, Predictor(shipped_checkpoint(), "cpu", input_size=size, backend=name).forward, frames
    )
    assert max(agreement.outputs.values()) < 1e-2
    assert agreement.mask_pixels >= 0.999
    assert agreement.matched_boxes >= agreement.boxes - 1


@pytest.mark.parametrize("name", ["eager", *(engine for engine in ENGINES if engine.values[0] == "openvino")])
def test_bf16_agrees_with_eager_fp32_on_camera_frames(camvid_root: Path, name: str) -> None:
    size = (192, 256)
    try:
        other = Predictor(shipped_checkpoint(), "cpu", "bf16", backend=name, input_size=size)
    except ValueError as error:  # the engine asks the CPU; eager emulates what the CPU lacks
        pytest.skip(str(error))
    eager = Predictor(shipped_checkpoint(), "cpu", input_size=size)
    agreement = compare(eager, other.forward, camvid_frames(camvid_root, 8))
    # Above what fp32 is held to, or nothing was computed in bf16.
    assert 1e-2 < max(agreement.outputs.values()) < 0.4
    assert agreement.mask_pixels >= 0.995
    assert agreement.boxes > 40
    assert agreement.matched_boxes >= 0.9 * agreement.boxes
    assert agreement.probability_difference < 0.05


class Recording:
    """An eager backend that notes what it was asked to run."""

    name, device = "recording", CPU

    def __init__(self, network: MultiTaskNetwork) -> None:
        self.network = network
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    def __call__(self, images: torch.Tensor, tasks: Collection[str]):
        self.calls.append((len(images), tuple(tasks)))
        with torch.inference_mode():
            return self.network(images, tasks)


@pytest.mark.parametrize("name", ENGINES)
def test_a_new_set_of_tasks_runs_at_once_while_its_program_is_prepared(
    checkpoint: Path, eager: Predictor, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    predictor = Predictor(checkpoint, "cpu", backend=name, background=True)
    engine = predictor._backend._backend
    prepare, kept = ("_programs", "_kept") if name == "openvino" else ("_session", "_sessions")
    go_on, held = threading.Event(), threading.Event()
    original = getattr(engine, prepare)

    def slowly(size, tasks, *rest):
        if tasks == ("detection",) and threading.current_thread().name == "program preparation":
            held.set()
            assert go_on.wait(60)
        return original(size, tasks, *rest)

    monkeypatch.setattr(engine, prepare, slowly)
    with torch.inference_mode():
        batch, _ = predictor.preprocess(frames[:2])
        predictor.forward(batch, TASKS)
        expected = eager.forward(batch, ("detection",))
        programs = getattr(engine, kept)
        for _ in range(2):
            assert_equal_outputs(expected, predictor.forward(batch, ("detection",)))
        assert held.wait(60)
        assert list(programs) == [(SIZE, TASKS)]
        go_on.set()
        preparing = [thread for thread in threading.enumerate() if thread.name == "program preparation"]
        assert len(preparing) <= 1
        for thread in preparing:
            thread.join(60)
        assert list(programs) == [(SIZE, TASKS), (SIZE, ("detection",))]
        # From now on nothing is computed that nobody asked for.
        monkeypatch.delitem(programs, (SIZE, TASKS))
        assert_equal_outputs(expected, predictor.forward(batch, ("detection",)))
        assert list(programs) == [(SIZE, ("detection",))]


def test_a_program_that_cannot_be_prepared_leaves_the_larger_one_in_use(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = Recording(build_network(load_checkpoint(checkpoint), checkpoint))

    def engine(images: torch.Tensor, tasks: Collection[str]):
        if threading.current_thread().name == "program preparation":
            raise RuntimeError("out of memory")
        return inner(images, tasks)

    engine.name, engine.device = "engine", CPU
    backend = BackgroundBackend(engine)
    images = torch.randn(1, 3, *SIZE)
    backend(images, TASKS)
    for _ in range(3):
        found = named_outputs(backend(images, ("segmentation",)))
        assert list(found) == ["segmentation"]
        for thread in threading.enumerate():
            if thread.name == "program preparation":
                thread.join(60)
    assert inner.calls == [(1, TASKS)] * 4
    assert [record.getMessage() for record in caplog.records] == [
        "engine: no program of its own for segmentation: out of memory"
    ]


def test_a_smaller_batch_and_fewer_tasks_run_in_a_prepared_program(checkpoint: Path) -> None:
    inner = Recording(build_network(load_checkpoint(checkpoint), checkpoint))
    covered = CoveredBackend(inner)
    images = torch.randn(3, 3, *SIZE)
    covered(images, TASKS)
    for count, tasks in ((3, TASKS), (2, TASKS), (1, ("detection",)), (3, ("segmentation",))):
        found = named_outputs(covered(images[:count], tasks))
        with torch.inference_mode():
            expected = named_outputs(inner.network(images[:count], tasks))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-4)
    assert set(inner.calls) == {(3, TASKS)}
    # A larger batch or another size is covered by none; the smallest that covers is taken.
    covered(torch.randn(4, 3, *SIZE), ("detection",))
    covered(torch.randn(1, 3, 64, 64), ("classification",))
    assert inner.calls[-2:] == [(4, ("detection",)), (1, ("classification",))]
    covered(images[:2], ("detection",))
    assert inner.calls[-1] == (3, TASKS)
    covered(torch.randn(4, 3, *SIZE)[:, :], ("detection",))
    assert inner.calls[-1] == (4, ("detection",))
