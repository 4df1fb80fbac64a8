"""The alert rules: each fires when it should, on metrics that exist, and somebody has said what to do."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from poolmgr.supervisor.views.metrics import families
from tests.helpers import ROOT
from tests.unit.test_metrics import reading

RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text())


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", TESTS)])
def test_promtool_is_content(arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_in_both_directions():
    text = TESTS.read_text()
    for alert in ALERTS:
        assert f"alertname: {alert}\n" in text, f"{alert} is never expected"
        assert re.search(rf"alertname: {alert}, eval_time: \w+, exp_alerts: \[\]", text), f"{alert} is never excluded"


def test_alerts_and_tests_name_metrics_that_are_served():
    served = {sample.name for family in families(reading()) for sample in family.samples}
    for path in (RULES, TESTS):
        named = set(re.findall(r"\bpoolmgr_\w+", path.read_text()))
        assert named
        assert named - served == set()


def test_the_operators_manual_says_what_to_do_for_each_alert():
    manual = (ROOT / "docs" / "operating.md").read_text()
    assert re.findall(r"^### (Poolmgr\w+)$", manual, re.MULTILINE) == ALERTS


def test_the_operators_manual_names_every_metric_and_no_other():
    manual = (ROOT / "docs" / "operating.md").read_text()
    named = set(re.findall(r"`(poolmgr_\w+)`", manual))
    served = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "") for family in families(reading())
    }
    assert named == served
