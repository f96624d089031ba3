"""The table of alarms: what it may say, and what is said of mistakes."""

from __future__ import annotations

import pytest

from layer8.health.alarms import Rule
from layer8.vnet.config import ConfigError, parse
from layer8.vnet.config_alarms import AlarmConfig, parse_alarms


def test_a_table_is_an_alarm_and_the_rest_says_who_is_told() -> None:
    table = {
        "command": ["/bin/cat"],
        "webhook": "http://127.0.0.1:1/x",
        "timeout": 2,
        "cpu": {"raise": 90},
        "leak": {"figure": "memory_growth", "raise": 1e6, "clear": 0, "for": 5, "window": 10, "alias": "w"},
    }
    assert parse_alarms(table) == AlarmConfig(
        command=("/bin/cat",),
        webhook="http://127.0.0.1:1/x",
        timeout=2.0,
        rules=(
            Rule(name="cpu", figure="cpu", raise_at=90.0, clear_at=72.0),
            Rule(
                name="leak",
                figure="memory_growth",
                raise_at=1e6,
                clear_at=0.0,
                hold=5.0,
                window=10.0,
                filters={"alias": "w"},
            ),
        ),
    )


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ([], "give a table"),
        ({"command": "rm -rf"}, "list of arguments"),
        ({"command": []}, "list of arguments"),
        ({"webhook": "file:///etc/passwd"}, "http"),
        ({"timeout": 0}, "timeout"),
        ({"heat": {"raise": 1}}, "heat.figure: 'heat' is none of cpu"),
        ({"cpu": 90}, "an alarm is a table"),
        ({"cpu": {}}, "cpu.raise"),
        ({"cpu": {"raise": "much"}}, "cpu.raise"),
        ({"cpu": {"raise": 5, "clear": 6}}, "cpu.clear"),
        ({"cpu": {"raise": 5, "alias": 6}}, "cpu.alias"),
        ({"cpu": {"raise": 5, "rise": 6}}, "cpu.rise: unknown; known are figure"),
        ({"cpu": {"raise": True}}, "cpu.raise"),
        ({"memory_growth": {"raise": 5, "window": 0}}, "window"),
    ],
)
def test_a_mistake_is_named(table: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse({"vnet": {"default": {"alarms": table}}})
    assert "vnet.default.alarms" in str(caught.value)
