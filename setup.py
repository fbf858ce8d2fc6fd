"""Installs the package with colcon (ament_python) and with pip alike."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "pvt_mtl_perception"
SHARE = f"share/{PACKAGE}"
HERE = Path(__file__).resolve().parent


def files_below(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below ``folder`` with its place below ``share/``, as ``data_files`` wants it."""
    folders: dict[str, list[str]] = {}
    for file in sorted((HERE / folder).rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
            relative = file.relative_to(HERE)
            folders.setdefault(f"{SHARE}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(folders.items())


data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
    (SHARE, ["package.xml"]),
    # pip puts console scripts into bin/ only; ros2 run and launch_ros look here.
    (
        f"lib/{PACKAGE}",
        [f"scripts/{name}" for name in ("perception_node", "autoware_converter", "bag_player")],
    ),
]
for name in ("config", "launch", "models", "rviz"):
    data_files += files_below(name)

# What exports a network to the engines.
ONNX = ["onnx>=1.17"]

setup(
    name=PACKAGE,
    version=re.search(r'__version__ = "(.+)"', (HERE / PACKAGE / "__init__.py").read_text())[1],
    description="Multi-task driving perception for ROS 2: classification, detection and segmentation from "
    "one PVT v2 backbone",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    maintainer="pvt_mtl_perception developers",
    maintainer_email="pvt-mtl-perception@users.noreply.github.com",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed", "evaluation/*.jinja", "study/report/*.jinja"]},
    data_files=data_files,
    # The versions that work; requirements/ has those that are tested. With ROS 2 installed, NumPy and OpenCV
    # are the system's: install with --no-deps there.
    install_requires=[
        "av>=12",
        "huggingface-hub>=2.4",
        "jsonargparse>=4.49",
        "mcap>=1.2",
        "mcap-protobuf-support>=0.5",
        "numpy>=1.26",
        "opencv-python-headless>=4.6",
        "pillow>=10.1",
        "PyYAML>=6",
        "rosbags>=0.10",
        "safetensors>=0.4",
        "timm>=1.0.21",
        "torch>=2.8",
        "torchvision>=0.23",
        "tqdm>=4.60",
    ],
    extras_require={
        "onnx": ONNX,
        "peers": [*ONNX, "onnx2torch>=1.5.15"],
        "onnxruntime": [*ONNX, "onnxruntime>=1.20"],
        "openvino": [*ONNX, "openvino>=2025.0"],
        "tensorrt": [*ONNX, "tensorrt>=10.0"],
        "training": [
            "faster-coco-eval>=1.6",
            "jinja2>=3.1",
            "matplotlib>=3.8",
            "pycocotools>=2.0.7",
            "scikit-learn>=1.4",
            "scipy>=1.15",
            "tensorboard>=2.15",
            "torchjd>=0.18",
            "torchmetrics>=1.4",
        ],
    },
    entry_points={"console_scripts": [f"pvt-mtl = {PACKAGE}.cli:main"]},
    zip_safe=False,
)
