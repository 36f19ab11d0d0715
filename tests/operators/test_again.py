"""The admin's "Submit again with these": which job it makes, and what it refuses."""

import base64

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from comfy import presets
from jobs.media import storage
from jobs.models import ApiKey, Event, Job, Tombstone
from tests.factories import make_job, picture
from tests.operators.pages import JOBS, page

pytestmark = pytest.mark.django_db

SAME = ("kind", "prompt", "preset", "seed", "parameters", "warnings", "work", "has_first_image", "key_id")
FRAMES = {"last_image_base64": base64.b64encode(picture(48, 64)).decode()}
FRAMES |= {"image_base64": base64.b64encode(picture(64, 48)).decode()}


def said(client, job):
    """What the page says after the question was answered with yes."""
    answer = client.post(f"{JOBS}{job.pk}/again/", follow=True)
    return [str(message) for message in answer.context["messages"]]


def only_new(*jobs):
    return Job.objects.exclude(pk__in=[job.pk for job in jobs]).get()


@pytest.fixture
def key(api):
    made, text = ApiKey.objects.make(name="shop")
    api.defaults["HTTP_X_API_KEY"] = text
    return made


@pytest.fixture
def framed(submit):
    """A job with two images and many wishes."""

    def make(**body):
        asked = {"preset": "quality", "seed": 2**53 - 1, "size": "auto", "num_frames": 9, "steps": 5}
        return Job.objects.get(pk=submit(**FRAMES | asked | {"num_frame": 9, "prompt": "A red cat"} | body))

    return make


def test_the_new_job_is_what_the_first_one_was(admin, key, framed):
    job = framed()
    Job.objects.update(idempotency_key="abc", priority=7, status="processing", started_at=job.created_at)

    answer = admin.post(f"{JOBS}{job.pk}/again/")

    new = only_new(job)
    assert answer["Location"] == f"{JOBS}{new.pk}/change/"
    assert [getattr(new, name) for name in SAME] == [getattr(job, name) for name in SAME]
    assert (new.key, new.status, new.idempotency_key, new.priority) == (key, "queued", None, 0)
    for there, here in zip(job.input_keys, new.input_keys, strict=True):
        assert storage.get(here) == storage.get(there)
    assert Tombstone.objects.known([new.pk])  # the images would be found, had it not come to a row
    assert Event.objects.get(job=new).detail == f"with shop, by admin, as job {job.pk} was"


def test_a_job_of_a_release_that_stored_no_parameters(admin):
    job = make_job(preset="fast")

    said(admin, job)

    new = only_new(job)
    assert new.preset == presets.find("fast").reference
    assert new.shown_parameters.items() >= {"size": "832x480", "num_frames": 81, "fps": 16}.items()


def test_it_asks_first(admin):
    job = make_job(preset=presets.find("fast").reference)

    assert f'href="{JOBS}{job.pk}/again/"' in page(admin, f"{JOBS}{job.pk}/change/")
    text = page(admin, f"{JOBS}{job.pk}/again/")

    assert "Submit a new job with the prompt, parameters, seed and images of this one?</b>" in text
    assert f'href="{JOBS}{job.pk}/change/" class="button cancel-link"' in text
    assert Job.objects.get() == job


def test_who_may_only_look_cannot_do_it(client, django_user_model):
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_job"))
    client.force_login(viewer)
    job = make_job()

    assert "/again/" not in page(client, f"{JOBS}{job.pk}/change/")
    assert client.post(f"{JOBS}{job.pk}/again/").status_code == 403
    assert Job.objects.get() == job


def test_another_site_cannot_do_it(admin_user):
    client, job = Client(enforce_csrf_checks=True), make_job()
    client.force_login(admin_user)

    assert client.post(f"{JOBS}{job.pk}/again/").status_code == 403
    assert Job.objects.get() == job


def test_a_preset_that_was_changed_is_taken_as_it_is_now(admin, own_preset, submit):
    own_preset()
    job = Job.objects.get(pk=submit(preset="mine"))
    now = own_preset(lambda files: files["preset.json"].update(output={"size": 2}))

    asked = page(admin, f"{JOBS}{job.pk}/again/")
    said(admin, job)

    assert "The preset mine was changed since; the new job is made with what it is now." in asked
    assert only_new(job).preset == now.reference != job.preset


@pytest.mark.parametrize(
    ("lowered", "changed", "why"),
    [
        ({}, {"preset": "gone@0123"}, "preset: There is no such preset; there are quality, fast."),
        ({}, {"preset": "fast@0123"}, "steps: The preset fast does not take it."),
        ({"MAX_FRAMES": 5}, {}, "num_frames: This must be from 5 to 5."),
        ({"MAX_PIXELS": 256 * 256}, {}, "size: This has 399,360 pixels, and 65,536 is the most."),
    ],
)
def test_what_fits_no_more_is_refused_in_a_sentence(admin, submit, settings, lowered, changed, why):
    job = Job.objects.get(pk=submit(preset="quality", steps=5, num_frames=9))
    Job.objects.update(**changed)
    for name, value in lowered.items():
        setattr(settings, name, value)

    assert said(admin, job) == [f"It cannot be submitted again, because of its {why}"]
    assert Job.objects.get() == job


def test_without_its_images_it_is_refused_and_nothing_is_left_behind(admin, framed):
    job = framed()
    storage.delete([job.last_input_key])
    before = [*storage.listed("inputs/")]

    assert said(admin, job) == ["It cannot be submitted again: its image is not in S3 any more."]
    assert Job.objects.get() == job
    assert [*storage.listed("inputs/")] == before


def test_the_keys_limits_hold_and_no_images_are_left_behind(admin, key, framed):
    job = framed()
    before = [*storage.listed("inputs/")]
    ApiKey.objects.update(max_queued=1)

    assert said(admin, job) == ["Nothing was submitted. This key has 1 job queued, its limit is 1."]
    assert Job.objects.get() == job
    assert [*storage.listed("inputs/")] == before


def test_without_s3_it_is_refused(admin, framed, settings):
    job = framed()
    settings.S3_ENDPOINT_URL = "http://127.0.0.1:1"

    answer = admin.post(f"{JOBS}{job.pk}/again/")

    assert answer["Location"] == f"{JOBS}{job.pk}/change/"
    assert Job.objects.get() == job


def test_a_job_that_was_purged_meanwhile(admin):
    job = make_job(status="failed")
    pk = job.pk
    job.delete()
    job.pk = pk

    assert said(admin, job) == [f"There is no job {pk} any more."]
