"""What each pass over a data set gave, kept in a folder so that an interrupted evaluation goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pvt_mtl_perception.evaluation.records import Records, load_records, save_records
from pvt_mtl_perception.paths import read_json, replaced

FOLDER = "eval_unfinished"
"""In the output folder, from the first finished pass until everything is written."""


class Pass(NamedTuple):
    """One look at all images of a source: as they are, without a corruption, or corrupted.

    Attributes:
        source: its name.
        corruption, strength: what is done to them.
    """

    source: str
    corruption: str = ""
    strength: int = 0

    @property
    def stem(self) -> str:
        """Of the file of its records."""
        stem = self.source.strip("/").replace("/", "_")
        return f"{stem}_{self.corruption}_{self.strength}" if self.corruption else stem


@dataclass(frozen=True)
class Scored:
    """What a pass gave.

    Attributes:
        scores: from ``Metrics.scores``.
        records: from ``Metrics.records``.
        about: plain data on the images.
    """

    scores: dict[str, Any]
    records: Records
    about: Mapping[str, Any] = field(default_factory=dict)


ELSEWHERE = Scored({}, Records(()))
"""Of a pass in a process that does not lead."""


class FinishedPasses:
    """The passes of an evaluation that are finished, on disk.

    Args:
        out: the evaluation's output folder, which exists.
        settings: plain data on everything that scores depend on, but for the images themselves.
        description: plain data on where the records come from, beside the pass.
        leads: whether this process reads and writes; the others are only told what there is.
        agree: of each process's flag, whether any process raised it; called by all of them in turn.

    Raises:
        ValueError: when the folder holds passes under other settings, naming them, or a damaged list.
    """

    def __init__(
        self,
        out: Path,
        settings: Mapping[str, Any],
        description: Mapping[str, Any],
        leads: bool = True,
        agree: Callable[[bool], bool] = lambda flag: flag,
    ) -> None:
        self.out = out
        self.folder = out / FOLDER
        self._settings = json.loads(json.dumps(settings))
        self._description = dict(description)
        self._leads = leads
        self._agree = agree
        self._used: list[Pass] = []
        # By stem, scores and what they are about.
        self._passes: dict[str, dict[str, Any]] = self._read() if leads else {}

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.folder / "scores.json"
        if not path.is_file():
            return {}
        anew = f"remove {self.folder} to begin anew"
        content = read_json(path)
        if not isinstance(content, dict) or not all(
            isinstance(content.get(key), dict) for key in ("settings", "passes")
        ):
            raise ValueError(f"{path} is no list of finished passes; {anew}")
        stored = content["settings"]
        for key in sorted(self._settings.keys() | stored.keys()):
            before, now = stored.get(key), self._settings.get(key)
            if before != now:
                raise ValueError(
                    f"{self.folder} holds passes of an unfinished evaluation with {key} {before!r}, not "
                    f"{now!r}: continue with that, or {anew}"
                )
        return dict(content["passes"])

    def __len__(self) -> int:
        return len(self._passes)

    def __str__(self) -> str:
        return f"{self.folder} holds {len(self)} passes over images that are done"

    def find(self, one: Pass, images: int | None = None) -> Scored | None:
        """A finished pass; None where it is to be done, also where its file is damaged or of other images.

        Args:
            one: which.
            images: how many the source has, where that is known before they are read.
        """
        found = self._load(one, images) if self._leads else None
        if not self._agree(found is not None):
            return None
        self._used.append(one)
        return found or ELSEWHERE

    def _load(self, one: Pass, images: int | None) -> Scored | None:
        if one.stem not in self._passes:
            return None
        try:
            records = load_records(self.folder / f"{one.stem}.npz")
        except (FileNotFoundError, ValueError):
            return None
        if images is not None and len(records) != images:
            return None
        return Scored(records=records, **self._passes[one.stem])

    def add(self, one: Pass, scored: Scored) -> None:
        """Keeps a pass that was done just now.

        Raises:
            OSError: from the file system.
        """
        self._used.append(one)
        if not self._leads:
            return
        self.folder.mkdir(exist_ok=True)
        where = one._asdict() if one.corruption else {"source": one.source}
        described = dataclasses.replace(scored.records, description=self._description | where)
        save_records(self.folder / f"{one.stem}.npz", described)
        self._passes[one.stem] = {"scores": scored.scores, "about": scored.about}
        with replaced(self.folder / "scores.json") as temporary:
            temporary.write_text(json.dumps({"settings": self._settings, "passes": self._passes}) + "\n")

    def finish(self) -> None:
        """Everything else is written: the records take their places, and nothing is to be gone on with.

        Raises:
            FileNotFoundError: when another process has taken a file away.
        """
        for one in self._used:
            (self.folder / f"{one.stem}.npz").replace(self.out / f"{one.stem}.npz")
        shutil.rmtree(self.folder)
