"""torchvision's sets give the images, labels and names that torchvision gives, and the files that were written."""

import bz2
import csv
import hashlib
import json
import multiprocessing
import os
import pickle
import re
import struct
import tarfile
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from PIL import Image

from transmix.cli import main
from transmix.data import torchvision_sets as module
from transmix.data.dataset import DataError
from transmix.data.parts import Choice
from transmix.data.source import open_data
from transmix.data.torchvision_sets import OLDER_NAMES, REFUSED, SETS, find_set
from transmix.runs.error import RunError
from transmix.runs.folder import read_classes
from transmix.training.loop import train

# Writers: a folder as torchvision wants it, and (images, labels) of each part as they must come out.


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def grey(images):
    return np.repeat(images[..., None], 3, axis=-1)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(values, kind=8):
    lengths = b"".join(struct.pack(">I", length) for length in values.shape)
    return bytes([0, 0, kind, values.ndim]) + lengths + values.tobytes()


def png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG")


def write_pickles(folder, kind, names, files):
    """Write {file: (seed, labels)} and the names as published; return the images (N, 32, 32, 3) of each file."""
    folder.mkdir(parents=True)
    found = {}
    for file, (seed, labels) in files.items():
        some = pixels(len(labels), 3, 32, 32, seed=seed)
        content = {"data": some.reshape(-1, 3072), "labels" if len(names) == 10 else "fine_labels": labels}
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        found[file] = some.transpose(0, 2, 3, 1)
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}, protocol=2))
    return found


def write_cifar(kind, names):
    """Write pickles as published, and have torchvision expect them."""

    def write(root, monkeypatch):
        listed = {part: [file for file, _ in getattr(kind, f"{part}_list")] for part in ("train", "test")}
        files = {
            file: (number + len(part), [(7 * index + number) % len(names) for index in range(len(names))])
            for part in listed
            for number, file in enumerate(listed[part])
        }
        found = write_pickles(root / kind.base_folder, kind, names, files)
        expect_cifar(root / kind.base_folder, monkeypatch, kind)
        return {
            part: (np.concatenate([found[file] for file in some]), [label for file in some for label in files[file][1]])
            for part, some in listed.items()
        }

    return write


def expect_cifar(folder, monkeypatch, kind):
    for name in ("train_list", "test_list"):
        listed = [[file, md5(folder / file)] for file, _ in getattr(kind, name)]
        monkeypatch.setattr(kind, name, listed)
    meta = {**kind.meta, "md5": md5(folder / kind.meta["filename"])}
    monkeypatch.setattr(kind, "meta", meta)


TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HUNDRED = [f"thing {number:02d}" for number in range(100)]


def write_mnist(folder, prefix="", test="t10k", numbers=range(10)):
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.array([*numbers, *numbers], dtype=np.uint8)
    found = {}
    for part, name, seed in (("train", "train", 3), ("test", test, 4)):
        images = pixels(len(labels), 6, 4, seed=seed)
        (folder / f"{prefix}{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{prefix}{name}-labels-idx1-ubyte").write_bytes(idx(labels))
        found[part] = grey(images), labels - min(numbers)
    return found


def write_qmnist(root, _):
    folder = root / "QMNIST" / "raw"
    folder.mkdir(parents=True)
    found = {}
    for part in ("train", "test"):
        images, labels = pixels(20, 6, 4, seed=len(part)), np.zeros((20, 8), dtype=">i4")
        labels[:, 0], labels[:, 1:] = np.arange(20) % 10, 77
        (folder / f"qmnist-{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"qmnist-{part}-labels-idx2-int").write_bytes(idx(labels, 12))
        found[part] = grey(images), labels[:, 0]
    return found


def write_emnist(split, numbers):
    def write(root, _):
        found = write_mnist(root / "EMNIST" / "raw", f"emnist-{split}-", "test", numbers)
        return {part: (images.transpose(0, 2, 1, 3), labels) for part, (images, labels) in found.items()}

    return write


def write_svhn(root, monkeypatch):
    root.mkdir(exist_ok=True)
    found, listed = {}, dict(torchvision.datasets.SVHN.split_list)
    for part in ("train", "test"):
        images, labels = pixels(20, 32, 32, 3, seed=len(part)), np.arange(20) % 10
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        listed[part] = [listed[part][0], path.name, md5(path)]
        found[part] = images, labels
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    return found


def write_stl10(root, monkeypatch):
    folder, kind = root / "stl10_binary", torchvision.datasets.STL10
    folder.mkdir(parents=True)
    found = {}
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    (folder / "unlabeled_X.bin").write_bytes(b"")
    for part in ("train", "test"):
        images, labels = pixels(4, 96, 96, 3, seed=len(part)), np.array([0, 1, 1, 0], dtype=np.uint8)
        images.transpose(0, 3, 2, 1).tofile(folder / f"{part}_X.bin")
        (labels + 1).tofile(folder / f"{part}_y.bin")
        found[part] = images, labels
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(kind, name, [[file, md5(folder / file)] for file, _ in getattr(kind, name)])
    return found


def write_usps(root, _):
    root.mkdir(exist_ok=True)
    found = {}
    for part, name in (("train", "usps.bz2"), ("test", "usps.t.bz2")):
        images, labels = pixels(20, 16, 16, seed=len(part)), np.arange(20) % 10
        rows = images.reshape(20, -1) / 127.5 - 1
        lines = [
            " ".join([str(label + 1), *(f"{place}:{value:.9f}" for place, value in enumerate(row, start=1))])
            for label, row in zip(labels, rows, strict=True)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))
        found[part] = grey(((rows.astype("f4").reshape(-1, 16, 16) + 1) / 2 * 255).astype(np.uint8)), labels
    return found


def write_semeion(root, monkeypatch):
    root.mkdir(exist_ok=True)
    images, labels = pixels(20, 16, 16) % 2, np.arange(20) % 10
    np.savetxt(root / "semeion.data", np.concatenate([images.reshape(20, -1), np.eye(10)[labels]], 1), fmt="%d")
    monkeypatch.setattr(torchvision.datasets.SEMEION, "md5_checksum", md5(root / "semeion.data"))
    return {"train": (grey(images * 255), labels)}


def write_fer2013(root, monkeypatch):
    (root / "fer2013").mkdir(parents=True)
    path, found = root / "fer2013" / "fer2013.csv", {}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["emotion", "pixels", "Usage"])
        for part, usage in (("train", "Training"), ("test", "PublicTest")):
            images, labels = pixels(7, 48, 48, seed=len(part)), np.arange(7)
            for image, label in zip(images, labels, strict=True):
                writer.writerow([label, " ".join(map(str, image.ravel())), usage])
            found[part] = grey(images), labels
    resources = {**torchvision.datasets.FER2013._RESOURCES, "fer": ("fer2013.csv", md5(path))}
    monkeypatch.setattr(torchvision.datasets.FER2013, "_RESOURCES", resources)
    return found


def write_pcam(root, _):
    (root / "pcam").mkdir(parents=True)
    found = {}
    for part, files in torchvision.datasets.PCAM._FILES.items():
        images, labels = pixels(4, 10, 8, 3, seed=len(part)), np.array([0, 1, 1, 0])
        for what, name, values in (("images", "x", images), ("targets", "y", labels[:, None, None, None])):
            with h5py.File(root / "pcam" / files[what][0], "w") as file:
                file[name] = values
        found[part] = images, labels
    return found


def write_files(root, samples):
    """Write samples of {part: [(path, label)]}; the pixels follow from the number."""
    found = {}
    for part, listed in samples.items():
        images = pixels(len(listed), 5, 7, 3, seed=len(part))
        for (path, _), image in zip(listed, images, strict=True):
            png(root / path, image)
        found[part] = images, [label for _, label in listed]
    return found


def lay(base, samples, texts=()):
    """Return what writes samples, and files of text {path: content}."""

    def write(root, _):
        for path, text in dict(texts).items():
            (root / base / path).parent.mkdir(parents=True, exist_ok=True)
            (root / base / path).write_text(text)
        return write_files(root / base, samples)

    return write


HALVES, TRAIN_VAL, THIRDS = ("train", "test"), ("train", "val"), ("train", "val", "test")


def each(path, names, parts=("train",), numbers=(1, 2)):
    """Return {part: [(path, label)]}; the path may say {part}, {name}, {n}; parts may map to other words for them."""
    parts = parts if isinstance(parts, dict) else {part: part for part in parts}
    return {
        part: [(path.format(part=word, name=name, n=n), sorted(names).index(name)) for name in names for n in numbers]
        for part, word in parts.items()
    }


def write_flowers(root, monkeypatch):
    kind = torchvision.datasets.Flowers102
    folder, count = root / "flowers-102", 102
    samples = {part: [(f"jpg/image_{1 + start + n:05d}.jpg", n) for n in range(count)]
               for part, start in (("train", 0), ("val", count), ("test", 2 * count))}  # fmt: skip
    found = write_files(folder, samples)
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.tile(np.arange(count) + 1, 3)[None]})
    keys = {"trnid": 0, "valid": count, "tstid": 2 * count}
    ids = {name: (start + 1 + np.arange(count))[None] for name, start in keys.items()}
    scipy.io.savemat(folder / "setid.mat", ids)
    files = {
        name: (file, md5(folder / file) if name != "image" else old) for name, (file, old) in kind._file_dict.items()
    }
    monkeypatch.setattr(kind, "_file_dict", files)
    return found


def write_pets(root, _, base="oxford-iiit-pet"):
    rows = {
        "trainval": [("american_bulldog_2", 2), ("Abyssinian_1", 1), ("american_bulldog_1", 2)],
        "test": [("Abyssinian_2", 1), ("american_bulldog_3", 2)],
    }
    (root / base / "annotations").mkdir(parents=True)
    found = {}
    for file, listed in rows.items():
        text = "".join(f"{name} {label} {label} 1\n" for name, label in listed)
        (root / base / "annotations" / f"{file}.txt").write_text(text)
        images = [pixels(1, 5, 7, 3, seed=number + len(file))[0] for number in range(len(listed))]
        for (name, _), image in zip(listed, images, strict=True):
            png(root / base / "images" / f"{name}.jpg", image)
        found["train" if file == "trainval" else "test"] = np.stack(images), [label - 1 for _, label in listed]
    return found


def write_imagenet(root, _):
    found = write_files(root, each("{part}/{name}/{n}.JPEG", ("n1", "n2", "n3"), TRAIN_VAL))
    names = {"n1": ("crane",), "n2": ("crane",), "n3": ("tench", "Tinca tinca")}
    torch.save((names, ["n1"]), root / "meta.bin")
    return found


def write_omniglot(root, monkeypatch):
    base, kind = root / "omniglot-py", torchvision.datasets.Omniglot
    samples = each("images_background/{name}/{n}.png", CLASSES["Omniglot"])
    images, labels = write_files(base, samples)["train"]
    for (path, _), image in zip(samples["train"], images, strict=True):
        png(base / path, image[..., 0])
    found = {"train": (grey(images[..., 0]), labels)}
    (base / "images_background.zip").write_bytes(b"zip")
    monkeypatch.setattr(kind, "zips_md5", {"images_background": md5(base / "images_background.zip")})
    return found


LEVELS = {"variant": "variants", "family": "families"}
CLASSES = {
    "EMNIST:letters": tuple("abcdefghijklmnopqrstuvwxyz"),
    "SVHN": tuple("0123456789"),
    "CLEVRClassification": ("3", "4", "5"),
    "Caltech101": ("cat", "dog"),
    "ImageNet": ("crane (n1)", "crane (n2)", "tench, Tinca tinca"),
    "Imagenette": ("tench, Tinca tinca", "English springer, English springer spaniel"),
    "Omniglot": ("Greek/character01", "Greek/character02", "Latin/character01"),
    "OxfordIIITPet": ("Abyssinian", "American Bulldog"),
    "MNIST": tuple(torchvision.datasets.MNIST.classes),
}
WRITERS = {
    "CIFAR10": write_cifar(torchvision.datasets.CIFAR10, TEN),
    "CIFAR100": write_cifar(torchvision.datasets.CIFAR100, HUNDRED),
    "MNIST": lambda root, _: write_mnist(root / "MNIST" / "raw"),
    "FashionMNIST": lambda root, _: write_mnist(root / "FashionMNIST" / "raw"),
    "KMNIST": lambda root, _: write_mnist(root / "KMNIST" / "raw"),
    "QMNIST": write_qmnist,
    "EMNIST:letters": write_emnist("letters", range(1, 27)),
    "EMNIST:digits": write_emnist("digits", range(10)),
    "SVHN": write_svhn,
    "STL10": write_stl10,
    "USPS": write_usps,
    "SEMEION": write_semeion,
    "FER2013": write_fer2013,
    "PCAM": write_pcam,
    "Caltech101": lay(
        "caltech101/101_ObjectCategories",
        each("{name}/image_{n:04d}.jpg", ("cat", "dog")),
        {"BACKGROUND_Google/image_0001.jpg": "not looked at"},
    ),
    "Caltech256": lay("caltech256/256_ObjectCategories", each("{name}/{name:.3}_{n:04d}.jpg", ("001.cat", "002.dog"))),
    "CLEVRClassification": lay(
        "clevr/CLEVR_v1.0",
        {part: [(f"images/{part}/{n}.png", label) for n, label in enumerate((1, 0, 2))] for part in TRAIN_VAL},
        {
            f"scenes/CLEVR_{part}_scenes.json": json.dumps(
                {"scenes": [{"image_filename": f"{n}.png", "objects": [0] * (3 + y)} for n, y in enumerate((1, 0, 2))]}
            )
            for part in TRAIN_VAL
        },
    ),
    "Country211": lay("country211", each("{part}/{name}/{n}.png", ("cat", "dog"), ("train", "valid", "test"))),
    "DTD": lay(
        "dtd/dtd",
        each("images/{name}/{name}_{part}.jpg", ("dotted", "banded"), THIRDS, (1,)),
        {
            f"labels/{part}{number}.txt": "".join(f"{name}/{name}_{part}.jpg\n" for name in names)
            for part in THIRDS
            for number, names in ((1, ("dotted", "banded")), (3, ("banded", "dotted")))
        },
    ),
    "EuroSAT": lay("eurosat", each("2750/{name}/{n}.jpg", ("cat", "dog"))),
    "FGVCAircraft": lay(
        "fgvc-aircraft-2013b/data",
        each("images/{part}{name}.jpg", ("1", "0"), THIRDS, (1,)),
        {f"{file}.txt": f"A 1 {level}\nB 2 {level}\n" for level, file in LEVELS.items()}
        | {
            f"images_{level}_{part}.txt": f"{part}1 B 2 {level}\n{part}0 A 1 {level}\n"
            for level in LEVELS
            for part in THIRDS
        },
    ),
    "Flowers102": write_flowers,
    "Food101": lay(
        "food-101",
        each("images/{name}/{part}{n}.jpg", ("pie", "egg"), HALVES),
        {
            f"meta/{part}.json": json.dumps({name: [f"{name}/{part}{n}" for n in (1, 2)] for name in ("pie", "egg")})
            for part in HALVES
        },
    ),
    "GTSRB": lay(
        "gtsrb",
        each("GTSRB/Training/{name}/{n}.ppm", ("00000", "00001"))
        | {"test": [(f"GTSRB/Final_Test/Images/{n}.ppm", label) for n, label in enumerate((1, 0))]},
        {"GT-final_test.csv": "Filename;ClassId\n0.ppm;1\n1.ppm;0\n"},
    ),
    "ImageNet": write_imagenet,
    "Imagenette": lay("imagenette2", each("{part}/{name}/{n}.jpeg", ("n01440764", "n02102040"), TRAIN_VAL)),
    "INaturalist": lay(
        "",
        each(
            "{part}/{name}/{n}.jpg",
            [f"{n:05d}_Animalia_Chordata_Aves_Order_Family_Genus_species{n}" for n in range(2)],
            {"train": "2021_train", "valid": "2021_valid"},
        ),
    ),
    "Omniglot": write_omniglot,
    "OxfordIIITPet": write_pets,
    "RenderedSST2": lay(
        "rendered-sst2",
        each("{part}/{name}/{n}.png", ("negative", "positive"), {"train": "train", "val": "valid", "test": "test"}),
    ),
    "SUN397": lay(
        "SUN397", each("{name}/sun_{n}.jpg", ("a/abbey", "b/bar/indoor")), {"ClassName.txt": "/a/abbey\n/b/bar/indoor"}
    ),
}
UNSORTED = {"INaturalist", "Omniglot", "SUN397"}


def instance(name, part, root):
    """Make torchvision's own data set, without ours."""
    found, variant = find_set(name)
    download = {"download": False} if SETS[found].fetched else {}
    return getattr(torchvision.datasets, found)(root, **SETS[found].variants[variant][part], **download)


def read_part(data, part):
    split = data.train if part == "train" else data.val
    return [np.asarray(split.images[index]) for index in range(len(split))], split.labels.tolist()


@pytest.mark.parametrize("name", WRITERS)
def test_images_labels_and_names_are_those_of_torchvision_and_those_that_were_written(name, tmp_path, monkeypatch):
    written = WRITERS[name](tmp_path, monkeypatch)
    parts = SETS[find_set(name)[0]].variants[find_set(name)[1]]
    assert set(written) <= set(parts)
    for held_out in [part for part in written if part != "train"] or [None]:
        choice = Choice((held_out,)) if held_out else Choice(val_fraction=0.5)
        data = module.read_published(name, tmp_path, choice=choice)
        for part in ("train", *([held_out] if held_out else [])):
            images, labels = read_part(data, part)
            assert labels == [int(label) for label in written[part][1]]
            for image, expected in zip(images, written[part][0], strict=True):
                np.testing.assert_array_equal(image, expected)
            theirs = instance(name, part, tmp_path)
            rows = [theirs[index] for index in range(len(theirs))]
            pictures = [np.asarray(picture.convert("RGB")) for picture, _ in rows]
            if name.startswith("EMNIST"):  # which torchvision hands out with rows and columns exchanged
                pictures = [picture.transpose(1, 0, 2) for picture in pictures]
            mine, other = [image.tobytes() for image in images], [picture.tobytes() for picture in pictures]
            assert sorted(mine) == sorted(other) if name in UNSORTED else mine == other
            if name not in ("Omniglot", "CLEVRClassification"):
                offset = 1 if name == "EMNIST:letters" else 0
                assert sorted(labels) == sorted(label - offset for _, label in rows)
        classes = getattr(theirs, "classes", None) or getattr(theirs, "categories", None)
        assert data.classes == CLASSES.get(name, data.classes)
        if classes and name not in ("EMNIST:letters", "ImageNet"):
            assert list(data.classes) == [", ".join(one) if isinstance(one, tuple) else one for one in classes]


@pytest.mark.parametrize(
    ("name", "held_out", "usual"),
    [("DTD", ("val", "test"), "val"), ("Country211", ("valid", "test"), "valid"), ("CIFAR10", ("test",), "test")],
)
def test_val_comes_before_test_and_held_out_takes_the_other(name, held_out, usual, tmp_path, monkeypatch):
    written = WRITERS[name](tmp_path, monkeypatch)
    assert open_data(f"torchvision:{name}", data_dir=tmp_path).parts.held_out == usual
    for part in held_out:
        data = open_data(f"torchvision:{name}", data_dir=tmp_path, choice=Choice((part,)))
        assert data.parts.held_out == part
        np.testing.assert_array_equal(data.val.images[0], written[part][0][0])
    with pytest.raises(DataError, match=rf"^torchvision:{name}: no part holdout, the images to validate on; to hold"):
        open_data(f"torchvision:{name}", data_dir=tmp_path, choice=Choice(("holdout",)))


def test_variants_are_named_after_a_colon(tmp_path, monkeypatch):
    WRITERS["DTD"](tmp_path, monkeypatch)
    WRITERS["FGVCAircraft"](tmp_path, monkeypatch)
    first, third = (open_data(f"torchvision:{name}", data_dir=tmp_path) for name in ("DTD", "dtd:3"))
    assert first.train.labels.tolist() == third.train.labels.tolist()[::-1] == [1, 0]
    assert open_data("torchvision:FGVCAircraft:family", data_dir=tmp_path).classes == ("A 1 family", "B 2 family")
    with pytest.raises(DataError, match=r"^torchvision:EMNIST: add one of :balanced, :letters, :digits, :byclass, "):
        open_data("torchvision:EMNIST", data_dir=tmp_path)


# Names.


def test_every_set_of_torchvision_is_read_or_refused_with_a_reason():
    known = {*SETS, *(name for names in REFUSED.values() for name in names)}
    assert known == set(torchvision.datasets.__all__) - {"VisionDataset", "wrap_dataset_for_transforms_v2"}
    assert set(WRITERS) | {"LFWPeople", "Places365", "StanfordCars", "EMNIST"} >= set(SETS)


@pytest.mark.parametrize("name", ["cifar10", "CIFAR-10", "Cifar_10", "emnist:Letters", "fashion-mnist", "STL 10"])
def test_names_are_matched_without_case_and_punctuation(name):
    assert find_set(name)[0] in ("CIFAR10", "EMNIST", "FashionMNIST", "STL10")


def test_an_unknown_name_names_the_nearest_and_lists_all():
    with pytest.raises(DataError, match=r"^torchvision:Flowers103: no such set; nearest is Flowers102; there are "):
        open_data("torchvision:Flowers103")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("CelebA", "attributes, not one class an image"),
        ("cocodetection", "boxes"),
        ("LFWPairs", "pairs"),
        ("FakeData", "noise"),
    ],
)
def test_a_set_without_one_class_an_image_is_refused_with_the_reason(name, what):
    with pytest.raises(DataError, match=rf"(?i)^torchvision:{name} has {what}; images with one class each are needed$"):
        open_data(f"torchvision:{name}")


def test_a_set_that_needs_a_package_names_it(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^torchvision:PCAM needs the package h5py: pip install h5py$"):
        open_data("torchvision:PCAM")


# Where the files are.


def test_without_a_folder_they_are_looked_for_in_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^torchvision:DTD: no folder data; give the folder with its files"):
        open_data("torchvision:DTD")
    WRITERS["DTD"](tmp_path / "data", monkeypatch)
    assert open_data("torchvision:DTD").classes == ("banded", "dotted")


def test_files_that_are_not_there_name_the_folder_and_the_flags(tmp_path):
    said = (
        f"torchvision:CIFAR10: cannot be read in {tmp_path} (Dataset not found or corrupted); give the folder with its "
        "files, --data-dir FOLDER, or fetch them into one, --download FOLDER"
    )
    with pytest.raises(DataError, match=f"^{re.escape(said)}$"):
        open_data("torchvision:CIFAR10", data_dir=tmp_path)
    with pytest.raises(DataError, match=r"; it cannot be downloaded any more: bring its files by other means"):
        open_data("torchvision:ImageNet", download=tmp_path)


def test_labels_that_a_part_lacks_are_an_error(tmp_path, monkeypatch):
    WRITERS["FER2013"](tmp_path, monkeypatch)
    folder = tmp_path / "fer2013"
    rows = (folder / "fer2013.csv").read_text().splitlines()
    (folder / "fer2013.csv").unlink()
    (folder / "train.csv").write_text("\n".join(rows[:8]))
    (folder / "test.csv").write_text("\n".join([rows[0], *rows[8:]]))
    files = {part: (f"{part}.csv", md5(folder / f"{part}.csv")) for part in ("train", "test")}
    kind = torchvision.datasets.FER2013
    monkeypatch.setattr(kind, "_RESOURCES", {**kind._RESOURCES, **files})
    with pytest.raises(DataError, match=r"^torchvision:FER2013: a part has no labels; hold out another"):
        open_data("torchvision:FER2013", data_dir=tmp_path)
    with pytest.raises(DataError, match="no class has two images, so that none can be held out"):  # it is read
        open_data("torchvision:FER2013", data_dir=tmp_path, choice=Choice(val_fraction=0.1))


def test_a_training_class_without_an_image_is_an_error(tmp_path, monkeypatch):
    write_mnist(tmp_path / "MNIST" / "raw", numbers=range(9))
    with pytest.raises(DataError, match=r"^torchvision:MNIST: no image of class 9 - nine; add some"):
        open_data("torchvision:MNIST", data_dir=tmp_path)


# Pickles.


class Touches:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_pickle_that_was_changed_is_refused_before_it_is_read(tmp_path, monkeypatch, file, as_folder):
    WRITERS["CIFAR10"](tmp_path, monkeypatch)
    folder, flag = tmp_path / "cifar-10-batches-py", tmp_path / "flag"
    (folder / file).write_bytes(pickle.dumps({"data": Touches(flag), "labels": Touches(flag)}))
    with pytest.raises(DataError, match=r"^torchvision:CIFAR10: cannot be read in .* \(Dataset .*corrupted\)"):
        open_data(folder) if as_folder else open_data("torchvision:CIFAR10", data_dir=tmp_path)
    assert not flag.exists()


def test_the_same_pickle_does_what_it_says_where_its_checksum_is_expected(tmp_path, monkeypatch):
    WRITERS["CIFAR10"](tmp_path, monkeypatch)
    folder, flag = tmp_path / "cifar-10-batches-py", tmp_path / "flag"
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Touches(flag), "labels": []}))
    expect_cifar(folder, monkeypatch, torchvision.datasets.CIFAR10)
    with pytest.raises(DataError):
        open_data(folder)
    assert flag.exists()


@pytest.mark.parametrize(("name", "file"), [("ImageNet", "meta.bin"), ("MNIST", "MNIST/processed/training.pt")])
def test_files_that_torch_loads_run_no_code(tmp_path, monkeypatch, name, file):
    WRITERS[name](tmp_path, monkeypatch)
    flag, path = tmp_path / "flag", tmp_path / file
    path.parent.mkdir(exist_ok=True)
    torch.save(Touches(flag), path)
    torch.save(Touches(flag), path.parent / "test.pt")
    with pytest.raises(DataError, match=rf"^torchvision:{name}: cannot be read in .*Weights only load failed"):
        open_data(f"torchvision:{name}", data_dir=tmp_path)
    assert not flag.exists()
    torch.load(path, weights_only=False)
    assert flag.exists()


# What `--data` took before it took torchvision's names.


def digest(data):
    found = hashlib.sha256(
        repr((data.name, data.classes, data.parts.held_out, data.parts.columns, data.notes)).encode()
    )
    for split in (data.train, data.val):
        found.update(np.asarray(split.labels, "<i8").tobytes())
        for index in range(len(split)):
            image = np.ascontiguousarray(split.images[index])
            found.update(repr(image.shape).encode() + image.tobytes())
    return found.hexdigest()[:16]


def older_cifar(kind, names, files):
    def write(root, as_folder):
        write_pickles(root / kind.base_folder, kind, names, files)
        return root / kind.base_folder

    return write


def older_idx(name, base, prefix="", rows=tuple((n,) for n in range(10)), classes=()):
    def write(root, as_folder):
        folder = root / name / ("gzip" if prefix else "") if as_folder else root / base / "raw"
        write_mnist(folder, prefix, "test" if prefix else "t10k", [number for number, *_ in rows])
        if as_folder and prefix:
            (folder / f"{prefix}mapping.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
        if as_folder and classes:
            (folder / "classnames.txt").write_text("\n".join(classes))
        return root / name

    return write


def older_pets(root, as_folder):
    write_pets(root, None, "oxford-pets" if as_folder else "oxford-iiit-pet")
    return root / "oxford-pets"


LETTERS = [(n + 1, 65 + n, 97 + n) for n in range(26)]
BALANCED = [(n, ord(name)) for n, name in enumerate(torchvision.datasets.EMNIST.classes_split_dict["balanced"])]
DIGITS = [(n, 48 + n) for n in range(10)]
FASHION = torchvision.datasets.FashionMNIST.classes
TEN_FILES = {f"data_batch_{n + 1}": (n, [2 * n + 1, 2 * n] * 2) for n in range(5)} | {"test_batch": (9, [*range(10)])}
HUNDRED_FILES = {name: (seed, [(n * 7 + seed) % 100 for n in range(100)]) for name, seed in (("train", 1), ("test", 2))}

OLDER = {
    "cifar10": (older_cifar(torchvision.datasets.CIFAR10, TEN, TEN_FILES), "e533979e9e835a9a"),
    "cifar100": (older_cifar(torchvision.datasets.CIFAR100, HUNDRED, HUNDRED_FILES), "82c64fbd74e29dc6"),
    "oxford-pets": (older_pets, "3244c2c688c842cd"),
    "mnist": (older_idx("mnist", "MNIST"), "b85361015ecf5477"),
    "fashion-mnist": (older_idx("fashion-mnist", "FashionMNIST", classes=FASHION), "7ed0321a35dcc051"),
    "emnist-letters": (older_idx("emnist-letters", "EMNIST", "emnist-letters-", LETTERS), "e5b99f085cdc6450"),
    "emnist-balanced": (older_idx("emnist-balanced", "EMNIST", "emnist-balanced-", BALANCED), "1b80bd610d489fc3"),
    "emnist-digits": (older_idx("emnist-digits", "EMNIST", "emnist-digits-", DIGITS), "a9a243fd4673145c"),
}
"""Name -> what writes its files, and what the readers that came before torchvision's made of them (`digest`)."""


@pytest.mark.parametrize("form", ["folder", "name", "downloaded before"])
@pytest.mark.parametrize("name", OLDER)
def test_names_and_folders_of_before_give_what_they_gave_to_the_bit(name, form, tmp_path, monkeypatch):
    write, expected = OLDER[name]
    folder = write(tmp_path, form != "name")
    if name.startswith("cifar"):
        expect_cifar(folder, monkeypatch, getattr(torchvision.datasets, OLDER_NAMES[name]))
    if form == "downloaded before":
        if name.startswith("cifar"):
            folder = folder.rename(tmp_path / name)
        (folder / "downloaded.json").write_text("{}")
    where = {"name_or_path": folder} if form == "folder" else {"name_or_path": name, "data_dir": tmp_path}
    data = open_data(**where)
    assert digest(data) == expected
    assert digest(open_data(**where, choice=Choice((data.parts.held_out,)))) == expected  # what runs kept


def test_the_digest_tells_another_image_label_order_or_name(tmp_path):
    write_pets(tmp_path, None)
    data = open_data(tmp_path / "oxford-iiit-pet")
    others = (
        replace(data, name="pets"),
        replace(data, classes=data.classes[::-1]),
        replace(data, train=replace(data.train, labels=1 - data.train.labels)),
        replace(data, val=replace(data.val, images=[np.zeros((5, 7, 3), np.uint8)] * 2)),
    )
    assert len({digest(one) for one in (data, *others)}) == 5


def test_two_steps_are_trained_on_a_set_and_it_may_not_change_but_its_folder_may(tmp_path, monkeypatch, small_recipe):
    WRITERS["CIFAR10"](tmp_path / "sets", monkeypatch)
    WRITERS["DTD"](tmp_path / "sets", monkeypatch)
    recipe = small_recipe("torchvision:CIFAR10", max_steps=2, data_dir=str(tmp_path / "sets"))
    assert train(recipe, tmp_path / "run")["step"] == 2
    about = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (about["held_out"], "val_fraction" in about) == ("test", False)
    assert read_classes(tmp_path / "run")[:2] == ("airplane", "automobile")
    (tmp_path / "sets").rename(tmp_path / "moved")
    moved = small_recipe("torchvision:CIFAR10", max_steps=4, data_dir=str(tmp_path / "moved"))
    assert train(moved, tmp_path / "run", resume=True)["step"] == 4
    other = small_recipe("torchvision:DTD", max_steps=6, data_dir=str(tmp_path / "moved"))
    with pytest.raises(RunError, match="data: torchvision:CIFAR10 -> torchvision:DTD"):
        train(other, tmp_path / "run", resume=True)


# Fetching.


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Have CIFAR-10 and DTD published on a server of this machine; give the names of what was asked for."""
    site, asked = tmp_path / "site", []
    for name in ("CIFAR10", "DTD"):
        WRITERS[name](site, monkeypatch)
    for file, folder in (("cifar-10-python.tar.gz", "cifar-10-batches-py"), ("dtd-r1.0.1.tar.gz", "dtd/dtd")):
        with tarfile.open(site / file, "w:gz") as tar:
            tar.add(site / folder, Path(folder).name)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(site))

        def do_GET(self):
            asked.append(self.path[1:])
            super().do_GET()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{http.server_port}"
        cifar, dtd = torchvision.datasets.CIFAR10, torchvision.datasets.DTD
        monkeypatch.setattr(cifar, "url", f"{url}/{cifar.filename}")
        monkeypatch.setattr(cifar, "tgz_md5", md5(site / cifar.filename))
        monkeypatch.setattr(dtd, "_URL", f"{url}/dtd-r1.0.1.tar.gz")
        monkeypatch.setattr(dtd, "_MD5", md5(site / "dtd-r1.0.1.tar.gz"))
        yield asked
        http.shutdown()
        thread.join()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(("name", "made"), [("torchvision:CIFAR10", "cifar-10-batches-py"), ("torchvision:DTD", "dtd"),
                                            ("cifar10", "cifar-10-batches-py")])  # fmt: skip
def test_a_set_is_fetched_once_and_read(published, tmp_path, name, made):
    data = open_data(name, download=tmp_path / "sets")
    assert made in left(tmp_path / "sets")
    asked = len(published)
    assert digest(open_data(name, download=str(tmp_path / "sets"))) == digest(data)
    assert digest(open_data(name, data_dir=tmp_path / "sets")) == digest(data)
    assert len(published) == asked


def test_an_archive_of_another_checksum_leaves_nothing(published, tmp_path, monkeypatch):
    for kind, name in ((torchvision.datasets.CIFAR10, "tgz_md5"), (torchvision.datasets.DTD, "_MD5")):
        monkeypatch.setattr(kind, name, "0" * 32)
        with pytest.raises(DataError, match=rf"^torchvision:{kind.__name__}: cannot be downloaded to .*corrupted"):
            open_data(f"torchvision:{kind.__name__}", download=tmp_path / "sets")
        assert left(tmp_path / "sets") == []


def test_unpacking_that_breaks_off_leaves_nothing_that_is_taken_for_whole(published, tmp_path, monkeypatch):
    real = torchvision.datasets.utils._extract_tar

    def breaks_off(source, target, compression):
        real(source, target, compression)
        raise KeyboardInterrupt

    monkeypatch.setitem(torchvision.datasets.utils._ARCHIVE_EXTRACTORS, ".tar", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        open_data("torchvision:DTD", download=tmp_path / "sets")
    assert left(tmp_path / "sets") == []
    with pytest.raises(KeyboardInterrupt):  # torchvision alone takes what is there for whole
        torchvision.datasets.DTD(tmp_path / "alone", download=True)
    torchvision.datasets.DTD(tmp_path / "alone", download=True)


def test_damaged_files_are_fetched_again_and_files_of_others_stay(published, tmp_path):
    sets = tmp_path / "sets"
    whole = digest(open_data("torchvision:CIFAR10", download=sets))
    (sets / "cifar-10-batches-py" / "data_batch_2").write_bytes(b"cut")
    (sets / "cifar-10-batches-py" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="corrupted"):
        open_data("torchvision:CIFAR10", data_dir=sets)
    assert digest(open_data("torchvision:CIFAR10", download=sets)) == whole
    assert (sets / "cifar-10-batches-py" / "notes.txt").read_text() == "mine"


def _open_into(folder, results):
    results.put(digest(open_data("torchvision:CIFAR10", download=folder)))


def test_of_many_processes_one_fetches(published, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_open_into, args=(tmp_path / "sets", results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=200) for _ in processes}
    for process in processes:
        process.join(200)
    assert len(found) == 1
    assert len(published) == 2  # as of one: torchvision first asks where the address leads


def test_no_network_is_one_line_and_leaves_no_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/f.tar.gz")
    command = [
        "train",
        "--recipe",
        "cifar100_small",
        "--data",
        "torchvision:CIFAR10",
        "--download",
        str(tmp_path / "d"),
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert re.fullmatch(
        r"transmix: torchvision:CIFAR10: cannot be downloaded to .*/d \(URLError: .*refused.*\); without network, copy "
        r"its files here and give their folder: --data-dir FOLDER",
        said[0],
    )
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_and_a_name_that_is_not_fetched_are_errors(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^cannot write .*file/.DTD.lock: .*File exists"):
        open_data("torchvision:DTD", download=tmp_path / "file")
    with pytest.raises(DataError, match=r"^digits: --download is for --data torchvision:NAME, and for cifar10"):
        open_data("digits", download=tmp_path)
    with pytest.raises(DataError, match=r"^mnist: no such folder; .* \(--download FOLDER fetches mnist into FOLDER\)$"):
        open_data("mnist")


def test_the_page_on_data_lists_every_set_with_its_parts_and_every_refused_one_with_the_reason():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([A-Z]\w+) \| (.*) \|$", page, flags=re.MULTILINE))
    for name, one in SETS.items():
        parts, variants, more = re.split(r" ?\| ?", rows.pop(name))
        assert parts == ", ".join(next(iter(one.variants.values())))
        assert name == "DTD" or re.findall(r"`(\w+)`", variants) == [variant for variant in one.variants if variant]
        assert ("cannot be downloaded" in more, f"needs `{one.needs}`" in more) == (not one.fetched, bool(one.needs))
    assert rows == {}
    for what, names in REFUSED.items():
        assert f"{', '.join(names)} ({what})" in page
    assert f"any of torchvision's {len(SETS)} sets" in page
