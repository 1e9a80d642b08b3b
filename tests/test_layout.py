"""The layout of docs/architecture.md: who may import whom, no import circles, no long files.

Imports are read from the source. One inside of a function counts for who may import whom, and not
for circles, which can only happen while modules load; one under TYPE_CHECKING counts likewise.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "vlmheads": ROOT / "vlmheads",
    "vlmheads_plugins": ROOT / "plugins" / "vlmheads_plugins",
    "vlmheads_eval": ROOT / "eval" / "vlmheads_eval",
    "vlmheads_demo": ROOT / "demo" / "vlmheads_demo",
    "vlmheads_testbed": ROOT / "testbed" / "vlmheads_testbed",
    "vlmheads_lmms": ROOT / "lmms" / "vlmheads_lmms",
}
# What a package may import of the others; the core imports none of them.
ALLOWED = {
    "vlmheads": set(),
    "vlmheads_plugins": {"vlmheads"},
    "vlmheads_eval": {"vlmheads", "vlmheads_testbed"},
    "vlmheads_testbed": {"vlmheads"},
    "vlmheads_lmms": {"vlmheads"},
    "vlmheads_demo": {"vlmheads", "vlmheads_eval", "vlmheads_testbed"},
}
PLOTTING = "vlmheads.plotting"
MAY_PLOT = (PLOTTING, "vlmheads.commands")
LONGEST = 350


@dataclass(frozen=True)
class Import:
    """One import of a module of ours by another: `place` is file and line."""

    importer: str
    imported: str
    place: str
    at_load: bool


def name_of(path: Path) -> str:
    """The name under which a file is imported."""
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join((package, *parts)).removesuffix(".__init__")


FILES = {name_of(path): path for folder in PACKAGES.values() for path in folder.rglob("*.py")}


def deferred(tree: ast.Module) -> set[ast.AST]:
    """Everything that does not run while the module loads."""
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, later) or checking:
            found.update(ast.walk(node))
    return found


def targets(node: ast.AST, importer: str) -> Iterator[str]:
    """The modules of ours that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in FILES)
    elif isinstance(node, ast.ImportFrom):
        package = importer.split(".")
        if FILES[importer].name != "__init__.py":
            package = package[:-1]
        above = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join(filter(None, (*above, node.module)))
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in FILES or base in FILES:
                yield inner if inner in FILES else base


def imports() -> list[Import]:
    """All imports of modules of ours."""
    found = []
    for importer, path in sorted(FILES.items()):
        tree = ast.parse(path.read_text("utf-8"))
        later = deferred(tree)
        for node in ast.walk(tree):
            for imported in targets(node, importer):
                place = f"{path.relative_to(ROOT)}:{node.lineno}"
                found.append(Import(importer, imported, place, node not in later))
    return found


IMPORTS = imports()


def loads(item: Import) -> Iterator[str]:
    """What an import runs: the module, and the rooms around it that the importer is not in."""
    yield item.imported
    room = item.imported
    while "." in room:
        room = room.rpartition(".")[0]
        if not inside(item.importer, (room,)):
            yield room


def package_of(module: str) -> str:
    return module.partition(".")[0]


def inside(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    wrong = [
        f"{item.place} imports {item.imported}"
        for item in IMPORTS
        if package_of(item.importer) == package
        and package_of(item.imported) not in {package, *ALLOWED[package]}
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for item in IMPORTS:
        if item.at_load and package_of(item.importer) == package_of(item.imported) == package:
            graph.setdefault(item.importer, set()).update(loads(item))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        # It gives what is imported before who imports it.
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_only_commands_draw() -> None:
    wrong = [
        f"{item.place} imports {item.imported}"
        for item in IMPORTS
        if inside(item.imported, (PLOTTING,))
        and package_of(item.importer) == "vlmheads"
        and not inside(item.importer, MAY_PLOT)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_too_long_to_hold_one_idea() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in FILES.values()}
    wrong = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lengths.items() if n > LONGEST]
    assert not wrong, "\n".join(wrong)
