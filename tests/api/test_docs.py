"""/openapi.json and /docs, as a reader meets them."""

import json

import pytest


@pytest.fixture(scope="module")
def operations():
    from django.test import Client

    paths = json.loads(Client().get("/openapi.json").content)["paths"]
    return {operation["operationId"]: operation for path in paths.values() for operation in path.values()}


def test_operations_come_in_the_order_of_use(operations):
    wanted = ["generate", "status", "job", "content", "presets", "list_jobs", "cancel_job", "health"]

    assert [name for name in operations if name in wanted] == wanted


def test_each_error_has_an_example_that_is_a_sentence(operations):
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref", "").endswith("/Error"):
                [example] = answer["content"]["application/json"]["examples"].values()
                assert example["value"]["detail"].endswith("."), (name, status)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("name", "status", "ask"),
    [
        (
            "generate",
            "400",
            lambda api: api.post("/generate", {}, content_type="application/json"),
        ),
        ("generate", "415", lambda api: api.post("/generate", {"prompt": "A cat"})),
        ("list_jobs", "400", lambda api: api.get("/jobs?status=done")),
        ("status", "404", lambda api: api.get("/status/x")),
        ("status", "401", lambda api: api.get("/status/x", headers={"X-API-Key": "x"})),
    ],
)
def test_the_examples_are_what_the_service_says(operations, api, name, status, ask):
    [example] = operations[name]["responses"][status]["content"]["application/json"]["examples"].values()
    answer = ask(api)

    assert answer.status_code == int(status)
    assert answer.json() == example["value"]
