"""Folders that are no presets, each made of a built-in one by a single change.

``CASES`` has for each the name of the file that the refusal must name, and the change: a function that takes
the folder's files by name. A file's content is what is to be written as JSON, or bytes, or a function that
makes the file at its path.
"""

import json
import os
from functools import partial

import pytest

from comfy import presets

VALID = {path.name: json.loads(path.read_text()) for path in (presets.BUILT_IN / "quality").iterdir()}
KIND = "text-to-video"
GRAPH = f"{KIND}.json"
GONE = object()
LARGE = 1024 * 1024
CIRCLE = {f"n{n}": {"class_type": "A", "inputs": {"a": [f"n{(n + 1) % 900}", 0]}} for n in range(900)}
CIRCLE["last"] = {"class_type": "A", "inputs": {"a": ["n0", 0]}}


def case(where, value, told=None):
    """``where`` is the file's name and the keys on the way, with slashes between them."""
    file, *keys = where.split("/")

    def change(files):
        at, *way = files, file, *keys
        for key in way[:-1]:
            at = at[key]
        if value is GONE:
            del at[way[-1]]
        else:
            at[way[-1]] = value

    shown = "nothing" if value is GONE else json.dumps(value)[:60]
    return pytest.param(told or file, change, id=f"{where} = {shown}")


def file(name, content, id):
    return pytest.param(name, lambda files: files.update({name: content}), id=id)


def form():
    """Wrong types in preset.json, and keys that it cannot have."""
    for key in ("title", "description", "samplers", "kinds"):
        for value in (GONE, None, True, 0, -1.5, "", [], {}, [[]], {"a": 1}, "x" * 2000):
            yield case(f"preset.json/{key}", value)
    for key in ("parameters", "warm_up", "output"):
        for value in (None, True, 0, "x", [], [1]):
            yield case(f"preset.json/{key}", value)
    for value in ("\x1b[2J", "two\nlines", " ", "a\u202eb", "\ud800", "a\0b"):
        yield case("preset.json/title", value)
    for value in ({"size": 0}, {"size": 1.5}, {"size": 5}, {"rate": 9}, {"rate": 3}, {"speed": 1}):
        yield case("preset.json/output", value)
    for value in (None, [], "x", {}, {"bindings": {}}, {"bindings": []}):
        yield case(f"preset.json/kinds/{KIND}", value)
    for value in (
        "../quality.json",
        "/etc/passwd",
        "a/b.json",
        "..json",
        "a\\b.json",
        "",
        "a.txt",
        "a" * 200,
    ):
        yield case(f"preset.json/kinds/{KIND}/graph", value)
    for value in (0, 1, -1, 2, "0.5", True, 1e300):
        yield case(f"preset.json/kinds/{KIND}/boundary", value)
    for value in (["nobody"], ["prompt", "prompt"], [5], ["a"] * 21, [[], {}] * 3000):
        yield case("preset.json/samplers", value)
    yield case("preset.json/unknown", 1)
    yield case("preset.json/kinds/video-to-video", {"bindings": {}})
    yield case(f"preset.json/kinds/{KIND}/graph", "another.json", told="another.json")
    yield case(f"preset.json/kinds/{KIND}/graph", "preset.json")


def bindings():
    here = f"preset.json/kinds/{KIND}/bindings"
    names = VALID["preset.json"]["kinds"][KIND]["bindings"]
    places = (
        "nowhere.text",
        "prompt.nothing",
        "prompt",
        "",
        ".",
        "decode.samples",
        5,
        None,
        [],
        [""],
        {"a": 1},
    )
    for name in names:
        for value in (*places, ["vae.vae_name", "vae.vae_name"]):
            yield case(f"{here}/{name}", value)
    for name in ("prompt", "seed", "width", "height", "num_frames", "fps", "prefix", "split", "flow_shift"):
        yield case(f"{here}/{name}", GONE)
    for name in ("size", "seconds", "fit", "preset", "image_url", "Prompt", "", "a b", "seed\n", "x" * 41):
        yield case(f"{here}/{name}", "vae.vae_name")
    yield case(f"{here}/negative_prompt", names["prompt"])
    yield case(f"{here}/width", ["latent.width", "latent.height"])
    yield case(f"{here}/image", "high_noise_sampler.scheduler")
    yield case(f"{here}/prefix", "text_encoder.type", told=GRAPH)
    yield case("preset.json/kinds/image-to-video/bindings/image", GONE)
    yield case("preset.json/kinds/first-last-frame/bindings/last_image", GONE)


def values():
    """What stands in a graph where a parameter goes."""
    whole = ("latent/inputs/width", "latent/inputs/height", "latent/inputs/length", "video/inputs/fps")
    whole += ("low_noise_sampler/inputs/steps", "low_noise_sampler/inputs/start_at_step")
    for place in whole:
        for value in (GONE, -1, 1.5, "16", True, None, {}, 10**19, 1e300, ["vae", 0]):
            yield case(f"{GRAPH}/{place}", value, told="preset.json")
    for place in ("high_noise_shift/inputs/shift", "high_noise_sampler/inputs/cfg"):
        for value in (GONE, -1, 101, "8", True, None, [], 1e300):
            yield case(f"{GRAPH}/{place}", value, told=GRAPH if value == [] else "preset.json")
    for place in ("prompt/inputs/text", "negative_prompt/inputs/text", "save/inputs/filename_prefix"):
        for value in (GONE, 5, None, False, {}, ["vae", 0]):
            yield case(f"{GRAPH}/{place}", value, told="preset.json")
    for length in (6, 80, 82):
        yield case(f"{GRAPH}/latent/inputs/length", length, told="preset.json")
    yield case(f"{GRAPH}/latent/inputs/width", 833, told="preset.json")
    yield case(f"{GRAPH}/low_noise_sampler/inputs/steps", 30, told="preset.json")  # and 20 in the other
    yield case(f"{GRAPH}/low_noise_sampler/inputs/end_at_step", "all")
    yield case(f"{GRAPH}/low_noise_sampler/inputs/end_at_step", -1)


def _scheduler(limits, files):
    """A text as a parameter that the service does not know by its name."""
    files["preset.json"]["parameters"]["scheduler"] = limits
    for kind in files["preset.json"]["kinds"].values():
        kind["bindings"]["scheduler"] = "high_noise_sampler.scheduler"


def parameters():
    for name in ("steps", "guidance_scale", "guidance_scale_2", "flow_shift"):
        limits = VALID["preset.json"]["parameters"][name]
        for value in (
            *({}, {"minimum": 1}, {"maximum": 50}, {"minimum": 19, "maximum": 2}, {"choices": []}),
            *({"choices": ["fast"]}, {"choices": [True]}, {"choices": [None]}, limits | {"choices": [20]}),
            *(
                {"minimum": "1", "maximum": "9"},
                {"minimum": -5, "maximum": 50},
                {"minimum": 1, "maximum": 1e300},
            ),
            *({"minimum": 30, "maximum": 50}, {"minimum": 1, "maximum": 2}, {"choices": [2]}, {"step": 1}),
            *(limits | {"default": 5}, None, [], 5, {"choices": [4, "many"]}),
        ):
            yield case(f"preset.json/parameters/{name}", value)
    names = ("prompt", "negative_prompt", "prefix", "image", "last_image", "seed", "width", "height", "split")
    for name in (*names, "size", "nothing", "Steps", "steps\n", "", "a.b"):
        yield case(f"preset.json/parameters/{name}", {"minimum": 1, "maximum": 10})
    yield case("preset.json/parameters/num_frames", {"maximum": 41})  # the graph has 81
    yield case("preset.json/parameters/fps", {"minimum": 1.5})
    yield case("preset.json/parameters/steps", {"minimum": 1, "maximum": 20})  # two experts
    yield case("preset.json/parameters/steps", {"minimum": 4, "maximum": 10**12})
    for name in ("prompt", "seed", "prefix", "image", "nothing", "size"):
        yield case(f"preset.json/warm_up/{name}", 5)
    for name in ("steps", "num_frames", "split", "flow_shift"):
        for value in ("2", 1.5 if name != "flow_shift" else 0, -1, True, None, [], {}, 10**12, 1e300):
            yield case(f"preset.json/warm_up/{name}", value)
    yield case("preset.json/warm_up/steps", 1)  # two experts
    for value in ({"choices": ["simple", 5]}, {"choices": [5]}, {"minimum": 1, "maximum": 5}):
        yield pytest.param("preset.json", partial(_scheduler, value), id=f"a scheduler with {value}")
    yield case("preset.json/warm_up/num_frames", 6)


def nodes():
    for node in ("vae", "latent", "high_noise_sampler", "decode", "save"):
        for value in (
            *(None, [], {}, "x", 5, {"class_type": "A"}, {"inputs": {}}, {"class_type": 5, "inputs": {}}),
            *({"class_type": "", "inputs": {}}, {"class_type": " ", "inputs": {}}),
            *({"class_type": "A", "inputs": []}, {"class_type": "A", "inputs": None}),
            *({"class_type": "A", "inputs": {"a": link}} for link in (["gone", 0], ["vae"], ["vae", "0"])),
            *(
                {"class_type": "A", "inputs": {"a": link}}
                for link in ([5, 0], ["vae", -1], [], [["vae", 0], 0])
            ),
        ):
            yield case(f"{GRAPH}/{node}", value)
    for node, name in (("vae", "vae_name"), ("text_encoder", "clip_name"), ("low_noise_model", "unet_name")):
        for value in (
            5,
            None,
            True,
            "",
            " ",
            [],
            {},
            "../x",
            "a/../../x",
            "/etc/passwd",
            "\\x",
            "x" * 300,
            ["vae", 0],
        ):
            yield case(f"{GRAPH}/{node}/inputs/{name}", value)
    yield case(f"{GRAPH}/decode/inputs/samples", ["decode", 0])
    yield case(f"{GRAPH}/low_noise_shift/inputs/model", ["low_noise_sampler", 0])
    yield case(f"{GRAPH}/decode/inputs/seen", ["save", 0])
    yield case(f"{GRAPH}/preview", {"class_type": "PreviewImage", "inputs": {"images": ["decode", 0]}})
    yield case(f"{GRAPH}/below", {"class_type": "A", "inputs": {"video": ["save", 0]}})
    yield case(f"{GRAPH}/alone", {"class_type": "Note", "inputs": {}})
    yield case(f"{GRAPH}/two\nlines", {"class_type": "A", "inputs": {}})
    yield case("image-to-video.json/image/inputs/vae", ["vae", 0], told="preset.json")
    yield case("preset.json/samplers", ["image"])


def whole_files():
    text = json.dumps(VALID[GRAPH])
    for name in VALID:
        yield case(name, GONE)
        for value in (None, True, 5, "x", [], {}, [1] * 9000):
            yield case(name, value)
        yield file(name, b"", f"{name}: empty")
        yield file(name, b"{", f"{name}: cut off")
        yield file(name, b"{}{}", f"{name}: two in one")
        yield file(name, b'{"a": 1, "a": 2}', f"{name}: a key twice")
        yield file(name, b'{"a": NaN}', f"{name}: NaN")
        yield file(name, b'{"a": -Infinity}', f"{name}: Infinity")
        yield file(name, b'{"a": 1e999}', f"{name}: a float beyond all")
        yield file(name, b'{"a": ' + b"9" * 4000 + b"}", f"{name}: an int of 4000 digits")
        yield file(name, b'{"a": ' + b"9" * 9000 + b"}", f"{name}: an int of 9000 digits")
        yield file(name, b"[" * 20_000, f"{name}: nested 20000 deep")
        yield file(name, b'{"a":' * 500 + b"1" + b"}" * 500, f"{name}: nested 500 deep")
        yield file(name, b'{"a": "\xff"}', f"{name}: not UTF-8")
        yield file(name, json.dumps(VALID[name]).encode("utf-16"), f"{name}: UTF-16")
        yield file(name, b"\xef\xbb\xbf" + json.dumps(VALID[name]).encode(), f"{name}: with a BOM")
        yield file(name, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), f"{name}: a picture")
        yield file(name, b" " * (LARGE + 1), f"{name}: larger than 1 MB")
        yield file(name, os.mkfifo, f"{name}: a FIFO")
        yield file(name, os.mkdir, f"{name}: a folder")
        for device in ("/dev/zero", "/dev/null", "/dev/tty", "/proc/self/mem", "/proc/self", "/nowhere"):
            yield file(name, lambda path, to=device: os.symlink(to, path), f"{name}: a link to {device}")
        yield file(name, lambda path: os.symlink(path, path), f"{name}: a link to itself")
    many = {f"n{number}": {"class_type": "A", "inputs": {}} for number in range(20_000)}
    yield case(GRAPH, many)
    yield file(GRAPH, b"{" + b'"a":{},' * 1_000_000 + b'"b":{}}', "a million nodes")
    twins = ",".join(f'"n{n}":0' for n in range(90_000)).encode()
    yield file(GRAPH, b"{" + twins + b',"n89999":0}', "90000 keys, the last one twice")
    yield file(GRAPH, b"[" + b"[]," * 300_000 + b"0]", "300000 lists")
    yield file(
        GRAPH, text.replace('"fps": 16', '"fps": 16, "a": ' + "[" * 200 + "]" * 200).encode(), "deep input"
    )
    yield case(GRAPH, CIRCLE)
    yield case(GRAPH, {"nodes": [], "links": [], "version": 0.4})  # the editor's own form
    yield case(GRAPH, {"prompt": VALID[GRAPH]})  # as it is posted
    yield case(GRAPH, VALID["image-to-video.json"], told="preset.json")
    yield file("preset.json", b'{"samplers": [' + b"[],{}," * 5000 + b"1]}", "a long list of unlike things")
    yield case(f"preset.json/kinds/{KIND}/bindings/prompt", ["prompt.text"] * 3000)
    yield case("preset.json/warm_up", {f"a{number}": 1 for number in range(1500)})


CASES = [*form(), *bindings(), *values(), *parameters(), *nodes(), *whole_files()]
