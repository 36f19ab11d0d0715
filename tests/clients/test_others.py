"""LiteLLM, and the forms of vLLM-Omni and SGLang: ``make test-clients``. They have a venv of their own, since
LiteLLM brings half a hundred packages."""

import os
import subprocess
from pathlib import Path

import pytest

from local.parts import ROOT
from tests.factories import picture

OTHERS = Path(__file__).resolve().parent / "others"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"


@pytest.mark.parametrize("client", ["by_litellm", "by_forms"])
def test_it_drives_the_service_unchanged(stack, tmp_path, client):
    image = tmp_path / "cat.png"
    image.write_bytes(picture())
    command = [PYTHON, OTHERS / f"{client}.py", f"{stack.url}/v1", stack.env["API_KEY"], image]
    # httpx cannot read every NO_PROXY, and nothing here is behind a proxy.
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks a server for the prices of models

    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)

    assert done.returncode == 0, done.stderr
