"""All suites together: one table, one command, one result however many processes share the work."""

import json

import pytest
import torch
from safetensors.torch import save_file

from transmix.cli import main
from transmix.cli.evaluate import print_scores, print_suite
from transmix.data.dataset import DataError
from transmix.evaluation import label_truth
from transmix.evaluation.suites import OF_FEATURES, SUITES, Settings, load_suite, run_suites
from transmix.plugins import UnknownNameError

OURS = ("calibration", "occlusion", "shuffle", "shifts")
"""Those that need neither masks nor many training images."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, write_folders):
    """A data set of two classes, and a folder of shifted images that has one of its own and one more image."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 1), ("val", 4)):
        write_folders(root / "set" / split, {"ant": count, "bee": count + 1})
    write_folders(root / "shifted", {"ant": 3, "bee": 2})
    write_folders(root / "outside", {"bee": 3})
    return root


@pytest.fixture(scope="module")
def weights(folders, small_vit):
    """A weights file as a run writes it, which says what it holds."""
    from transmix.models.build import build_model
    from transmix.recipes.settings import Model

    options = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    model = build_model(Model("vit_tiny_patch16_224", options), 2, 16)
    torch.nn.init.normal_(model.head.weight)
    about = {"classes": ["ant", "bee"], "model": "vit_tiny_patch16_224", "model_options": options, "image_size": 16}
    about |= {"eval_crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_file(model.state_dict(), folders / "model.safetensors", {"transmix": json.dumps(about)})
    return folders / "model.safetensors"


def command(weights, *more):
    folders = weights.parent
    plain = ["evaluate", str(weights), "--data", str(folders / "set"), "--workers", "0", "--batch-size", "2"]
    return [*plain, *map(str, more)]


def all_suites(weights, out):
    folders = weights.parent
    shifted = ["--shift-data", folders / "shifted", "--outlier-data", folders / "outside"]
    return command(weights, "--suite", *OURS, *shifted, "--out", out)


def test_each_of_ours_is_in_the_table_and_a_typo_is_answered():
    with pytest.raises(UnknownNameError, match="no suite is called 'oclusion'; did you mean occlusion"):
        load_suite("oclusion")
    assert {*OURS} <= {*SUITES}
    assert all(callable(load_suite(name)) for name in OURS)


def test_every_suite_is_called_before_any_runs(opened, noise, monkeypatch):
    happened = []

    def suite(name):
        def call(one, data, settings):
            happened.append(f"call {name}")
            return (happened.append(f"run {name}") or ("value", number) for number in range(1))

        return call

    monkeypatch.setattr("transmix.evaluation.suites.load_suite", suite)
    found = dict(run_suites(("shuffle", "calibration", "shuffle"), [opened()], noise(), Settings()))
    assert happened == ["call shuffle", "call calibration", "run shuffle", "run calibration"]
    assert found == {"shuffle": {"model": {"value": 0}}, "calibration": {"model": {"value": 0}}}


def test_of_all_a_suite_that_turns_out_not_to_apply_is_left_out_and_by_its_name_it_fails(
    opened, noise, monkeypatch, capsys
):
    def suite(name):
        def call(one, data, settings):
            yield "value", 0
            if name == "shuffle":
                raise DataError("no foreground")

        return call

    monkeypatch.setattr("transmix.evaluation.suites.load_suite", suite)
    found = dict(run_suites(("all",), [opened()], noise(), Settings()))
    assert found["occlusion"] == {"model": {"value": 0}}
    assert "shuffle" not in found
    assert "left out, since it does not apply: shuffle: no foreground" in capsys.readouterr().out
    with pytest.raises(DataError, match="no foreground"):
        dict(run_suites(("all", "shuffle"), [opened()], noise(), Settings()))


def test_the_command_prints_a_few_lines_for_each_suite_and_writes_all_under_its_name(weights, tmp_path, capsys):
    out = tmp_path / "scores.json"
    assert main(all_suites(weights, out)) == 0
    shown = capsys.readouterr().out
    result = json.loads(out.read_text())
    assert set(result) == {"target", "data", "held_out", "checkpoint", "weights", "scores", *OURS}
    assert set(result["scores"]["model"]) >= {"top1", "loss", "calibration_error", "per_class_accuracy"}
    top1 = result["scores"]["model"]["top1"]
    assert result["occlusion"]["model"]["random"][0] == result["shuffle"]["model"]["top1"][0] == top1
    assert result["calibration"]["model"]["loss"] == pytest.approx(result["scores"]["model"]["loss"], abs=1e-6)
    assert {"shifted/top1", "outside/aupr"} <= set(result["shifts"]["model"])
    parts = {part.split("\n")[0]: part.split("\n")[1:] for part in shown.split("written to")[0].strip().split("\n\n")}
    for suite in OURS:
        assert 1 <= len([line for line in parts[suite] if " s" not in line[-2:]]) <= 5, suite
    half = result["occlusion"]["model"]["random"][5]
    assert f"top-1 without random patches, ratio 0.5       model {100 * half:.2f} % (higher is better)" in shown
    assert (
        f"Brier score                                  model {result['calibration']['model']['brier_score']:.4f} (lower"
        in shown
    )
    assert "class attention of blocks.1.attn" in shown


def test_without_suites_the_result_is_what_it_was(weights, tmp_path):
    assert main(command(weights, "--out", tmp_path / "scores.json")) == 0
    result = json.loads((tmp_path / "scores.json").read_text())
    assert set(result) == {"target", "data", "held_out", "checkpoint", "weights", "scores"}


def test_scores_end_in_a_line_each_with_both_weights_and_the_way_that_is_better(capsys):
    """The class without a readable image is not the worst."""
    scores = {"top1": 0.5, "top5": 1.0, "loss": 1.0, "calibration_error": 0.1, "images": 7}
    accuracies = [0.9, float("nan"), 0.1, 0.8, 0.7, 0.6, 0.05]
    model = scores | {"per_class_accuracy": accuracies}
    print_scores({"model": model, "ema": model | {"top1": 0.625}}, tuple("abcdefg"))
    assert capsys.readouterr().out.splitlines() == [
        "top-1              model 50.00 %, EMA 62.50 % (higher is better); worst class g: EMA 5.0 %",
        "top-5              model 100.00 %, EMA 100.00 % (higher is better)",
        "NLL                model 1.000 nats, EMA 1.000 nats (lower is better)",
        "calibration error  model 10.00 %, EMA 10.00 % (lower is better)",
    ]


def test_no_more_than_five_lines_are_printed_of_a_suite(capsys):
    print_suite("of-a-package", {"model": {f"score {number}": number / 10 for number in range(9)}})
    title, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "of-a-package"
    assert lines[:4] == [f"score {number}  model {number / 10:.4f}" for number in range(4)]
    assert lines[4:] == ["5 more figures are in the JSON"]


def test_suites_of_features_take_data_of_other_classes_and_say_so(weights, tmp_path, write_folders, capsys):
    for part in ("train", "val"):
        write_folders(tmp_path / "other" / part, {"cat": 4, "dog": 3, "ant": 3})
    out = tmp_path / "found.json"
    words = ["evaluate", str(weights), "--data", str(tmp_path / "other"), "--workers", "0"]
    assert main([*words, "--suite", "knn", "linear-probe", "--knn-k", "3", "--out", str(out)]) == 0
    said, found = capsys.readouterr().out, json.loads(out.read_text())
    why = "other: the run has no class cat, dog; take their images out of the data, or call them as the run does"
    assert f"only features are measured, not what the model answers: {why}; its classes are ant, bee\n" in said
    assert found["scores"] == {}
    assert 0 < found["knn"]["model"]["top1"] <= 1
    assert main([*words, "--suite", "knn", "calibration"]) == 2
    assert "other: the run has no class cat, dog" in capsys.readouterr().err
    both = tmp_path / "both.json"  # of its own classes, the scores of its answers are there as ever
    assert main([*command(weights, "--suite", "knn", "--knn-k", "2"), "--out", str(both)]) == 0
    assert set(json.loads(both.read_text())["scores"]["model"]) >= {"top1", "loss"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "nowhere/scores.json"], "--out nowhere/scores.json: no folder nowhere; make it first"),
        (
            ["--data", "torchvision:CIFAR10", "--data-dir", "nowhere"],
            "torchvision:CIFAR10: no folder nowhere; give the folder with its files, --data-dir FOLDER",
        ),
        (["--suite", "calibrate"], "no suite is called 'calibrate'; did you mean calibration?"),
        (
            ["--suite", "shifts"],
            "the suite 'shifts' needs images: --shift-data FOLDER ... or --outlier-data FOLDER ...",
        ),
        (["--shift-data", "folder"], "are for the suite 'shifts'; ask for it: --suite shifts"),
        (["--suite", "calibration", "shifts", "--shift-data", "nowhere"], "nowhere: no such folder"),
        (["--suite", "all", "--shift-data", "nowhere"], "nowhere: no such folder"),
        (["--suite", "knn"], "set: 20 neighbours of 3 training images; take fewer: --knn-k"),
        (["--suite", "knn", "--split", "train"], "set: the suite 'knn' measures (train) images that it fits on"),
        (["--suite", "linear-probe", "--probe-images", "0"], "probe_images must be at least 1, not 0"),
        (["--suite", "segmentation-probe"], "set: no foreground masks. They come with"),
        (["--suite", "shuffle", "--shuffle-grids", "3"], "shuffle_grids [3] do not divide the image of 16 pixels"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(weights, capsys, options, words):
    assert main(command(weights, *options)) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert len(err.splitlines()) == 1
    assert out == ""


RANK = """
    import json, os, sys

    rank, folder, arguments = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", LOCAL_RANK=str(rank))
    import torch
    import torch.distributed as dist
    from conftest import _coloured, _data, _masked, _opened
    from transmix.cli import main
    from transmix.distributed import World
    from transmix.data.bad_images import BadImages
    from transmix.data.dataset import DataError
    from transmix.distributed import gather
    from transmix.evaluation import label_truth
    from transmix.evaluation.accumulators import gather_rows
    from transmix.evaluation.suites import Settings, load_suite

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    world, found = World(rank, 2, 2, torch.device("cpu")), {}
    for suite, samples in (("calibration", 2), ("calibration", 23), ("occlusion", 1), ("shuffle", 1)):
        one, data = _opened(world=world), _data(samples)
        found[f"{suite} {samples}"] = dict(load_suite(suite)(one, data, Settings(occlusion_ratios=(0.0, 0.5))))
    label_truth.PAIRS = 21
    for suite, samples in (("attention-quality", 1), ("attention-quality", 7), ("label-truth", 7)):
        found[f"{suite} {samples}"] = dict(load_suite(suite)(_opened(world=world), _masked(samples), Settings()))
    for suite, samples in (("knn", 21), ("linear-probe", 21), ("segmentation-probe", 21), ("knn", 1)):
        found[f"{suite} {samples}"] = dict(load_suite(suite)(_opened(world=world), _coloured(val=samples), Settings()))
    bad = BadImages(3)
    bad.add([(f"{rank}{number}.png", "cut off") for number in range(2)])
    try:
        bad.join(gather(bad.known, world))
    except DataError as error:
        found["bad"] = str(error)
    found["rows"] = gather_rows(torch.arange(3 * rank)).tolist() + gather_rows(torch.full((2 - rank, 1), rank)).tolist()
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(found, file)
    assert main(arguments) == 0
"""


def test_two_processes_give_the_result_of_one_with_uneven_shares_and_with_none(
    two_processes, weights, tmp_path, opened, noise, masked, coloured, monkeypatch
):
    """Of one image, and of two that are halved, the second process has none."""
    said = two_processes(RANK, *all_suites(weights, tmp_path / "both.json"))
    monkeypatch.setattr(label_truth, "PAIRS", 21)
    settings = Settings(occlusion_ratios=(0.0, 0.5))
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found.pop("rows") == [0, 1, 2, [0], [0], [1]]
        assert found.pop("bad").startswith("more than max_bad_images 3 images cannot be read: 00.png, 01.png, 10.png")
        for name, theirs in found.items():
            suite, samples = name.split()
            made = coloured(val=int(samples)) if suite in OF_FEATURES else None
            data = made or (noise if suite in OURS else masked)(int(samples))
            assert_same(theirs, dict(load_suite(suite)(opened(), data, settings)))

    assert main(all_suites(weights, tmp_path / "alone.json")) == 0
    both, alone = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("both", "alone"))
    assert set(both) == set(alone)
    for suite in OURS:
        assert_same(both[suite]["model"], alone[suite]["model"])
    assert "written to" in said[0]
    assert said[1] == ""


def assert_same(ours, theirs):
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        expected = value if isinstance(value, str) else pytest.approx(value, abs=1e-6, nan_ok=True)
        assert ours[name] == expected, name


def test_images_of_another_share_would_be_keyed_otherwise_without_their_place_in_the_split(opened, noise):
    """The negative control: numbering a process's images from nought would drop other patches than one process does."""
    from transmix.distributed import World
    from transmix.evaluation.patches import random_order

    second = opened(world=World(1, 2, 2, torch.device("cpu")))
    index = torch.cat([index for _, _, index in second.batches(noise(23).val)])
    assert index.tolist() == list(range(1, 23, 2))
    wrong = torch.arange(len(index))
    assert not torch.equal(random_order(index, 16, 0), random_order(wrong, 16, 0))
