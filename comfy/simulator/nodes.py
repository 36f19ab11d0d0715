"""The node classes that the simulator knows.

Only the classes that a WAN 2.2 graph needs are here, with the inputs, limits and model files of the
real ones, plus TestFault, which makes a prompt go wrong at a chosen place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
InputSpec = tuple[Any, dict[str, Any]]  # a type's name or a list of values, and the limits

MODELS = {
    "diffusion_models": [
        "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
        "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
    ],
    "loras": [
        "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
        "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors",
    ],
    "text_encoders": ["umt5_xxl_fp8_e4m3fn_scaled.safetensors"],
    "vae": ["wan_2.1_vae.safetensors"],
}
SAMPLERS = ["euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "ddim", "uni_pc"]
SCHEDULERS = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal"]
TEST_FAULTS = ["none", "raise", "cuda_oom", "memory_error", "cpu_alloc", "system_exit", "hard_exit", "sleep"]
TEST_FAULTS += ["sleep_with_progress"]


@dataclass(frozen=True)
class NodeClass:
    category: str
    required: dict[str, InputSpec]
    outputs: tuple[str, ...]
    optional: dict[str, InputSpec] = field(default_factory=dict)
    is_output: bool = False

    @property
    def inputs(self) -> dict[str, InputSpec]:
        return self.required | self.optional


def node_table(models: dict[str, list[str]], images: list[str]) -> dict[str, NodeClass]:
    """All classes, with the model files and uploaded images that can be chosen at this moment."""
    return {
        "UNETLoader": NodeClass(
            "advanced/loaders",
            {
                "unet_name": (models["diffusion_models"], {}),
                "weight_dtype": (["default", "fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"], {}),
            },
            ("MODEL",),
        ),
        "CLIPLoader": NodeClass(
            "advanced/loaders",
            {
                "clip_name": (models["text_encoders"], {}),
                "type": (["stable_diffusion", "sd3", "ltxv", "lumina2", "wan", "hidream", "qwen_image"], {}),
            },
            ("CLIP",),
            {"device": (["default", "cpu"], {"advanced": True})},
        ),
        "VAELoader": NodeClass("loaders", {"vae_name": (models["vae"], {})}, ("VAE",)),
        "LoraLoaderModelOnly": NodeClass(
            "loaders",
            {
                "model": _link("MODEL"),
                "lora_name": (models["loras"], {}),
                "strength_model": _float(1.0, -100.0, 100.0),
            },
            ("MODEL",),
        ),
        "LoadImage": NodeClass("image", {"image": (images, {"image_upload": True})}, ("IMAGE", "MASK")),
        "CLIPTextEncode": NodeClass(
            "conditioning",
            {"text": ("STRING", {"multiline": True, "dynamicPrompts": True}), "clip": _link("CLIP")},
            ("CONDITIONING",),
        ),
        **_latent_nodes(),
        **_sampling_nodes(),
        **_video_nodes(),
    }


def _latent_nodes() -> dict[str, NodeClass]:
    return {
        "EmptyHunyuanLatentVideo": NodeClass("latent/video", _size(848, 25), ("LATENT",)),
        "WanImageToVideo": _image_to_video("clip_vision_output", "start_image"),
        "WanFirstLastFrameToVideo": _image_to_video(
            "clip_vision_start_image", "clip_vision_end_image", "start_image", "end_image"
        ),
    }


def _image_to_video(*optional: str) -> NodeClass:
    kinds = {name: "CLIP_VISION_OUTPUT" if name.startswith("clip_vision") else "IMAGE" for name in optional}
    return NodeClass(
        "conditioning/video_models",
        {**_conditioning(), "vae": _link("VAE"), **_size(832, 81)},
        ("CONDITIONING", "CONDITIONING", "LATENT"),
        {name: _link(kind) for name, kind in kinds.items()},
    )


def _size(width: int, length: int) -> dict[str, InputSpec]:
    return {
        "width": _int(width, 16, 16384),
        "height": _int(480, 16, 16384),
        "length": _int(length, 1, 16384),
        "batch_size": _int(1, 1, 4096),
    }


def _sampling_nodes() -> dict[str, NodeClass]:
    return {
        "ModelSamplingSD3": NodeClass(
            "advanced/model", {"model": _link("MODEL"), "shift": _float(3.0, 0.0, 100.0)}, ("MODEL",)
        ),
        "KSamplerAdvanced": NodeClass(
            "sampling",
            {
                "model": _link("MODEL"),
                "add_noise": (["enable", "disable"], {}),
                "noise_seed": _int(0, 0, 2**64 - 1),
                "steps": _int(20, 1, 10000),
                "cfg": _float(8.0, 0.0, 100.0),
                "sampler_name": (SAMPLERS, {}),
                "scheduler": (SCHEDULERS, {}),
                **_conditioning(),
                "latent_image": _link("LATENT"),
                "start_at_step": _int(0, 0, 10000),
                "end_at_step": _int(10000, 0, 10000),
                "return_with_leftover_noise": (["disable", "enable"], {}),
            },
            ("LATENT",),
        ),
        "VAEDecode": NodeClass("latent", {"samples": _link("LATENT"), "vae": _link("VAE")}, ("IMAGE",)),
    }


def _video_nodes() -> dict[str, NodeClass]:
    return {
        "CreateVideo": NodeClass(
            "image/video",
            {"images": _link("IMAGE"), "fps": _float(30.0, 1.0, 120.0)},
            ("VIDEO",),
            {"audio": _link("AUDIO")},
        ),
        "SaveVideo": NodeClass(
            "image/video",
            {
                "video": _link("VIDEO"),
                "filename_prefix": ("STRING", {"default": "video/ComfyUI", "multiline": False}),
                "format": ("COMBO", {"default": "auto", "options": ["auto", "mp4"]}),
                "codec": ("COMBO", {"default": "auto", "options": ["auto", "h264"]}),
            },
            (),
            is_output=True,
        ),
        "TestFault": NodeClass(
            "tests",
            {"images": _link("IMAGE"), "kind": (TEST_FAULTS, {}), "seconds": _float(0.0, 0.0, 3600.0)},
            ("IMAGE",),
        ),
    }


def _conditioning() -> dict[str, InputSpec]:
    return {"positive": _link("CONDITIONING"), "negative": _link("CONDITIONING")}


def _link(kind: str) -> InputSpec:
    return kind, {}


def _int(default: int, least: int, most: int) -> InputSpec:
    return "INT", {"default": default, "min": least, "max": most}


def _float(default: float, least: float, most: float) -> InputSpec:
    return "FLOAT", {"default": default, "min": least, "max": most}


def object_info(name: str, node: NodeClass) -> dict[str, Any]:
    groups = {"required": node.required, "optional": node.optional}
    shown = {group: specs for group, specs in groups.items() if specs}
    return {
        "input": {g: {k: _shown(spec) for k, spec in specs.items()} for g, specs in shown.items()},
        "input_order": {g: list(specs) for g, specs in shown.items()},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.outputs),
        "name": name,
        "display_name": name,
        "description": "",
        "python_module": "nodes",
        "category": node.category,
        "output_node": node.is_output,
    }


def _shown(spec: InputSpec) -> list[Any]:
    kind, limits = spec
    return [kind, limits] if limits else [kind]
