"""What the admin's actions do to jobs, and that each asks before it does anything."""

import re

import pytest
from django.contrib.auth.models import Permission

from jobs.models import Job
from tests.factories import make_job
from tests.operators.pages import JOBS, act, done, listed, page, requeue

pytestmark = pytest.mark.django_db


class TestRequeue:
    def test_failed_jobs_go_back_to_the_queue_and_others_are_reported(self, admin):
        failed, done = make_job(status="failed", attempt=3, lost=3), make_job(status="completed")

        said = requeue(admin, failed, done)

        assert said == ["1 job requeued.", "1 job is neither failed nor cancelled and stays as it is."]
        failed.refresh_from_db(), done.refresh_from_db()
        assert (failed.status, failed.attempt, failed.lost, failed.error) == ("queued", 3, 0, "")
        assert done.status == "completed"

    def test_a_running_job_is_left_alone(self, admin):
        running = make_job(status="processing", progress=40)

        assert requeue(admin, running) == ["1 job is neither failed nor cancelled and stays as it is."]

        running.refresh_from_db()
        assert (running.status, running.progress) == ("processing", 40)

    def test_who_may_only_look_cannot_requeue(self, client, django_user_model):
        viewer = django_user_model.objects.create_user("viewer", is_staff=True)
        viewer.user_permissions.add(Permission.objects.get(codename="view_job"))
        client.force_login(viewer)
        failed = make_job(status="failed")

        assert str(failed.pk) in listed(client)
        requeue(client, failed)

        failed.refresh_from_db()
        assert failed.status == "failed"


class TestConfirmation:
    @pytest.mark.parametrize(
        ("action", "status", "question"),
        [
            ("requeue", "failed", "Render 2 jobs anew?"),
            ("cancel", "queued", "Cancel 2 jobs?"),
            ("purge", "completed", "Remove 2 jobs with videos and images, for good?"),
        ],
    )
    def test_nothing_happens_until_it_is_given(self, admin, action, status, question):
        jobs = [make_job(status=status) for _ in range(2)]

        text = act(admin, action, *jobs).content.decode()

        assert question in text
        assert all(f'value="{job.pk}"' in text for job in jobs)
        assert [job.status for job in Job.objects.all()] == [status] * 2

    def test_all_that_a_filter_leaves_can_be_chosen(self, admin):
        jobs = [make_job(status="failed") for _ in range(3)]
        form = {"action": "requeue", "_selected_action": [jobs[0].pk], "select_across": "1", "index": "0"}

        page = admin.post(JOBS + "?status__exact=failed", form).content.decode()
        admin.post(JOBS + "?status__exact=failed", form | {"confirmed": "yes"})

        assert "Render 3 jobs anew?" in page
        assert 'name="select_across" value="1"' in page
        assert Job.objects.queued().count() == 3

    def test_cancel(self, admin):
        queued, completed = make_job(), make_job(status="completed")

        assert done(admin, "cancel", queued, completed) == [
            "1 job cancelled.",
            "1 job is finished and stays as it is.",
        ]
        queued.refresh_from_db()
        assert queued.status == "cancelled"

    def test_purge(self, admin):
        finished, running = make_job(status="failed"), make_job(status="processing")

        assert done(admin, "purge", finished, running)[0] == "1 job removed."

        assert list(Job.objects.all()) == [running]


class TestFromTheJobsPage:
    @pytest.mark.parametrize(
        ("status", "offered"),
        [
            ("queued", ["front", "cancel"]),
            ("processing", ["cancel"]),
            ("failed", ["requeue", "purge"]),
            ("completed", ["purge"]),
        ],
    )
    def test_what_can_be_done_now_is_offered(self, admin, status, offered):
        job = make_job(status=status)

        text = page(admin, f"{JOBS}{job.pk}/change/")

        assert re.findall(rf'href="{JOBS}{job.pk}/do/(\w+)/"', text) == offered

    def test_it_asks_names_the_job_and_leads_back(self, admin):
        job = make_job(prompt="A red fox")
        own = f"{JOBS}{job.pk}/"

        asked = page(admin, f"{own}do/cancel/")
        assert "Cancel 1 job?" in asked
        assert f"<code>{job.pk}</code> queued: A red fox" in asked
        assert 'class="destroys"' in asked
        assert Job.objects.get().status == "queued"

        answer = admin.post(f"{own}do/cancel/", follow=True)
        assert answer.redirect_chain == [(f"{own}change/", 302)]
        assert Job.objects.get().status == "cancelled"

    def test_what_does_not_fit_any_more_changes_nothing(self, admin):
        job = make_job(status="completed")

        answer = admin.post(f"{JOBS}{job.pk}/do/cancel/", follow=True)

        said = [str(message) for message in answer.context["messages"]]
        assert said == ["1 job is finished and stays as it is."]

    def test_who_may_only_look_is_offered_nothing(self, client, django_user_model):
        viewer = django_user_model.objects.create_user("viewer", is_staff=True)
        viewer.user_permissions.add(Permission.objects.get(codename="view_job"))
        client.force_login(viewer)
        job = make_job()

        assert "/do/" not in page(client, f"{JOBS}{job.pk}/change/")
        assert client.post(f"{JOBS}{job.pk}/do/cancel/").status_code == 403

    def test_a_job_moves_to_the_front(self, admin):
        make_job(), make_job(priority=3)
        job = make_job()

        admin.post(f"{JOBS}{job.pk}/do/front/")

        assert Job.objects.in_order().first() == job
        assert "by admin" in page(admin, f"{JOBS}{job.pk}/change/")
