"""What is no answer of the API: compressed answers, and addresses of the admin that are not there."""

import gzip

import pytest

from tests.factories import make_job

pytestmark = pytest.mark.django_db
GZIP = {"Accept-Encoding": "gzip, deflate, br"}


class TestCompression:
    @pytest.mark.parametrize("path", ["/openapi.json", "/presets", "/static/admin/css/base.css"])
    def test_long_texts_are_compressed_for_whoever_takes_that(self, api, path):
        plain, packed = api.get(path), api.get(path, headers=GZIP)

        assert packed["Content-Encoding"] == "gzip"
        assert "Content-Encoding" not in plain
        content = [b"".join(answer) for answer in (plain, packed)]
        assert gzip.decompress(content[1]) == content[0]
        assert len(content[1]) < len(content[0]) / 2

    def test_short_answers_stay_as_they_are(self, api):
        assert "Content-Encoding" not in api.get("/health/live", headers=GZIP)
        assert "Content-Encoding" not in api.get(f"/status/{make_job().pk}", headers=GZIP)

    @pytest.mark.parametrize("path", ["/admin/login/", "/admin/", "/admin/jobs/job/"])
    def test_no_page_with_a_csrf_token_is(self, admin_client, path):
        answer = admin_client.get(path, headers=GZIP)

        assert len(b"".join(answer)) > 1024 or answer.status_code == 302
        assert "Content-Encoding" not in answer

    def test_a_page_outside_of_the_admin_with_a_csrf_token_is_not_either(self, client):
        page = client.get("/docs?script=", headers=GZIP)  # Swagger UI's script has one

        assert "wanapi_csrf" in page.cookies
        assert len(page.content) > 1024
        assert "Content-Encoding" not in page


class TestTheAdminsAddress:
    def test_without_its_slash_it_leads_to_the_admin(self, client):
        assert client.get("/admin")["Location"] == "/admin/"

    def test_an_unknown_page_is_a_page(self, admin_client):
        answer = admin_client.get("/admin/nothing/here/")

        assert answer.status_code == 404
        assert answer["Content-Type"].startswith("text/html")
        assert "Page not found" in answer.text

    def test_for_somebody_who_is_not_logged_in_it_is_the_login(self, client):
        assert client.get("/admin/nothing/here/")["Location"].startswith("/admin/login/")

    def test_elsewhere_it_is_json(self, client):
        assert "detail" in client.get("/nothing/here/").json()
