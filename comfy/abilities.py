"""What a ComfyUI can run: the pairs of preset and kind whose model files and nodes it has. Pure functions."""

from collections.abc import Collection

from comfy import workflow

FILES = sorted({file for preset in workflow.PRESETS for file in workflow.model_files(preset)})
NODES = sorted({node for preset in workflow.PRESETS for node in workflow.node_classes(preset)})


def needs(preset: str, kind: str) -> set[str]:
    """As ``vae/file.safetensors`` and ``node SaveVideo``."""
    files = {f"{folder}/{name}" for folder, name in workflow.model_files(preset, [kind])}
    return files | {f"node {name}" for name in workflow.node_classes(preset, [kind])}


def runs(missing: Collection[str]) -> list[str]:
    """The pairs, such as ``quality/text-to-video``, that need none of what is missing."""
    return [pair for pair in workflow.PAIRS if needs(*pair.split("/")).isdisjoint(missing)]


def lacks(missing: Collection[str], preset: str) -> list[str]:
    """What of it the preset needs."""
    return sorted(set().union(*(needs(preset, kind) for kind in workflow.KINDS)) & set(missing))
