"""What ``make serve`` says when it runs: where everything is, how to try it, and how ComfyUI is."""

import shlex
from pathlib import Path

from comfy import presets
from comfy.answers import ComfyError
from comfy.client import Comfy, shown
from local.parts import ROOT
from local.stack import Stack

PATIENCE = 3.0  # seconds for each question to ComfyUI


def greeting(stack: Stack) -> str:
    url = stack.public_url
    login = f"user admin, password {stack.secrets['admin']}"
    if "postgres" not in stack.parts:
        login = "make a user: .venv/bin/python manage.py createsuperuser"
    lines = {
        "API": url,
        "API key": stack.env["API_KEY"],
        "Try it": first_request(url, stack.env["API_KEY"]),
        "Docs": f"{url}/docs",
        "Admin": f"{url}/admin/  ({login})",
        "ComfyUI": f"{shown(stack.env['COMFYUI_URL'])}  {state_of_comfyui(stack)}",
        "Logs": f"{stack.logs.relative_to(ROOT)}/",
    }
    if stack.links_port:
        lines["Videos"] = f"links lead to port {stack.links_port}, also after a restart"
    told = "".join(f"  {name:9} {text}\n" for name, text in lines.items())
    notes = "".join(f"{note}\n" for note in [*stack.notes, *remote(stack)])
    return f"\nWANAPI is running.\n\n{told}\n{notes}Ctrl-C ends it; the data stays.\n"


def first_request(url: str, key: str) -> str:
    header = shlex.quote(f"X-API-Key: {key}")
    return (
        f"curl {url}/generate -H {header} -H 'Content-Type: application/json' "
        """-d '{"prompt": "A cat dancing on the moon"}'"""
    )


def state_of_comfyui(stack: Stack) -> str:
    """A few words, with what to do where it cannot render yet."""
    if "simulator" in stack.parts:
        return "ready: a SIMULATOR, which draws test cards; there is no model"
    folder = stack.env.get("PRESETS_DIR")
    presets.load(Path(folder) if folder else None)
    preset = presets.find(stack.env.get("WORKFLOW_PRESET") or presets.DEFAULT)
    try:
        with Comfy(stack.env["COMFYUI_URL"], read_timeout=PATIENCE) as comfy:
            comfy.check_prompts()
            files, nodes, system = (
                comfy.missing(preset.files),
                comfy.missing_nodes(preset.nodes),
                comfy.system(),
            )
    except ComfyError as error:
        return f"{error.message} Jobs wait until it can be used."
    if files:
        many = "1 file" if len(files) == 1 else f"{len(files)} files"
        return (
            f"lacks {many} of the preset {preset.name}; this brings what is missing:\n            "
            f".venv/bin/python manage.py download_models --preset {preset.name} PATH/TO/ComfyUI/models"
        )
    if nodes:
        return f"lacks the nodes {', '.join(nodes)}: it needs an update"
    return f"ready: {system}"


def remote(stack: Stack) -> list[str]:
    if not stack.reach.is_open:
        return []
    ports = ", ".join(filter(None, [stack.env["PORT"], str(stack.links_port or "")]))
    return [
        f"Other machines reach it as {stack.reach.public} (PUBLIC_ADDRESS names another address), at these "
        f"ports: {ports}.",
        "It speaks plain HTTP, which anybody in between can read: use it in a network that you trust.",
    ]
