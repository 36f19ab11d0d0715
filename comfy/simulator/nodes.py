"""The node classes that the simulator knows, and the validation of a graph against them.

Only the classes that a WAN 2.2 graph needs are here, with the inputs, limits and model files of the
real ones, plus TestFault, which makes a prompt go wrong at a chosen place.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
InputSpec = tuple[Any, dict[str, Any]]  # a type's name or a list of values, and the limits
Reason = dict[str, Any]

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
        **_sampling_nodes(),
        **_video_nodes(),
    }


def _sampling_nodes() -> dict[str, NodeClass]:
    size = {"width": _int(832, 16, 16384), "height": _int(480, 16, 16384)}
    conditioning = {"positive": _link("CONDITIONING"), "negative": _link("CONDITIONING")}
    return {
        "ModelSamplingSD3": NodeClass(
            "advanced/model", {"model": _link("MODEL"), "shift": _float(3.0, 0.0, 100.0)}, ("MODEL",)
        ),
        "EmptyHunyuanLatentVideo": NodeClass(
            "latent/video",
            {**size, "length": _int(25, 1, 16384), "batch_size": _int(1, 1, 4096)},
            ("LATENT",),
        ),
        "WanImageToVideo": NodeClass(
            "conditioning/video_models",
            {
                **conditioning,
                "vae": _link("VAE"),
                **size,
                "length": _int(81, 1, 16384),
                "batch_size": _int(1, 1, 4096),
            },
            ("CONDITIONING", "CONDITIONING", "LATENT"),
            {"clip_vision_output": _link("CLIP_VISION_OUTPUT"), "start_image": _link("IMAGE")},
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
                **conditioning,
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


def error(kind: str, message: str, details: str = "") -> Reason:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def validate_prompt(
    graph: Graph,
    table: dict[str, NodeClass],
    input_folder: Path,
    targets: list[str] | None,
    newer: bool = False,
) -> tuple[Reason | None, list[str], dict[str, Any]]:
    """The error (None if at least one output node is valid), the valid output nodes, the node errors.

    Values are converted in place to their input's type. What is not an object raises, as in ComfyUI.
    """
    for node_id, node in graph.items():
        if not isinstance(node, dict):
            raise TypeError(f"node {node_id} is not an object")
        if "class_type" not in node:
            message = "Cannot execute because a node is missing the class_type property."
            return error("invalid_prompt", message, f"Node ID '#{node_id}'"), [], {}
        name = node["class_type"]
        if name not in table and newer:
            message = f"Node '{name}' not found. The custom node may not be installed."
            info = {"node_id": node_id, "class_type": name, "node_title": name}
            return error("missing_node_type", message, f"Node ID '#{node_id}'") | {"extra_info": info}, [], {}
        if name not in table:
            message = f"Cannot execute because node {name} does not exist."
            return error("invalid_prompt", message, f"Node ID '#{node_id}'"), [], {}
    outputs = [node_id for node_id, node in graph.items() if table[node["class_type"]].is_output]
    if targets is not None:
        outputs = [node_id for node_id in outputs if node_id in targets]
    if not outputs:
        return error("prompt_no_outputs", "Prompt has no outputs"), [], {}

    validation = Validation(graph, table, input_folder)
    good = [node_id for node_id in outputs if validation.check_output(node_id)]
    node_errors = validation.node_errors([node_id for node_id in outputs if node_id not in good])
    if good:
        return None, good, node_errors
    reasons = [reason for node_id in outputs for reason in validation.reasons[node_id]]
    details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in reasons)
    failed = error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
    return failed, [], node_errors


class Validation:
    """One pass over a graph from its output nodes upwards; each node is looked at once."""

    def __init__(self, graph: Graph, table: dict[str, NodeClass], input_folder: Path) -> None:
        self.graph, self.table, self.input_folder = graph, table, input_folder
        self.reasons: dict[str, list[Reason]] = {}  # what is wrong with the node itself
        self.valid: dict[str, bool] = {}  # the node and everything above it

    def node_errors(self, failed_outputs: list[str]) -> dict[str, Any]:
        if not failed_outputs:
            return {}
        return {
            node_id: {
                "errors": reasons,
                "dependent_outputs": failed_outputs,
                "class_type": self.graph[node_id]["class_type"],
            }
            for node_id, reasons in self.reasons.items()
            if reasons
        }

    def check_output(self, node_id: str) -> bool:
        try:
            return self.check_node(node_id)
        except Exception as exc:
            info = {"exception_type": type(exc).__name__, "traceback": _traceback(exc)}
            reason = error("exception_during_validation", "Exception when validating node", str(exc))
            self.reasons[node_id] = [reason | {"extra_info": info}]
            self.valid[node_id] = False
            return False

    def check_node(self, node_id: str) -> bool:
        if node_id in self.valid:
            return self.valid[node_id]
        node = self.graph[node_id]
        node_class, values = self.table[node["class_type"]], node["inputs"]
        reasons: list[Reason] = []
        links_valid = True
        for name, spec in node_class.inputs.items():
            if name not in values:
                if name in node_class.required:
                    missing = error("required_input_missing", "Required input is missing", name)
                    reasons.append(missing | {"extra_info": {"input_name": name}})
            elif isinstance(values[name], list):
                reason, link_valid = self.check_link(name, spec, values[name])
                reasons += [reason] if reason else []
                links_valid = links_valid and link_valid
            elif reason := self.check_value(node["class_type"], name, spec, values):
                reasons.append(reason)
        self.reasons[node_id] = reasons
        self.valid[node_id] = links_valid and not reasons
        return self.valid[node_id]

    def check_link(self, name: str, spec: InputSpec, link: list[Any]) -> tuple[Reason | None, bool]:
        """What is wrong with the link itself, and whether everything behind it is valid."""
        info = {"input_name": name, "input_config": list(spec)}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            reason = error("bad_linked_input", message, name)
            return reason | {"extra_info": info | {"received_value": link}}, True
        source, slot = link
        received = self.table[self.graph[source]["class_type"]].outputs[slot]
        if received != spec[0]:
            details = f"{name}, received_type({received}) mismatch input_type({spec[0]})"
            reason = error("return_type_mismatch", "Return type mismatch between linked nodes", details)
            return reason | {"extra_info": info | {"received_type": received, "linked_node": link}}, True
        try:
            return None, self.check_node(source)
        except Exception as exc:  # a node above has a link to nowhere: it is that node's error
            info |= {"exception_message": str(exc), "exception_type": type(exc).__name__}
            info |= {"traceback": _traceback(exc), "linked_node": link}
            kind = "exception_during_inner_validation"
            self.reasons[source] = [
                error(kind, "Exception when validating inner node", str(exc)) | {"extra_info": info}
            ]
            self.valid[source] = False
            return None, False

    def check_value(
        self, class_name: str, name: str, spec: InputSpec, values: dict[str, Any]
    ) -> Reason | None:
        kind, limits = spec
        value = values[name]
        info = {"input_name": name, "input_config": list(spec), "received_value": value}
        if class_name == "LoadImage" and name == "image":
            if (self.input_folder / value).is_file():
                return None
            details = f"{name} - Invalid image file: {value}"
            reason = error("custom_validation_failed", "Custom validation failed for node", details)
            return reason | {"extra_info": info}
        if convert := {"INT": int, "FLOAT": float, "STRING": str}.get(kind if isinstance(kind, str) else ""):
            try:
                value = values[name] = info["received_value"] = convert(value)
            except (TypeError, ValueError, OverflowError) as exc:
                message = f"Failed to convert an input value to a {kind} value"
                reason = error("invalid_input_type", message, f"{name}, {value}, {exc}")
                return reason | {"extra_info": info | {"exception_message": str(exc)}}
        if "min" in limits and value < limits["min"]:
            message = f"Value {value} smaller than min of {limits['min']}"
            return error("value_smaller_than_min", message, name) | {"extra_info": info}
        if "max" in limits and value > limits["max"]:
            message = f"Value {value} bigger than max of {limits['max']}"
            return error("value_bigger_than_max", message, name) | {"extra_info": info}
        choices = kind if isinstance(kind, list) else limits.get("options")
        if choices is not None and value not in choices:
            details = f"{name}: '{value}' not in {choices}"
            return error("value_not_in_list", "Value not in list", details) | {"extra_info": info}
        return None


def _traceback(exc: Exception) -> list[str]:
    return traceback.format_tb(exc.__traceback__)
