"""Builds the ROS 2 messages in ``msg/`` with the rosidl generators and a C/C++ compiler, without CMake.

The result has the layout of a ROS install tree: ``lib/libvision_msgs__*.so``, the Python module,
``share/vision_msgs`` and the ament index entries.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build as build_command

PACKAGE = "vision_msgs"
HERE = Path(__file__).resolve().parent
# rmw_fastrtps_cpp looks a message up through the first and needs both of the others.
TYPE_SUPPORTS = (
    "rosidl_typesupport_c",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_introspection_c",
)
GENERATORS = (
    "rosidl_adapter",
    "rosidl_generator_type_description",
    "rosidl_generator_c",
    "rosidl_generator_py",
    *TYPE_SUPPORTS,
)
MESSAGE_DEPENDENCIES = ("builtin_interfaces", "std_msgs", "geometry_msgs")


def ros_prefix() -> Path:
    """The folder whose ``lib``, ``include`` and ``share`` hold the ROS wheels.

    Raises:
        SystemExit: when a wheel that the build needs is not installed, naming all that are missing.
    """
    missing = [
        name for name in (*GENERATORS, *MESSAGE_DEPENDENCIES) if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise SystemExit(
            f"{PACKAGE} cannot be built: no module {', '.join(missing)} in {sys.prefix}; "
            "install the packages that pyproject.toml lists under build-system.requires"
        )
    spec = importlib.util.find_spec("geometry_msgs")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parents[4]


def run_generator(
    output: Path, prefix: Path, name: str, generate: Callable[..., object], *args: object, **arguments: object
) -> object:
    """Call one rosidl generator the way its command line does: through a JSON file of arguments."""
    # Here, and not above: these packages exist only where the messages can be built.
    from rosidl_cli.command.helpers import generate_visibility_control_file

    output.mkdir(parents=True, exist_ok=True)
    templates = prefix / "share" / name / "resource"
    visibility = templates / f"{name}__visibility_control.h.in"
    if visibility.is_file():
        generate_visibility_control_file(
            package_name=PACKAGE,
            template_path=visibility,
            output_path=output / "msg" / visibility.stem,
        )
    (output / "msg").mkdir(exist_ok=True)
    arguments_file = output / f"{name}__arguments.json"
    arguments_file.write_text(
        json.dumps(
            {
                "package_name": PACKAGE,
                "output_dir": str(output),
                "template_dir": str(templates),
                "ros_interface_dependencies": [],
                "target_dependencies": [],
                **arguments,
            }
        )
    )
    return generate(str(arguments_file), *args)


def generate_sources(build: Path, prefix: Path) -> None:
    """Write every generated source below ``build/<generator>/``."""
    import rosidl_adapter.msg
    import rosidl_generator_c
    import rosidl_generator_py
    import rosidl_generator_type_description
    import rosidl_typesupport_c
    import rosidl_typesupport_fastrtps_c
    import rosidl_typesupport_introspection_c

    messages = sorted((HERE / "msg").glob("*.msg"))
    idl_folder = build / "idl" / "msg"
    idl_folder.mkdir(parents=True)
    for message in messages:
        rosidl_adapter.msg.convert_msg_to_idl(HERE, PACKAGE, message.relative_to(HERE), idl_folder)
    idl_tuples = [f"{idl_folder.parent}:msg/{message.stem}.idl" for message in messages]

    def call(
        folder: str, name: str, generate: Callable[..., object], *args: object, **arguments: object
    ) -> object:
        return run_generator(
            build / folder, prefix, name, generate, *args, idl_tuples=idl_tuples, **arguments
        )

    call(
        "type_description",
        "rosidl_generator_type_description",
        rosidl_generator_type_description.generate_type_hash,
        include_paths=[f"{name}:{prefix / 'share' / name}" for name in MESSAGE_DEPENDENCIES],
    )
    call(
        "rosidl_generator_c",
        "rosidl_generator_c",
        rosidl_generator_c.generate_c,
        type_description_tuples=[
            f"msg/{message.stem}.idl:{build / 'type_description' / 'msg' / message.stem}.json"
            for message in messages
        ],
        ros_interface_files=[str(message) for message in messages],
    )
    call(
        "rosidl_typesupport_fastrtps_c",
        "rosidl_typesupport_fastrtps_c",
        rosidl_typesupport_fastrtps_c.generate_typesupport_fastrtps_c,
    )
    call(
        "rosidl_typesupport_introspection_c",
        "rosidl_typesupport_introspection_c",
        rosidl_typesupport_introspection_c.generate_c,
    )
    call("rosidl_typesupport_c", "rosidl_typesupport_c", rosidl_typesupport_c.generate_c, TYPE_SUPPORTS[1:])
    call("rosidl_generator_py", "rosidl_generator_py", rosidl_generator_py.generate_py, TYPE_SUPPORTS)


def compile_shared(
    build: Path, prefix: Path, target: Path, sources: Sequence[Path], libraries: Sequence[str], rpath: str
) -> None:
    """Compile C and C++ ``sources`` into the shared library ``target``.

    Raises:
        SystemExit: when the compiler fails, with its command and what it said.
    """
    import numpy

    include = [
        *(build / name for name in ("rosidl_generator_c", *TYPE_SUPPORTS)),
        prefix / "include",
        # The wheels keep a ROS package's headers in include/<package>/<package>/…
        *(folder for folder in sorted((prefix / "include").iterdir()) if folder.is_dir()),
        Path(sysconfig.get_path("include")),
        Path(numpy.get_include()),
    ]
    # Headers include each other as "vision_msgs/msg/…", while the generators write "msg/…".
    flags = ["-O2", "-fPIC", "-w", *(f"-I{folder}" for folder in include), f"-I{build / 'include'}"]
    objects = []
    for source in sources:
        objects.append(build / "objects" / target.stem / f"{source.name}.o")
        objects[-1].parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".cpp":
            compiler = [os.environ.get("CXX", "g++"), "-std=c++17"]
        else:
            compiler = [os.environ.get("CC", "gcc"), "-std=gnu11"]
        run([*compiler, *flags, "-c", str(source), "-o", str(objects[-1])])
    target.parent.mkdir(parents=True, exist_ok=True)
    search = [f"-L{prefix / 'lib'}", f"-L{build / 'lib'}", f"-Wl,-rpath,{rpath}"]
    run(
        [
            os.environ.get("CXX", "g++"),
            "-shared",
            *map(str, objects),
            "-o",
            str(target),
            *search,
            *(f"-l{library}" for library in libraries),
        ]
    )


def run(command: Sequence[str]) -> None:
    """Run a compiler."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(
            f"{PACKAGE} cannot be built: there is no {command[0]}; install gcc and g++"
        ) from None
    if done.returncode:
        raise SystemExit(f"{PACKAGE} cannot be built: {' '.join(command)}\n{done.stderr.strip()}")


def build_messages(build: Path, module: Path) -> list[tuple[str, list[str]]]:
    """Generate and compile everything; the Python module goes to ``module``.

    Returns:
        What belongs elsewhere below the install prefix, as setuptools' ``data_files``.
    """
    prefix = ros_prefix()
    shutil.rmtree(build, ignore_errors=True)
    shutil.rmtree(module, ignore_errors=True)
    build.mkdir(parents=True)
    generate_sources(build, prefix)

    header_folder = build / "include" / PACKAGE / "msg"
    header_folder.mkdir(parents=True)
    for name in ("rosidl_generator_c", *TYPE_SUPPORTS):
        shutil.copytree(build / name / "msg", header_folder, dirs_exist_ok=True)

    lib = build / "lib"
    generated = {
        name: build / name / "msg" for name in ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)
    }
    others = MESSAGE_DEPENDENCIES

    def library(name: str, sources: Sequence[Path], libraries: Sequence[str]) -> Callable[[], None]:
        target = lib / f"lib{PACKAGE}__{name}.so"
        return lambda: compile_shared(build, prefix, target, sources, libraries, "$ORIGIN")

    def of(suffix: str, *own: str) -> list[str]:
        return [*(f"{package}__{suffix}" for package in others), *(f"{PACKAGE}__{name}" for name in own)]

    # A later group links against the earlier ones.
    groups = [
        [
            library(
                "rosidl_generator_c",
                sorted((generated["rosidl_generator_c"] / "detail").glob("*.c")),
                [*of("rosidl_generator_c"), "rosidl_runtime_c", "rcutils"],
            )
        ],
        [
            library(
                "rosidl_typesupport_fastrtps_c",
                sorted((generated["rosidl_typesupport_fastrtps_c"] / "detail").glob("*.cpp")),
                [
                    *of("rosidl_typesupport_fastrtps_c", "rosidl_generator_c"),
                    "rosidl_typesupport_fastrtps_c",
                    "rosidl_typesupport_fastrtps_cpp",
                    "fastcdr",
                    "rmw",
                ],
            ),
            library(
                "rosidl_typesupport_introspection_c",
                sorted((generated["rosidl_typesupport_introspection_c"] / "detail").glob("*.c")),
                [
                    *of("rosidl_typesupport_introspection_c", "rosidl_generator_c"),
                    "rosidl_typesupport_introspection_c",
                ],
            ),
            library(
                "rosidl_typesupport_c",
                sorted(generated["rosidl_typesupport_c"].glob("*.cpp")),
                [*of("rosidl_typesupport_c", "rosidl_generator_c"), "rosidl_typesupport_c"],
            ),
        ],
        [
            library(
                "rosidl_generator_py",
                sorted(generated["rosidl_generator_py"].glob("*_s.c")),
                [*of("rosidl_generator_py", "rosidl_generator_c", "rosidl_typesupport_c")],
            )
        ],
    ]
    extension = sysconfig.get_config_var("EXT_SUFFIX")
    entry_points = []
    for type_support in TYPE_SUPPORTS:
        target = module / f"{PACKAGE}_s__{type_support}{extension}"
        source = build / "rosidl_generator_py" / f"_{PACKAGE}_s.ep.{type_support}.c"
        own = dict.fromkeys(
            ["rosidl_generator_py", type_support, "rosidl_typesupport_c", "rosidl_generator_c"]
        )
        libraries = [f"{PACKAGE}__{name}" for name in own]
        entry_points.append(
            lambda target=target, source=source, libraries=libraries: compile_shared(
                build, prefix, target, [source], libraries, "$ORIGIN/../../.."
            )
        )
    groups.append(entry_points)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for group in groups:
            for job in [pool.submit(task) for task in group]:
                job.result()

    (module / "msg").mkdir(parents=True, exist_ok=True)
    (module / "__init__.py").touch()
    for source in generated["rosidl_generator_py"].glob("*.py"):
        shutil.copy(source, module / "msg")
    return install_tree(build)


def install_tree(build: Path) -> list[tuple[str, list[str]]]:
    """Everything that lies outside ``site-packages``, as setuptools' ``data_files``."""
    index = build / "ament_index"
    definitions = [
        *sorted((HERE / "msg").glob("*.msg")),
        *sorted((build / "idl" / "msg").glob("*.idl")),
        *sorted((build / "type_description" / "msg").glob("*.json")),
    ]
    interfaces = [f"msg/{file.name}" for file in definitions if file.suffix != ".json"]
    markers = {
        "packages": "",
        "package_run_dependencies": "geometry_msgs;std_msgs",
        "rosidl_interfaces": "\n".join(sorted(interfaces)),
    }
    for resource, content in markers.items():
        (index / resource).mkdir(parents=True)
        (index / resource / PACKAGE).write_text(content)
    return [
        ("lib", [str(file) for file in sorted((build / "lib").glob("*.so"))]),
        (f"share/{PACKAGE}", [str(HERE / "package.xml")]),
        (f"share/{PACKAGE}/msg", [str(file) for file in definitions]),
        *((f"share/ament_index/resource_index/{name}", [str(index / name / PACKAGE)]) for name in markers),
    ]


class BuildMessages(build_command):
    """Generates and compiles in place of copying a package folder."""

    def run(self) -> None:
        build = Path(self.build_temp).resolve() / "messages"
        module = Path(self.build_lib).resolve() / PACKAGE
        self.distribution.data_files[:] = build_messages(build, module)


class BinaryDistribution(Distribution):
    """Tags the wheel with the interpreter and the platform it was compiled for."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    packages=[],
    # Filled in by the build, which is when the files come to exist.
    data_files=[],
    cmdclass={"build": BuildMessages},
    distclass=BinaryDistribution,
)
