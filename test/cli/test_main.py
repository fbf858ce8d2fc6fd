"""``pvt-mtl`` says what is wrong in one line, and its help appears at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pvt_mtl_perception.cli import VERBS, main

STREET = Path(__file__).resolve().parents[1] / "data" / "street.mcap"


def test_help_lists_every_verb_without_loading_torch() -> None:
    source = (
        "import sys; from pvt_mtl_perception.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'cv2', 'av', 'rosbags', 'rclpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"\n    {verb}" in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"usage: pvt-mtl {verb}" in capsys.readouterr().out


def test_an_input_that_is_wrong_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PVT_MTL_DEBUG", raising=False)
    missing = tmp_path / "missing.safetensors"
    arguments = ["bag", str(STREET), str(tmp_path / "out"), "--model", str(missing)]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"pvt-mtl: error: no checkpoint at {missing}\n"
    monkeypatch.setenv("PVT_MTL_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(arguments)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (["bag", "in.mcap"], "--batch"),
        (["bag", "in.mcap"], "--segment"),
        (["predict", "in"], "--batch"),
        (["bench"], "--batch"),
        (["bench"], "--rounds"),
        (["export", "model.safetensors"], "--batch"),
        (["eval", "model.safetensors"], "--batch-size"),
        (["eval", "model.safetensors"], "--cost-calls"),
        (["eval", "model.safetensors"], "--limit"),
        (["carla-eval", "in.mcap"], "--batch-size"),
        (["carla-eval", "in.mcap"], "--frames"),
        (["train", "run.yaml"], "--threads"),
    ],
)
def test_a_count_is_at_least_one(verb: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number in ("0", "-1", "two"):
        with pytest.raises(SystemExit) as end:
            main([*verb, option, number])
        assert end.value.code == 2
        assert f"argument {option}: {number!r} is not a number from 1" in capsys.readouterr().err


def test_the_message_of_a_key_error_has_no_quotes_around_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvt_mtl_perception.cli import bag

    def fail(args: object) -> int:
        raise KeyError("label set 'x' has no class 'y'")

    monkeypatch.setattr(bag, "run", fail)
    assert main(["bag", "in", "out"]) == 2
    assert capsys.readouterr().err == "pvt-mtl: error: label set 'x' has no class 'y'\n"


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from pvt_mtl_perception.cli import bag

    def stop(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bag, "run", stop)
    assert main(["bag", "in", "out"]) == 130
    assert capsys.readouterr().err == "pvt-mtl: interrupted\n"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pvt_mtl_perception.cli", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "invalid choice: 'nonsense'" in done.stderr
