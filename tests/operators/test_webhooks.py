"""What operators see of webhooks, and how they send them again."""

import html
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from jobs.deliver import deliver
from jobs.models import ApiKey, Delivery, Job, Receiver
from jobs.models.clock import ago
from jobs.queue.returns import cancel
from tests.operators.pages import JOBS, page

pytestmark = pytest.mark.django_db
DELIVERIES = "/admin/jobs/delivery/"


@pytest.fixture
def failed(submit, receiver):
    """A job whose webhook was refused once."""
    receiver.answers = [503]
    job_id = submit(webhook_url=receiver.url)
    cancel(Job.objects.filter(pk=job_id))
    deliver()
    return job_id


def button(client, job_id):
    return html.unescape(re.search(r'formaction="([^"]+)"', page(client, f"{JOBS}{job_id}/change/"))[1])


def test_the_jobs_page_tells_how_it_went(admin, failed, receiver):
    text = page(admin, f"{JOBS}{failed}/change/")

    shown = [
        re.sub(r"<[^>]*>", "", re.search(rf'<td class="field-{name}">(.*?)</td>', text, re.DOTALL)[1]).strip()
        for name in ("event", "host", "state", "tries", "answer", "trouble", "took")
    ]
    assert shown[:-1] == [
        *("job.cancelled", receiver.own, "Pending", "1", "503", "It answered with status 503.")
    ]
    assert float(shown[-1]) > 0


def test_its_button_sends_it_again(admin, failed, receiver):
    said = admin.post(button(admin, failed), follow=True)
    deliver()

    assert said.redirect_chain[-1][0] == f"{JOBS}{failed}/change/"
    assert "1 webhook will be sent again." in said.content.decode()
    assert receiver.events == ["job.cancelled"] * 2
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


def test_the_button_of_another_page_or_of_who_may_only_look_does_not(
    admin, client, failed, django_user_model
):
    address = button(admin, failed)
    assert admin.get(address).status_code == 405
    viewer = django_user_model.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_delivery"))
    client.force_login(viewer)

    assert client.post(address).status_code == 403


def test_many_are_sent_again_from_the_list(admin, failed, receiver):
    form = {"action": "again", "_selected_action": [str(Delivery.objects.get().pk)]}

    admin.post(DELIVERIES, form, follow=True)
    deliver()

    assert receiver.events == ["job.cancelled"] * 2


@pytest.mark.parametrize("query", ["?state__exact=pending", "?q=127.0.0.1", "?q=JOB"])
def test_the_list_finds_them(admin, failed, query):
    assert failed in page(admin, DELIVERIES + query.replace("JOB", failed))


def test_what_outlived_its_job_can_still_be_seen(admin, failed, api):
    api.delete(f"/jobs/{failed}")
    row = Delivery.objects.get()

    assert failed in page(admin, f"{DELIVERIES}{row.pk}/change/")
    assert admin.post(f"{DELIVERIES}{row.pk}/again/", follow=True).status_code == 200


class TestCommand:
    @pytest.mark.parametrize(
        "arguments",
        [["JOB"], ["--state", "pending"], ["--state", "pending", "--since", "1h", "--host", "OWN"]],
    )
    def test_it_sends_them_again(self, failed, receiver, arguments, capsys):
        known = {"JOB": failed, "OWN": receiver.own}
        call_command("redeliver", *[known.get(argument, argument) for argument in arguments])
        deliver()

        assert capsys.readouterr().out == "1 webhook will be sent again.\n"
        assert receiver.events == ["job.cancelled"] * 2

    @pytest.mark.parametrize("arguments", [["--state", "failed"], ["--state", "pending", "--host", "a:1"]])
    def test_it_leaves_the_others_alone(self, failed, receiver, arguments):
        call_command("redeliver", *arguments)
        deliver()
        assert receiver.events == ["job.cancelled"]

    def test_dry_run_only_counts(self, failed, receiver, capsys):
        call_command("redeliver", failed, "--dry-run")
        deliver()
        assert capsys.readouterr().out == "1 webhook would be sent again.\n"
        assert receiver.events == ["job.cancelled"]

    def test_it_wants_to_be_told_which(self, failed):
        with pytest.raises(CommandError):
            call_command("redeliver")
        with pytest.raises(CommandError, match="has no webhooks"):
            call_command("redeliver", "00000000-0000-4000-8000-000000000000")


def test_a_keys_secret_is_made_and_shown_once(admin):
    key, _ = ApiKey.objects.make(name="one")
    form = {"action": "new_webhook_secret", "_selected_action": [key.pk]}

    text = admin.post("/admin/jobs/apikey/", form, follow=True).content.decode()

    [secret] = re.findall(r"whsec_[A-Za-z0-9+/]{32}", html.unescape(text))
    key.refresh_from_db()
    assert key.webhook_secrets == [secret]
    assert "whsec_" not in page(admin, "/admin/jobs/apikey/")
    assert "signed" in page(admin, f"/admin/jobs/apikey/{key.pk}/change/")


@pytest.mark.usefixtures("same_thread")
class TestMetrics:
    @pytest.fixture
    def told(self, api):
        def get(name):
            text = api.get("/metrics").content.decode()
            return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])

        return get

    def test_tries_are_counted_by_how_they_ended(self, failed, told):
        assert told('wanapi_webhook_tries_total{outcome="refused"}') == 1
        assert told('wanapi_webhook_tries_total{outcome="delivered"}') == 0
        assert told('wanapi_webhooks{state="waiting"}') == 1

        call_command("redeliver", failed)
        assert told('wanapi_webhooks{state="due"}') == 1
        deliver()

        assert told('wanapi_webhook_tries_total{outcome="delivered"}') == 1
        assert told("wanapi_webhook_delay_seconds_count") == 1
        assert told('wanapi_webhooks{state="due"}') == 0

    def test_a_receiver_that_fails_for_an_hour_is_told(self, failed, told):
        assert told("wanapi_webhook_receivers_failing") == 0

        Receiver.objects.update(failing_since=ago(timedelta(minutes=61)))
        assert told("wanapi_webhook_receivers_failing") == 1

        Delivery.objects.update(due_at=Now())
        deliver()
        assert told("wanapi_webhook_receivers_failing") == 0
