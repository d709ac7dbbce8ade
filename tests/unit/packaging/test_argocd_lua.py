"""The Lua that the other tests run is as narrow as Argo CD's."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tests.unit.packaging.lua import LuaError, Sandbox

NOW = datetime(2026, 11, 21, 6, 0, 0, tzinfo=UTC)
INDIA = timezone(timedelta(hours=5, minutes=30))


@pytest.mark.parametrize("library", ["os", "io", "string", "math", "debug", "coroutine"])
def test_no_such_library_is_there(library: str) -> None:
    with pytest.raises(LuaError, match="index a non-table object"):
        Sandbox(f"return {{ action = {library}.x }}").discovery({})


def test_of_os_time_and_date_can_be_required() -> None:
    script = """
        local os = require("os")
        local text = os.date("!%Y-%m-%d %H:%M:%S") .. ", here " .. os.date("%H:%M", os.time()) .. ", noon "
        return { status = "Healthy", message = text .. os.time({ year = 2026, month = 11, day = 21 }) }
    """

    told = Sandbox(script, now=NOW, zone=INDIA).health({})["message"]

    noon = datetime(2026, 11, 21, 12, tzinfo=INDIA)
    assert told == f"2026-11-21 06:00:00, here 11:30, noon {noon.timestamp():.0f}"


@pytest.mark.parametrize("name", ["exit", "getenv", "remove", "execute"])
def test_of_os_nothing_else_can_be_required(name: str) -> None:
    with pytest.raises(LuaError, match="attempt to call"):
        Sandbox(f'require("os").{name}()').health({})


def test_text_has_no_methods() -> None:
    with pytest.raises(LuaError, match="key 'len'"):
        Sandbox('return { message = ("text"):len() }').health({})


def test_a_script_has_a_second() -> None:
    with pytest.raises(LuaError, match="deadline exceeded"):
        Sandbox("while true do end").health({})


@pytest.mark.parametrize("script", ["return 1", "return nil", "retur"])
def test_what_returns_no_table_is_an_error(script: str) -> None:
    with pytest.raises(LuaError):
        Sandbox(script).health({})


def test_a_health_that_argo_cd_does_not_know_is_unknown() -> None:
    assert Sandbox('return { status = "Fine" }').health({})["status"] == "Unknown"


def test_an_action_without_a_word_is_enabled() -> None:
    assert Sandbox("return { b = {}, a = { disabled = true } }").enabled({}) == ["b"]
    assert Sandbox("return {}").discovery({}) == []


def test_of_an_empty_map_an_action_makes_no_list_unless_it_is_an_element_of_one() -> None:
    before = {"kind": "Tenant", "map": {}, "list": [], "in": [{"map": {}}], "elements": [{}], "number": 3, "none": None}

    after = Sandbox("print(obj.kind) return obj").action(before)

    assert after == {"kind": "Tenant", "map": {}, "list": [], "in": [{"map": {}}], "elements": [[]], "number": 3}
