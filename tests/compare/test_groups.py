"""Which runs belong together, what is refused, and what is warned of."""

import json

import pytest

from transmix.compare.groups import cautions, group_runs, read_run
from transmix.recipes import RecipeError
from transmix.runs.error import RunError


def groups_of(*folders):
    return group_runs([read_run(folder) for folder in folders])


@pytest.fixture
def run(made_run, tmp_path):
    """Write a run in a folder of its own and return that."""
    number = iter(range(100))
    return lambda *args, **kwargs: made_run(tmp_path / f"run{next(number)}", *args, **kwargs)


def test_runs_are_grouped_by_recipe_without_the_seed_and_sorted_by_it(run):
    groups = groups_of(run("transmix", 1), run("cutmix", 0), run("transmix", 0), run("cutmix", 1))
    assert [(group.name, [one.seed for one in group.runs]) for group in groups] == [
        ("transmix", [0, 1]),
        ("cutmix", [0, 1]),
    ]
    assert cautions(groups) == []


def test_settings_that_do_not_change_what_is_trained_do_not_split_a_group(run):
    groups = groups_of(run(seed=0, workers=2, log_every=7), run(seed=1, keep_checkpoints=5, device="cpu"))
    assert [group.name for group in groups] == ["cutmix"]


def test_a_group_is_named_by_what_sets_it_apart_and_a_caution_names_the_settings(run):
    groups = groups_of(
        run("transmix"),
        run("transmix", labels_options={"weight": 1.0}),
        run("cutmix", lr=0.5, model_options={"depth": 3}),
    )
    names = [group.name for group in groups]
    settings = "embed_dim=64 num_heads=4 depth=2 cls_attn_layers=1"
    assert names[0] == f"transmix, model_options {settings}, lr 0.002, labels weight 0.5"
    assert "labels weight 1.0" in names[1]
    assert names[2].startswith("cutmix, model_options depth=3")
    said = [one for one in cautions(groups) if one.startswith("Groups differ in more than the mix and the seed: ")]
    assert [one.split(": ")[1].split(" is ")[0] for one in said] == ["model_options", "lr", "labels weight"]


@pytest.mark.parametrize(
    ("setting", "value"), [("epochs", 7), ("image_size", 64), ("batch_size", 64), ("model", "vit_tiny_patch16_224")]
)
def test_other_budgets_and_models_are_named(run, setting, value):
    groups = groups_of(run("cutmix"), run("transmix", **{setting: value}))
    (said,) = [one for one in cautions(groups) if "more than the mix" in one]
    assert f"the seed: {setting} is " in said
    assert f"{value} (transmix, {setting} {value})" in said


def test_an_unfinished_run_is_named_with_where_it_is(run):
    stopped = run("transmix", 1, done=2)
    assert cautions(groups_of(run("transmix", 0), stopped))[0] == (
        f"transmix seed 1 ({stopped}) is not finished: 2 of 6 epochs. It is left out of all scores; transmix train "
        f"--resume continues it."
    )


def test_other_versions_and_machines_are_named_with_the_runs(run):
    environment = json.loads((run() / "environment.json").read_text())
    other = environment | {"packages": environment["packages"] | {"torch": "2.14.0"}, "cores": 64}
    said = cautions(groups_of(run("cutmix", 0), run("cutmix", 1, environment=other), run("transmix", 0)))
    assert "The version of torch differs: 2.15.0 (cutmix seed 0, transmix seed 0), 2.14.0 (cutmix seed 1)." in said
    assert "The machine (cores) differs: 2 (cutmix seed 0, transmix seed 0), 64 (cutmix seed 1)." in said


def test_without_an_environment_it_is_unknown(run):
    said = cautions(groups_of(run("cutmix"), run("transmix", environment={"packages": "none"})))
    assert "The version of torch differs: 2.15.0 (cutmix seed 0), unknown (transmix seed 0)." in said


def test_groups_of_other_seeds_are_said(run):
    said = cautions(groups_of(run("cutmix", 0), run("cutmix", 1), run("transmix", 1), run("transmix", 2)))
    assert said == [
        "Groups have different seeds (cutmix: 0, 1; transmix: 1, 2). Differences are over those that two groups share."
    ]


def test_data_that_moved_is_asked_about(run):
    said = cautions(groups_of(run("cutmix", data="/a/birds"), run("transmix", data="/b/birds")))
    assert said == [
        "Data of the same name lies in different places: /a/birds (cutmix seed 0), /b/birds (transmix seed 0). Are "
        "they the same?"
    ]


REMEDY = "; compare runs of one data set with each other"


def test_other_data_is_refused(run):
    one, other = run("cutmix", data="/a/birds"), run("transmix", data="/a/cats")
    with pytest.raises(RunError) as refused:
        groups_of(one, other)
    assert str(refused.value) == f"{other} was trained on /a/cats, {one} on /a/birds{REMEDY}"


def test_other_classes_are_refused(run):
    one, other = run("cutmix", classes=["a", "b"]), run("transmix", classes=["a", "c"])
    with pytest.raises(RunError) as refused:
        groups_of(one, other)
    assert str(refused.value) == f"{other} has other classes than {one} (missing: b; unexpected: c){REMEDY}"


def test_the_same_classes_in_another_order_are_the_same(run):
    assert len(groups_of(run("cutmix", classes=["a", "b"]), run("transmix", classes=["b", "a"]))) == 2


def test_other_validation_images_are_refused(run):
    one, other = run("cutmix"), run("transmix")
    counts = (other / "confusion.csv").read_text().replace("c3,0,0,0,107", "c3,0,0,0,106")
    (other / "confusion.csv").write_text(counts)
    with pytest.raises(RunError) as refused:
        groups_of(one, other)
    assert str(refused.value) == (
        f"{other} was measured on 1069 validation images, {one} on 1070, or on other numbers of each class{REMEDY}"
    )


def test_a_seed_twice_is_refused_by_name(run):
    runs = run("cutmix", 0), run("transmix", 4), run("transmix", 4)
    with pytest.raises(RunError) as refused:
        groups_of(*runs)
    assert str(refused.value) == (
        f"{runs[1]} and {runs[2]} are both transmix with seed 4; a seed counts once, leave one out"
    )


def test_one_run_is_nothing_to_compare(run):
    with pytest.raises(RunError, match=r"^nothing to compare: name at least two run folders$"):
        groups_of(run())


def test_what_is_no_run_is_named(run, tmp_path):
    with pytest.raises(RunError, match=r"absent: no such run folder$"):
        read_run(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"empty holds no run \(recipe.yaml\); name run folders"):
        read_run(tmp_path / "empty")
    torn = run()
    (torn / "summary.json").write_text("{")
    with pytest.raises(RunError, match=r"summary.json is not JSON .*; --resume of that run writes it again$"):
        read_run(torn)
    (torn / "recipe.yaml").write_text("mixing: {mixx: cutmix}")
    (torn / "summary.json").unlink()
    with pytest.raises(RecipeError, match=r"unknown setting mixing.mixx"):
        read_run(torn)
