"""What is predicted is what `transmix evaluate` computes, image by image, whatever the form of the output."""

import csv
import io
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image, ImageOps
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss
from torchvision.transforms import v2

from transmix.cli import main
from transmix.evaluation.evaluate import prepare, score
from transmix.models.loaded import LoadedModel, Preprocessing, load_model, load_with_data
from transmix.predict.predictions import NOT_FINITE, Predictor, class_names
from transmix.recipes import RecipeError
from transmix.recipes.settings import Model

CPU = ["--workers", "0", "--threads", "1", "--device", "cpu"]


def predict(*words):
    return main(["predict", *map(str, words), *CPU])


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def val(images):
    return images / "val"


def evaluators_of(run, **computing):
    """What `transmix evaluate` runs, the EMA alone, and its data."""
    models, data = load_with_data(run, weights="ema")
    return prepare(models, device="cpu", workers=0, threads=1, batch_size=3, **computing), data


def evaluated(run, **computing):
    """Logits (N, K) that `transmix evaluate` computes, their labels, and its scores."""
    evaluators, data = evaluators_of(run, **computing)
    (one,) = evaluators
    found = [(one.logits(pixels), labels) for pixels, labels, _ in one.batches(data.val)]
    return (*map(torch.cat, zip(*found, strict=True)), score(evaluators, data)["ema"])


def assert_same(rows, logits, names=("dark", "light")):
    """The rows hold the classes and the probabilities of logits, to the bit."""
    assert len(rows) == len(logits)
    for row, shares in zip(rows, logits.softmax(1).numpy(), strict=True):
        order = np.argsort(-shares, kind="stable")
        assert [row[f"class_{rank + 1}"] for rank in range(2)] == [names[at] for at in order]
        assert [np.float32(row[f"probability_{rank + 1}"]) for rank in range(2)] == list(shares[order])


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_predictions_are_those_of_evaluate_to_the_bit(tta, run, val, tmp_path, capsys):
    assert predict(run, val, "--out", tmp_path / "p.csv", "--weights", "ema", "--batch-size", 3, "--tta", tta) == 0
    rows, (logits, labels, scores) = rows_of(tmp_path / "p.csv"), evaluated(run, tta=tta)
    assert_same(rows, logits)
    assert [row["label"] for row in rows] == [("dark", "light")[label] for label in labels]
    assert np.mean([row["class_1"] == row["label"] for row in rows]) == scores["top1"]
    said = capsys.readouterr().err
    assert "weights: EMA of step 3 (last checkpoint): asked for with --weights ema" in said
    assert (
        f"labels: names of the images' folders, of 8 of 8 images\ntop-1: {100 * scores['top1']:.2f} % of them" in said
    )
    assert ("test-time augmentation: flip" in said) == (tta == "flip")


def test_other_weights_another_crop_another_mean_or_a_mirror_would_be_seen(run, val, tmp_path):
    assert predict(run, val, "--out", tmp_path / "p.csv", "--weights", "ema", "--batch-size", 3) == 0
    rows, (one, *_), data = rows_of(tmp_path / "p.csv"), *evaluators_of(run)
    seen = one.preprocessing
    others = [replace(one, loaded=load_model(run, weights="model")), replace(one, tta="flip")]
    others += [
        replace(one, loaded=replace(one.loaded, preprocessing=changed))
        for changed in (replace(seen, crop_pct=1.0), replace(seen, mean=(0.5, 0.5, 0.5)))
    ]
    for other in others:
        logits = torch.cat([other.logits(pixels) for pixels, *_ in other.batches(data.val)])
        with pytest.raises(AssertionError):
            assert_same(rows, logits)


def test_predictions_are_those_of_a_loop_with_torchvision(run, val, tmp_path):
    assert predict(run, val, "--out", tmp_path / "p.jsonl", "--weights", "ema") == 0
    steps = [v2.Resize(20, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16), v2.ToImage()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))]
    model = load_model(run, weights="ema").model
    for text, path in zip((tmp_path / "p.jsonl").read_text().splitlines(), sorted(val.rglob("*.png")), strict=True):
        row = json.loads(text)
        with torch.no_grad():
            shares = model(v2.Compose(steps)(Image.open(path).convert("RGB"))[None]).softmax(1)[0]
        assert row["image"] == str(path)
        assert row["class_1"] == ("dark", "light")[int(shares.argmax())]
        assert row["probability_1"] == pytest.approx(shares.max().item(), abs=1e-5)


@pytest.fixture
def photos(val, tmp_path, monkeypatch):
    """Images of many kinds below the current folder, some of them broken, in an order that is not sorted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more" / "b").mkdir(parents=True)
    (tmp_path / "more" / ".hidden").mkdir()
    for name in ("a.png", "more/z.png", "more/b/y.png", "more/.hidden/x.png"):
        shutil.copy(val / "dark" / "000.png", name)
    upright = Image.open(val / "light" / "001.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    upright.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
    assert np.array_equal(ImageOps.exif_transpose(Image.open("turned.png")), upright)
    upright.save("light.png")
    Image.new("L", (9, 30), 200).save("grey.gif")
    (tmp_path / "more" / "broken.jpg").write_bytes((val / "dark" / "000.png").read_bytes()[:60])
    (tmp_path / "more" / "notes.txt").write_text("no image")
    (tmp_path / "more" / "picture.svg").write_text("<svg/>")
    return tmp_path


WORDS = ["turned.png", "light.png", "more", "a.png", "g*.gif", "a.png"]
FILES = ["turned.png", "light.png", "more/broken.jpg", "more/picture.svg", "more/z.png", "more/b/y.png", "a.png"]
FILES += ["grey.gif", "a.png"]


def test_every_image_has_its_row_in_order_and_all_formats_say_the_same(run, photos, capsys):
    assert predict(run, *WORDS, "--out", "p.csv", "--labels", "none") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-4].startswith("no prediction: more/broken.jpg: ")
    assert said[-3:] == [
        "no prediction: more/picture.svg: not an image, or of a kind that is not read",
        "2 of 9 images have no prediction; the output says why of each",
        "written to p.csv",
    ]
    rows = rows_of("p.csv")
    assert [row["image"] for row in rows] == FILES
    assert [row["image"] for row in rows if row["error"]] == FILES[2:4]
    assert not any(row["class_1"] for row in rows if row["error"])
    assert all(row["class_1"] for row in rows if not row["error"])
    turned, light, *_ = ({name: row[name] for name in row if name != "image"} for row in rows)
    assert turned == light  # EXIF's orientation is applied
    assert predict(run, *WORDS, "--out", "p.jsonl", "--labels", "none") == 1
    assert predict(run, *WORDS, "--out", "p.parquet", "--labels", "none") == 1
    table = pq.read_table("p.parquet")
    assert json.loads(table.schema.metadata[b"transmix"])["weights"].startswith("EMA of step 3")
    for others in ([json.loads(line) for line in (photos / "p.jsonl").read_text().splitlines()], table.to_pylist()):
        assert [list(row) for row in others] == [list(row) for row in rows]
        for row, other in zip(rows, others, strict=True):
            for name, text in row.items():
                value = other[name]
                assert (np.float32(text) == np.float32(value)) if isinstance(value, float) else (value or "") == text
    assert predict(run, *WORDS, "--labels", "none", "--top", 1) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == FILES
    assert lines[3] == "more/picture.svg  error: not an image, or of a kind that is not read"
    assert lines[0] == f"turned.png        {turned['class_1']} {100 * float(turned['probability_1']):.1f} %"
    assert not list(photos.glob("*.tmp"))


def test_a_list_on_standard_input_is_read(run, photos, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"light.png\r\n\nmore/b\nnowhere.png\n")))
    assert predict(run, "a.png", "-", "--out", "p.csv") == 1
    assert [row["image"] for row in rows_of("p.csv")] == ["a.png", "light.png", "more/b/y.png", "nowhere.png"]
    assert "nowhere.png: FileNotFoundError" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_list_is_taken_as_it_is_needed(workers, run, val):
    taken = []

    def endless():
        while True:
            taken.append(str(val / "dark" / "000.png"))
            yield taken[-1]

    (one,) = prepare([load_model(run)], device="cpu", workers=workers, threads=1, batch_size=2)
    found = Predictor(one, ("dark", "light")).predict(endless())
    assert len({next(found).probabilities[0] for _ in range(9)}) == 1
    found.close()
    assert len(taken) <= 9 + 2 * 4


def test_features_are_what_timm_gives_before_the_logits(run, val, tmp_path):
    out, text = tmp_path / "p.parquet", tmp_path / "text.png"
    text.write_text("no image")
    for tta in ("none", "flip"):  # of the image, not of its mirror
        assert predict(run, val, text, "--features", "--out", out, "--weights", "ema", "--tta", tta) == 1
        found = pq.read_table(out)["features"]
        loaded = load_model(run, weights="ema")
        seen = torch.stack([loaded.preprocessing.read(path) for path in sorted(val.rglob("*.png"))])
        with torch.no_grad():
            features = loaded.model.forward_features(loaded.preprocessing.normaliser("cpu")(seen))
            wanted = loaded.model.forward_head(features, pre_logits=True)
        assert found[8].as_py() is None
        np.testing.assert_allclose(np.stack(found.to_pylist()[:8]), wanted, atol=1e-5)


def test_the_fitted_temperature_is_scipys_and_scales_the_logits(run, val, tmp_path, capsys):
    common = [run, val, "--weights", "ema", "--out", tmp_path / "p.csv", "--batch-size", 3]
    assert predict(*common, "--temperature", "fit") == 0
    logits, labels, _ = evaluated(run)
    best = minimize_scalar(
        lambda log: log_loss(labels, (logits.double() / np.exp(log)).softmax(1)), bounds=(-4.6, 4.6), method="bounded"
    )
    rows = rows_of(tmp_path / "p.csv")
    ours = [float(row["probability_1"]) for row in rows]
    assert ours == pytest.approx((logits / np.exp(best.x)).softmax(1).amax(1).tolist(), abs=1e-3)
    assert ", fitted on 8 images of " in capsys.readouterr().err
    assert predict(*common, "--temperature", "2.5") == 0
    assert_same(rows_of(tmp_path / "p.csv"), logits / 2.5)
    with pytest.raises(AssertionError):
        assert_same(rows_of(tmp_path / "p.csv"), logits)


def test_an_answer_that_is_not_finite_is_an_error_of_its_image(run, val):
    loaded = load_model(run)
    loaded.model.head.bias.data[1] = float("nan")
    (one,) = prepare([loaded], device="cpu", workers=0)
    found = list(Predictor(one, ("dark", "light")).predict([str(val / "dark" / "000.png")]))
    assert [(one.error, one.classes) for one in found] == [(NOT_FINITE, ())]


def test_nothing_is_written_if_nothing_can_be_read_or_if_it_is_interrupted(run, val, photos, monkeypatch, capsys):
    (photos / "p.csv").write_text("as it was")
    assert predict(run, "more/picture.svg", "--out", "p.csv") == 2
    assert capsys.readouterr().err.endswith(
        "transmix: none of 1 images can be read; the first: more/picture.svg: "
        "not an image, or of a kind that is not read\n"
    )
    whole = Predictor.predict

    def stopped(self, *given):
        yield next(whole(self, *given))
        raise KeyboardInterrupt

    for name in ("p.csv", "p.parquet"):
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "predict", stopped)
            assert predict(run, val, "--out", name) == 130
        assert capsys.readouterr().err.endswith(f"transmix: interrupted; {name} is not written\n")
    assert (photos / "p.csv").read_text() == "as it was"
    assert not [path for path in photos.iterdir() if path.suffix in (".tmp", ".parquet")]


LABELS = "image,label\n{}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no images: give files, folders, globs in quotes ('photos/*.jpg'), or - for a list on stdin"),
        (["nowhere.png"], "nowhere.png: no such file or folder"),
        (["*.webp"], "*.webp: no file has such a name"),
        (["empty"], "empty: no images in this folder; a data set in other files: transmix evaluate --data"),
        (["a.png", "--out", "p.txt"], "--out p.txt: predictions are written as .csv, .jsonl, .parquet"),
        (["a.png", "--out", "no/p.csv"], "--out no/p.csv: no folder no; make it first"),
        (["a.png", "--page", "p.pdf"], "--page p.pdf: a page is written as .html"),
        (
            ["a.png", "--features", "--out", "p.csv"],
            "--features are written to a column of a Parquet file; give --out FILE.parquet",
        ),
        (["a.png", "--top", "0"], "top must be at least 1, not 0"),
        (["a.png", "--temperature", "-1"], "temperature must be a number above 0, or fit, not -1.0"),
        (["a.png", "--batch-size", "0"], "batch_size must be at least 1, not 0"),
        (["a.png", "--labels", "no.csv"], "no.csv: cannot read the labels (No such file or directory)"),
        (["a.png", "--labels", "head.csv"], "head.csv: no column label; its first line is: image,label"),
        (["a.png", "--labels", "typo.csv"], "typo.csv line 2: lihgt is no class of the model; did you mean light?"),
    ],
)
def test_mistakes_get_one_clear_line(words, message, run, photos, capsys):
    (photos / "empty").mkdir()
    (photos / "head.csv").write_text("image,class\na.png,light\n")
    (photos / "typo.csv").write_text(LABELS.format("a.png,lihgt"))
    assert predict(run, *words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"transmix: {message}"


def test_labels_come_from_a_list_and_predictions_that_were_corrected_are_one(run, photos, capsys):
    (photos / "labels.csv").write_text(LABELS.format(f"light.png,light\n{photos}/a.png,dark\nturned.png,\nx.png,dark"))
    assert predict(run, "light.png", "a.png", "turned.png", "--labels", "labels.csv", "--out", "p.csv") == 0
    rows = rows_of("p.csv")
    assert [row["label"] for row in rows] == ["light", "dark", ""]
    right = sum(row["class_1"] == row["label"] for row in rows)
    assert f"labels: labels.csv, of 2 of 3 images\ntop-1: {50 * right:.2f} % of them" in capsys.readouterr().err
    assert predict(run, "a.png", "--labels", "p.csv", "--out", "q.csv") == 0
    assert rows_of("q.csv")[0]["label"] == "dark"
    assert predict(run, "grey.gif", "--labels", "labels.csv") == 0
    assert "warning: labels.csv has the label of no image" in capsys.readouterr().err
    (photos / "twice.csv").write_text(LABELS.format("a.png,light\n./a.png,dark"))
    assert predict(run, "a.png", "--labels", "twice.csv") == 2
    assert "twice.csv line 3: " in capsys.readouterr().err


def test_an_export_and_a_weights_file_predict_as_their_run(run, val, tmp_path, capsys):
    assert main(["export", str(run), "--out", str(tmp_path / "export"), "--weights", "ema"]) == 0
    found = []
    for target in (run, tmp_path / "export", run / "ema.safetensors"):
        assert predict(target, val, "--out", tmp_path / "p.csv", "--batch-size", 3) == 0
        found.append(rows_of(tmp_path / "p.csv"))
    assert_same(found[0], evaluated(run)[0])
    assert found[0] == found[1] == found[2]
    assert predict(tmp_path / "export", val, "--temperature", "fit") == 2
    assert "--temperature fit needs a run, whose validation images it takes; give a number" in capsys.readouterr().err


def test_a_model_without_class_names_gets_numbers_and_published_weights_timms_names(tmp_path, val, capsys):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=12)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    image = val / "dark" / "000.png"
    assert predict(tmp_path / "w.safetensors", image, "--model", "test_vit", "--top", 99) == 0
    out, said = capsys.readouterr()
    assert len(out.split("%")) == 13
    assert "classes: class names: unknown; their numbers from 0 stand for them" in said
    assert "labels:" not in said
    seen = Preprocessing(160, 0.95, (0.5,) * 3, (0.5,) * 3)
    published = timm.create_model("test_vit", num_classes=1000)
    names, note = class_names(LoadedModel("test_vit", published, None, seen, settings=Model("x", pretrained=True)))
    assert len(set(names)) == 1000
    assert (names[0], names[134], note) == (
        "tench, Tinca tinca",
        "crane (n02012849)",
        "class names: timm's for imagenet-1k",
    )
    with pytest.raises(RecipeError, match="headless has no classifier; fine-tune it first"):
        class_names(LoadedModel("headless", timm.create_model("test_vit", num_classes=0), None, seen))
