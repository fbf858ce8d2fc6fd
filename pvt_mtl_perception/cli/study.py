"""``pvt-mtl study``: many runs compared, from one file that says which and what for."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvt_mtl_perception.data.sources import SourceConfig
    from pvt_mtl_perception.study.config import StudyConfig
    from pvt_mtl_perception.study.executors import Executor
    from pvt_mtl_perception.study.jobs import Job

SUMMARY = "run the arms, seeds and data fractions of a study, and see where it stands"

SOME_FAILED = 1


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N")
    return int(found[1]), int(found[2])


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not all(int(side) >= 32 for side in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, from 32x32")
    return int(found[1]), int(found[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    commands = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    run_command = commands.add_parser(
        "run",
        help="run what is not finished yet",
        description="Runs every job that is not finished; the same command goes on after an interruption. "
        "Several runners may work on one folder. Ends with status 1 where a job failed.",
    )
    tune = commands.add_parser(
        "tune",
        help="run the arms' trials, from which run takes the best of each arm",
        description="Runs the trials that are not finished, and writes tuning.json.",
    )
    for command in (run_command, tune):
        _add_common(command)
        _add_arms(command)
        command.add_argument(
            "--jobs",
            type=_part,
            default=(1, 1),
            metavar="K/N",
            help="only the K-th of N parts, for a cluster's job array (default: all)",
        )
        command.add_argument(
            "--workers", type=_count, default=1, help="jobs beside each other (default: %(default)s)"
        )
        command.add_argument("--threads", type=_count, help="CPU threads of a job (default: torch's choice)")
        command.add_argument(
            "--device",
            default="cpu",
            help="torch device, or several with commas, dealt to the workers (default: %(default)s)",
        )
        command.add_argument(
            "--executor",
            choices=["local", "ray"],
            default="local",
            help="processes of this machine, or tasks of an existing Ray cluster (default: %(default)s)",
        )
    status = commands.add_parser("status", help="jobs by arm and state, and when the rest will be done")
    _add_common(status)
    _add_arms(status)
    report = commands.add_parser(
        "report",
        help="what the finished jobs show",
        description="Prints each comparison's claim, and writes report.html, report.md with its figures, and "
        "comparisons.json with every seed's values. Trains and times nothing.",
    )
    _add_common(report)
    report.add_argument(
        "--to", type=Path, metavar="DIR", help="folder for the report (default: the study's folder)"
    )
    report.add_argument(
        "--replicates",
        type=_count,
        default=2000,
        help="draws of the bootstrap over seeds and images (default: %(default)s)",
    )
    cost = commands.add_parser(
        "cost",
        help="measure what each arm's network costs, for the report",
        description="Measures parameters, operations, latency and memory of each arm's network, and writes "
        "cost.json into the study's folder after each; what was measured under the same settings stays.",
    )
    _add_common(cost)
    _add_arms(cost)
    cost.add_argument(
        "--size",
        type=_size,
        nargs="+",
        default=[(1280, 720)],
        metavar="WxH",
        help="frames in pixels (default: 1280x720)",
    )
    cost.add_argument(
        "--batch",
        type=_count,
        default=6,
        help="frames of the larger batch, beside single ones (default: %(default)s)",
    )
    cost.add_argument("--calls", type=_count, default=20, help="timed at each batch (default: %(default)s)")
    cost.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    cost.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default: %(default)s"
    )
    affinity = commands.add_parser(
        "affinity",
        help="which tasks belong together, from runs that measured it",
        description="Prints and draws gradient cosines, norm ratios and lookahead affinities of the tasks.",
    )
    affinity.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder of a training with the key affinity, one for each seed",
    )
    affinity.add_argument(
        "--out", type=Path, default=Path("affinity.png"), help="picture (default: %(default)s)"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", type=Path, help="YAML file, for example config/study/synthetic_joint.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")


def _add_arms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms (default: all)")


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        FileNotFoundError, ValueError: for a study that is wrong, or has trials that were not run.
        RuntimeError: when ray is asked for and not installed.
    """
    from pvt_mtl_perception.study.config import load_study

    if args.command == "affinity":
        return _affinity(args)
    study = load_study(args.study)
    if args.command == "status":
        return _status(study, args)
    if args.command == "report":
        return _report(study, args)
    if args.command == "cost":
        return _cost(study, args)
    if args.command == "tune":
        return _tune(study, args)
    return _run(study, args)


def _jobs(study: StudyConfig, args: argparse.Namespace) -> list[Job]:
    from pvt_mtl_perception.study.jobs import read_tuning, study_jobs

    return study_jobs(study, args.study, read_tuning(study, args.out) if study.tuning is not None else None)


def _of_arms(jobs: list[Job], study: StudyConfig, args: argparse.Namespace) -> list[Job]:
    if args.arms is None:
        return jobs
    if unknown := [arm for arm in args.arms if arm not in study.arms]:
        raise ValueError(f"{args.study} has no arm {unknown[0]!r}; it has {', '.join(study.arms)}")
    kept = [job for job in jobs if job.arm in args.arms]
    needed = {job.needs for job in kept}
    return [job for job in jobs if job.id in needed] + kept


def _status(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.registration import changes
    from pvt_mtl_perception.study.runner import outdated_jobs, status_table

    all_jobs = _jobs(study, args)
    jobs = _of_arms(all_jobs, study, args)
    print(f"{study.name} in {args.out}: {len(jobs)} jobs")
    print(status_table(args.out, jobs))
    for line in (*changes(args.out, _registered(study, all_jobs)), *outdated_jobs(args.out, jobs)):
        print(line)
    return 0


def _report(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.registration import changes, registrations
    from pvt_mtl_perception.study.report.build import build_report, write_report
    from pvt_mtl_perception.study.report.threats import Standing
    from pvt_mtl_perception.study.runner import outdated_jobs

    jobs = _jobs(study, args)
    if not args.out.is_dir():
        raise FileNotFoundError(f"no study folder at {args.out}")
    changed, outdated = changes(args.out, _registered(study, jobs)), outdated_jobs(args.out, jobs)
    # A report is read elsewhere: which folder to remove is for the terminal.
    told = [line.partition("; remove ")[0] for line in outdated]
    standing = Standing(registrations(args.out), changed, told)
    report = build_report(study, jobs, args.out, standing, args.replicates, progress=True)
    for one in report.compared:
        kind = (
            ""
            if one.comparison.primary and one.fraction == study.preregistration.fraction
            else ", exploration"
        )
        print(f"{one.comparison.name} ({one.fraction:.0%} of the data{kind})")
        for claim in one.claims:
            print(f"  {claim.text}")
        for name, seeds in one.missing.items():
            if seeds:
                print(f"  {name}: not finished in both arms with the seeds {', '.join(map(str, seeds))}")
    for line in (*changed, *outdated):
        print(line)
    to = args.to or args.out
    write_report(to, report)
    for name in ("report.html", "report.md", "comparisons.json"):
        print(to / name)
    return 0


def _cost(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.cost import FILE, format_costs, measure_arms

    jobs = _jobs(study, args)
    arms = list(dict.fromkeys(job.arm for job in _of_arms(jobs, study, args) if job.arm is not None))
    args.out.mkdir(parents=True, exist_ok=True)
    costs = measure_arms(
        study, jobs, args.out, arms, args.size, args.batch, args.calls, args.device, args.precision
    )
    print(format_costs(costs))
    print(args.out / FILE)
    return 0


def _affinity(args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.affinity import (
        affinity_figure,
        affinity_sentence,
        affinity_tables,
        load_affinity,
    )

    summary = load_affinity(args.runs)
    print(f"{affinity_tables(summary)}\n\n{affinity_sentence(summary)}")
    affinity_figure(summary).savefig(args.out, dpi=110)
    print(args.out)
    return 0


def _run(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.jobs import job_folder, part_of
    from pvt_mtl_perception.study.registration import changes, register
    from pvt_mtl_perception.study.runner import outdated_jobs

    jobs = _jobs(study, args)
    own = part_of(_of_arms(jobs, study, args), args.jobs)
    executor = _executor(args)
    finished = sum(job_folder(args.out, job).result.is_file() for job in jobs)
    content = _registered(study, jobs)
    register(args.out, content, finished)
    for line in (*changes(args.out, content), *outdated_jobs(args.out, own)):
        print(f"warning: {line}", file=sys.stderr)
    return _work(own, executor, args)


def _tune(study: StudyConfig, args: argparse.Namespace) -> int:
    import json

    from pvt_mtl_perception.study.folder import write_atomically
    from pvt_mtl_perception.study.jobs import part_of, tuning_jobs, tuning_record

    jobs = _of_arms(tuning_jobs(study, args.study), study, args)
    if status := _work(part_of(jobs, args.jobs), _executor(args), args):
        return status
    if args.arms is None and args.jobs == (1, 1):
        record = tuning_record(study, args.study, args.out)
        path = args.out / "tuning.json"
        write_atomically(path, json.dumps(record, indent=1) + "\n")
        for arm, trials in record.items():
            print(f"{arm}: trial {trials['chosen']} of {len(trials['trials'])}: {trials['settings']}")
        print(path)
    return 0


def _work(jobs: list[Job], executor: Executor, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.runner import run_jobs

    failures = run_jobs(args.out, jobs, executor)
    print(f"{len(jobs) - len(failures)} of {len(jobs)} jobs done")
    for failure in failures:
        where = f" (all of it in {failure.output})" if failure.output else ""
        print(f"failed: {failure.job_id}: {failure.reason}{where}")
    return SOME_FAILED if failures else 0


def _executor(args: argparse.Namespace) -> Executor:
    from pvt_mtl_perception.study.executors import LocalExecutor, RayExecutor

    if args.executor == "ray":
        return RayExecutor(args.workers, args.device, args.threads)
    return LocalExecutor(args.workers, args.device.split(","), args.threads)


def _registered(study: StudyConfig, jobs: list[Job]) -> dict[str, object]:
    from pvt_mtl_perception.study.config import registered

    test_sets: dict[str, list[SourceConfig]] = {arm: [] for arm in study.arms}
    for job in jobs:
        if job.arm is not None:
            known = test_sets[job.arm]
            known += [source for source in job.config.evaluate if source not in known]
    return registered(study, test_sets)
