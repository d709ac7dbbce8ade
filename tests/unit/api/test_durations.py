"""Durations are written as people write them."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tenant_operator.api.duration import format_duration, parse_duration
from tenant_operator.api.plan import Retry


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("0s", 0),
        ("100h", 360_000),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "5m1h", "1.5h", "5d", "5m\n", "٣s", "1234567s"])
def test_what_is_not_a_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write it like 90s") as refusal:
        parse_duration(text)
    assert repr(text) in str(refusal.value)


@given(st.integers(min_value=0, max_value=999_999 * 3_600_000))
def test_text_round_trips(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)

    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize("duration", [timedelta(seconds=-1), timedelta(microseconds=1)])
def test_what_has_no_text_form_is_refused(duration: timedelta) -> None:
    with pytest.raises(ValueError, match="has no text form"):
        format_duration(duration)


def test_models_take_and_give_text() -> None:
    retry = Retry.model_validate({"maxTries": 3, "initialBackoff": "90s"})

    assert retry.initial_backoff == timedelta(seconds=90)
    assert retry.to_wire() == {"maxTries": 3, "initialBackoff": "1m30s"}
    with pytest.raises(ValidationError, match="a duration is text"):
        Retry.model_validate({"initialBackoff": 90})
