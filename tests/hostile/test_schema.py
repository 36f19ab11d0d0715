"""The API does what /openapi.json says, by schemathesis: every check, in all its phases."""

import json
import os
import re
import subprocess
from pathlib import Path

import requests

from local.parts import ROOT
from tests.factories import FULL, REFERENCE

HERE = Path(__file__).resolve().parent
EXAMPLES = 1000 if FULL else 15  # for each operation


def test_the_answers_match_the_schema(stack, figure):
    program = ROOT / ".venv" / "bin" / "schemathesis"
    command = [program, "--config-file", HERE / "schemathesis.toml", "run", f"{stack.url}/openapi.json"]
    options = [
        "--checks",
        "all",
        "--max-examples",
        str(EXAMPLES),
        "--header",
        f"X-API-Key: {stack.env['API_KEY']}",
    ]
    env = os.environ | {"SCHEMATHESIS_HOOKS": "tests.hostile.schema_hooks", "NO_COLOR": "1"}

    done = subprocess.run([*command, *options], cwd=ROOT, env=env, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert "Operations:       19 selected / 19 total" in done.stdout
    cases = re.search(r"([\d,]+) generated.*", done.stdout)
    assert cases
    figure(f"schemathesis, {EXAMPLES} examples for each of 19 operations", f"{cases[0]}, 0 failures")


def test_it_holds_the_examples_of_the_reference(stack):
    schema = requests.get(f"{stack.url}/openapi.json", timeout=10).json()
    body = schema["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]

    prompts = {example["value"]["prompt"] for example in body["examples"].values()}
    assert all(json.dumps(prompt) in REFERENCE for prompt in prompts)
    assert schema["openapi"].startswith("3.1")
    assert "x-spec-enum-id" not in json.dumps(schema)


def test_the_page_needs_no_other_server(stack):
    page = requests.get(f"{stack.url}/docs", timeout=10)

    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 4
    for link in links:
        assert link.startswith("/")
        assert requests.get(stack.url + link, timeout=10).status_code == 200
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
