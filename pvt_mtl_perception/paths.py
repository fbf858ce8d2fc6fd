"""Where the package's own data files lie: source checkout, virtual environment or colcon install."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PACKAGE = "pvt_mtl_perception"


@cache
def share_directory() -> Path:
    """The folder that holds ``config/``, ``launch/``, ``models/`` and ``rviz/``.

    In a source checkout that is the repository root; after ``pip install`` or ``colcon build`` it is
    ``<prefix>/share/pvt_mtl_perception``.

    Raises:
        FileNotFoundError: when neither exists, naming the folders that were looked at.
    """
    package = Path(__file__).resolve().parent
    looked = []
    for parent in package.parents:
        for candidate in (parent, parent / "share" / PACKAGE):
            looked.append(candidate)
            if (candidate / "config" / "labels").is_dir():
                return candidate
    raise FileNotFoundError(
        f"the data files of {PACKAGE} (config/labels) are in none of: "
        + ", ".join(str(folder) for folder in looked)
    )
