"""``pvt-mtl data check``: reads every sample of a training configuration's sources once and reports."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

SUMMARY = "read all data of a training configuration once: statistics, errors, a sheet of labelled samples"

FOUND_PROBLEMS = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this verb's arguments."""
    commands = parser.add_subparsers(dest="command", metavar="check", required=True)
    check = commands.add_parser(
        "check", help="read everything once", description="Ends with status 1 where something cannot be read."
    )
    check.add_argument("config", type=Path, help="training configuration (YAML)")
    check.add_argument(
        "--out", type=Path, default=Path("out/data"), help="folder of the report (default: %(default)s)"
    )
    check.add_argument("--workers", type=int, default=2, help="reading processes (default: %(default)s)")
    check.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the configuration; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Writes ``report.json``, ``report.md`` and ``contact_sheet.png``; 1 where a sample is bad."""
    from pvt_mtl_perception.data.check import check_sources, count_problems, draw_contact_sheet, markdown
    from pvt_mtl_perception.model.spec import load_task_labels
    from pvt_mtl_perception.training.config import load_config

    config = load_config(args.config, [f"--{change}" for change in args.set])
    sources = {"train": config.train, "validate": config.validate, "evaluate": config.evaluate}
    report, opened = check_sources(sources, load_task_labels(config.model), args.workers)
    args.out.mkdir(parents=True, exist_ok=True)
    written = [args.out / "report.json", args.out / "report.md"]
    written[0].write_text(json.dumps({"config": str(args.config), **report}, indent=1) + "\n")
    written[1].write_text(markdown(report))
    if opened:
        written.append(args.out / "contact_sheet.png")
        draw_contact_sheet(opened, written[-1])
    problems = count_problems(report)
    print(f"{problems or 'no'} problem{'' if problems == 1 else 's'}", *written, sep="\n")
    return FOUND_PROBLEMS if problems else 0
