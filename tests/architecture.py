"""The rules of the house, as functions from a source tree to a list of readable violations.

`test_architecture.py` runs each on this repository, where the list must be empty, and on a small
tree that breaks the rule, where it must not be.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# From the ground up. A room imports from lower floors only; rooms on one floor do not meet.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "progress"),
    ("functional", "padding", "schema"),
    ("ops",),
    ("blocks",),
    ("insertion",),
    ("deploy",),
    ("cost",),
    ("models",),
    ("analysis",),
    ("training",),
    ("slim", "detection"),
    ("compare",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Where a third-party package may be imported: a room, or one file of it. torch: everywhere.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "datasets": ("training",),
    "filelock": ("training",),
    "huggingface_hub": ("models",),
    "jinja2": ("analysis",),
    "lightning": ("training", "detection"),
    "matplotlib": ("analysis.figures",),
    "nncf": ("deploy",),
    "numpy": ("training", "detection", "deploy"),
    "onnx": ("deploy",),
    "onnxruntime": ("deploy",),
    "onnxscript": ("deploy",),
    "openvino": ("deploy",),
    "PIL": ("training", "detection"),
    "pyarrow": ("training",),
    "pycocotools": ("detection",),
    "rich": ("cli",),
    "safetensors": ("compare", "insertion", "models"),
    "scipy": ("analysis",),
    "sklearn": ("training",),
    "tensorboard": ("training",),
    "timm": ("models", "detection", "training"),
    "torch_pruning": ("slim",),
    "torchmetrics": ("training", "detection"),
    "torchvision": ("models", "detection", "training"),
    "typer": ("cli",),
    "wandb": ("training",),
    "yaml": ("training",),
}
EVERYWHERE = {"senet", "torch", *sys.stdlib_module_names}

FILE_LINES = 350
FUNCTION_LINES = 50


class Import(NamedTuple):
    """One import statement: the file and line it stands in, and the dotted name it asks for.

    `names` are what it takes out of the target: `from target import names`.
    """

    file: Path
    line: int
    importer: tuple[str, ...]
    target: str
    names: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def python_files(tree: Path) -> list[Path]:
    return sorted(tree.rglob("*.py"))


def module_parts(file: Path) -> tuple[str, ...]:
    """Return the path inside the package: ("blocks", "batchnorm"), () for the package itself."""
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(package: Path) -> Iterator[Import]:
    """Yield every import of a package, those inside functions and `if TYPE_CHECKING` too."""
    for path in python_files(package):
        file = path.relative_to(package)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "senet":
                names = [f"senet.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = ["." * node.level + (node.module or "")]
            else:
                continue
            taken = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                yield Import(file, node.lineno, module_parts(file), name, tuple(taken))


def steps_up(package: Path) -> list[str]:
    """A room imports from lower floors only, and never through the package's front door."""
    violations = []
    for each in imports(package):
        head, _, rest = each.target.partition(".")
        if head == "":
            violations.append(f"{each.where}: relative import; write the full name, senet.<room>")
        if head != "senet" or not each.importer:  # the front door may show every room
            continue
        room, target = each.importer[0], rest.split(".")[0]
        if target not in FLOOR_OF:
            if target != "__version__":
                violations.append(
                    f"{each.where}: {room} imports {each.target}, which is no room; "
                    "import from the room that defines it"
                )
        elif room in FLOOR_OF and target != room and FLOOR_OF[target] >= FLOOR_OF[room]:
            way = "sideways" if FLOOR_OF[target] == FLOOR_OF[room] else "up"
            violations.append(
                f"{each.where}: {room} imports {way} from {target}; "
                "move what both need to a lower room, or pass it in"
            )
    return violations


def strangers(package: Path) -> list[str]:
    """A third-party package is imported in its own rooms only, and has a line in the table."""
    violations = []
    for each in imports(package):
        library = each.target.split(".")[0]
        if library in EVERYWHERE or library == "":
            continue
        rooms = THIRD_PARTY.get(library, ())
        here = ".".join(each.importer) or "senet"
        if not any(here == room or here.startswith(f"{room}.") for room in rooms):
            allowed = " and ".join(rooms) or "no room: add it to docs/dependencies.md and the table"
            violations.append(f"{each.where}: {here} imports {library}, which belongs to {allowed}")
    return violations


def homeless(package: Path) -> list[str]:
    """Every file stands in a room, and no room is called utils."""
    violations = []
    for path in python_files(package):
        file = path.relative_to(package)
        parts = module_parts(file)
        words = {word.strip("_") for word in parts}
        if words & {"util", "utils", "helper", "helpers", "misc", "common"}:
            violations.append(
                f"{file}: says nothing about what is inside; name it after its one idea"
            )
        elif parts and parts[0] not in FLOOR_OF and parts != ("__main__",):
            violations.append(f"{file}: {parts[0]} is no room; add it to FLOORS or move the file")
    return violations


def long_files(tree: Path) -> list[str]:
    """No file is longer than FILE_LINES."""
    lengths = ((path, len(path.read_text().splitlines())) for path in python_files(tree))
    return [
        f"{path.relative_to(tree)}: {lines} lines, at most {FILE_LINES}; one idea per file"
        for path, lines in lengths
        if lines > FILE_LINES
    ]


def long_functions(tree: Path) -> list[str]:
    """No function is longer than FUNCTION_LINES without its docstring."""
    violations = []
    for path in python_files(tree):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = span(node)
            if ast.get_docstring(node, clean=False) is not None:
                lines -= span(node.body[0])  # what a call promises may take the room it needs
            if lines > FUNCTION_LINES:
                violations.append(
                    f"{path.relative_to(tree)}:{node.lineno}: {node.name} has {lines} lines, "
                    f"at most {FUNCTION_LINES}; split it by what its parts do"
                )
    return violations


def span(node: ast.stmt) -> int:
    """Return the number of lines that a statement takes."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def twins(package: Path) -> list[str]:
    """A file name says which file is meant: it occurs once in the package."""
    everywhere = {"__init__.py", "__main__.py", "config.py"}
    files: dict[str, list[str]] = {}
    for path in python_files(package):
        files.setdefault(path.name, []).append(str(path.relative_to(package)))
    return [
        f"{' and '.join(paths)}: one name for {len(paths)} files; name each after its one idea"
        for name, paths in files.items()
        if len(paths) > 1 and name not in everywhere
    ]


def circles(package: Path) -> list[str]:
    """Files do not import each other in a circle, also not in functions or for types alone."""
    files = {module_parts(path.relative_to(package)) for path in python_files(package)}
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {file: set() for file in files}
    for each in imports(package):
        head, *parts = each.target.split(".")
        if head == "senet" and each.importer:
            graph[each.importer] |= imported_files(tuple(parts), each.names, files)
    violations = []
    for start in sorted(graph):
        way = shortest_way(graph, start)
        if way and start == min(way):  # each circle once
            violations.append(
                f"{' -> '.join('.'.join(file) for file in way)}: a circle; "
                "move what both need to a file below them, or pass it in"
            )
    return violations


def imported_files(
    target: tuple[str, ...], names: tuple[str, ...], files: set[tuple[str, ...]]
) -> set[tuple[str, ...]]:
    """Return the files that `from target import names` runs for the sake of these names."""
    modules = {(*target, name) for name in names} & files
    if target in files and len(modules) < max(1, len(names)):
        modules.add(target)
    return modules


def shortest_way(
    graph: dict[tuple[str, ...], set[tuple[str, ...]]], start: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Return the shortest way from a file back to itself, both ends included, or nothing."""
    ways, seen = [[start]], set()
    while ways:
        way = ways.pop(0)
        for target in sorted(graph[way[-1]]):
            if target == start:
                return [*way, target]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []
