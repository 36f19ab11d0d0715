"""LiteLLM with its provider hosted_vllm against the service: BASE_URL KEY IMAGE. It ends with 0 if all went
well."""

import base64
import sys
import time
from pathlib import Path

import litellm

base_url, key, image = sys.argv[1:]
server = {"api_base": base_url, "api_key": key}
with open(image, "rb") as file:
    video = litellm.video_generation(
        model="hosted_vllm/fast",
        prompt="A cat",
        seconds="2",
        size="480x832",
        seed=7,
        input_reference=file,
        enable_frame_interpolation=False,
        **server,
    )
assert video.object == "video", video
assert video.status in ("queued", "in_progress"), video

end = time.monotonic() + 60
while video.status in ("queued", "in_progress") and time.monotonic() < end:
    time.sleep(0.2)
    video = litellm.video_status(video_id=video.id, custom_llm_provider="hosted_vllm", **server)
assert video.status == "completed", video
assert (video.seconds, video.size, video.error) == ("2", "480x832", None), video

content = litellm.video_content(video_id=video.id, custom_llm_provider="hosted_vllm", **server)
assert content[4:8] == b"ftyp", content[:100]

data_url = "data:image/png;base64," + base64.b64encode(Path(image).read_bytes()).decode()
other = litellm.video_generation(
    model="hosted_vllm/any/name",
    prompt="A cat",
    num_frames=32,
    image_reference={"image_url": data_url},
    **server,
)
assert (other.seconds, other.size, other.model) == ("2", "720x544", "fast"), other

refused = ""
try:
    litellm.video_generation(model="hosted_vllm/fast", prompt="A cat", lora={"name": "a"}, **server)
except litellm.BadRequestError as error:
    refused = str(error)
assert "LoRAs cannot be chosen" in refused, refused
