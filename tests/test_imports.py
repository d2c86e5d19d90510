"""Arrows between packages go down only, and no module imports itself through others."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

EXTENSION_IMPORT = "from ternary_kernels import _native"
"""The extension is not a Python file: grimp takes this line for an import of the package around it."""


@pytest.fixture(scope="module")
def graph(workspace_root: Path) -> grimp.ImportGraph:
    """Every module of every package; imports inside functions and for type checking count too."""
    settings = tomllib.loads((workspace_root / "pyproject.toml").read_text())
    packages = settings["tool"]["importlinter"]["root_packages"]
    return grimp.build_graph(*packages, cache_dir=None)


def is_of_python(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    details = graph.get_import_details(importer=importer, imported=imported)
    return any(found["line_contents"] != EXTENSION_IMPORT for found in details)


def test_import_contracts_hold(workspace_root: Path) -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=workspace_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_package_is_under_the_contracts(workspace_root: Path) -> None:
    settings = tomllib.loads((workspace_root / "pyproject.toml").read_text())
    packages = {
        path.name
        for folder in ("packages", "packages/plugins")
        for path in workspace_root.glob(f"{folder}/*/src/*")
        if (path / "__init__.py").is_file()
    }
    assert set(settings["tool"]["importlinter"]["root_packages"]) == packages


def test_no_module_is_in_a_circle_of_imports(graph: grimp.ImportGraph) -> None:
    imports = {
        module: {
            imported
            for imported in graph.find_modules_directly_imported_by(module)
            if is_of_python(graph, module, imported)
        }
        for module in graph.modules
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
