"""From recipes to layers: keys, surroundings, substitution."""

from __future__ import annotations

import pytest

from atoll.errors import InvalidInput
from atoll.templates.layers import Ground
from atoll.templates.names import Reference, check_tags, parse_reference
from atoll.templates.plan import Command, Placement, PlannedStage, Planner, StepInvalid
from atoll.templates.recipe import (
    Arg,
    Copy,
    Env,
    FromScratch,
    FromStage,
    FromTemplate,
    Recipe,
    Run,
    Stage,
    StageFiles,
    Step,
    UploadedFiles,
    User,
    Workdir,
    dump_recipe,
    load_recipe,
)

GROUND = Ground("ground", (), {"PATH": "/own/bin"}, user="user", workdir="/home/user")
FILES = UploadedFiles("a" * 64)


def plan(*steps: Step, digest: str = "d", earlier: tuple[PlannedStage, ...] = ()) -> PlannedStage:
    planner = Planner({FILES.hash: digest}, latest=lambda key: key, force=False)
    return planner.plan(Stage(FromTemplate("base"), steps), GROUND, earlier)


def keys(*steps: Step, digest: str = "d") -> list[str]:
    return [task.key for task in plan(*steps, digest=digest).tasks]


def test_keys_follow_what_counts() -> None:
    first = Run("one")
    assert keys(first) == keys(first)
    assert keys(first) != keys(Run("two"))
    assert keys(first) != keys(Env((("A", "1"),)), first)
    assert keys(first) != keys(User("root"), first)
    assert keys(first) != keys(Arg("A", "1"), first)
    assert keys(first, Run("two"))[0] == keys(first)[0]
    assert keys(Run("zero"), first)[1] != keys(first)[0]
    # What a copy does not see does not count for it, what it copies does.
    copy = Copy(FILES, ("a",), "/b")
    assert keys(copy) == keys(Env((("A", "1"),)), copy)
    assert keys(copy) != keys(copy, digest="another")
    assert keys(copy) != keys(Copy(FILES, ("a",), "/b", mode=0o600))


def test_metadata_is_no_layer() -> None:
    planned = plan(Env((("A", "1"),)), User("root"), Arg("B", "2"))
    assert planned.tasks == ()
    assert planned.result.key == GROUND.key
    assert planned.result.user == "root"
    assert dict(planned.result.envs) == {"PATH": "/own/bin", "A": "1"}


def test_a_forced_step_is_like_no_other() -> None:
    forced = Run("one", force=True)
    assert keys(forced) != keys(forced)
    (task, after) = plan(forced, Run("two")).tasks
    assert task.replaces == keys(Run("one"))[0]
    assert after.replaces is not None


def test_what_was_made_anew_is_stood_on() -> None:
    old = keys(Run("one"))[0]
    planner = Planner({}, latest=lambda key: "newer" if key == old else key, force=False)
    stage = Stage(FromTemplate("base"), (Run("one"), Run("two")))
    first, second = planner.plan(stage, GROUND, ()).tasks
    assert first.key == "newer"
    assert second.key != keys(Run("one"), Run("two"))[1]


def test_directories_are_made_with_what_follows() -> None:
    planned = plan(Workdir("app"), Workdir("inner"), Run("pwd"), Workdir("/srv"))
    first, last = planned.tasks
    assert [each.path for each in first.directories] == ["/home/user/app", "/home/user/app/inner"]
    assert isinstance(first.work, Command)
    assert first.work.workdir == "/home/user/app/inner"
    assert last.work is None
    assert [(each.path, each.owner) for each in last.directories] == [("/srv", "user")]


def test_words() -> None:
    steps = (
        Arg("WHO", "arg"),
        Env((("A", '$WHO:${MISSING:-else}:\\$A:it\'s "so"\\n'), ("B", "$A"))),
        Env((("WHO", "env"), ("PATH", "$HOME/bin:$PATH"))),
        Env((("C", "$WHO"),)),
        Copy(FILES, ("$C",), "$B/x/"),
    )
    planned = plan(*steps)
    envs = planned.result.envs
    assert envs["A"] == 'arg:else:$A:it\'s "so"\\n'
    assert envs["B"] == ""  # all values of a line see what was in force before it
    assert envs["C"] == "env"
    assert envs["PATH"] == "/home/user/bin:/own/bin"
    (task,) = planned.tasks
    assert isinstance(task.work, Placement)
    assert (task.work.sources, task.work.destination) == (("env",), "/x/")
    for wrong in ("${", "${A", "${A:*}", "a\0b"):
        with pytest.raises(StepInvalid):
            plan(Env((("A", wrong),)))


def test_variables_that_grow_without_end() -> None:
    first = Env((("A", "x" * 100_000),))
    doubling: list[Step] = [first, *[Env((("A", "$A$A"),))] * 100]
    spread: list[Step] = [first, Copy(FILES, ("$A",) * 100_000, "/b")]
    repeated: list[Step] = [first, *[Arg("B", "$A")] * 100]
    for steps in (doubling, spread, repeated):
        with pytest.raises(StepInvalid, match="more than 2 MiB"):
            plan(*steps)


def test_owners() -> None:
    def owner(*steps: Step) -> str | None:
        work = plan(*steps).tasks[-1].work
        assert isinstance(work, Placement)
        return work.owner

    assert owner(Copy(FILES, ("a",), "/b")) == "0:0"
    assert owner(Copy(FILES, ("a",), "/b", as_user=True)) == "user"
    assert owner(Copy(FILES, ("a",), "/b", owner="me:us", as_user=True)) == "me:us"


def test_files_that_were_not_sent() -> None:
    with pytest.raises(StepInvalid, match="not uploaded") as caught:
        plan(Run("true"), Copy(UploadedFiles("b" * 64), ("a",), "/b"))
    assert caught.value.label == "2"


def test_recipes_travel() -> None:
    recipe = Recipe(
        (
            Stage(FromScratch(), (Copy(FILES, ("a",), "/"),)),
            Stage(FromStage(0), (Copy(StageFiles(0), ("a",), "/b", unpack=True), Run(("a", "b")))),
        ),
        start_command="serve",
    )
    assert load_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"source": {"kind": "stage", "index": 0}}]}, "not before it"),
        ({"stages": [{"source": {"kind": "moon"}}]}, "stages.0.source"),
        (
            {"stages": [{"source": {"kind": "scratch"}, "steps": [{"kind": "run"}]}]},
            "stages.0.steps.0",
        ),
        (
            {
                "stages": [
                    {"source": {"kind": "scratch"}, "steps": [{"kind": "user", "name": "a"}] * 300}
                ]
                * 2
            },
            "at most 500 steps",
        ),
    ],
)
def test_recipes_that_are_none(change: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        load_recipe(change)
    with pytest.raises(InvalidInput):
        load_recipe([change])


def test_names() -> None:
    assert parse_reference("App") == Reference("app")
    assert parse_reference("app:v1.0") == Reference("app", "v1.0")
    assert parse_reference("team/app:v1") == Reference("app", "v1", "team")
    for wrong in ("", ":x", "a:", "a:b:c", "a/b/c", "/a", "a b", "..", "-a", "a:ü", "a" * 129):
        with pytest.raises(InvalidInput):
            parse_reference(wrong)
    assert check_tags(["a", "b", "a"]) == ["a", "b"]
    with pytest.raises(InvalidInput):
        check_tags(["no tag"])
    with pytest.raises(InvalidInput):
        check_tags([str(number) for number in range(51)])
