"""The house rules that can be counted (CONTRIBUTING.md)."""

import ast
import re
from importlib.metadata import packages_distributions

import pytest

from local.parts import ROOT

MOST_LINES = {"file": 350, "function": 40}
FILES = {
    str(path.relative_to(ROOT)): path
    for room in ("wanapi", "jobs", "comfy", "local")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "migrations" not in path.parts
}
PACKAGES = packages_distributions()  # by the name that is imported


def functions(text):
    """Name and number of lines of each, without decorators."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name", FILES)
def test_a_file_can_be_read_in_one_go(name):
    assert len(FILES[name].read_text().splitlines()) <= MOST_LINES["file"]


@pytest.mark.parametrize("name", FILES)
def test_a_function_fits_on_a_screen(name):
    lines = functions(FILES[name].read_text())
    assert [(function, many) for function, many in lines if many > MOST_LINES["function"]] == []


def packages(text):
    """The package behind each import of another module than ours and Python's."""
    for node in ast.walk(ast.parse(text)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            yield from (
                found.lower().replace("_", "-") for found in PACKAGES.get(name.partition(".")[0], ())[:1]
            )


@pytest.mark.parametrize("name", FILES)
def test_what_make_serve_installs_is_all_that_the_service_and_its_stack_import(name):
    installed = re.findall(r"^([\w.-]+)==", (ROOT / "requirements-local.txt").read_text(), re.MULTILINE)
    assert {*packages(FILES[name].read_text())} <= {*installed}


def test_only_targets_that_use_the_tests_or_the_tools_install_them():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+): (\.venv/\w+)  ##.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)

    assert {name for name, stamp, _ in targets if name in ("demo", "serve") and stamp == ".venv/ready"}
    for name, stamp, recipe in targets:
        uses = re.search(r"pytest|ruff|mypy|importlinter|tests\.mutants", recipe)
        assert stamp == (".venv/tests" if uses else ".venv/ready"), name
