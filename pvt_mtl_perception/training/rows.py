"""Files of a run that grow by a row of JSON at a time: ``log.jsonl`` and ``affinity.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pvt_mtl_perception.paths import replaced


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows in the order of their key ``step``, one for each step and kind at most, the later one.

    A row with the key ``validation`` is of another kind than one without. A line cut off by a kill is left
    out.

    Raises:
        FileNotFoundError: when there is none.
    """
    rows: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["step"], "validation" in row] = row
    return [rows[key] for key in sorted(rows)]


def keep_rows(path: Path, last: int) -> None:
    """Drops a cut line and the rows after a step, which a run that goes on from there writes again."""
    if not path.is_file():
        return
    kept = [row for row in read_rows(path) if row["step"] <= last]
    with replaced(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
