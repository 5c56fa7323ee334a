"""Which certificate authorities a template gets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from atoll.errors import ConfigurationError
from atoll.templates.authorities import (
    BUNDLE,
    EXTRA_BUNDLE,
    Authority,
    add_to,
    find_extra,
    read_bundle,
    read_host,
    read_named,
)
from tests.unit.templates.certificates import make_authority


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Authority]]:
    directory = tmp_path_factory.mktemp("authorities")
    return directory, [make_authority(directory, name) for name in ("one", "two", "three")]


def fingerprint_by_openssl(path: Path) -> str:
    command = ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return output.partition("=")[2].strip().replace(":", "").lower()


def test_the_fingerprint_is_that_of_openssl(
    authorities: tuple[Path, list[Authority]],
) -> None:
    directory, (one, *_) = authorities
    assert one.fingerprint == fingerprint_by_openssl(directory / "one.pem")


def test_a_bundle_with_comments_repetitions_and_rubbish_is_read(
    authorities: tuple[Path, list[Authority]], tmp_path: Path
) -> None:
    _, (one, two, _) = authorities
    bundle = tmp_path / "bundle.pem"
    rubbish = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"
    windows = two.pem.replace("\n", "\r\n")
    bundle.write_text(f"# one\r\n{one.pem}{rubbish}\n# two\n{windows}{one.pem}", newline="")
    assert read_bundle(bundle) == [one, two]


def test_only_what_is_not_known_is_extra_and_the_order_is_stable(
    authorities: tuple[Path, list[Authority]],
) -> None:
    _, (one, two, three) = authorities
    extra = find_extra([three, one, two, three], {two.fingerprint})
    assert extra == find_extra([one, three], set())
    assert {authority.fingerprint for authority in extra} == {one.fingerprint, three.fingerprint}


def test_of_the_host_the_packaged_authorities_do_not_count(
    authorities: tuple[Path, list[Authority]], tmp_path: Path
) -> None:
    directory, (one, two, _) = authorities
    bundle, packaged = tmp_path / "bundle.crt", tmp_path / "packaged"
    bundle.write_text(one.pem + two.pem)
    packaged.mkdir()
    (packaged / "Two.crt").write_bytes((directory / "two.pem").read_bytes())
    assert read_host([tmp_path / "missing", bundle], packaged) == [one]
    assert read_host([tmp_path / "missing"], packaged) == []


def test_an_operator_names_pem_and_der_files(
    authorities: tuple[Path, list[Authority]], tmp_path: Path
) -> None:
    _, (one, two, three) = authorities
    (tmp_path / "both.pem").write_text(two.pem + three.pem)
    (tmp_path / "one.der").write_bytes(one.der)
    assert read_named([tmp_path / "one.der", tmp_path / "both.pem"]) == [one, two, three]
    assert read_named([]) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", id="false PEM"
        ),
    ],
)
def test_a_file_that_is_no_certificate_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "wrong.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"wrong\.pem") as raised:
        read_named([file])
    assert raised.value.remedy


def test_they_are_laid_where_the_distribution_looks(
    authorities: tuple[Path, list[Authority]], tmp_path: Path
) -> None:
    _, (one, two, _) = authorities
    (tmp_path / BUNDLE).parent.mkdir(parents=True)
    add_to(tmp_path, [one, two])
    files = sorted((tmp_path / "usr/local/share/ca-certificates").iterdir())
    assert {file.suffix for file in files} == {".crt"}
    assert sorted(fingerprint_by_openssl(file) for file in files) == sorted(
        [one.fingerprint, two.fingerprint]
    )
    assert read_bundle(tmp_path / EXTRA_BUNDLE) == [one, two]


def test_nothing_is_laid_when_there_is_nothing_extra(tmp_path: Path) -> None:
    add_to(tmp_path, [])
    assert not (tmp_path / EXTRA_BUNDLE).exists()
