"""The house rules that can be counted (CONTRIBUTING.md)."""

import ast

import pytest

from local.parts import ROOT

MOST_LINES = {"file": 350, "function": 40}
FILES = {
    str(path.relative_to(ROOT)): path
    for room in ("wanapi", "jobs", "comfy", "local")
    for path in sorted((ROOT / room).rglob("*.py"))
    if "migrations" not in path.parts
}


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
