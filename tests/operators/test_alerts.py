"""docker/prometheus/alerts.yml: what it watches is what /metrics tells, and the docs say what to do."""

import re

import pytest
import yaml

from local.parts import ROOT
from tests.factories import make_job

RULES = [
    rule
    for group in yaml.safe_load((ROOT / "docker/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_the_docs_say_what_to_do(rule):
    assert f"`{rule['alert']}`" in OPERATIONS


@pytest.mark.usefixtures("same_thread")
@pytest.mark.django_db
def test_every_metric_of_a_rule_is_exported(api, engine):
    make_job(status="processing")
    told = set(re.findall(r"^# TYPE (\S+)", api.get("/metrics").content.decode(), re.MULTILINE))
    watched = {name for rule in RULES for name in re.findall(r"wanapi_[a-z_]+", rule["expr"])}

    assert {re.sub("_count$", "", name) for name in watched} <= told
