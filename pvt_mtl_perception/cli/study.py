"""``pvt-mtl study``: many runs compared, from one file that says which and what for."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvt_mtl_perception.cli.model_arguments import add_strengths, count

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or not all(int(side) >= 32 for side in found.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, from 32x32")
    return int(found[1]), int(found[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's arguments."""
    commands = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    whole = commands.add_parser(
        "all",
        help="everything, from the trials to the report",
        description="Tunes where the study has trials, runs the jobs, measures costs and, with --robustness, "
        "scores under corruptions, and writes the report. The same command goes on after an interruption. "
        "Ends with status 1 where a job failed.",
    )
    tune = commands.add_parser(
        "tune",
        help="run the arms' trials, from which run takes the best of each arm",
        description="Runs the trials that are not finished, and writes those arms into tuning.json whose "
        "trials all are. Says what is missing for the others.",
    )
    run_command = commands.add_parser(
        "run",
        help="run what is not finished yet",
        description="Runs every job that is not finished; the same command goes on after an interruption. "
        "Several runners may work on one folder. Ends with status 1 where a job failed.",
    )
    status = commands.add_parser("status", help="jobs by arm and state, and when the rest will be done")
    cost = commands.add_parser(
        "cost",
        help="measure what each arm's network costs, for the report",
        description="Measures parameters, operations, latency and memory of each arm's network, and writes "
        "cost.json into the study's folder after each; what was measured under the same settings stays.",
    )
    robustness = commands.add_parser(
        "robustness",
        help="score finished jobs under corruptions, for the report",
        description="Scores the weights of finished jobs on their test images as they are and under "
        "corruptions, and writes robustness/scores.json into each job's folder. What is there is not "
        "measured again; the same command goes on after an interruption, and with what was finished since.",
    )
    report = commands.add_parser(
        "report",
        help="what the finished jobs show",
        description="Prints each comparison's claim, and writes report.html, report.md with its figures, "
        "comparisons.json with every seed's values, and the main tables as CSV and LaTeX. Trains and times "
        "nothing.",
    )
    archive = commands.add_parser(
        "archive",
        help="copy the raw results without the weights",
        description="Copies what the report reads of the finished jobs, so that it can be written again "
        "from there, and a copy of it be gone on with.",
    )
    archive.add_argument("--to", type=Path, required=True, metavar="DIR", help="made when absent")
    for command in (whole, tune, run_command, status, cost, robustness, report, archive):
        _add_common(command)
    for command in (whole, tune, run_command, status, cost, robustness):
        command.add_argument("--arms", nargs="+", metavar="ARM", help="only these arms (default: all)")
    for command in (whole, tune, run_command):
        _add_runner(command)
    for command in (tune, run_command):
        command.add_argument(
            "--jobs",
            type=_part,
            default=(1, 1),
            metavar="K/N",
            help="only the K-th of N parts, for a cluster's job array (default: all)",
        )
    for command in (whole, cost):
        _add_cost(command)
    for command in (cost, robustness):
        command.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    cost.add_argument(
        "--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default: %(default)s"
    )
    whole.add_argument("--robustness", action="store_true", help="score under corruptions, too")
    for command in (whole, robustness):
        _add_robustness(command)
    robustness.add_argument(
        "--fraction",
        type=float,
        help="of the training data (default: the pre-registered one, which the report reads)",
    )
    robustness.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="only these (default: all)")
    for command in (whole, report):
        _add_report(command)
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


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers", type=count, default=1, help="jobs beside each other (default: %(default)s)"
    )
    parser.add_argument("--threads", type=count, help="CPU threads of a job (default: torch's choice)")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (default; cpu with Ray), cpu, cuda, cuda:N, or several with commas, dealt to the workers",
    )
    parser.add_argument(
        "--executor",
        choices=["local", "ray"],
        default="local",
        help="processes of this machine, or tasks of an existing Ray cluster (default: %(default)s)",
    )


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size",
        type=_size,
        nargs="+",
        default=[(1280, 720)],
        metavar="WxH",
        help="frames in pixels whose cost is measured (default: 1280x720)",
    )
    parser.add_argument(
        "--batch",
        type=count,
        default=6,
        help="frames of the larger batch, beside single ones (default: %(default)s)",
    )
    parser.add_argument("--calls", type=count, default=20, help="timed at each batch (default: %(default)s)")


def _add_robustness(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--corruptions",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="fog, rain, night, motion_blur, noise and jpeg, or `all` of them (default)",
    )
    add_strengths(parser)
    parser.add_argument(
        "--frames", type=count, metavar="N", help="so many test images, drawn at random (default: all)"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder for the report (default: the study's folder)"
    )
    parser.add_argument(
        "--replicates",
        type=count,
        default=2000,
        help="draws of the bootstrap over seeds and images (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
        FileNotFoundError, ValueError: for a study that is wrong, or has trials that were not run.
        RuntimeError: when ray is asked for and not installed.
    """
    from pvt_mtl_perception.study.config import load_study

    if args.command == "affinity":
        return _affinity(args)
    verbs: dict[str, Callable[[StudyConfig, argparse.Namespace], int]] = {
        "all": _all,
        "tune": _tune,
        "run": _run,
        "status": _status,
        "cost": _cost,
        "robustness": _robustness,
        "report": _report,
        "archive": _archive,
    }
    return verbs[args.command](load_study(args.study), args)


def _jobs(study: StudyConfig, args: argparse.Namespace) -> list[Job]:
    """All jobs; arms whose trials are not all finished have the settings that they begin the trials with."""
    from pvt_mtl_perception.study.jobs import study_jobs, tuning_so_far

    return study_jobs(study, args.study, tuning_so_far(study, args.out).settings if study.tuning else None)


def _tuned_jobs(study: StudyConfig, args: argparse.Namespace) -> list[Job]:
    """All jobs, once the trials of the arms that are asked for are there."""
    from pvt_mtl_perception.study.jobs import read_tuning, study_jobs

    _check_arms(study, args)
    return study_jobs(study, args.study, read_tuning(study, args.out, args.arms) if study.tuning else None)


def _check_arms(study: StudyConfig, args: argparse.Namespace) -> None:
    for arm in args.arms or ():
        if arm not in study.arms:
            raise ValueError(f"{args.study} has no arm {arm!r}; it has {', '.join(study.arms)}")


def _of_arms(jobs: list[Job], study: StudyConfig, args: argparse.Namespace) -> list[Job]:
    _check_arms(study, args)
    if args.arms is None:
        return jobs
    kept = [job for job in jobs if job.arm in args.arms]
    needed = {job.needs for job in kept}
    return [job for job in jobs if job.id in needed] + kept


def _tuning_remarks(study: StudyConfig, args: argparse.Namespace) -> list[str]:
    """What is to be said of trials that are not there, or not those of the study file."""
    from pvt_mtl_perception.study.jobs import tuning_so_far

    if study.tuning is None:
        return []
    tuning = tuning_so_far(study, args.out)
    absent = [arm for arm in study.arms if arm not in tuning.record]
    changed = [arm for arm in tuning.problems if arm in tuning.record]
    lines = []
    if absent:
        lines.append(f"no settings are chosen yet for {', '.join(absent)}: their trials are not all done")
    if changed:
        lines.append(
            f"settings were chosen from other trials of {', '.join(changed)} than the study file has"
        )
    return lines


def _status(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.jobs import registration, tuning_jobs, unfinished_trials
    from pvt_mtl_perception.study.registration import changes
    from pvt_mtl_perception.study.runner import outdated_jobs, status_table

    jobs = _of_arms(_jobs(study, args), study, args)
    remarks = _tuning_remarks(study, args)
    if study.tuning is not None and remarks:
        trials = _of_arms(tuning_jobs(study, args.study), study, args)
        print(f"trials of {study.name} in {args.out}: {len(trials)} jobs")
        print(status_table(args.out, trials) + "\n")
        if not unfinished_trials(study, args.out):
            remarks.append(f"the trials are done: {_tune_command(args)} chooses from them")
    print(f"{study.name} in {args.out}: {len(jobs)} jobs")
    print(status_table(args.out, jobs))
    content = registration(study, args.study)
    for line in (*remarks, *changes(args.out, content), *outdated_jobs(args.out, jobs)):
        print(line)
    return 0


def _tune_command(args: argparse.Namespace) -> str:
    return f"`pvt-mtl study tune {args.study} --out {args.out}`"


def _report(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.jobs import registration
    from pvt_mtl_perception.study.registration import changes, registrations, unrecorded
    from pvt_mtl_perception.study.report.build import build_report, write_report
    from pvt_mtl_perception.study.report.threats import Standing
    from pvt_mtl_perception.study.runner import outdated_jobs

    jobs = _jobs(study, args)
    if not args.out.is_dir():
        raise FileNotFoundError(f"no study folder at {args.out}")
    content = registration(study, args.study)
    changed, outdated = changes(args.out, content), outdated_jobs(args.out, jobs)
    # A report is read elsewhere: which folder to remove is for the terminal.
    told = [line.partition("; remove ")[0] for line in outdated]
    standing = Standing(
        registrations(args.out),
        changed,
        told,
        unrecorded(args.out, content),
        _tuning_remarks(study, args),
    )
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
        for name, reason in one.refused.items():
            print(f"  {name}: not compared: {reason}")
        for name, seeds in one.missing.items():
            if seeds:
                print(f"  {name}: not finished in both arms with the seeds {', '.join(map(str, seeds))}")
    for line in (*changed, *standing.unrecorded, *standing.tuning, *outdated):
        print(line)
    to = args.to or args.out
    write_report(to, report)
    for name in ("report.html", "report.md", "comparisons.json", *report.tables):
        print(to / name)
    return 0


def _archive(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.archive import archive_results
    from pvt_mtl_perception.study.jobs import tuning_jobs

    trials = tuning_jobs(study, args.study) if study.tuning is not None else []
    written = archive_results(_jobs(study, args), trials, args.out, args.to)
    print(f"{args.to}: {written} files written")
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


def _robustness(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.evaluation.corruptions import CORRUPTIONS, STRENGTHS
    from pvt_mtl_perception.study.robustness import Conditions, measure_robustness

    names = list(CORRUPTIONS) if "all" in args.corruptions else list(dict.fromkeys(args.corruptions))
    for name in names:
        if name not in CORRUPTIONS:
            raise ValueError(f"--corruptions {name}: known are {', '.join(CORRUPTIONS)} and all")
    strengths = sorted(set(args.strengths))
    if not set(strengths) <= set(STRENGTHS):
        raise ValueError(f"--strengths {' '.join(map(str, args.strengths))}: they go from 1 to 5")
    fraction = study.preregistration.fraction if args.fraction is None else args.fraction
    if fraction not in study.fractions:
        raise ValueError(
            f"--fraction {fraction:g}: the study has {', '.join(f'{f:g}' for f in study.fractions)}"
        )
    if unknown := [seed for seed in args.seeds or () if seed not in study.seeds]:
        raise ValueError(f"--seeds {unknown[0]}: the study has {', '.join(map(str, study.seeds))}")
    jobs = [
        job
        for job in _of_arms(_jobs(study, args), study, args)
        if job.arm is not None and job.fraction == fraction and (args.seeds is None or job.seed in args.seeds)
    ]
    conditions = Conditions(names, strengths, args.frames)
    measured = measure_robustness(study, jobs, args.out, conditions, args.device)
    print(f"{measured.done} of {len(jobs)} jobs measured under {', '.join(names)}")
    for line in measured.skipped:
        print(f"not measured: {line}")
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


def _all(study: StudyConfig, args: argparse.Namespace) -> int:
    # Costs and scores are measured by this process, on one device; a Ray cluster's may be elsewhere.
    device = "auto" if args.executor == "ray" else args.device.split(",")[0]
    single = argparse.Namespace(**{**vars(args), "jobs": (1, 1)})
    measuring = argparse.Namespace(
        **{**vars(args), "device": device, "precision": "fp32", "fraction": None, "seeds": None}
    )
    parts: list[tuple[str, Callable[[], int]]] = []
    if study.tuning is not None:
        parts.append(("tune", lambda: _tune(study, single)))
    parts += [("run", lambda: _run(study, single)), ("cost", lambda: _cost(study, measuring))]
    if any(job.config.affinity is not None for job in _of_arms(_jobs(study, args), study, args)):
        parts.append(("affinity", lambda: _affinities(study, args)))
    if args.robustness:
        parts.append(("robustness", lambda: _robustness(study, measuring)))
    parts.append(("report", lambda: _report(study, args)))
    failed = []
    for number, (name, work) in enumerate(parts, start=1):
        print(f"part {number} of {len(parts)}: {name}", flush=True)
        if work():
            failed.append(name)
            if name == "tune":
                # Nothing is run with settings that were not chosen yet.
                break
    if failed:
        print(f"jobs failed in {' and '.join(failed)}; the same command tries them again")
    return SOME_FAILED if failed else 0


def _affinities(study: StudyConfig, args: argparse.Namespace) -> int:
    """One picture for each arm whose finished jobs measured how their tasks bear on each other."""
    from pvt_mtl_perception.study.jobs import job_folder

    runs: dict[str, list[Path]] = {}
    for job in _of_arms(_jobs(study, args), study, args):
        folder = job_folder(args.out, job)
        measured = folder.result.is_file() and (folder.path / "affinity.jsonl").is_file()
        if job.arm is not None and job.fraction == study.preregistration.fraction and measured:
            runs.setdefault(job.arm, []).append(folder.path)
    for arm, folders in runs.items():
        print(f"{arm}:")
        try:
            _affinity(argparse.Namespace(runs=folders, out=args.out / f"affinity_{arm}.png"))
        except ValueError as error:
            # A training that ended before its first measurement has none.
            print(error)
    return 0


def _run(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.jobs import part_of
    from pvt_mtl_perception.study.runner import outdated_jobs

    own = part_of(_of_arms(_tuned_jobs(study, args), study, args), args.jobs)
    executor = _executor(args)
    for line in (*_register(study, args), *outdated_jobs(args.out, own)):
        print(f"warning: {line}", file=sys.stderr)
    return _work(own, executor, args)


def _register(study: StudyConfig, args: argparse.Namespace) -> list[str]:
    """Stores what is decided, before the first trial or job; lines on what was changed since."""
    from pvt_mtl_perception.study.jobs import job_folder, registration, trial_ids, unfinished_trials
    from pvt_mtl_perception.study.registration import changes, register

    finished = sum(job_folder(args.out, job).result.is_file() for job in _jobs(study, args))
    trials = [sum(map(len, ids.values())) for ids in (trial_ids(study), unfinished_trials(study, args.out))]
    content = registration(study, args.study)
    register(args.out, content, finished, trials[0] - trials[1])
    return changes(args.out, content)


def _tune(study: StudyConfig, args: argparse.Namespace) -> int:
    from pvt_mtl_perception.study.jobs import part_of, tuning_jobs

    jobs = _of_arms(tuning_jobs(study, args.study), study, args)
    own = part_of(jobs, args.jobs)
    executor = _executor(args)
    for line in _register(study, args):
        print(f"warning: {line}", file=sys.stderr)
    status = _work(own, executor, args)
    _choose(study, args)
    return status


def _choose(study: StudyConfig, args: argparse.Namespace) -> None:
    """Writes the best trial of each arm whose trials are all finished, and says what the others lack."""
    import json

    from pvt_mtl_perception.study.folder import write_atomically
    from pvt_mtl_perception.study.jobs import TUNING, tuning_record, tuning_so_far, unfinished_trials
    from pvt_mtl_perception.study.registration import locked

    path = args.out / TUNING
    # Another runner may finish an arm's last trial meanwhile, and its arm would be lost.
    with locked(args.out):
        missing, record = unfinished_trials(study, args.out), {}
        complete = [arm for arm in study.arms if arm not in missing]
        if complete:
            before = tuning_so_far(study, args.out)
            # Its trials may have been removed since, to save space.
            kept = {arm: found for arm, found in before.record.items() if arm not in before.problems}
            record = kept | tuning_record(study, args.study, args.out, complete)
            ordered = {arm: record[arm] for arm in study.arms if arm in record}
            write_atomically(path, json.dumps(ordered, indent=1) + "\n")
    for arm in complete:
        trials = record[arm]
        print(f"{arm}: trial {trials['chosen']} of {len(trials['trials'])}: {trials['settings']}")
    if complete:
        print(path)
    if lacking := [arm for arm in missing if arm not in record]:
        ids = [job_id for arm in lacking for job_id in missing[arm]]
        told = ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
        print(
            f"{path} lacks {', '.join(lacking)}: {len(ids)} trials are not finished ({told}). Whichever call "
            f"of `study tune` finishes an arm's last one adds it; {_tune_command(args)} runs them all"
        )


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
        if "," in args.device:
            raise ValueError(
                f"--device {args.device}: Ray deals out devices itself; with --executor ray use cpu or cuda"
            )
        # Ray gives a GPU only to those who ask for one.
        device = "cpu" if args.device == "auto" else args.device
        return RayExecutor(args.workers, device, args.threads)
    return LocalExecutor(args.workers, args.device.split(","), args.threads)
