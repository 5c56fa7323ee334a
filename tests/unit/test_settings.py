"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import ConfigurationError
from atoll.settings import load_settings


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("ATOLL_"):
            monkeypatch.delenv(name)


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert settings.domain == "localhost:3000"
    assert settings.url == "http://127.0.0.1:3000"
    assert settings.templates == tmp_path / "templates"
    assert settings.database == f"sqlite:///{tmp_path}/atoll.db"


def test_flag_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "atoll.toml").write_text('port = 1001\npool_size = 7\ndns = ["192.0.2.1"]\n')
    assert load_settings(data_dir=tmp_path).port == 1001
    monkeypatch.setenv("ATOLL_PORT", "1002")
    monkeypatch.setenv("ATOLL_EGRESS_ALLOW", "10.1.0.0/16, 10.2.0.0/16")
    settings = load_settings(data_dir=tmp_path)
    assert (settings.port, settings.pool_size, settings.dns) == (1002, 7, ("192.0.2.1",))
    assert settings.egress_allow == ("10.1.0.0/16", "10.2.0.0/16")
    assert settings.domain == "localhost:1002"
    assert load_settings(data_dir=tmp_path, port=1003, host=None).port == 1003


@pytest.mark.parametrize(
    ("name", "value"), [("POOL_SIZE", "-1"), ("PORT", "high"), ("LOG_FORMAT", "xml")]
)
def test_a_wrong_value_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"ATOLL_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(data_dir=tmp_path)
    assert f"ATOLL_{name}" in str(caught.value.remedy)


def test_an_unknown_name_and_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "atoll.toml").write_text("pool_sice = 1\n")
    with pytest.raises(ConfigurationError, match="pool_sice"):
        load_settings(data_dir=tmp_path)
    (tmp_path / "atoll.toml").write_text("pool_size = = 1\n")
    with pytest.raises(ConfigurationError):
        load_settings(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ATOLL_POOL_SICE", "ATOLL_POOL_SIZE"),
        ("ATOLL_DATADIR", "ATOLL_DATA_DIR"),
        ("ATOLL_MAX_SANDBOX", "ATOLL_MAX_SANDBOXES"),
        ("atoll_prot", "ATOLL_PORT"),
    ],
)
def test_a_slip_of_the_pen_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings(data_dir=tmp_path)
    assert caught.value.remedy == f"did you mean {meant}?"


def test_other_variables_are_nobodys_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATOLL_PYTHON", "ATOLL_TEST_RUNTIMES", "atoll_port", "ATOLLO_PORT"):
        monkeypatch.setenv(name, "3001")
    assert load_settings(data_dir=tmp_path).pool_size == 4
