"""GET /presets says what POST /generate does: each limit that it tells is tried, and what lies beyond it."""

import pytest

from comfy import presets
from jobs.api.requests import PARAMETERS
from jobs.queue.parameters import describe
from tests.factories import encoded_picture, picture

pytestmark = pytest.mark.django_db

IMAGES = {"image-to-video": ["image_base64"], "first-last-frame": ["last_image_base64"]}


def limited(files):
    """A preset that has more to say of its parameters than the built-in ones."""
    described = files["preset.json"]
    described["parameters"] = {
        "num_frames": {"minimum": 18, "maximum": 200},
        "fps": {"minimum": 4, "maximum": 24},
        "steps": {"choices": [4, 8]},
        "guidance_scale": {"minimum": 0.5, "maximum": 1.75},
        "guidance_scale_2": {"minimum": 0.5, "maximum": 1.75},
        "sampler": {"choices": ["euler", "uni_pc"]},  # which no request can say
    }
    for name in presets.KINDS:
        place = described["kinds"][name]["bindings"]["width"].partition(".")[0]
        files[f"{name}.json"][place]["inputs"] |= {"width": 2048, "height": 320}
        described["kinds"][name]["bindings"]["sampler"] = "high_noise_sampler.sampler_name"


@pytest.fixture(params=["quality", "fast", "mine"])
def described(api, request, own_preset, settings):
    if request.param == "mine":
        own_preset(limited)
        settings.MAX_FRAMES, settings.MAX_PIXELS = 50, 700_000
    [found] = [preset for preset in api.get("/presets").json() if preset["name"] == request.param]
    return found


def within(name, limits):
    if name == "size":
        least, most = limits["minimum_side"], limits["maximum_side"]
        return [limits["default"], *limits["examples"], f"{least}x{most}"]
    ends = [limits.get(key) for key in ("default", "minimum", "maximum")]
    return [value for value in (*ends, *limits.get("choices", ())) if value is not None]


def beyond(name, limits):
    if name == "size":
        least, most = limits["minimum_side"], limits["maximum_side"]
        return [f"{least - 16}x{least}", f"{most + 16}x{least}", f"{most}x{most}"]
    if "choices" in limits:
        return [6, "none"]
    return [limits[end] + by for end, by in (("minimum", -1), ("maximum", 1)) if end in limits]


@pytest.mark.parametrize("kind", presets.KINDS)
def test_all_that_is_described_is_taken_and_nothing_beyond(api, described, kind, monkeypatch):
    png = picture(832, 480)
    monkeypatch.setattr("jobs.api.intake.images.normalise", lambda data, shape, fit: png)
    body = {"prompt": "A cat", "preset": described["name"]}
    body |= dict.fromkeys(IMAGES.get(kind, ()), encoded_picture())
    for name, limits in described["kinds"][kind].items():
        assert name in PARAMETERS
        for code, values in ((200, within(name, limits)), (400, beyond(name, limits))):
            for value in values:
                answer = api.post("/generate", body | {name: value}, content_type="application/json")
                assert answer.status_code == code, (name, value, answer.content)


def errors(api, **body):
    body |= {"prompt": "A cat", "preset": "mine"}
    answer = api.post("/generate", body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    return answer.json()["errors"]


def test_a_preset_narrows_what_the_service_allows_and_never_widens_it(own_preset, settings):
    settings.MAX_FRAMES, settings.MAX_PIXELS = 50, 700_000
    preset = own_preset(limited)
    found = describe(preset, preset.kinds["text-to-video"])
    width, height = map(int, found["size"]["default"].split("x"))

    assert found["num_frames"] == {"default": 49, "minimum": 21, "maximum": 49, "step": 4}
    assert (found["fps"]["minimum"], found["fps"]["maximum"]) == (8, 24)
    assert width * height <= 700_000


def test_a_preset_whose_videos_are_all_too_long_is_refused_in_words(api, own_preset, settings):
    own_preset(limited)
    settings.MAX_FRAMES = 17

    assert "17 frames, the most here" in errors(api)["preset"][0]
    [mine] = [preset for preset in api.get("/presets").json() if preset["name"] == "mine"]
    assert mine["kinds"]["text-to-video"]["num_frames"] == {"default": None, "choices": []}


def test_a_second_scale_that_follows_the_first_stays_within_its_own_limits(api, own_preset):
    def narrower(files):
        limited(files)
        files["preset.json"]["parameters"]["guidance_scale_2"]["maximum"] = 1.25

    own_preset(narrower)
    assert list(errors(api, guidance_scale=1.5)) == ["guidance_scale_2"]


def test_an_image_for_a_preset_that_takes_none_is_refused_by_its_field(api, own_preset):
    own_preset(lambda files: [files["preset.json"]["kinds"].pop(name) for name in IMAGES])

    assert errors(api, image_base64="x") == {
        "image_base64": ["The preset mine cannot do image-to-video; it does text-to-video."]
    }
    assert list(errors(api, last_image_url="x")) == ["last_image_url"]
