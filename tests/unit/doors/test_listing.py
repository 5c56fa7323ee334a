"""Filters, order and pages."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote, urlencode

import pytest

from atoll.doors.e2b.listing import list_page, list_running, parse_metadata
from atoll.errors import InvalidInput
from atoll.sandboxes.model import Sandbox
from tests.unit.conftest import make_template


@pytest.fixture
def seven(make_sandbox: Callable[..., Sandbox]) -> list[Sandbox]:
    """Seven sandboxes, of which three started in the same moment."""
    return [
        make_sandbox(after, sandbox_id=f"s{n}") for n, after in enumerate((0, 1, 2, 2, 2, 3, 4))
    ]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_neither_repeat_nor_skip(seven: list[Sandbox], order: str, limit: int) -> None:
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        query = {"order": order, "limit": str(limit), "nextToken": token}
        page = list_page(seven, query, [])
        seen += [each.sandbox_id for each in page.sandboxes]
        assert page.total_running == 7
        token = page.next_token
    expected = [f"s{n}" for n in range(7)]
    assert seen == (expected if order == "asc" else expected[::-1])


def test_a_page_is_steady_while_the_list_changes(seven: list[Sandbox]) -> None:
    first = list_page(seven, {"limit": "3"}, [])
    shorter = [each for each in seven if each not in first.sandboxes]
    second = list_page(shorter, {"limit": "3", "nextToken": first.next_token or ""}, [])
    assert [each.sandbox_id for each in second.sandboxes] == ["s3", "s2", "s1"]


def test_metadata_is_encoded_twice_by_the_sdks() -> None:
    pairs = {"user name": "ann & bob", "k=": "100%", "ü": "€"}
    text = urlencode({quote(name): quote(value) for name, value in pairs.items()})
    assert parse_metadata(text) == pairs
    assert parse_metadata(None) == {}


def test_metadata_must_match_whole(make_sandbox: Callable[..., Sandbox]) -> None:
    both = make_sandbox(metadata={"a": "1", "b": "2"})
    one = make_sandbox(metadata={"a": "1"})
    found = list_page([both, one], {"metadata": "a=1&b=2"}, [])
    assert found.sandboxes == [both]


def test_template_by_id_or_name(make_sandbox: Callable[..., Sandbox]) -> None:
    base, other = make_sandbox(), make_sandbox(template=make_template("other"))
    for name in ("other", "id-other"):
        assert list_page([base, other], {"template": name}, []).sandboxes == [other]


def test_states(seven: list[Sandbox]) -> None:
    assert list_page(seven, {}, ["paused"]).sandboxes == []
    assert list_page(seven, {}, ["paused"]).total_running is None
    assert len(list_page(seven, {}, ["running,paused"]).sandboxes) == 7
    with pytest.raises(InvalidInput, match="dead"):
        list_page(seven, {}, ["running,dead"])


def test_started_after_is_inclusive_and_knows_zones(seven: list[Sandbox]) -> None:
    for moment in (
        "2026-01-01T00:00:02Z",
        "2026-01-01T00:00:02.000000000Z",
        "2026-01-01T01:00:02+01:00",
        "2026-01-01T00:00:02",
    ):
        found = list_page(seven, {"startedAfter": moment, "order": "asc"}, []).sandboxes
        assert [each.sandbox_id for each in found] == ["s2", "s3", "s4", "s5", "s6"]


@pytest.mark.parametrize("limit", ["", "0", "101", "-1", "1.0", "1_0", " 1", "\u0661", "9" * 5000])
def test_limits_that_make_no_sense(limit: str) -> None:
    with pytest.raises(InvalidInput, match="from 1 to 100"):
        list_page([], {"limit": limit}, [])


@pytest.mark.parametrize("token", ["%%", "é", "YQ==", "bmFuIHg=x", "////"])
def test_tokens_that_nobody_gave_out(token: str) -> None:
    with pytest.raises(InvalidInput, match="nextToken"):
        list_page([], {"nextToken": token}, [])


def test_the_old_list_has_all_that_run(seven: list[Sandbox]) -> None:
    assert [each.sandbox_id for each in list_running(seven, None)] == [
        f"s{n}" for n in range(6, -1, -1)
    ]
    assert list_running(seven, "a=1") == []
