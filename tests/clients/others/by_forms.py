"""The forms of vLLM-Omni's own clients and SGLang's JSON, by aiohttp: BASE_URL KEY IMAGE.

Each is sent as that client does it, polled, downloaded and deleted. It ends with 0 if all went well.
"""

import asyncio
import base64
import json
import sys
from pathlib import Path

import aiohttp

BASE_URL, KEY, IMAGE = sys.argv[1:]
QUICK_START = {
    "width": 1280,
    "height": 720,
    "num_frames": 80,
    "fps": 16,
    "num_inference_steps": 40,
    "seed": 42,
}
DATA_URL = "data:image/png;base64," + base64.b64encode(Path(IMAGE).read_bytes()).decode()


def form(fields, image=None):
    """Without a file aiohttp sends this urlencoded, and with one as multipart."""
    data = aiohttp.FormData()
    for name, value in fields.items():
        data.add_field(name, str(value))
    if image:
        file = Path(image).open("rb")  # noqa: SIM115 - aiohttp closes it
        data.add_field("input_reference", file, filename="cat.png", content_type="image/png")
    return {"data": data}


SENT = {
    "vLLM-Omni's benchmark, text": form({"prompt": "A cat"} | QUICK_START),
    "vLLM-Omni's benchmark, image": form(
        {"prompt": "A cat", "model": "Wan-AI/Wan2.2-I2V-A14B-Diffusers"}, IMAGE
    ),
    "vLLM-Omni's node for ComfyUI": form(
        {
            "model": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
            "prompt": "A cat",
            "width": 832,
            "height": 480,
            "num_frames": 33,
            "fps": 16.0,
            "guidance_scale": 3.5,
            "negative_prompt": "blurry",
            "generate_sound": False,
        }
    ),
    "an image_reference": form({"prompt": "A cat", "image_reference": json.dumps({"image_url": DATA_URL})}),
    "SGLang's node for ComfyUI, text": {"json": {"prompt": "A cat", "size": "720x1280", "seconds": 4}},
    "SGLang's node for ComfyUI, image": form({"prompt": "A cat", "size": "720x1280", "seconds": 4}, IMAGE),
    "SGLang's names": {
        "json": {
            "prompt": "A cat",
            "reference_url": DATA_URL,
            "num_frames": 49,
            "enable_teacache": False,
            "guidance_scale": 4.0,
            "n": 1,
        }
    },
}


async def drive(session, what):
    async with session.post(f"{BASE_URL}/videos", **SENT[what]) as answer:
        assert answer.status == 200, (what, await answer.text())
        video = await answer.json()
    address = f"{BASE_URL}/videos/{video['id']}"
    async with asyncio.timeout(90):
        while video["status"] not in ("completed", "failed"):
            await asyncio.sleep(0.2)
            async with session.get(address) as answer:
                assert answer.status == 200, what
                video = await answer.json()
    assert video["status"] == "completed", (what, video)
    async with session.get(f"{address}/content") as answer:
        assert (await answer.read())[4:8] == b"ftyp", what
    async with session.delete(address) as answer:
        assert (await answer.json())["deleted"] is True, what


async def main():
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        await asyncio.gather(*(drive(session, what) for what in SENT))


asyncio.run(main())
