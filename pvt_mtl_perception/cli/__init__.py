"""The command line: ``pvt-mtl <verb>``, one module a verb.

A verb's module has ``SUMMARY``, ``add_arguments(parser)`` and ``run(args) -> int``. It imports what is heavy
inside ``run``, so that help appears at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from pvt_mtl_perception.inference.process import prepare_process

VERBS: Mapping[str, str] = {
    "demo": "demo",
    "bag": "bag",
    "predict": "predict",
    "images-to-bag": "images_to_bag",
    "data": "data",
    "train": "train",
    "study": "study",
    "eval": "evaluate",
    "compare": "compare",
    "carla-eval": "carla_eval",
    "export": "export",
    "bench": "bench",
    "push": "push",
}
"""Verb to module, in the order of the help."""

USER_ERROR = 2
INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""


def _verb(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{VERBS[name]}")


def build_parser(verbs: Sequence[str] = tuple(VERBS)) -> argparse.ArgumentParser:
    """The parser with the arguments of these verbs."""
    parser = argparse.ArgumentParser(
        prog="pvt-mtl",
        description="Classification, detection and segmentation of driving images by one network.",
        epilog="pvt-mtl <verb> --help explains a verb. PVT_MTL_DEBUG=1 shows where an error comes from.",
    )
    commands = parser.add_subparsers(title="verbs", dest="verb", metavar="<verb>", required=True)
    for name in verbs:
        module = _verb(name)
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb.

    Args:
        arguments: without the program's name; those of this process when None.

    Returns:
        The exit status: the verb's, 2 when an input is wrong (said in one line), or 130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    prepare_process()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    named = arguments[0] if arguments and arguments[0] in VERBS else None
    parser = build_parser([named] if named else tuple(VERBS))
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
        return status
    except KeyboardInterrupt:
        print("pvt-mtl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has gone: nothing is left to say, and exiting must not flush into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if os.environ.get("PVT_MTL_DEBUG"):
            raise
        # str() of a KeyError puts its message in quotes.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"pvt-mtl: error: {message}", file=sys.stderr)
        return USER_ERROR
