"""The operators' pages in a real browser, on the whole service. Debian's Chromium; see README."""

import os
import re
import shutil
from pathlib import Path

import pytest
import requests
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
    expect(page.locator("#now")).to_contain_text("Latest failures")
    shoot(page, "console")
    page.click("text=Jobs >> nth=-1")
    page.click("#changelist-filter >> text=Failed")
    page.fill("#searchbar", "moon")
    page.click("text=Search")
    expect(page.locator("td.field-cause")).to_contain_text("ComfyUI failed in")
    shoot(page, "jobs")
    page.click(".field-short_id a")
    expect(page.locator("body")).to_contain_text("a fault ordered in")
    shoot(page, "job")
    page.go_back()
    page.check("input.action-select")
    page.select_option("select[name=action]", "requeue")
    page.click("text=Go")
    expect(page.locator("body")).to_contain_text("Render 1 job anew?")
    page.click("text=Yes, requeue")
    expect(page.locator(".messagelist")).to_contain_text("1 job requeued.")

    eventually(lambda: status(stack, job_id) == "completed")
    page.goto(f"{stack.url}/admin/jobs/job/{job_id}/change/")
    expect(page.locator(".field-status")).to_contain_text("Completed")
    seconds = page.wait_for_function("document.querySelector('video').duration").json_value()
    assert 5 < seconds < 6
    page.goto(f"{stack.url}/admin/jobs/job/?status__exact=completed")
    image = page.locator(".field-thumbnail img >> nth=0")
    expect(image).to_be_visible()
    page.wait_for_function("document.querySelector('.field-thumbnail img').naturalWidth === 208")
    shoot(page, "completed")


def test_the_first_page_refreshes_itself(page, stack):
    log_in(page, stack)
    before = int(page.locator(".figures b").nth(0).inner_text())
    requests.post(
        f"{stack.env['COMFYUI_URL']}/simulator/faults", json={"kind": "stall", "seconds": 30}, timeout=5
    )
    for _ in range(6):
        submit(stack, "A cat in a queue")

    expect(page.locator(".figures b").nth(0)).not_to_have_text(str(before), timeout=15_000)
    expect(page.locator("#stale")).to_be_hidden()

    page.route("**/admin/now/", lambda route: route.abort())
    expect(page.locator("#stale")).to_be_visible(timeout=15_000)


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
