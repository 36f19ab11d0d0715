"""The operators' pages in a real browser, on the whole service. Debian's Chromium; see README."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from local.parts import free_port
from local.stack import Stack
from tests.factories import eventually
from tests.stack import FOLDER

SHOTS = Path(os.environ.get("SHOTS", ".local/screenshots"))

# No favicon; what a test itself cut off; Swagger UI's inline styles, without which it looks as well.
HARMLESS = ("404 (Not Found)", "ERR_FAILED", "Applying inline style")


@pytest.fixture(scope="module")
def stack():
    settings = {"PORT": str(free_port()), "WORKFLOW_PRESET": "fast"}
    stack = Stack(FOLDER / "browser", settings)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or pytest.fail("Chromium is needed: apt install chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox for it; the pages are our own.
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A new page; nothing on it may break the Content-Security-Policy or fail."""
    page, troubles = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    yield page
    page.close()
    assert [trouble for trouble in troubles if not any(text in trouble for text in HARMLESS)] == []


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def log_in(page, stack):
    page.goto(f"{stack.url}/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", stack.secrets["admin"])
    page.click("[type=submit]")


def submit(stack, prompt):
    headers = {"X-API-Key": stack.env["API_KEY"]}
    answer = requests.post(f"{stack.url}/generate", json={"prompt": prompt}, headers=headers, timeout=30)
    return answer.json()["job_id"]


def status(stack, job_id):
    headers = {"X-API-Key": stack.env["API_KEY"]}
    return requests.get(f"{stack.url}/status/{job_id}", headers=headers, timeout=30).json()["status"]


def test_an_operator_finds_a_failed_job_requeues_it_and_watches_it_complete(page, stack):
    fault = f"{stack.env['COMFYUI_URL']}/simulator/faults"
    requests.post(fault, json={"kind": "node_error"}, timeout=5).raise_for_status()
    job_id = submit(stack, "A cat on the moon")
    eventually(lambda: status(stack, job_id) == "failed")

    log_in(page, stack)
    expect(page.locator("#failures")).to_contain_text("A cat on the moon")
    shoot(page, "console")
    page.click("#bar >> text=Jobs")
    page.click(".chips >> text=Failed")
    page.fill("#searchbar", "moon")
    page.click("text=Search")
    expect(page.locator("td.field-told .cause")).to_contain_text("ComfyUI failed in")
    shoot(page, "jobs")
    page.click("td.field-told a.prompt")
    expect(page.locator("#timeline")).to_contain_text("a fault ordered in")
    shoot(page, "job")
    page.click(".buttons >> text=Requeue")
    expect(page.locator("main")).to_contain_text("Render 1 job anew?")
    page.click("text=Yes, requeue")
    expect(page.locator(".messagelist")).to_contain_text("1 job requeued.")

    expect(page.locator("#job .badge")).to_have_text("completed", timeout=30_000)  # without a reload
    seconds = eventually(lambda: page.evaluate("document.querySelector('video').duration"))
    assert 5 < seconds < 6
    page.goto(f"{stack.url}/admin/jobs/job/?status__exact=completed")
    expect(page.locator(".field-thumbnail img >> nth=0")).to_be_visible()
    width = "document.querySelector('.field-thumbnail img').naturalWidth === 416"
    eventually(lambda: page.evaluate(width))
    shoot(page, "completed")


def test_the_first_page_refreshes_itself_and_leaves_the_focus_where_it_is(page, stack):
    log_in(page, stack)
    before = page.locator("#figures b").nth(0).inner_text()
    page.focus("#latest a")
    page.evaluate("document.activeElement.mark = 1")
    requests.post(
        f"{stack.env['COMFYUI_URL']}/simulator/faults", json={"kind": "stall", "seconds": 30}, timeout=5
    )
    for _ in range(6):
        submit(stack, "A cat in a queue")

    expect(page.locator("#figures b").nth(0)).not_to_have_text(before, timeout=15_000)
    expect(page.locator("#stale")).to_be_hidden()
    assert page.evaluate("document.activeElement.mark") == 1

    page.route("**/admin/", lambda route: route.abort())
    expect(page.locator("#stale")).to_be_visible(timeout=15_000)


def test_new_jobs_come_into_the_list_unless_somebody_is_choosing(page, stack):
    log_in(page, stack)
    page.goto(f"{stack.url}/admin/jobs/job/?view=list")
    rows = page.locator("#result_list tbody tr")
    first = submit(stack, "A cat that comes by itself")
    expect(rows.first).to_have_attribute("data-key", first, timeout=15_000)
    rows.first.locator("input").check()
    expect(page.locator(".action-counter")).to_contain_text("1 of ")

    submit(stack, "A cat that waits")
    with page.expect_response(lambda answer: answer.request.headers.get("x-live") == "1"):
        pass
    with page.expect_response(lambda answer: answer.request.headers.get("x-live") == "1"):
        pass

    expect(rows.first).to_have_attribute("data-key", first)


def test_a_new_key_can_be_copied_with_its_command(page, stack):
    log_in(page, stack)
    page.goto(f"{stack.url}/admin/jobs/apikey/add/")
    page.fill("#id_name", f"shop {time.time()}")
    page.click("[name=_save]")

    key = page.locator("#new-key").inner_text()
    page.click("text=Copy the key")

    expect(page.locator("[data-copy='#new-key']")).to_have_text("Copied")
    assert key in page.locator("#new-curl").inner_text()
    shoot(page, "key")


def pages(page, stack):
    """The address of each of the admin's pages."""
    yield from ("", "jobs/job/?view=list", "jobs/job/?view=gallery", "jobs/engine/", "jobs/apikey/")
    yield from ("jobs/apikey/add/", "auth/user/", "auth/user/1/change/", "auth/group/add/")
    yield from ("axes/accessattempt/", "password_change/")
    page.goto(f"{stack.url}/admin/jobs/job/?view=list&status__exact=completed")
    job = page.locator("a.prompt >> nth=0").get_attribute("data-job")
    yield from (f"jobs/job/{job}/change/", f"jobs/job/{job}/do/purge/", f"jobs/job/{job}/again/")
    page.goto(f"{stack.url}/admin/jobs/engine/")
    yield page.locator("th a >> nth=0").get_attribute("href").partition("/admin/")[2]


def findings(page):
    """What axe-core holds against the page, of WCAG A and AA."""
    rules = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    found = Axe().run(page, options={"runOnly": rules}).response["violations"]
    return [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found]


def test_every_page_can_be_read_and_used_by_everybody_and_is_cut_off_nowhere(page, stack):
    page.goto(f"{stack.url}/admin/")
    assert findings(page) == []
    log_in(page, stack)
    paths = [*pages(page, stack)]
    for width, scheme in ((390, "light"), (1280, "light"), (1440, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        for path in paths:
            page.goto(f"{stack.url}/admin/{path}")
            assert (path, width, findings(page)) == (path, width, [])
            if not path.startswith(("auth", "axes")):
                beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert (path, width, max(beyond, 0)) == (path, width, 0)


def test_the_page_of_the_api_works_without_the_internet(page, stack):
    asked = []
    page.on("request", lambda request: asked.append(request.url))

    page.goto(f"{stack.url}/docs")

    expect(page.locator(".opblock-summary-path", has_text=re.compile("generate"))).to_be_visible()
    shoot(page, "docs")
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {stack.url.split("/")[2]}


def test_the_key_of_the_page_of_the_api_survives_a_reload(page, stack):
    page.goto(f"{stack.url}/docs")
    page.click(".btn.authorize")
    page.fill("#api_key_value", stack.env["API_KEY"])
    page.click(".auth-btn-wrapper .authorize")
    page.click(".btn-done")

    page.reload()

    operation = page.locator("#operations-Your_jobs-list_jobs")
    for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
        operation.locator(button).click()
    expect(operation.locator("tbody .response-col_status").first).to_have_text("200")
