"""The routes of ComfyUI's folders: what is uploaded into them, and what is read from them."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from aiohttp import web

from comfy.simulator.state import State


class Files:
    def __init__(self, state: State) -> None:
        self.state = state

    async def post_upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        image, kind = form.get("image"), str(form.get("type", "input"))
        if not isinstance(image, web.FileField) or not image.filename:
            return web.Response(status=400)
        if kind not in ("input", "output", "temp"):
            raise ValueError(f"no folder for the type {kind}")
        folder, subfolder = self.state.path(kind), str(form.get("subfolder", ""))
        name = image.filename.lstrip("/")
        target = Path(os.path.abspath(folder / subfolder / name))
        if ".." in Path(subfolder, name).parts or not target.is_relative_to(folder):
            return web.Response(status=400)
        (folder / subfolder).mkdir(parents=True, exist_ok=True)
        content = image.file.read()
        if form.get("overwrite") not in ("true", "1"):
            target = free_name(target, content)
        if not target.exists() or target.read_bytes() != content:
            target.write_bytes(content)
        # The name may hold a folder too, which is not part of `subfolder`.
        name = str(Path(name).with_name(target.name))
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    async def get_view(self, request: web.Request) -> web.StreamResponse:
        name, kind = request.query.get("filename"), request.query.get("type", "output")
        if name is None:
            return web.Response(status=404)
        if not name or name.startswith("/") or ".." in name or kind not in ("input", "output", "temp"):
            return web.Response(status=400)
        folder = self.state.path(kind)
        file = Path(os.path.abspath(folder / request.query.get("subfolder", ""))) / Path(name).name
        if not file.is_relative_to(folder):
            return web.Response(status=403)
        if not file.is_file():
            return web.Response(status=404)
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        headers = {"Content-Disposition": f'filename="{file.name}"', "Content-Type": content_type}
        return web.FileResponse(file, headers=headers)


def free_name(path: Path, content: bytes) -> Path:
    """The path itself or with " (1)", " (2)"...: the first that is free or holds the same bytes."""
    candidate, number = path, 0
    while candidate.exists() and candidate.read_bytes() != content:
        number += 1
        candidate = path.with_name(f"{path.stem} ({number}){path.suffix}")
    return candidate
