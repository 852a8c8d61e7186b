"""The alert rules: checked and tested by Prometheus's own tool, over series that a live server has."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from needs import need
from running_server import ROOT, RunningServer
from stored_data import store_second

from ec_server.storage.sqlite_store import SqliteStore
from utilities.model import MinuteState, Verdict
from utilities.utc import minute_of

DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]


@pytest.mark.parametrize("words", [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")])
def test_prometheus_accepts_the_rules_and_their_tests_pass(words: tuple[str, ...]) -> None:
    promtool = need("promtool", "prometheus")
    done = subprocess.run([promtool, *words], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_each_alert_is_tested_to_fire_and_to_stay_silent(alert: str) -> None:
    expected = [
        bool(one["exp_alerts"])
        for test in TESTS
        for one in test["alert_rule_test"]
        if one["alertname"] == alert
    ]
    assert sorted(set(expected)) == [False, True]


def test_the_series_of_the_tests_and_of_the_dashboard_are_those_of_a_live_server(tmp_path: Path) -> None:
    minute = minute_of(int(time.time())) - 600
    with SqliteStore(tmp_path / "data") as store:
        store_second(store, "meter-1", minute, ["000000,1"])
        store.note_devices({"meter-1": minute * 10**6})
        store.note_coverage("meter-1", minute)
        ((_, digest),) = store.minute_digests("meter-1", minute, minute + 60)
        store.record_verdicts("meter-1", [Verdict(minute, MinuteState.PROVEN, digest)], minute * 10**6)
    with RunningServer(tmp_path) as server:
        server.start()
        text = server.get("/metrics").text
    live = {
        (m[1], frozenset(re.findall(r'(\w+)="', m[2] or "")))
        for m in re.finditer(r"(?m)^(ec_\w+)(?:\{(.*)\})? ", text)
    }
    for test in TESTS:
        for series in test["input_series"]:
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})?", series["series"]).groups()
            if name != "up":
                assert (name, frozenset(re.findall(r'(\w+)="', labels or ""))) in live, series
    names = {name for name, _ in live}
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    expressions = [rule["expr"] for rule in RULES]
    expressions += [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for expression in expressions:
        assert set(re.findall(r"\bec_[a-z_]+", expression)) <= names, expression
