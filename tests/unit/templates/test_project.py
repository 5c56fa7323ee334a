from __future__ import annotations

from pathlib import Path

import pytest

from atoll.errors import InvalidInput
from atoll.templates.project import Project, read_project


def test_everything_that_a_file_may_say(tmp_path: Path) -> None:
    (tmp_path / "my.Dockerfile").touch()
    (tmp_path / "e2b.toml").write_text(
        'team_id = "t"\ntemplate_name = "mine"\ntemplate_id = "i"\ndockerfile = "my.Dockerfile"\n'
        'start_cmd = "serve"\nready_cmd = "check"\ncpu_count = 4\nmemory_mb = 2048\n'
    )
    expected = Project(tmp_path, tmp_path / "my.Dockerfile", "mine", "serve", "check", 4, 2048)
    assert read_project(tmp_path) == expected


def test_old_names_of_keys(tmp_path: Path) -> None:
    (tmp_path / "e2b.Dockerfile").touch()
    for text in ('id = "one"', 'template_id = "one"', 'name = "one"\nid = "x"'):
        (tmp_path / "e2b.toml").write_text(text)
        assert read_project(tmp_path).name == "one"


def test_which_dockerfile(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no e2b.Dockerfile and no Dockerfile"):
        read_project(tmp_path)
    (tmp_path / "Dockerfile").touch()
    assert read_project(tmp_path) == Project(tmp_path, tmp_path / "Dockerfile")
    (tmp_path / "e2b.Dockerfile").touch()
    assert read_project(tmp_path).dockerfile.name == "e2b.Dockerfile"
    (tmp_path / "prod").touch()
    assert read_project(tmp_path, dockerfile=Path("prod")).dockerfile.name == "prod"
    with pytest.raises(InvalidInput, match="no missing in"):
        read_project(tmp_path, dockerfile=Path("missing"))


def test_another_configuration(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "prod.toml").write_text('template_name = "prod"')
    assert read_project(tmp_path, config=Path("prod.toml")).name == "prod"
    with pytest.raises(InvalidInput, match=r"there is no .*/dev.toml"):
        read_project(tmp_path, config=Path("dev.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "no TOML"),
        ('template_nam = "x"', "template_nam: Extra inputs"),
        ('cpu_count = "2"', "cpu_count: Input should be a valid integer"),
        ("memory_mb = 1", "memory_mb: Input should be greater"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "Dockerfile").touch()
    (tmp_path / "e2b.toml").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_project(tmp_path)
