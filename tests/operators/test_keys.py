"""The admin's page of API keys."""

import pytest
from django.utils.timezone import now

from jobs.models import ApiKey
from tests.factories import make_job
from tests.operators.pages import KEYS, cell, page

pytestmark = pytest.mark.django_db


@pytest.fixture
def key():
    return ApiKey.objects.make(name="shop", max_queued=5)[0]


def test_its_use_stands_beside_its_limits(admin, key, settings):
    settings.KEY_MAX_PER_DAY = 1000
    ApiKey.objects.update(day=now().date(), jobs_on_day=412)
    make_job(key=key), make_job(key=key), make_job(key=key, status="failed")

    text = page(admin, KEYS)

    assert cell(text, "today") == "412 of 1000"
    assert cell(text, "queued") == "2 of 5"


def test_without_limits_it_says_so(admin, key, settings):
    settings.KEY_MAX_PER_DAY = 0

    assert cell(page(admin, KEYS), "today") == "0 (no limit)"


def test_the_form_tells_the_real_defaults(admin, settings):
    settings.KEY_MAX_QUEUED, settings.KEY_MAX_PER_DAY = 77, 0

    text = page(admin, f"{KEYS}add/")

    assert "Empty: 77, the default." in text
    assert "Empty: no limit, the default." in text


def test_a_new_key_comes_with_a_command_that_works_from_there(admin):
    text = admin.post(f"{KEYS}add/", {"name": "shop", "priority": "0"}, follow=True).content.decode()

    assert "curl http://testserver/generate -H 'X-API-Key: wan_" in text


def test_a_revoked_key_is_restored(admin, key):
    chosen = {"_selected_action": [key.pk], "confirmed": "yes"}
    admin.post(KEYS, chosen | {"action": "revoke"})
    assert cell(page(admin, KEYS), "state") == "revoked"

    admin.post(KEYS, chosen | {"action": "restore"})

    assert cell(page(admin, KEYS), "state") == "valid"
