"""Checkpoints on the Hugging Face hub: pushed, fetched, cached, and explained where they cannot be had.

The hub's client reads its settings once, when it is imported. So everything here runs in a process of its
own, first with a real server on this machine as its hub, then after that server has stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import timm
import torch
import yaml
from bag_files import street
from checkpoints import make_checkpoint
from hub_server import TOKEN, Hub, Repository, running_hub
from safetensors.torch import save_file

from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.hub import hub_uri, resolve_checkpoint, source_name

DRIVER = """
import contextlib, io, json, os, sys
from pvt_mtl_perception.cli import main
from pvt_mtl_perception.inference.predictor import Predictor
from pvt_mtl_perception.model.network import MultiTaskNetwork
from pvt_mtl_perception.model.pretrained import load_backbone_weights
from pvt_mtl_perception.model.spec import ClassificationSpec, ModelSpec

def verb(*arguments):
    return main(arguments)

def anonymous(*arguments):
    token = os.environ.pop("HF_TOKEN")
    status = main(arguments)
    os.environ["HF_TOKEN"] = token
    return status

def predictor(source):
    print(Predictor(source, "cpu").model_name)
    return 0

def pretrained(source):
    network = MultiTaskNetwork(ModelSpec(classification=ClassificationSpec({"weather": "driving_weather"})))
    try:
        report = load_backbone_weights(network, source)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(report.source, len(report.missing), network.backbone.body.patch_embed.norm.weight[0].item())
    return 0

for line in sys.stdin:
    results = {}
    for name, (action, *arguments) in json.loads(line).items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = globals()[action](*arguments)
        results[name] = [status, out.getvalue(), err.getvalue()]
    print(json.dumps(results), flush=True)
"""
REFUSED = {
    "hf://lab/absent": "the hub has no such repository, or it is private",
    "hf://lab/tiny@v9": "the repository has no such branch, tag or commit",
    "hf://lab/tiny/b.safetensors": "the repository has no such file",
    "hf://lab/text": "the repository has none",
    "hf://lab/two": "the repository has several: a.safetensors, b.safetensors; add one",
    "hf://lab": "hf://lab is not like hf://owner/name[@revision][/file]",
    "hf://datasets/lab/tiny": "names a dataset, not a model repository",
}


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    error: str


@contextlib.contextmanager
def client_of(endpoint: str, home: Path) -> Iterator[Callable[[Mapping[str, list[str]]], dict[str, Outcome]]]:
    """Carries out the driver's actions in a process whose hub is ``endpoint``."""
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    # Uploads take git LFS over HTTP, which the test's server speaks.
    environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], env=environment, stdin=pipe, stdout=pipe, text=True
    ) as process:

        def act(actions: Mapping[str, list[str]]) -> dict[str, Outcome]:
            process.stdin.write(json.dumps(actions) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, f"the client ended with status {process.wait()}"
            return {name: Outcome(*values) for name, values in json.loads(answer).items()}

        try:
            yield act
        finally:
            process.kill()


@dataclass(frozen=True)
class World:
    """Files of the test, the hub after everything has run, and what came of each action."""

    folder: Path
    hub: Hub
    online: dict[str, Outcome]
    offline: dict[str, Outcome]

    @property
    def pushed(self) -> Repository:
        return self.hub.repositories["lab/tiny"]


def fill(hub: Hub, checkpoint: Path, folder: Path) -> None:
    """Repositories that others have made."""
    hub.add("lab/renamed", {"b0.safetensors": checkpoint.read_bytes(), "README.md": b""})
    hub.add("lab/text", {"README.md": b"words"})
    hub.add("lab/two", {"a.safetensors": b"1", "b.safetensors": b"2"})
    model = timm.create_model("pvt_v2_b0")
    for repository, value in (("timm/pvt_v2_b0.in1k", 0.25), ("lab/mine", 0.75)):
        torch.nn.init.constant_(model.patch_embed.norm.weight, value)
        save_file(model.state_dict(), folder / "timm.safetensors")
        hub.add(
            repository,
            {
                "model.safetensors": (folder / "timm.safetensors").read_bytes(),
                "config.json": b'{"architecture": "pvt_v2_b0"}',
            },
        )
    hub.add("lab/resnet", {"config.json": b'{"architecture": "resnet18"}'})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("hub")
    first = make_checkpoint(folder / "first.safetensors", ["classification"])
    second = make_checkpoint(folder / "second.safetensors", ["classification"], seed=7)
    second.with_suffix(".md").write_text("# Written by hand\n")
    (folder / "pictures").mkdir()
    cv2.imwrite(str(folder / "pictures" / "a.png"), street(0)[:, :, ::-1])

    def predict(name: str, model: str) -> list[str]:
        out = ["--out", str(folder / name), "--no-pictures", "--device", "cpu"]
        return ["verb", "predict", str(folder / "pictures"), "--model", model, *out]

    with contextlib.ExitStack() as stack:
        with running_hub() as hub:
            fill(hub, first, folder)
            client = stack.enter_context(client_of(hub.url, folder / "home"))
            online = client(
                {
                    "push": ["verb", "push", str(first), "lab/tiny", "--private"],
                    "push branch": ["verb", "push", str(second), "lab/tiny", "--revision", "trial"],
                    "push picture": ["verb", "push", str(folder / "pictures" / "a.png"), "lab/tiny"],
                    "push nowhere": ["verb", "push", str(first), "tiny"],
                    "main": predict("main", "hf://lab/tiny"),
                    "branch": predict("branch", "hf://lab/tiny@trial"),
                    "file": predict("file", "hf://lab/tiny@trial/model.safetensors"),
                    "renamed": ["predictor", "hf://lab/renamed"],
                    **{address: predict("refused", address) for address in REFUSED},
                    "timm": ["pretrained", "timm"],
                    "timm of the lab": ["pretrained", "hf-hub:lab/mine"],
                    "timm as a file": ["pretrained", "hf://lab/mine@main/model.safetensors"],
                    "another timm model": ["pretrained", "hf-hub:lab/resnet"],
                    "no timm model": ["pretrained", "hf-hub:lab/absent"],
                    "no token": ["anonymous", "push", str(first), "lab/tiny"],
                }
            )
        offline = client(
            {
                "cached": ["predictor", "hf://lab/renamed/b0.safetensors"],
                "cached branch": predict("again", "hf://lab/tiny@trial"),
                "absent": predict("absent", "hf://lab/other"),
                "push": ["verb", "push", str(first), "lab/tiny"],
                "timm": ["pretrained", "hf-hub:lab/other"],
                "file": ["predictor", str(first)],
            }
        )
    return World(folder, hub, online, offline)


def test_push_uploads_checkpoint_and_card_in_one_commit(world: World) -> None:
    repository, done = world.pushed, world.online
    assert (done["push"].status, done["push branch"].status) == (0, 0), done
    assert repository.visibility == "private"
    # One more made the repository.
    assert len(repository.commits) == 3
    main, trial = repository.files("main"), repository.files("trial")
    assert main["model.safetensors"] == (world.folder / "first.safetensors").read_bytes()
    assert trial["model.safetensors"] == (world.folder / "second.safetensors").read_bytes()
    assert f"{world.hub.url}/lab/tiny/commit/{repository.branches['main']}" in done["push"].out
    assert done["push branch"].out.endswith("use it as hf://lab/tiny@trial\n")


def test_the_card_tells_the_hub_licence_library_and_tasks(world: World) -> None:
    main, trial = world.pushed.files("main"), world.pushed.files("trial")
    _, front, card = main["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0",
        "library_name": "pvt_mtl_perception",
        "pipeline_tag": "image-classification",
        "tags": ["multi-task-learning", "ros2", "image-classification", "pvt_v2_b0", "fpn"],
    }
    assert card.startswith("\n# lab/tiny\n") and "- classification, weather: clear" in card
    assert trial["README.md"].decode().endswith("---\n\n# Written by hand\n")


def test_a_pushed_checkpoint_predicts_by_its_address(world: World) -> None:
    for name, file, done in (
        ("main", "first", world.online),
        ("branch", "second", world.online),
        ("file", "second", world.online),
        ("again", "second", world.offline),
    ):
        outcome = done["cached branch" if name == "again" else name]
        assert outcome.status == 0, outcome.error
        (line,) = (world.folder / name / "results.jsonl").read_text().splitlines()
        predictor = Predictor(world.folder / f"{file}.safetensors", "cpu")
        (expected,) = predictor.predict([street(0)])
        for group, found in json.loads(line)["classification"].items():
            probabilities = expected.classification.probabilities[group].tolist()
            assert list(found.values()) == pytest.approx(probabilities, abs=1e-4)


def test_a_repository_with_one_file_of_another_name_needs_no_name(world: World) -> None:
    assert world.online["renamed"] == Outcome(0, "renamed\n", "")
    assert world.hub.requests.count("GET /lab/renamed/resolve/main/b0.safetensors") == 1


def test_what_is_cached_works_without_the_hub(world: World) -> None:
    assert world.offline["cached"] == Outcome(0, "renamed\n", "")
    assert world.offline["file"] == Outcome(0, "first\n", "")


@pytest.mark.parametrize("address", REFUSED)
def test_what_the_hub_lacks_is_said_in_one_line(world: World, address: str) -> None:
    outcome = world.online[address]
    assert outcome.status == 2
    (line,) = outcome.error.splitlines()
    assert address in line and REFUSED[address] in line


def test_nothing_but_a_checkpoint_is_pushed(world: World) -> None:
    picture, nowhere = world.online["push picture"], world.online["push nowhere"]
    assert picture.status == nowhere.status == 2
    assert "a.png is not a complete safetensors file" in picture.error
    assert "'tiny' is not a repository; needs owner/name" in nowhere.error


def test_without_a_network_the_message_says_what_to_do(world: World) -> None:
    for name in ("absent", "push", "timm"):
        outcome = world.offline[name]
        assert outcome.status == 2
        (line,) = outcome.error.splitlines()
        assert f"the hub at {world.hub.url} cannot be reached" in line
        assert ("give the path of a local file" in line) == (name != "push")
        assert ("lab/tiny" if name == "push" else "lab/other") in line


def test_timm_weights_come_from_the_hub_by_the_backbones_name(world: World) -> None:
    done = world.online
    assert done["timm"] == Outcome(0, "hf://timm/pvt_v2_b0.in1k 0 0.25\n", "")
    assert done["timm of the lab"] == Outcome(0, "hf://lab/mine 0 0.75\n", "")
    assert done["timm as a file"] == Outcome(0, "hf://lab/mine@main/model.safetensors 0 0.75\n", "")
    wrong, absent = done["another timm model"], done["no timm model"]
    assert wrong.error == "hf-hub:lab/resnet is resnet18; backbone.name is pvt_v2_b0\n"
    assert absent.error.startswith("hf://lab/absent/config.json: the hub has no such repository")
    assert wrong.status == absent.status == 2


def test_a_push_without_a_token_is_explained(world: World) -> None:
    (line,) = world.online["no token"].error.splitlines()
    assert world.online["no token"].status == 2
    assert "lab/tiny: " in line and "`hf auth login`, or set HF_TOKEN" in line


def test_paths_are_left_alone_and_addresses_survive_pathlib() -> None:
    assert resolve_checkpoint("models/tiny.safetensors") == Path("models/tiny.safetensors")
    assert hub_uri("models/tiny.safetensors") is None
    address = "hf://lab/tiny@v1/model.safetensors"
    assert hub_uri(Path(address)) == hub_uri(address) == address
    assert source_name(address) == "tiny" and source_name("runs/b0.safetensors") == "b0"
