"""What faces the internet: headers, cookies, the admin's login, other origins."""

import os
import subprocess
import sys

import pytest
from django.contrib.auth import get_user_model
from django.test import RequestFactory

from local.parts import ROOT
from tests.factories import make_job
from tests.stack import KEY
from wanapi.middleware import NOBODY, client_ip

pytestmark = pytest.mark.django_db


def test_answers_are_kept_by_nobody_and_run_nothing(api):
    answer = api.get(f"/jobs/{make_job().pk}")

    assert answer["Cache-Control"] == "no-store"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "default-src 'none'" in answer["Content-Security-Policy"]


def test_the_admins_policy_lets_videos_come_from_s3_and_no_script_from_elsewhere(admin_client, settings):
    policy = admin_client.get("/admin/")["Content-Security-Policy"]

    assert f"media-src {settings.S3_PUBLIC_ENDPOINT_URL}" in policy
    assert "script-src 'self'" in [directive.strip() for directive in policy.split(";")]
    assert "unsafe" not in policy


def login(client, name, password, address):
    form = {"username": name, "password": password}
    return client.post("/admin/login/", form, headers={"X-Forwarded-For": f"6.6.6.6, {address}"}).status_code


@pytest.fixture
def chief(settings):
    settings.BEHIND_TLS_PROXY = True
    return get_user_model().objects.create_superuser("chief", password="right")


def test_the_admins_login_is_locked_for_whoever_tries_five_wrong_passwords(client, chief):
    names = ["chief", "boss", "root", "admin", "x" * 200]

    codes = [login(client, name, "wrong", "198.51.100.1") for name in names]

    assert codes == [200, 200, 200, 200, 429]
    assert login(client, "chief", "right", "198.51.100.1") == 429


def test_a_login_of_ones_own_gives_no_new_tries(client, chief):
    get_user_model().objects.create_user("viewer", password="known", is_staff=True)

    for _ in range(4):
        login(client, "chief", "wrong", "198.51.100.1")
    login(client, "viewer", "known", "198.51.100.1")
    client.logout()

    assert login(client, "chief", "wrong", "198.51.100.1") == 429


class TestWhatProxiesWrite:
    """Into X-Forwarded-For, of which the last entry is our own proxy's."""

    @pytest.fixture(autouse=True)
    def behind_a_proxy(self, settings):
        settings.BEHIND_TLS_PROXY = True

    def counted_as(self, *entries):
        """The addresses by which the senders' wrong passwords are counted."""
        requests = [RequestFactory().get("/", headers={"X-Forwarded-For": entry}) for entry in entries]
        return {client_ip(request) for request in requests}

    @pytest.mark.parametrize(
        ("entries", "address"),
        [
            (["203.0.113.9:51234", "203.0.113.9:51235", "203.0.113.9", " 203.0.113.9 "], "203.0.113.9"),
            (["[2001:db8::9]:1", "[2001:db8::7]:2", "[2001:db8::9]", "2001:db8::9"], "2001:db8::"),
            (["2001:db8:0:0:1:2:3:4:443", "2001:db8::1:444"], "2001:db8::"),
            (["fe80::1%eth0", "fe80::1%25eth1", "[fe80::1%eth0]:80"], "fe80::"),
            (['"203.0.113.9"', '"203.0.113.9:1"', "6.6.6.6,203.0.113.9"], "203.0.113.9"),
            (["[::ffff:203.0.113.9]:1", "::ffff:203.0.113.9", "203.0.113.9:"], "203.0.113.9"),
            (["unknown", "6.6.6.6, ", "_hidden", "unknown:1", "a.example", "999.1.1.1"], NOBODY),
            (["x" * 9999, "[::1", "]", ":", "1.2.3.4.5:80", "010.0.0.1", "1.2.3.4 5.6.7.8"], NOBODY),
        ],
    )
    def test_one_client_counts_as_one_in_whatever_form(self, entries, address):
        assert self.counted_as(*entries) == {address}

    def test_a_balancer_that_writes_its_own_address_behind_the_clients(self, settings):
        settings.PROXY_ENTRIES = 2

        assert self.counted_as("6.6.6.6, 203.0.113.9:1, 35.191.0.1", "203.0.113.9, 35.191.0.2") == {
            "203.0.113.9"
        }

    def test_fewer_entries_than_there_are_proxies_are_no_address(self, settings):
        settings.PROXY_ENTRIES = 3

        assert self.counted_as("203.0.113.1", "203.0.113.2, 10.0.0.1") == {NOBODY}

    def test_none_is_the_address_that_connected(self):
        assert client_ip(RequestFactory().get("/", REMOTE_ADDR="::ffff:10.0.0.9")) == "10.0.0.9"

    def test_an_address_with_ports_locks_out_itself_and_no_operator(self, client, chief):
        for port in range(5):
            login(client, "chief", "wrong", f"203.0.113.9:{51234 + port}")

        assert login(client, "chief", "right", "203.0.113.9:1") == 429
        assert login(client, "chief", "right", "198.51.100.7:40000") == 302

    def test_what_is_no_address_locks_out_its_own_kind_and_nobody_else(self, client, chief):
        for entry in ("unknown", "_hidden", "", "garbage", "1.2.3"):
            login(client, "chief", "wrong", entry)

        assert login(client, "chief", "right", "something else") == 429
        assert login(client, "chief", "right", "198.51.100.7") == 302
        client.logout()
        form = {"username": "chief", "password": "right"}  # through a tunnel, without the proxy
        assert client.post("/admin/login/", form).status_code == 302


def test_an_ipv4_address_in_the_form_of_ipv6_stands_for_itself(client, chief):
    for _ in range(5):
        login(client, "chief", "wrong", "::ffff:198.51.100.1")

    assert login(client, "chief", "right", "::ffff:198.51.100.2") == 302


def test_a_network_of_ipv6_counts_as_one_address(client, chief):
    codes = [login(client, "chief", "wrong", f"2001:db8::{number}") for number in range(1, 6)]

    assert codes[-1] == 429
    assert login(client, "chief", "right", "2001:db8:0:1::1") == 302


def test_a_large_form_is_refused_before_anything_reads_it(client):
    client.cookies["wanapi_csrf"] = "a" * 32

    answer = client.post("/admin/nothing/here", {"password": "x" * 2_000_000})

    assert answer.status_code == 413


def test_nobody_else_is_locked_out_by_that(client, chief):
    for _ in range(6):
        login(client, "chief", "wrong", "198.51.100.1")

    assert login(client, "chief", "right", "198.51.100.2") == 302


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/admin/login/", {"username": "x" * 300, "password": "x"}),
        ("/admin/jobs/job/?status__exact=%00", None),
        ("/admin/jobs/apikey/?created_at__year=99999999999", None),
        ("/admin/jobs/job/", {"action": "cancel", "_selected_action": "no-id"}),
    ],
)
def test_a_value_that_makes_no_sense_is_a_400(admin_client, path, form):
    admin_client.raise_request_exception = False
    if "login" in path:
        admin_client.logout()

    answer = admin_client.post(path, form) if form else admin_client.get(path)

    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/jobs", "/admin/jobs/job/"])
def test_a_fault_of_ours_tells_nothing_of_it(admin_client, monkeypatch, path):
    def fail(*_):
        raise RuntimeError("/srv/wanapi: postgresql://wanapi:secret@10.0.0.7 A cat")

    monkeypatch.setattr(
        "jobs.operators.admin.jobs.JobAdmin.told" if "admin" in path else "jobs.api.views.client_of",
        fail,
    )
    admin_client.raise_request_exception = False
    make_job()

    answer = admin_client.get(path, headers={"X-API-Key": KEY})

    assert answer.status_code == 500
    assert answer.json() == {"detail": "Something went wrong on our side; it has been logged."}


class TestOtherOrigins:
    def preflight(self, client, origin, path="/generate"):
        return client.options(
            path,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-api-key, idempotency-key, content-type",
            },
        )

    def test_none_may_call_unless_it_is_named(self, client, settings):
        assert "Access-Control-Allow-Origin" not in self.preflight(client, "https://shop.example")

        settings.CORS_ALLOWED_ORIGINS = ["https://shop.example"]

        answer = self.preflight(client, "https://shop.example")
        assert answer["Access-Control-Allow-Origin"] == "https://shop.example"
        assert "idempotency-key" in answer["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Origin" not in self.preflight(client, "https://evil.example")

    def test_the_admin_is_closed_to_all(self, client, settings):
        settings.CORS_ALLOWED_ORIGINS = ["https://shop.example"]

        answer = self.preflight(client, "https://shop.example", "/admin/login/")

        assert "Access-Control-Allow-Origin" not in answer


def test_the_production_settings_pass_djangos_own_check():
    """And the settings of this machine alone do not claim TLS."""
    env = os.environ | {"BEHIND_TLS_PROXY": "true", "SECRET_KEY": os.urandom(32).hex()}

    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["SECRET_KEY", "API_KEY"])
def test_secrets_have_no_default(name):
    env = {variable: value for variable, value in os.environ.items() if variable != name}

    done = subprocess.run(
        [sys.executable, "manage.py", "check"], cwd=ROOT, env=env, capture_output=True, text=True
    )

    assert done.returncode == 1
    assert done.stderr.startswith(f"wanapi: {name} is not set")
    assert "Traceback" not in done.stderr
