"""What each pass over a data set gave, kept in a folder so that an interrupted evaluation goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pvt_mtl_perception.evaluation.records import Records, load_records, save_records
from pvt_mtl_perception.paths import replaced

FOLDER = "unfinished"
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
        stem = self.source.replace("/", "_")
        return f"{stem}_{self.corruption}_{self.strength}" if self.corruption else stem


@dataclass(frozen=True)
class Scored:
    """What a pass gave.

    Attributes:
        scores: from ``Metrics.scores``.
        records: from ``Metrics.records``.
    """

    scores: dict[str, Any]
    records: Records


class FinishedPasses:
    """The passes of an evaluation that are finished, on disk.

    Args:
        out: the evaluation's output folder, which exists.
        settings: plain data on everything that scores depend on. Passes of other settings are removed.
        description: plain data on where the records come from, beside the pass.
        leads: whether this process reads and writes; the others are only told what there is.
        agree: of each process's flag, whether any process raised it; called by all of them in turn.
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
        self._scores: dict[str, dict[str, Any]] = {}
        if leads:
            self._scores = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads((self.folder / "scores.json").read_text())
            if content["settings"] == self._settings:
                return dict(content["scores"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        return {}

    def __len__(self) -> int:
        return len(self._scores)

    def find(self, one: Pass) -> Scored | None:
        """A finished pass; None where it is to be done. The scores are empty in a process that does not lead.

        Raises:
            ValueError: for damaged records, naming the file.
        """
        if not self._agree(one.stem in self._scores):
            return None
        if not self._leads:
            return Scored({}, Records(()))
        return Scored(self._scores[one.stem], load_records(self.folder / f"{one.stem}.npz"))

    def add(self, one: Pass, scored: Scored) -> None:
        """Keeps a pass that was done just now.

        Raises:
            OSError: from the file system.
        """
        if not self._leads:
            return
        self.folder.mkdir(exist_ok=True)
        where = one._asdict() if one.corruption else {"source": one.source}
        described = dataclasses.replace(scored.records, description=self._description | where)
        save_records(self.folder / f"{one.stem}.npz", described)
        self._scores[one.stem] = scored.scores
        with replaced(self.folder / "scores.json") as temporary:
            temporary.write_text(json.dumps({"settings": self._settings, "scores": self._scores}) + "\n")

    def move_records(self) -> None:
        """The records of all passes take the place of earlier ones in the output folder."""
        for path in self.folder.glob("*.npz"):
            path.replace(self.out / path.name)

    def remove(self) -> None:
        """Everything is written: nothing is to be gone on with."""
        shutil.rmtree(self.folder, ignore_errors=True)
