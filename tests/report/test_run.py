"""The report of a run says what the run's files say, whatever those are, and stands alone."""

import json
import math
import os
import random
import re
import shutil
import statistics

import numpy as np
import pytest
from PIL import Image

from transmix.cli.report import main
from transmix.data.dataset import DataError
from transmix.evaluation.suites import SUITES
from transmix.recipes import Recipe
from transmix.report import run as report_of_run
from transmix.report.run import LARGEST, report, write_report
from transmix.report.verdict import still_rising
from transmix.runs.error import RunError
from transmix.training.loop import train

OUTSIDE = re.compile(r"https?:|//[a-z]|url\((?!#)|@import|<script|<link|<iframe|\bon\w+=|javascript:", re.IGNORECASE)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scores_are_those_of_the_last_epoch(run_folder, parsed):
    folder = run_folder()
    last = rows_of(folder)[-1]
    text = parsed(report(folder)).text
    for name in ("top1", "calibration_error"):
        assert f"{100 * last[f'ema_{name}']:.2f} % of the EMA; model {100 * last[name]:.2f} %" in text
    # of three classes it would always be 100 %
    assert f"{100 * last['top5']:.2f} %" not in text.split("Best epoch")[0]
    assert f"Best epoch 4 EMA: {100 * last['ema_top1']:.2f} %" in text
    seconds = sum(10 * 8 / (1000 + epoch) for epoch in range(1, 5))
    assert f"Training time {seconds:.1f} s" in text
    assert "Finished after 40 steps." in text


def rewrite(folder, change):
    """Change every row of the log that ends an epoch."""
    rows = [change(row) if row["kind"] == "epoch" else row for row in rows_of(folder)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if (folder / "summary.json").exists():
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"last": rows[-1]}))


def counts_of(folder):
    cells = [line.split(",")[1:] for line in (folder / "confusion.csv").read_text().splitlines()[1:]]
    return np.array(cells, dtype=int)


def test_the_verdict_says_how_good_of_which_weights_and_what_to_do(run_folder, parsed):
    folder = run_folder()
    rewrite(folder, lambda row: row | {"val_images": 1000, "ema_calibration_error": 0.03, "ema_top1": 0.8, "top1": 0.8})
    counts = counts_of(folder)
    text = parsed(report(folder)).text
    most = 100 * counts.sum(1).max() / counts.sum()
    assert (
        f"The EMA is right on 80.00 % of 1,000 validation images, give or take 1.3 points from the choice of images "
        f"(standard error). Always naming the most frequent class would be right on {most:.1f} %. Nothing on record "
        f"speaks against it. Next: it can be used as it is: transmix export '{folder}' --format timm"
    ) in text
    assert math.sqrt(0.8 * 0.2 / 1000) == pytest.approx(0.013, abs=0.0005)
    rewrite(folder, lambda row: row | {"ema_top1": 0.56 + 0.06 * row["epoch"]})
    assert "top-1 was still rising at the end: more epochs may help" in parsed(report(folder)).text
    rewrite(folder, lambda row: row | {"ema_top1": 0.9 - 0.05 * row["epoch"]})
    best = {"best": {"score": 0.85, "epoch": 1, "step": 10, "weights": "ema"}}
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | best))
    assert "it was better after epoch 1 (85.00 %)" in parsed(report(folder)).text


def test_noise_of_the_validation_images_is_not_taken_for_a_rise():
    rng = np.random.default_rng(0)
    flat = rng.binomial(500, 0.8, (5000, 12)) / 500
    error = math.sqrt(0.8 * 0.2 / 500)
    assert 0 < np.mean([still_rising(scores, error) for scores in flat.tolist()]) < 0.004
    assert np.mean([scores[-1] - scores[8] > 2 * math.sqrt(2) * error for scores in flat]) > 0.01  # as it was asked
    assert still_rising([0.5, 0.6, 0.7, 0.8], error)
    assert not still_rising([0.5, 0.6, 0.7], error)
    assert not still_rising([0.5, 0.6, 0.8, 0.81], error)


def test_the_verdict_on_a_run_that_patience_stopped_takes_its_best_epoch(run_folder, parsed):
    folder = run_folder()
    rewrite(folder, lambda row: row | {"val_images": 1000, "ema_top1": 0.1 + 0.2 * row["epoch"]})
    summary = json.loads((folder / "summary.json").read_text())
    best = {"score": 0.905, "epoch": 3, "step": 30, "weights": "ema"}
    (folder / "summary.json").write_text(json.dumps(summary | {"stopped_early": "top-1 has not risen", "best": best}))
    text = parsed(report(folder)).text
    assert (
        "Next: --patience stopped it, as it rose no more: take the weights of epoch 3, the best: transmix evaluate "
        f"'{folder}' --checkpoint best"
    ) in text
    assert "still rising" not in text


def test_the_verdict_says_what_speaks_against_the_number(run_folder, parsed):
    folder = run_folder()
    rows = rows_of(folder)
    rows[0]["held_back"] = 2
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rewrite(folder, lambda row: row | {"val_images": 90, "ema_calibration_error": 0.111})
    (folder / "summary.json").unlink()
    assert (
        "Take it with care: the run is not finished; steps skipped because they were not finite: 2; it is measured on "
        "few images; its confidence is off by 11.1 % on average. Next: continue it: transmix train --recipe "
        f"'{folder}'/recipe.yaml --out '{folder}' --resume"
    ) in parsed(report(folder)).text
    rewrite(folder, lambda row: row | {"ema_top1": 0.45, "top1": 0.45})
    assert "it is no better than naming the most frequent class." in parsed(report(folder)).text


def test_headline_classes_and_confidence_are_of_the_same_weights(run_folder, parsed):
    folder = run_folder()
    bins = {"hits": [0, 3, 17], "confidence": [0.0, 5.0, 18.0], "count": [0, 10, 20]}
    other = {"hits": [0, 0, 15], "confidence": [0.0, 0.0, 28.0], "count": [0, 0, 30]}
    (folder / "reliability.json").write_text(json.dumps({"model": other, "ema": bins}))
    text = parsed(report(folder)).text
    assert "Classes and confidence below are of the EMA too. " in text
    assert "taken for another of the 3 classes by the EMA" in text
    assert "here of the EMA" in text
    rewrite(folder, lambda row: row | {"ema_top1": row["top1"] - 0.3, "val_images": 1000})
    text = parsed(report(folder)).text
    assert "The model is right on 80.00 % of 1,000 validation images" in text
    assert "the EMA, at 50.00 %, is far below the model" in text
    assert "Classes and confidence below are of the model too, but for the classes, which are kept of the EMA" in text
    assert "here of the model" in text
    assert "bin by bin, the gap is 43.33 % on average" in text  # (28 - 15) / 30: of the model's bins


def test_every_epoch_stands_in_the_table(run_folder, parsed):
    folder = run_folder(epochs=5)
    head, *table = parsed(report(folder)).tables["Scores and training means of each epoch"]
    rows = [row for row in rows_of(folder) if row["kind"] == "epoch"]
    assert [int(row[0]) for row in table] == [row["epoch"] for row in rows]
    for name, heading in (("top1", "top-1"), ("ema_top1", "EMA top-1"), ("empty_boxes", "empty boxes")):
        column = head.index(heading)
        assert [row[column] for row in table] == [f"{100 * row[name]:.2f} %" for row in rows]


def test_label_shift_is_that_of_the_log(run_folder, parsed):
    folder = run_folder()
    rows = [row for row in rows_of(folder) if row["kind"] == "epoch"]
    page = parsed(report(folder))
    table = page.tables["Label shift and empty boxes by epoch"]
    shift, empty = (statistics.fmean(row[name] for row in rows) for name in ("label_shift", "empty_boxes"))
    assert table[1] == ["first (epoch 1)", f"{100 * rows[0]['label_shift']:.2f} points", "2.50 %"]
    assert table[-1] == ["mean of 4 epochs", f"{100 * shift:.2f} points", f"{100 * empty:.2f} %"]
    assert f"lay {100 * shift:.2f} points from what its area" in page.text


def test_classes_and_confusions_are_those_of_the_matrix(run_folder, parsed):
    names = [f"class {number}" for number in range(12)]
    folder = run_folder(classes=names)
    cells = [line.split(",")[1:] for line in (folder / "confusion.csv").read_text().splitlines()[1:]]
    counts = np.array(cells, dtype=int)
    accuracy = counts.diagonal() / counts.sum(1)
    page = parsed(report(folder))
    table = page.tables["Classes with the lowest accuracy"][1:]
    assert len(table) == 6
    assert [row[1] for row in table] == [f"{100 * one:.1f} %" for one in sorted(accuracy)[:6]]
    for name, share, images, taken in table:
        row = counts[names.index(name)].copy()
        assert (f"{100 * accuracy[names.index(name)]:.1f} %", f"{row.sum():,}") == (share, images)
        row[names.index(name)] = -1
        assert row[names.index(taken)] == row.max()
    confusions = page.tables["Pairs of classes by number of mistakes"][1:]
    off = counts.copy()
    np.fill_diagonal(off, 0)
    assert [int(row[2]) for row in confusions] == sorted(off.ravel(), reverse=True)[:6]
    for true, taken, count, share in confusions:
        assert off[names.index(true), names.index(taken)] == int(count)
        assert share == f"{100 * int(count) / counts[names.index(true)].sum():.1f} %"
    assert f"Of {counts.sum():,} validation images, {off.sum():,} are taken for another" in page.text


def test_reliability_is_that_of_the_bins(run_folder, parsed):
    page = parsed(report(run_folder()))
    table = page.tables["Confidence and accuracy, bins without images left out"]
    assert table[1:] == [["33% to 67%", "10", "50.0 %", "30.0 %"], ["67% to 100%", "20", "90.0 %", "85.0 %"]]
    # |3 - 5| + |17 - 18| of 30 images; confidence 23/30, accuracy 20/30
    assert "Overall, confidence lies 10.0 points above accuracy; bin by bin, the gap is 10.00 % on average" in page.text


def test_every_setting_stands_in_the_recipe_with_what_it_is(run_folder, parsed):
    folder = run_folder()
    page = parsed(report(folder))
    tables = {table[0][2]: table[1:] for caption, table in page.tables.items() if table[0][0] == "setting"}
    # both have no caption: the later, of the defaults, is the one kept
    settings = {name for section in ("data", "augmentation", "model", "mixing", "optimization", "run")
                for name in vars(getattr(Recipe(), section))}  # fmt: skip
    assert {row[0] for row in tables["what it is"]} < settings
    names = [attributes for tag, attributes in page.elements if tag == "tr"]
    assert len(names) > len(settings)
    changed = re.search(r"(\d+) settings that differ from the defaults (\w+)?", page.text)
    same = re.search(r"(\d+) settings that are the defaults", page.text)
    assert int(changed[1]) + int(same[1]) == len(settings)
    assert "Probability that a batch is mixed." in page.text


def test_other_evaluations_are_shown_whatever_their_scores_are_called(run_folder, parsed):
    folder = run_folder()
    scores = {"model": {"top1": 0.5, "per_class_accuracy": [0.25, float("nan"), 0.75], "loss": 1.25}}
    (folder / "evaluation.json").write_text(json.dumps({"data": "more digits", "scores": scores}))
    nested = {"model": {"noise": {"1": {"top1": 0.4}, "2": {"top1": 0.3}}}, "ema": {"noise": {"1": {"top1": 0.45}}}}
    (folder / "evaluation-robustness.json").write_text(json.dumps({"scores": nested}))
    tables = parsed(report(folder)).tables
    assert tables["data more digits. Scores as they stand in evaluation.json"][1:] == [
        ["top-1", "50.00 %"],
        ["accuracy per class", "25.00 % to 75.00 % (2 values)"],
        ["NLL", "1.250 nats"],
    ]
    assert tables["Scores as they stand in evaluation-robustness.json"][1:] == [
        ["noise · 1 · top-1", "40.00 %", "45.00 %"],
        ["noise · 2 · top-1", "30.00 %", "–"],
    ]


def test_what_evaluate_wrote_is_shown_suites_and_all(small_recipe, images, tmp_path, parsed, capsys):
    """A run that was trained, suites that `transmix evaluate` measured and wrote, and the report of them."""
    from transmix.cli.evaluate import main as evaluate
    from transmix.training.loop import train

    run = tmp_path / "run"
    train(small_recipe(images, epochs=1), run)
    evaluate([str(run), "--suite", "all", "--workers", "0"])
    said = capsys.readouterr().out
    assert "left out, since it does not apply: label-truth: " in said  # photographs without masks
    assert "left out, since it does not apply: shifts: " in said
    wrote = json.loads((run / "evaluation.json").read_text())
    suites = [name for name in wrote if name in SUITES]
    assert suites == ["calibration", "occlusion", "shuffle", "knn", "linear-probe"]
    tables = parsed(report(run)).tables
    for suite in suites:
        (title,) = [title for title in tables if title.endswith(f"Scores as they stand in evaluation.json: {suite}")]
        head, *rows = tables[title]
        assert head == ["score", "model", "EMA"]
        assert len(rows) == len(wrote[suite]["model"])
    shown = {row[0]: row[1] for title, table in tables.items() if title.endswith("json: calibration") for row in table}
    name = next(
        name for name, value in wrote["calibration"]["model"].items() if "brier" in name and isinstance(value, float)
    )
    assert float(shown["Brier score"]) == pytest.approx(wrote["calibration"]["model"][name], rel=1e-2)
    with pytest.raises(DataError, match="mask"):
        evaluate([str(run), "--suite", "label-truth", "--workers", "0"])


def test_what_happened_is_told(run_folder, parsed):
    folder = run_folder()
    rows = rows_of(folder)
    rows[0]["held_back"] = 3
    del rows[2]["images_per_second"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bad_images.txt").write_text("a/b.jpg\tis empty\nc.jpg\tis no image\n")
    (folder / "checkpoints" / "damaged-step-00000010").mkdir(parents=True)
    (folder / "nonfinite" / "step-00000012").mkdir(parents=True)
    text = parsed(report(folder)).text
    for said in (
        "3 steps skipped",
        "2 images left out because unreadable (bad_images.txt). a/b.jpg: is empty c.jpg: is no image",
        "1 damaged checkpoint set aside. damaged-step-00000010",
        "Training stopped at a step that was not finite",
        "resumed at the end of epoch 1",
        "about",
    ):
        assert said in text, said
    assert "Nothing on record" not in text


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}"]
ODD = ["a,b\n'c'", "\u202eabc\x00\x1b[31m", "שלום"]


@pytest.mark.parametrize("classes", [HOSTILE, ODD])
def test_hostile_names_are_shown_and_do_nothing(run_folder, parsed, classes):
    folder = run_folder(classes=classes, name='run "><script>alert(2)</script>'.replace("/", "⁄"))
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("data: digits", "data: <img src=x>"))
    environment = {
        "<b>": "</td><script>",
        "command": "transmix train --out '\"<svg onload=alert(1)>'",
        "more": [1, None],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "evaluation-<i>.json").write_text(json.dumps({"scores": {"<u>": {"</style>": 1}}, "data": "<s>"}))
    html = report(folder)
    page = parsed(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "b", "i", "u", "s", "iframe"}
    assert [attributes["src"][:10] for tag, attributes in page.elements if tag == "img"] == ["data:image"] * 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    worst = {row[0] for row in page.tables["Classes with the lowest accuracy"][1:]}
    assert worst == ({"a,b\\n'c'", "\\u202eabc\\x00\\x1b[31m", "שלום"} if classes is ODD else set(HOSTILE))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", html)


def test_nothing_is_loaded_from_elsewhere(run_folder, parsed):
    html = report(run_folder())
    assert OUTSIDE.search(re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)) is None
    for _, attributes in parsed(html).elements:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), attributes
    assert OUTSIDE.search(html.replace("</style>", "p { background: url(x.png) }</style>"))
    assert OUTSIDE.search(html.replace("</main>", '<img src="https://example.org/x.png"></main>'))


@pytest.mark.parametrize(("classes", "epochs"), [(1000, 300), (21841, 300)])
def test_many_classes_and_epochs_with_long_names_stay_below_the_limit(run_folder, parsed, classes, epochs):
    folder = run_folder(
        classes=[f"{number} " + "très long " * 40 for number in range(classes)], epochs=epochs, steps=1250
    )
    for name in ("first_boxes.png", "last_boxes.png"):  # noise of many pixels is what compresses worst
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (1700, 1600, 3), dtype=np.uint8)).save(folder / name)
    scores = {weights: {f"score {number}": number for number in range(5000)} for weights in ("model", "ema")}
    (folder / "evaluation.json").write_text(json.dumps({"scores": scores}))
    (folder / "bad_images.txt").write_text("".join(f"{'x' * 500}{number}\tis empty\n" for number in range(5000)))
    html = report(folder)
    assert len(html.encode()) <= LARGEST
    page = parsed(html)
    assert sum(tag == "img" for tag, _ in page.elements) == 2
    assert len(page.tables["Scores and training means of each epoch"]) == 301
    assert ("There is no confusion.csv" in page.text) == (classes > 1000)


def test_a_report_that_is_too_large_goes_without_pictures(run_folder, parsed, monkeypatch):
    folder = run_folder()
    limit = len(report(folder).encode()) - 1
    monkeypatch.setattr(report_of_run, "LARGEST", limit)
    html = report(folder)
    page = parsed(html)
    assert len(html.encode()) <= limit
    assert not any(tag == "img" for tag, _ in page.elements)
    assert "the report would be too large" in page.text


def test_a_large_confusion_matrix_is_named_and_left_out(run_folder, parsed):
    folder = run_folder()
    with (folder / "confusion.csv").open("wb") as file:
        file.truncate(954_000_000)  # takes no room on disk
    assert "confusion.csv cannot be used: it has 954.0 MB, more than is read (100 MB)" in parsed(report(folder)).text


FILES = ["recipe.yaml", "environment.json", "metrics.jsonl", "summary.json", "confusion.csv", "reliability.json"]
FILES += ["first_boxes.png", "last_boxes.png", "evaluation.json"]
DAMAGE = {
    "missing": None,
    "empty": b"",
    "cut": "half",
    "noise": random.Random(0).randbytes(3000),
    "other JSON": b'[1, {"a": [[]]}, "x"]',
    "other types": b'{"scores": 3, "last": [], "best": {"epoch": "x", "score": []}, "model": {"hits": 1}, "mixing": 5}',
    "not numbers": b'{"kind": "epoch", "step": 4, "top1": NaN, "label_shift": 1e400, "epoch": null, "loss": "x"}\n',
    "deep": b"[" * 200_000,
    "pipe": "pipe",
    "folder": "folder",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_its_own_place_alone(run_folder, parsed, name, damage):
    folder = run_folder()
    (folder / "evaluation.json").write_text(json.dumps({"scores": {"model": {"top1": 0.5}}}))
    path, how = folder / name, DAMAGE[damage]
    content = path.read_bytes()
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how is not None:
        path.write_bytes(content[: len(content) // 2] if how == "half" else how)
    page = parsed(report(folder))
    warned = [attributes for tag, attributes in page.elements if attributes.get("class") in ("warn", "note")]
    harmless = damage in ("other types", "not numbers") or (name, damage) in {
        ("evaluation.json", "missing"),
        ("metrics.jsonl", "cut"),
        ("recipe.yaml", "cut"),
    }
    assert warned or harmless
    headings = [tag for tag, _ in page.elements if tag == "h2"]
    assert len(headings) == 11
    if name != "confusion.csv":
        assert "Classes with the lowest accuracy" in page.tables
    if name not in ("metrics.jsonl", "recipe.yaml"):
        assert "Label shift and empty boxes by epoch" in page.tables


def test_the_bare_minimum_is_reported_and_less_is_no_run(run_folder, parsed, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    with pytest.raises(RunError, match=r"bare holds no run: none of recipe.yaml, metrics.jsonl, .* is there"):
        report(folder)
    (folder / "metrics.jsonl").write_text("")
    text = parsed(report(folder)).text
    assert "Not finished" in text
    assert "No evaluation is on record: metrics.jsonl cannot be used: it holds no row yet." in text
    with pytest.raises(RunError, match="nowhere: no such run folder"):
        report(tmp_path / "nowhere")


def test_an_unfinished_run_says_so_and_shows_what_there_is(run_folder, parsed):
    folder = run_folder(epochs=6)
    for name in ("summary.json", "confusion.csv", "reliability.json"):
        (folder / name).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines[:8]) + '\n{"kind": "tr')
    text = parsed(report(folder)).text
    assert "Not finished: 2 of 6 epochs are on record, the last at step 30. The numbers below" in text
    assert "after epoch 2." in text
    assert "Best epoch 2" in text
    assert "There is no reliability.json" in text


def test_a_run_that_mixes_nothing_and_one_without_attention(run_folder, parsed):
    for name, mix, said in (("a", "none", "mixes no images, so there are"), ("b", "cutmix", "by area (mix cutmix)")):
        folder = run_folder(name=name, mix=mix)
        kept = [{key: value for key, value in row.items() if "label_shift" not in key} for row in rows_of(folder)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
        for picture in ("first_boxes.png", "last_boxes.png"):
            (folder / picture).unlink()
        text = parsed(report(folder)).text
        assert said in text
        assert ("This run mixes no images. " in text) == (mix == "none")


def test_scores_that_are_not_numbers_are_called_so(run_folder, parsed):
    folder = run_folder(epochs=1)
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(
        re.sub(r'"(ema_)?(val_loss|loss|calibration_error)": [\d.]+', r'"\1\2": NaN', text)
    )
    page = parsed(report(folder))
    assert "Calibration error not a number of the EMA; model not a number" in page.text
    assert "loss: no value is a finite number." in page.text
    assert not any("nan" in attributes.get("d", "") for tag, attributes in page.elements)


def test_a_real_run_is_reported_by_the_command(small_recipe, images, tmp_path, parsed, capsys):
    folder = tmp_path / "run"
    summary = train(small_recipe(images), folder)
    main([str(folder)])
    assert capsys.readouterr().out.endswith(f"written to {folder / 'report.html'}\n")
    page = parsed((folder / "report.html").read_text(encoding="utf-8"))
    assert f"{100 * summary['last']['ema_top1']:.2f} % of the EMA; model" in page.text
    assert "The EMA is right on " in page.text
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 3
    assert images[2]["alt"].startswith("The same validation images, each beside what the model attends to")
    main([str(folder), "--out", str(tmp_path / "else.html")])
    assert (tmp_path / "else.html").read_text() == (folder / "report.html").read_text()
    with pytest.raises(RunError, match="nowhere: no such run folder") as refused:
        main([str(tmp_path / "nowhere")])
    assert refused.value.code == 2


def test_a_report_that_cannot_be_written_leaves_the_old_one(run_folder, monkeypatch):
    folder = run_folder()
    before = write_report(folder).read_text()

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transmix.runs.atomic_write.write_file", full)
    with pytest.raises(
        RunError, match=r"cannot write .*report.html: No space left on device \(free some space there\)"
    ):
        write_report(folder)
    assert (folder / "report.html").read_text() == before
    assert not list(folder.glob("*.tmp"))


def test_reading_changes_nothing_in_the_run(run_folder, tmp_path):
    folder = run_folder()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(folder, tmp_path / "out.html")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_in_a_browser_it_reads_well_and_asks_nobody(run_folder, visit, scheme, width):
    with visit(write_report(run_folder()), scheme, width) as seen:
        seen.open_everything()
        assert seen.requests == []
        assert seen.too_wide() == 0
        assert seen.errors == []  # before axe, whose script the page's policy lets in only from outside
        sizes = seen.page.evaluate(
            "[...document.querySelectorAll('figure svg')].map(svg => [...svg.querySelectorAll('text')].map("
            "text => parseFloat(text.style.fontSize) * svg.clientWidth / svg.viewBox.baseVal.width))"
        )
        assert len(sizes) >= 6
        assert min(size for texts in sizes for size in texts) > 8  # pixels
        assert seen.violations() == []
