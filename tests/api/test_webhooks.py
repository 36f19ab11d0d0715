"""webhook_url in a request: what it may be, who signs, and that nobody is shown it."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from jobs.deliver import deliver
from jobs.media.receivers import Answer
from jobs.models import ApiKey, Delivery, Job
from jobs.queue.deliveries import claim
from jobs.queue.returns import cancel
from tests.receivers import SECRET
from wanapi.sealed import unseal

pytestmark = pytest.mark.django_db
URL = "https://anna:hush1@hooks.example/a?token=hush2"


def refused(api, **body):
    answer = api.post("/generate", {"prompt": "A cat"} | body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    return answer.json()["errors"]


@pytest.fixture
def signing(settings):
    settings.WEBHOOK_SECRET = [SECRET]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "a.example",
        "https://",
        "http://[::1",
        "https://a.example:x",
        "file:///etc/passwd",
        "//a",
        "https://a.example/\ud800",
        "https://a.example/a\u0007b",
        "https://" + "a" * 300,
    ],
)
def test_it_must_be_a_url(api, signing, url):
    assert refused(api, webhook_url=url) == {"webhook_url": ["This is not a valid http or https URL."]}


@pytest.mark.parametrize(
    "url", ["http://a.example", "https://a.example:8443", "http://a.example:443", "https://a.example:80/"]
)
def test_it_must_be_https_on_the_usual_port_unless_the_operator_allows_it(
    api, submit, signing, settings, url
):
    assert refused(api, webhook_url=url) == {
        "webhook_url": ["Webhooks are sent to https URLs on port 443 only."]
    }

    settings.WEBHOOK_URL_ALLOW = [f"A.example:{port}" for port in (80, 443, 8443)]
    submit(webhook_url=url)


@pytest.mark.parametrize("events", ["job.completed", ["job.done"], [1], {"a": 1}, []])
def test_events_are_those_that_there_are(api, signing, events):
    assert "webhook_events" in refused(api, webhook_url=URL, webhook_events=events)


def test_without_a_secret_it_is_refused_and_nothing_is_signed_with_nothing(api, settings):
    settings.WEBHOOK_SECRET = []
    assert "no webhook secret" in refused(api, webhook_url=URL)["webhook_url"][0]


def test_it_is_part_of_what_an_idempotency_key_stands_for(api, signing):
    def post(url):
        body = {"prompt": "A cat", "webhook_url": url}
        return api.post("/generate", body, "application/json", headers={"Idempotency-Key": "1"}).status_code

    assert [post(url) for url in (URL, URL, URL + "1")] == [200, 200, 422]


def test_neither_its_password_nor_its_query_is_shown_or_stored(api, submit, receiver, admin_client, caplog):
    caplog.set_level("DEBUG")
    url = f"http://anna:hush1@{receiver.own}/a?token=hush2"
    job_id = submit(webhook_url=url)
    cancel(Job.objects.all())
    deliver()
    out = StringIO()
    call_command("job", job_id, stdout=out), call_command("job", job_id, "--json", stdout=out)
    form = {"action": "export", "_selected_action": [job_id]}
    pages = ["job", "delivery", f"job/{job_id}/change", f"delivery/{Delivery.objects.get().pk}/change"]
    seen = [
        *(api.get(path).content.decode() for path in (f"/jobs/{job_id}", f"/status/{job_id}", "/jobs")),
        *(admin_client.get(f"/admin/jobs/{path}/").content.decode() for path in pages),
        b"".join(admin_client.post("/admin/jobs/job/", form).streaming_content).decode(),
        str([*Job.objects.values(), *Delivery.objects.values()]),
        caplog.text,
        out.getvalue(),
    ]

    assert [got.path for got in receiver.got] == ["/a?token=hush2"]
    assert receiver.own in caplog.text
    assert receiver.own in out.getvalue()
    for text in seen:
        assert "hush" not in text
        assert "anna" not in text
    sealed = Job.objects.get().webhook_url
    assert unseal(sealed) == url
    assert sealed not in out.getvalue()


def test_a_url_that_answered_410_gives_a_warning(api, submit, signing):
    submit(webhook_url=URL)
    cancel(Job.objects.all())
    [one] = claim(1, 1)
    one.finish(Answer(410, "Gone."), 0.1)

    job_id = submit(webhook_url=URL)

    assert "410" in api.get(f"/jobs/{job_id}").json()["warnings"][0]


class TestOfAKey:
    @pytest.fixture
    def caller(self, receiver):
        _, text = ApiKey.objects.make(name="one")
        return Client(headers={"X-API-Key": text})

    @pytest.fixture
    def told(self, caller, receiver):
        """What the receiver gets of a job with this body."""

        def tell(**body):
            answer = caller.post("/generate", {"prompt": "A cat"} | body, "application/json")
            assert answer.status_code == 200, answer.content
            cancel(Job.objects.queued())
            deliver()
            return receiver.got.pop() if receiver.got else None

        return tell

    @staticmethod
    def command(*arguments):
        out = StringIO()
        call_command("webhooks", *arguments, stdout=out)
        return out.getvalue().strip()

    def test_it_needs_a_secret_of_its_own(self, caller, receiver, told):
        body = {"prompt": "A cat", "webhook_url": receiver.url}
        assert caller.post("/generate", body, "application/json").status_code == 400

        secret = self.command("one", "--new-secret")

        assert secret not in str(ApiKey.objects.values())
        got = told(webhook_url=receiver.url)
        Webhook(secret).verify(got.body, got.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(got.body, got.headers)

    def test_after_a_rotation_both_secrets_sign_for_a_day(self, receiver, told):
        old, new = self.command("one", "--new-secret"), self.command("one", "--new-secret")

        got = told(webhook_url=receiver.url)
        for secret in (old, new):
            Webhook(secret).verify(got.body, got.headers)

        ApiKey.objects.update(webhook_secret_at=timezone.now() - timedelta(hours=24))
        got = told(webhook_url=receiver.url)
        Webhook(new).verify(got.body, got.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(got.body, got.headers)

    def test_its_own_url_is_told_of_all_jobs_but_those_that_name_another(self, receiver, told):
        self.command("one", "--new-secret"), self.command("one", "--url", f"{receiver.url}/own")

        assert told().path == "/hook/own"
        assert told(webhook_url=receiver.url).path == "/hook"
        self.command("one", "--no-url")
        assert told() is None

    def test_a_url_to_which_nothing_would_be_sent_is_refused(self, told):
        with pytest.raises(CommandError, match="port 443"):
            self.command("one", "--url", "http://a.example")

    def test_the_command_tells_how_it_is(self, told):
        assert "none" in self.command("one")
        self.command("one", "--new-secret")
        assert "secret: yes" in self.command("one")
        assert "secret: yes" in self.command()


class TestChangeOfSecretKey:
    @pytest.fixture
    def changed(self, settings, submit, receiver):
        submit(webhook_url=receiver.url)
        cancel(Job.objects.all())
        settings.SECRET_KEY, old = "another", settings.SECRET_KEY
        return old

    def test_nothing_is_sent_until_the_old_one_is_named(self, changed, settings, receiver):
        deliver()
        assert "SECRET_KEY_BEFORE" in Delivery.objects.get().trouble

        settings.SECRET_KEY_FALLBACKS = [changed]
        call_command("redeliver", str(Job.objects.get().pk))
        deliver()
        assert receiver.events == ["job.cancelled"]

    def test_after_reseal_it_is_needed_no_more(self, changed, settings, receiver):
        settings.SECRET_KEY_FALLBACKS = [changed]
        call_command("reseal")
        settings.SECRET_KEY_FALLBACKS = []

        deliver()

        assert receiver.events == ["job.cancelled"]

    def test_reseal_says_what_it_cannot_read(self, changed):
        with pytest.raises(CommandError, match="2 cannot be read"):
            call_command("reseal")
