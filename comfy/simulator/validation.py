"""The validation of a graph against the node classes, with the errors that ComfyUI would answer."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from comfy.simulator.nodes import Graph, InputSpec, NodeClass

Reason = dict[str, Any]


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
