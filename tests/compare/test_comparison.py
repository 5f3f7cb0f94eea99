"""What is compared with what, and what is said of it."""

import json

import pytest

from transmix.compare import as_json, compare_runs, read_run
from transmix.compare.comparison import scores_of
from transmix.compare.label_twin import NO_TWIN
from transmix.runs.error import RunError


def compared(folders, baseline=None):
    return compare_runs([read_run(folder) for folder in folders], baseline)


def verdicts(comparison):
    return {(one.group, one.baseline): one.verdict for one in comparison.compared}


def test_scores_are_the_last_epochs_not_the_best(made_run, tmp_path):
    folder = made_run(tmp_path / "run", "transmix", top1=0.5)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows[2] |= {"ema_top1": 0.99, "top1": 0.98}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = read_run(folder)
    scores = scores_of(run)
    assert (scores["ema_top1"], scores["top1"]) == (0.5, 0.5)
    found = as_json(compared([folder, made_run(tmp_path / "other", "cutmix")]))
    assert found["groups"][0]["runs"][0]["best"] == {"score": 0.99, "epoch": 3}


def test_time_counts_images_over_speed_and_label_shift_is_the_last_mixed_epochs(made_run, tmp_path):
    scores = scores_of(read_run(made_run(tmp_path / "run", "transmix")))
    assert scores["seconds"] == pytest.approx(60 * 128 / 640)
    assert scores["images_per_second"] == pytest.approx(640)
    assert scores["label_shift"] == pytest.approx(0.045)
    assert "label_shift" not in scores_of(read_run(made_run(tmp_path / "other", "cutmix")))


def test_an_epoch_without_a_speed_counts_as_fast_as_the_others(made_run, tmp_path):
    folder = made_run(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    del rows[3]["images_per_second"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(folder).training_time == (pytest.approx(60 * 128 / 640), False)


def test_each_group_is_compared_with_cutmix_and_transmix_with_its_twin(made_runs):
    scores = {"none": [0.88, 0.89], "mixup_cutmix": [0.9, 0.91], "cutmix": [0.9, 0.92], "transmix": [0.92, 0.93]}
    comparison = compared(made_runs(**scores))
    assert comparison.baseline == "cutmix"
    assert list(verdicts(comparison)) == [
        ("none", "cutmix"),
        ("mixup+cutmix", "cutmix"),
        ("transmix", "cutmix"),
        ("transmix", "mixup+cutmix"),
    ]
    assert str(comparison.compared[-1].shared) == "the same mixed images: the label alone differs"
    assert NO_TWIN not in comparison.cautions


def test_without_its_twin_that_is_said(made_runs):
    assert NO_TWIN in compared(made_runs(cutmix=[0.9, 0.8], transmix=[0.9, 0.8])).cautions


def test_without_cutmix_the_first_group_is_the_baseline_and_another_can_be_asked_for(made_runs):
    runs = made_runs(none=[0.8, 0.82], mixup=[0.9, 0.91], transmix=[0.9, 0.92])
    assert compared(runs).baseline == "none"
    assert list(verdicts(compared(runs, "transmix"))) == [("none", "transmix"), ("mixup", "transmix")]
    with pytest.raises(RunError) as refused:
        compared(runs, "cutmux")
    assert str(refused.value) == "no group is called 'cutmux'; --baseline takes one of: none; mixup; transmix"


def test_verdicts(made_runs):
    comparison = compared(
        made_runs(
            cutmix=[0.900, 0.910, 0.905],
            none=[0.850, 0.861, 0.855],
            mixup=[0.910, 0.905, 0.907],
            transmix=[0.905, 0.920, 0.912],
        )
    )
    found = verdicts(comparison)
    assert found["none", "cutmix"] == (
        "More than noise: the interval leaves 0 out, also after allowing for 3 comparisons."
    )
    assert found["mixup", "cutmix"] == "Not more than noise: the interval holds 0."


def test_a_difference_that_holm_does_not_let_through_is_doubtful(made_runs):
    base = [0.900, 0.910, 0.905]
    others = {"none": [0.9, 0.912, 0.903], "mixup": [0.906, 0.9155, 0.912], "transmix": [0.904, 0.9175, 0.91]}
    comparison = compared(made_runs(cutmix=base, **others))
    one = next(one for one in comparison.compared if one.group == "transmix")
    assert one.scores["ema_top1"].p < 0.05 < one.p_holm
    assert one.verdict == "Doubtful: the interval leaves 0 out, but among 3 comparisons one can do so by chance."


def test_one_seed_says_nothing_of_noise(made_runs):
    (one,) = compared(made_runs(cutmix=[0.9], transmix=[0.95])).compared
    assert one.verdict == "One seed: no interval, so nothing can be said about noise."
    assert one.p_holm is None


def test_unfinished_runs_do_not_count(made_run, made_runs, tmp_path):
    runs = [*made_runs(cutmix=[0.9, 0.91], transmix=[0.92, 0.93]), made_run(tmp_path / "more", "transmix", 2, done=3)]
    comparison = compared(runs)
    assert comparison.means["transmix"]["ema_top1"].n == 2
    assert comparison.compared[0].scores["ema_top1"].seeds == (0, 1)


def test_nothing_finished_is_an_error(made_run, tmp_path):
    runs = [made_run(tmp_path / mix, mix, done=2) for mix in ("cutmix", "transmix")]
    with pytest.raises(RunError, match=r"^none of these runs is finished: nothing to compare yet"):
        compared(runs)


def test_groups_without_a_common_seed_have_no_difference_and_that_is_said(made_run, tmp_path):
    comparison = compared([made_run(tmp_path / "a", "cutmix", 0), made_run(tmp_path / "b", "transmix", 1)])
    assert comparison.compared == ()
    assert any("have no finished seed in common" in one for one in comparison.cautions)


def test_where_a_run_kept_no_average_the_weights_themselves_are_compared(made_run, tmp_path):
    comparison = compared([made_run(tmp_path / "a", "cutmix"), made_run(tmp_path / "b", "transmix", ema_decay=None)])
    assert comparison.score == "top1"
    assert any(one.startswith("Some runs have no EMA") for one in comparison.cautions)
