"""``make demo``: the whole way once, over the public HTTP API, and two MP4s to look at."""

import base64
import io
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import av
import requests
from PIL import Image, ImageDraw
from tqdm import tqdm

from local import parts
from local.parts import ROOT
from local.serve import Stopped, only_one, stop_on_signals, stop_on_signals_no_more
from local.stack import Problem, Stack

FOLDER = ROOT / ".local" / "demo"
VIDEOS = ROOT / "demo"
PATIENCE = 300  # seconds for one job


def main() -> None:
    stop_on_signals()
    began = time.monotonic()
    try:
        with only_one(ROOT / ".local" / "demo-lock"):
            run()
    except Stopped:
        sys.exit("make demo: stopped.")
    except (Problem, OSError, requests.RequestException) as problem:
        sys.exit(f"make demo: {problem}")
    print(
        f"\nDone in {time.monotonic() - began:.0f} s. Two videos, drawn by the SIMULATOR, not by the model:"
    )
    for kind in ("text-to-video", "image-to-video"):
        print(f"  demo/{kind}.mp4")
    print("Next: `make serve` runs the service to work with.")


def run() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    port = os.environ.get("PORT") or str(parts.free_port())
    stack = Stack(FOLDER, {"PORT": port})
    try:
        print("Starting Postgres, S3, the ComfyUI simulator, the API and the two workers ...", flush=True)
        stack.start()
        print(f"  API {stack.url} · S3 {stack.env['S3_ENDPOINT_URL']} · simulator {stack.env['COMFYUI_URL']}")
        VIDEOS.mkdir(exist_ok=True)
        client = Client(stack.url, stack.env["API_KEY"])
        jobs = {
            "text-to-video": client.submit(prompt="A cat dancing on the moon"),
            "image-to-video": client.submit(prompt="Make this character wave hello", image_base64=picture()),
        }
        for kind, job_id in jobs.items():
            check(client.download(client.follow(kind, job_id), VIDEOS / f"{kind}.mp4"))
    finally:
        stop_on_signals_no_more()
        stack.stop()


class Client:
    def __init__(self, url: str, key: str):
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["X-API-Key"] = key

    def submit(self, **body: str) -> str:
        answer = self.session.post(f"{self.url}/generate", json=body, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["job_id"])

    def follow(self, kind: str, job_id: str) -> str:
        """Shows the job's progress and returns its link."""
        deadline = time.monotonic() + PATIENCE
        with tqdm(
            total=100, desc=f"{kind:>14}", disable=None, bar_format="  {desc} {bar:30} {n:3.0f}% {postfix}"
        ) as bar:
            while time.monotonic() < deadline:
                job = self.job(job_id)
                bar.set_postfix_str(job["status"], refresh=False)
                bar.update(job["progress"] - bar.n)
                if job["status"] == "completed":
                    if bar.disable:
                        print(f"  {kind} completed")
                    return str(job["video_url"])
                if job["status"] == "failed":
                    raise Problem(f"the {kind} job failed: {job['error']}")
                time.sleep(0.25)
        raise Problem(f"the {kind} job did not end within {PATIENCE} s; see {FOLDER}/log/.")

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.session.get(f"{self.url}/jobs/{job_id}", timeout=30)
        answer.raise_for_status()
        return dict(answer.json())

    @staticmethod
    def download(url: str, path: Path) -> Path:
        """As any client would: the link alone, no key."""
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url, timeout=30)
        answer.raise_for_status()
        path.write_bytes(answer.content)
        return path


def picture() -> str:
    """A reference image, as Base64."""
    image = Image.new("RGB", (1024, 768), "#27506b")
    draw = ImageDraw.Draw(image)
    draw.ellipse((312, 134, 712, 534), fill="#f2c14e")
    draw.ellipse((412, 264, 462, 334), fill="#222")
    draw.ellipse((562, 264, 612, 334), fill="#222")
    draw.arc((402, 304, 622, 464), 20, 160, fill="#222", width=14)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def check(path: Path) -> None:
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        frames = sum(1 for _ in video.decode(stream))
        found = f"{stream.codec_context.name} {stream.width}x{stream.height} {stream.average_rate} fps"
        found += f" {frames} frames"
    if found != "h264 832x480 16 fps 81 frames":
        raise Problem(f"{path.name} is {found}.")
    print(f"  {path.relative_to(ROOT)}: {found}")


if __name__ == "__main__":
    main()
