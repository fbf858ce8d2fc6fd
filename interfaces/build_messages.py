"""Builds a package of ROS 2 messages with the rosidl generators and a C/C++ compiler, without CMake.

The result has the layout of a ROS install tree: ``lib/lib<package>__*.so``, the Python module, the headers,
``share/<package>`` and the ament index entries.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
REMEDY = (
    "install gcc, g++, Python's headers and the packages that interfaces/vision_msgs/pyproject.toml lists "
    "under build-system.requires"
)


class MessagePackage(NamedTuple):
    """The messages in ``msg/`` of a folder that has the package's name.

    Attributes:
        folder: absolute.
        dependencies: the package of each field's type, and in turn of its fields, with the prefix below
            which it is installed.
    """

    folder: Path
    dependencies: Mapping[str, Path]

    @property
    def name(self) -> str:
        """The package's name."""
        return self.folder.name

    @property
    def messages(self) -> list[Path]:
        """The definitions, in the order in which they are built."""
        return sorted((self.folder / "msg").glob("*.msg"))


def missing_tools() -> list[str]:
    """What a build needs and this environment lacks: modules, compilers, Python's headers."""
    modules = [f"module {name}" for name in GENERATORS if importlib.util.find_spec(name) is None]
    commands = [command for command in compilers() if shutil.which(command) is None]
    headers = [] if (Path(sysconfig.get_path("include")) / "Python.h").is_file() else ["Python.h"]
    return modules + commands + headers


def compilers() -> tuple[str, str]:
    """The commands of the C and the C++ compiler."""
    return os.environ.get("CC", "gcc"), os.environ.get("CXX", "g++")


def prefix_of(module: str) -> Path:
    """The folder whose ``lib``, ``include`` and ``share`` hold an installed package of ROS.

    Raises:
        SystemExit: when it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(f"there is no module {module} in {sys.prefix}; {REMEDY}")
    return Path(spec.origin).parents[4]


def run_generator(
    package: MessagePackage,
    output: Path,
    name: str,
    generate: Callable[..., object],
    *args: object,
    **arguments: object,
) -> object:
    """Call one rosidl generator the way its command line does: through a JSON file of arguments."""
    # Here, and not above: these packages exist only where the messages can be built.
    from rosidl_cli.command.helpers import generate_visibility_control_file

    output.mkdir(parents=True, exist_ok=True)
    templates = prefix_of(name) / "share" / name / "resource"
    visibility = templates / f"{name}__visibility_control.h.in"
    if visibility.is_file():
        generate_visibility_control_file(
            package_name=package.name,
            template_path=visibility,
            output_path=output / "msg" / visibility.stem,
        )
    (output / "msg").mkdir(exist_ok=True)
    arguments_file = output / f"{name}__arguments.json"
    arguments_file.write_text(
        json.dumps(
            {
                "package_name": package.name,
                "output_dir": str(output),
                "template_dir": str(templates),
                "ros_interface_dependencies": [],
                "target_dependencies": [],
                **arguments,
            }
        )
    )
    return generate(str(arguments_file), *args)


def generate_sources(package: MessagePackage, build: Path) -> None:
    """Write every generated source below ``build/<generator>/``."""
    import rosidl_adapter.msg
    import rosidl_generator_c
    import rosidl_generator_py
    import rosidl_generator_type_description
    import rosidl_typesupport_c
    import rosidl_typesupport_fastrtps_c
    import rosidl_typesupport_introspection_c

    idl_folder = build / "idl" / "msg"
    idl_folder.mkdir(parents=True)
    for message in package.messages:
        rosidl_adapter.msg.convert_msg_to_idl(
            package.folder, package.name, message.relative_to(package.folder), idl_folder
        )
    idl_tuples = [f"{idl_folder.parent}:msg/{message.stem}.idl" for message in package.messages]

    def call(
        folder: str, name: str, generate: Callable[..., object], *args: object, **arguments: object
    ) -> object:
        return run_generator(
            package, build / folder, name, generate, *args, idl_tuples=idl_tuples, **arguments
        )

    call(
        "type_description",
        "rosidl_generator_type_description",
        rosidl_generator_type_description.generate_type_hash,
        include_paths=[f"{name}:{prefix / 'share' / name}" for name, prefix in package.dependencies.items()],
    )
    call(
        "rosidl_generator_c",
        "rosidl_generator_c",
        rosidl_generator_c.generate_c,
        type_description_tuples=[
            f"msg/{message.stem}.idl:{build / 'type_description' / 'msg' / message.stem}.json"
            for message in package.messages
        ],
        ros_interface_files=[str(message) for message in package.messages],
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
    package: MessagePackage,
    build: Path,
    target: Path,
    sources: Sequence[Path],
    libraries: Sequence[str],
    rpath: str,
) -> None:
    """Compile C and C++ ``sources`` into the shared library ``target``.

    Raises:
        SystemExit: when the compiler fails, with its command and what it said.
    """
    import numpy

    prefixes = dict.fromkeys([prefix_of("rosidl_generator_c"), *package.dependencies.values()])
    include = [
        *(build / name for name in ("rosidl_generator_c", *TYPE_SUPPORTS)),
        # Headers include each other as "<package>/msg/…", while the generators write "msg/…". Before the
        # prefixes, which may hold an earlier build of the package.
        build / "include",
        # A ROS package's headers lie in include/<package>/<package>/…
        *(
            folder
            for prefix in prefixes
            for folder in (prefix / "include", *sorted((prefix / "include").iterdir()))
            if folder.is_dir()
        ),
        Path(sysconfig.get_path("include")),
        Path(numpy.get_include()),
    ]
    flags = ["-O2", "-fPIC", "-w", *(f"-I{folder}" for folder in include)]
    c, cxx = compilers()
    objects = []
    for source in sources:
        objects.append(build / "objects" / target.stem / f"{source.name}.o")
        objects[-1].parent.mkdir(parents=True, exist_ok=True)
        compiler = [cxx, "-std=c++17"] if source.suffix == ".cpp" else [c, "-std=gnu11"]
        run([*compiler, *flags, "-c", str(source), "-o", str(objects[-1])])
    target.parent.mkdir(parents=True, exist_ok=True)
    search = [f"-L{folder / 'lib'}" for folder in (build, *prefixes)]
    run(
        [
            cxx,
            "-shared",
            *map(str, objects),
            "-o",
            str(target),
            *search,
            f"-Wl,-rpath,{rpath}",
            *(f"-l{library}" for library in libraries),
        ]
    )


def run(command: Sequence[str]) -> None:
    """Run a compiler."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr.strip()}")


def build_messages(package: MessagePackage, build: Path, module: Path) -> list[tuple[str, list[str]]]:
    """Generate and compile everything, in ``build``; the Python module goes to ``module``.

    Returns:
        What belongs elsewhere below the install prefix, as setuptools' ``data_files``.

    Raises:
        SystemExit: naming the tools that are missing, or with the compiler's command and what it said.
    """
    if missing := missing_tools():
        raise SystemExit(
            f"{package.name} cannot be built: no {', '.join(missing)} in {sys.prefix} and PATH; {REMEDY}"
        )
    shutil.rmtree(build, ignore_errors=True)
    shutil.rmtree(module, ignore_errors=True)
    build.mkdir(parents=True)
    generate_sources(package, build)

    header_folder = build / "include" / package.name / "msg"
    header_folder.mkdir(parents=True)
    for name in ("rosidl_generator_c", *TYPE_SUPPORTS):
        shutil.copytree(build / name / "msg", header_folder, dirs_exist_ok=True)

    lib = build / "lib"
    generated = {
        name: build / name / "msg" for name in ("rosidl_generator_c", "rosidl_generator_py", *TYPE_SUPPORTS)
    }

    def library(name: str, sources: Sequence[Path], libraries: Sequence[str]) -> Callable[[], None]:
        target = lib / f"lib{package.name}__{name}.so"
        return lambda: compile_shared(package, build, target, sources, libraries, "$ORIGIN")

    def of(suffix: str, *own: str) -> list[str]:
        return [
            *(f"{dependency}__{suffix}" for dependency in package.dependencies),
            *(f"{package.name}__{name}" for name in own),
        ]

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
        target = module / f"{package.name}_s__{type_support}{extension}"
        source = build / "rosidl_generator_py" / f"_{package.name}_s.ep.{type_support}.c"
        own = dict.fromkeys(
            ["rosidl_generator_py", type_support, "rosidl_typesupport_c", "rosidl_generator_c"]
        )
        libraries = [f"{package.name}__{name}" for name in own]
        entry_points.append(
            lambda target=target, source=source, libraries=libraries: compile_shared(
                package, build, target, [source], libraries, "$ORIGIN/../../.."
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
    return install_tree(package, build)


def install_tree(package: MessagePackage, build: Path) -> list[tuple[str, list[str]]]:
    """Everything that lies outside ``site-packages``, as setuptools' ``data_files``."""
    include, index = build / "include", build / "ament_index"
    definitions = [
        *package.messages,
        *sorted((build / "idl" / "msg").glob("*.idl")),
        *sorted((build / "type_description" / "msg").glob("*.json")),
    ]
    interfaces = [f"msg/{file.name}" for file in definitions if file.suffix != ".json"]
    markers = {
        "packages": "",
        "package_run_dependencies": ";".join(sorted(package.dependencies)),
        "rosidl_interfaces": "\n".join(sorted(interfaces)),
    }
    for resource, content in markers.items():
        (index / resource).mkdir(parents=True)
        (index / resource / package.name).write_text(content)
    return [
        ("lib", [str(file) for file in sorted((build / "lib").glob("*.so"))]),
        *(
            (f"include/{package.name}/{folder.relative_to(include)}", [str(f) for f in folder.glob("*.h")])
            for folder in (include / package.name / "msg", include / package.name / "msg" / "detail")
        ),
        (f"share/{package.name}/msg", [str(file) for file in definitions]),
        *(
            (f"share/ament_index/resource_index/{name}", [str(index / name / package.name)])
            for name in markers
        ),
    ]
