from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import available_timezones

import pytest

from bainmarie.agent.tools.builtin.current_time import _ZONES, time_in, zone_of
from bainmarie.agent.tools.tool import ToolFailed

NOON = datetime(2026, 11, 23, 12, 5, tzinfo=UTC)


def test_the_form_of_the_answer():
    assert time_in("Paris", NOON) == "13:05 on Monday 2026-11-23 (Europe/Paris)"
    assert time_in("Tokyo", NOON) == "21:05 on Monday 2026-11-23 (Asia/Tokyo)"
    assert re.fullmatch(r"\d\d:\d\d on [A-Z][a-z]+day \d{4}-\d\d-\d\d \(.+\)", time_in("local"))


@pytest.mark.parametrize(
    ("place", "zone"),
    [
        ("paris", "Europe/Paris"),
        ("new york", "America/New_York"),
        ("New_York", "America/New_York"),
        ("NEW  YORK", "America/New_York"),
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Beijing", "Asia/Shanghai"),
        ("Delhi", "Asia/Kolkata"),
        ("Singapore", "Asia/Singapore"),
        ("Tokyo, Japan", "Asia/Tokyo"),
        ("Rio de Janeiro", "America/Sao_Paulo"),
        ("UTC", "UTC"),
        ("Port-au-Prince", "America/Port-au-Prince"),
    ],
)
def test_places(place, zone):
    assert zone_of(place) == zone


def test_an_unknown_place_is_said():
    with pytest.raises(ToolFailed, match="I do not know the place Atlantis"):
        time_in("Atlantis")


def test_every_alias_leads_to_a_zone_that_exists():
    assert set(_ZONES) <= available_timezones()


def test_local_is_the_zone_of_this_machine():
    code = "from bainmarie.agent.tools.builtin.current_time import time_in; print(time_in('local'))"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env={**os.environ, "TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=True)
    assert told.stdout.strip().endswith("(Asia/Tokyo)")
