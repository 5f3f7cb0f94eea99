"""`CutMix` and `MixUp` against torchvision's own, and the record that they send through a loader."""

import pickle
import random
import runpy
from collections import OrderedDict, namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_flatten
from torch.utils.data import DataLoader, TensorDataset, default_collate

from transmix import Mixed, TransMix, cutmix, mixup

pytest.importorskip("torchvision")

from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from transmix.integrations.torchvision import CutMix, MixUp

ROOT = Path(__file__).resolve().parents[2]
CLASSES, SIZE, HEIGHT, WIDTH = 7, 5, 12, 20
PAIRS = {"CutMix": (CutMix, v2.CutMix), "MixUp": (MixUp, v2.MixUp)}
METHODS = {"CutMix": CutMix, "MixUp": MixUp}
every_pair = pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images_of(size=SIZE, kind=torch.float32, shape=(3, HEIGHT, WIDTH)):
    images = torch.rand(size, *shape, generator=seeded())
    return images.to(kind) if kind.is_floating_point else (images * 255).round().to(kind)


def labels_of(size=SIZE):
    return torch.arange(size)


def with_seed(seed, call, *inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return call(*inputs)


# ----------------------------------------------------------------------------------------- equal to torchvision's

Batch = namedtuple("Batch", "pictures classes name")

PLAIN = images_of()
DENSE = torch.rand(SIZE, CLASSES, generator=seeded(1))
INPUTS = {
    "unpacked": (PLAIN, labels_of()),
    "a tuple": ((PLAIN, labels_of()),),
    "a list": ([PLAIN, labels_of()],),
    "dense labels": (PLAIN, DENSE),
    "dense labels, float64": (PLAIN, DENSE.double()),
    "dense labels, integers": (PLAIN, torch.eye(CLASSES, dtype=torch.int64)[:SIZE]),
    "float64 images": (PLAIN.double(), labels_of()),
    "one channel": (PLAIN[:, :1], labels_of()),
    "one image": (PLAIN[:1], labels_of(1)),
    "an Image": (tv_tensors.Image(PLAIN), labels_of()),
    "a Video": (tv_tensors.Video(images_of(shape=(4, 3, HEIGHT, WIDTH))), labels_of()),
    "a dict": ({"picture": PLAIN, "labels": labels_of(), "name": "x"},),
    "a dict, other case": ({"picture": PLAIN, "LaBeLs": labels_of()},),
    "a dict, part of the key": ({"picture": PLAIN, "the_LABEL_of_it": labels_of()},),
    "a dict with two": ({"picture": PLAIN, "label_names": "x", "labels": labels_of()},),
    "an ordered dict": (OrderedDict(picture=PLAIN, labels=labels_of()),),
    "image and dict": (PLAIN, {"labels": labels_of(), "more": [1, None, PLAIN]}),
    "image, dict, more": ((PLAIN, {"labels": labels_of()}, "more", torch.rand(3)),),
    "a named tuple": (Batch(PLAIN, labels_of(), "x"),),
    "labels first, an Image": ({"labels": labels_of(), "picture": tv_tensors.Image(PLAIN)},),
    "two Images and a plain tensor": (
        {
            "left": tv_tensors.Image(PLAIN),
            "right": tv_tensors.Image(PLAIN.flip(0)),
            "plain": PLAIN,
            "labels": labels_of(),
        },
    ),
    "an Image and a Video": (
        [tv_tensors.Image(PLAIN), labels_of(), tv_tensors.Video(images_of(shape=(2, 3, HEIGHT, WIDTH)))],
    ),
}


def assert_equal_results(one, other, inputs, seed):
    expected = with_seed(seed, other, *inputs)
    result = with_seed(seed, one, *inputs)
    (leaves, structure), (expected_leaves, expected_structure) = tree_flatten(result), tree_flatten(expected)
    before, _ = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
    assert structure == expected_structure
    for leaf, expected_leaf, original in zip(leaves, expected_leaves, before, strict=True):
        assert type(leaf) is type(expected_leaf)
        if expected_leaf is original:
            assert leaf is original
        else:
            assert leaf.dtype == expected_leaf.dtype
            torch.testing.assert_close(leaf, expected_leaf, rtol=0, atol=1e-6)


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
@every_pair
def test_the_same_seed_gives_torchvisions_batch(ours, theirs, inputs):
    for seed in range(4):
        for alpha in (1.0, 0.3):
            settings = {"alpha": alpha, "num_classes": CLASSES}
            assert_equal_results(ours(**settings), theirs(**settings), inputs, seed)


def test_pasted_pixels_are_torchvisions_to_the_bit_for_bytes_too():
    batch = images_of(kind=torch.uint8), labels_of()
    for seed in range(4):
        one, other = (with_seed(seed, kind(num_classes=CLASSES), *batch) for kind in PAIRS["CutMix"])
        assert one[0].dtype == torch.uint8
        assert torch.equal(one[0], other[0])


def test_a_given_box_or_lam_gives_torchvisions_batch(monkeypatch):
    box, lam = (2, 5, 9, 18), 0.3
    top, left, bottom, right = box
    share = 1 - (bottom - top) * (right - left) / (HEIGHT * WIDTH)
    drawn = {
        CutMix: {"box": box},
        v2.CutMix: {"box": (left, top, right, bottom), "lam_adjusted": share},
        MixUp: {"lam": lam},
        v2.MixUp: {"lam": lam},
    }
    for kind, params in drawn.items():
        monkeypatch.setattr(kind, "make_params", lambda self, flat_inputs, params=params: params)
    for one, other in PAIRS.values():
        assert_equal_results(one(num_classes=CLASSES), other(num_classes=CLASSES), (PLAIN, labels_of()), 0)


def turned(box):
    top, left, bottom, right = box
    return HEIGHT - bottom, WIDTH - right, HEIGHT - top, WIDTH - left


WRONG = {
    "box turned": (CutMix, lambda images, labels, box: cutmix(images, labels, turned(box), torch.arange(SIZE).roll(1))),
    "box of the flipped batch": (CutMix, lambda images, labels, box: cutmix(images, labels, box)),
    "box of the next row": (
        CutMix,
        lambda images, labels, box: cutmix(images, labels, box, torch.arange(SIZE).roll(-1)),
    ),
    "blend of the flipped batch": (MixUp, lambda images, labels, lam: mixup(images, labels, lam)),
    "lam turned": (MixUp, lambda images, labels, lam: mixup(images, labels, 1 - lam, torch.arange(SIZE).roll(1))),
    "label turned": (
        MixUp,
        lambda images, labels, lam: replace(
            mixup(images, labels, lam, torch.arange(SIZE).roll(1)), lam=torch.full((SIZE,), 1 - lam)
        ),
    ),
}


@pytest.mark.parametrize(("method", "mix"), WRONG.values(), ids=WRONG)
def test_a_wrong_mix_is_not_torchvisions(method, mix):
    wrong = method(num_classes=CLASSES)
    wrong.mix = mix
    with pytest.raises(AssertionError):
        assert_equal_results(wrong, PAIRS[method.__name__][1](num_classes=CLASSES), (PLAIN, labels_of()), 0)


# ------------------------------------------------------------------------------------------ what is taken, by itself


def assert_mixes_two_labels_a_row(images, labels, size=SIZE):
    assert images.shape == (size, 3, HEIGHT, WIDTH)
    assert labels.shape == (size, CLASSES)
    torch.testing.assert_close(labels.sum(1), torch.ones(size))
    assert ((labels > 0).sum(1) == 2).all()


def samples(size=SIZE):
    return TensorDataset(images_of(size), labels_of(size))


@every_method
def test_it_mixes_before_or_in_the_collate_function(method):
    torch.manual_seed(1)  # lam is neither 0 nor 1
    mix = method(num_classes=CLASSES)
    (packed,) = DataLoader(samples(), SIZE)
    assert_mixes_two_labels_a_row(*mix(*packed))
    assert_mixes_two_labels_a_row(*mix(packed))
    for collate in (lambda batch: mix(default_collate(batch)), lambda batch: mix(*default_collate(batch))):
        (mixed,) = DataLoader(samples(), SIZE, collate_fn=collate)
        assert_mixes_two_labels_a_row(*mixed)
    with pytest.raises(AssertionError):
        assert_mixes_two_labels_a_row(packed[0], torch.nn.functional.one_hot(packed[1], CLASSES).float())


@every_method
def test_a_function_may_say_where_the_labels_are(method):
    labels = labels_of()
    batch = {"picture": PLAIN, "more": {"deep": [labels, "x"]}}
    mix = method(num_classes=CLASSES, labels_getter=lambda batch: batch["more"]["deep"][0])
    mixed = with_seed(1, mix, batch)
    assert_mixes_two_labels_a_row(mixed["picture"], mixed["more"]["deep"][0])
    assert mixed["more"]["deep"][1] == "x"


@every_method
def test_inputs_are_not_modified(method):
    images, labels = images_of(), labels_of()
    dense = DENSE.clone()
    for targets in (labels, dense):
        method(num_classes=CLASSES)(images, targets)
    assert torch.equal(images, images_of())
    assert torch.equal(labels, labels_of())
    assert torch.equal(dense, DENSE)


def test_blended_bytes_are_rounded_where_torchvision_fails():
    images = images_of(kind=torch.uint8)
    with pytest.raises(RuntimeError):
        v2.MixUp(num_classes=CLASSES)(images, labels_of())
    mixed, labels = with_seed(0, MixUp(num_classes=CLASSES), images, labels_of())
    lam, pixels = labels[0, 0].double().numpy(), images.numpy().astype(np.float64)
    expected = lam * pixels + (1 - lam) * np.roll(pixels, 1, axis=0)
    assert mixed.dtype == torch.uint8
    assert np.abs(mixed.numpy() - expected).max() <= 0.501


def test_half_precision_is_kept():
    for kind in (torch.float16, torch.bfloat16):
        for method in METHODS.values():
            assert method(num_classes=CLASSES)(images_of(kind=kind), labels_of())[0].dtype == kind


@every_method
def test_labels_that_come_first_in_a_dict_do_not_keep_the_images_from_being_mixed(method):
    mixed = with_seed(1, method(num_classes=CLASSES), {"labels": labels_of(), "picture": PLAIN})
    assert not torch.equal(mixed["picture"], PLAIN)
    assert_mixes_two_labels_a_row(mixed["picture"], mixed["labels"])


def test_a_random_choice_gives_both():
    mix = v2.RandomChoice([CutMix(record=True), MixUp(record=True)])
    torch.manual_seed(0)
    masks = [mix(PLAIN, labels_of())[1].mask for _ in range(20)]
    assert 4 < sum(mask is None for mask in masks) < 16


def test_it_goes_into_a_compose():
    mix = v2.Compose([v2.ToDtype(torch.float32, scale=True), CutMix(num_classes=CLASSES)])
    assert_mixes_two_labels_a_row(*with_seed(1, mix, images_of(kind=torch.uint8), labels_of()))


@every_method
def test_it_can_be_pickled_and_printed(method):
    mix = method(alpha=0.4, num_classes=CLASSES)
    assert repr(mix) == f"{method.__name__}(alpha=0.4, num_classes={CLASSES}, record=False)"
    again = pickle.loads(pickle.dumps(mix))
    assert_equal_results(again, mix, (PLAIN, labels_of()), 0)


@every_method
def test_draws_leave_numpy_and_python_alone_and_come_from_torchs_global_generator(method):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state is what is looked at
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    torch.manual_seed(0)
    first, second = (method(record=True)(PLAIN, labels_of())[1].lam for _ in range(2))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(method(record=True)(PLAIN, labels_of())[1].lam, first)


# --------------------------------------------------------------------------------------------------- the record


@every_method
def test_the_record_says_what_the_soft_labels_say(method):
    for labels, settings in ((labels_of(), {"num_classes": CLASSES}), (DENSE, {})):
        images, soft = with_seed(3, method(**settings), PLAIN, labels)
        mixed_images, mixed = with_seed(3, method(record=True), PLAIN, labels)
        assert isinstance(mixed, Mixed)
        assert mixed.images is mixed_images
        assert torch.equal(mixed.images, images)
        assert torch.equal(mixed.targets(CLASSES), soft)
        assert mixed.partner.tolist() == [4, 0, 1, 2, 3]
        assert not torch.allclose(mixed.targets(CLASSES, 0.1), soft, atol=1e-3)


def test_the_record_of_an_image_holds_a_plain_tensor():
    images, mixed = with_seed(1, CutMix(record=True), tv_tensors.Image(PLAIN), labels_of())
    assert type(images) is tv_tensors.Image
    assert type(mixed.images) is torch.Tensor
    assert torch.equal(mixed.images, images)


def loader_of(dataset, mix, generator, *, workers=2, size=4, pin=False):
    def collate(batch):
        return mix(*default_collate(batch))

    return DataLoader(
        dataset, size, num_workers=workers, collate_fn=collate, generator=generator, pin_memory=pin, shuffle=False
    )


def draws_of(loader):
    return [float(mixed.lam[0]) for _, mixed in loader]


def assert_no_draw_comes_twice(mix, workers):
    loader = loader_of(samples(16), mix, seeded(), workers=workers, size=2)
    draws = draws_of(loader) + draws_of(loader)
    assert len(set(draws)) == len(draws) == 16


class OwnGenerator(MixUp):
    """The mistake: a generator that every worker gets a copy of."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.rng = random.Random(0)

    def make_params(self, flat_inputs):
        return {"lam": self.rng.random()}


def test_workers_and_epochs_do_not_repeat_each_others_draws():
    for workers in (0, 2):
        assert_no_draw_comes_twice(MixUp(record=True), workers)
    with pytest.raises(AssertionError):
        assert_no_draw_comes_twice(OwnGenerator(record=True), 2)


def test_the_same_seed_repeats_the_draws_of_the_workers():
    one, two, other = (draws_of(loader_of(samples(16), MixUp(record=True), seeded(seed))) for seed in (0, 0, 1))
    assert one == two
    assert one != other


def losses_through_a_loader(model, photographs, tm_of, *, workers, pin=False):
    mix = v2.RandomChoice([CutMix(record=True), MixUp(alpha=0.8, record=True)], p=[0.8, 0.2])
    loader = loader_of(TensorDataset(*photographs), mix, seeded(), workers=workers, pin=pin)
    optimizer, tm, losses = torch.optim.SGD(model.parameters(), lr=0.05), tm_of(model), []
    for _ in range(2):
        for _, mixed in loader:
            mixed = mixed.to("cpu", non_blocking=True)
            loss = tm.loss(model(mixed.images), mixed)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def losses_of_a_plain_loop(model, photographs, workers):
    """The same without a loader: every worker's generator by hand, `cutmix` and `mixup` instead of the transforms."""
    images, labels = photographs
    optimizer, tm = torch.optim.SGD(model.parameters(), lr=0.05), TransMix(model, smoothing=0.1)
    rng, losses = seeded(), []
    for _ in range(2):
        seed = int(torch.empty((), dtype=torch.int64).random_(generator=rng))  # a loader's for the epoch
        states = [torch.Generator().manual_seed(seed + worker).get_state() for worker in range(workers)]
        for number, rows in enumerate(torch.arange(len(images)).split(4)):
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(states[number % workers])
                mixed = mix_by_hand(images[rows], labels[rows])
                states[number % workers] = torch.get_rng_state()
            loss = tm.loss(model(mixed.images), mixed)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def mix_by_hand(images, labels):
    partner = torch.tensor([3, 0, 1, 2])
    cut = int(torch.multinomial(torch.tensor([0.8, 0.2]), 1)) == 0
    alpha = 1.0 if cut else 0.8
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    if not cut:
        return mixup(images, labels, lam, partner)
    x, y = int(torch.randint(48, ())), int(torch.randint(32, ()))
    side = (1 - lam) ** 0.5 / 2
    down, across = int(side * 32), int(side * 48)
    return cutmix(
        images, labels, (max(y - down, 0), max(x - across, 0), min(y + down, 32), min(x + across, 48)), partner
    )


# Without an accelerator a loader says that it pins nothing, and does not.
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")
@pytest.mark.parametrize("pin", [False, True], ids=["", "pin_memory"])
def test_losses_of_batches_mixed_in_workers_equal_a_plain_loops(photographs, make_model, pin):
    losses = losses_through_a_loader(make_model(), photographs, smoothed, workers=2, pin=pin)
    expected = losses_of_a_plain_loop(make_model(), photographs, workers=2)
    assert losses == pytest.approx(expected, rel=0, abs=1e-6)


def smoothed(model):
    return TransMix(model, smoothing=0.1)


def by_area(model):
    tm = smoothed(model)
    tm.relabel = lambda mixed: (tm.reader.take().row, mixed)[1]
    return tm


@pytest.mark.parametrize(("tm_of", "plain_workers"), [(by_area, 2), (smoothed, 1)], ids=["by area", "other draws"])
def test_a_wrong_loop_is_seen_in_the_comparison(photographs, make_model, tm_of, plain_workers):
    losses = losses_through_a_loader(make_model(), photographs, tm_of, workers=2)
    expected = losses_of_a_plain_loop(make_model(), photographs, plain_workers)
    assert losses != pytest.approx(expected, rel=0, abs=1e-3)


# --------------------------------------------------------------------------------------------------- failures


def unsupported(kind):
    return f"{{name}} mixes batches of tensors; it does not support {kind} in its input"


NAN = float("nan")
BOX = tv_tensors.BoundingBoxes(torch.rand(2, 4), format="XYXY", canvas_size=(HEIGHT, WIDTH))
POINTS = tv_tensors.KeyPoints(torch.rand(2, 2), canvas_size=(HEIGHT, WIDTH))
NO_LABELS = (
    'labels_getter "default" looks for labels in the second item or in a dict, and found {found}; '
    "pass a function as labels_getter"
)
MANY = (
    "{{name}} found {found} batches of images or videos in its input, and needs exactly one batch of images (B, C, H, "
    "W), for record=True"
)
SHAPED = "labels must be classes (B,) or weights (B, K), not {found}"
CLONED = {"num_classes": CLASSES, "labels_getter": lambda batch: batch[1].clone()}
ABSENT = {"num_classes": CLASSES, "labels_getter": lambda batch: None}
OF_CLASSES = {
    "a PIL image": ((Image.new("RGB", (8, 8)), labels_of()), unsupported("Image")),
    "a mask": ((PLAIN, {"labels": labels_of(), "m": tv_tensors.Mask(PLAIN[0, 0])}), unsupported("Mask")),
    "a box": ((BOX,), unsupported("BoundingBoxes")),
    "key points": ((POINTS,), unsupported("KeyPoints")),
    "no key with label": (
        ({"img": PLAIN, "other": 3},),
        'no key has "label" in it: img, other; pass a function as labels_getter',
    ),
    "images alone": ((PLAIN,), SHAPED.format(found=tuple(PLAIN.shape))),
    "images in a list of one": (([PLAIN],), NO_LABELS.format(found="NoneType")),
    "labels that are text": ((PLAIN, "cats"), NO_LABELS.format(found="str")),
    "labels that are a list": (
        ({"img": PLAIN, "labels": [1, 2]},),
        "labels must be a tensor, not list; see labels_getter",
    ),
    "another number of columns": (
        (PLAIN, torch.rand(SIZE, 3)),
        "labels have 3 columns, but num_classes is 7; leave it out for labels (B, K)",
    ),
    "labels of three dimensions": ((PLAIN, torch.rand(SIZE, 3, 2)), SHAPED.format(found=(5, 3, 2))),
    "five dimensions": ((PLAIN[None], labels_of()), "Tensor must be a batch (B, C, H, W), not (1, 5, 3, 12, 20)"),
    "one image without a batch": (
        (tv_tensors.Image(PLAIN[0]), labels_of(3)),
        "Image must be a batch (B, C, H, W), not (3, 12, 20)",
    ),
    "a video without a batch": (
        (tv_tensors.Video(PLAIN), labels_of()),
        "Video must be a batch (B, T, C, H, W), not (5, 3, 12, 20)",
    ),
    "one label too many": ((PLAIN, labels_of(6)), "5 images came with 6 labels"),
    "labels alone": (
        ({"labels": labels_of()},),
        "{name} found 0 batches of images or videos in its input, and needs a batch of images",
    ),
}
REFUSED = {name: ({"num_classes": CLASSES}, *case) for name, case in OF_CLASSES.items()} | {
    "no labels by design": (ABSENT, (PLAIN, labels_of()), "labels must be a tensor, not NoneType; see labels_getter"),
    "a copy of the labels": (
        CLONED,
        (PLAIN, labels_of()),
        "labels_getter must return a tensor that is part of the input, not a new one",
    ),
    "classes without their number": ({}, (PLAIN, labels_of()), "labels that are classes (B,) need num_classes"),
    "two batches for a record": (
        {"record": True},
        ((tv_tensors.Image(PLAIN), labels_of(), tv_tensors.Image(PLAIN)),),
        MANY.format(found=2),
    ),
    "a video for a record": (
        {"record": True},
        (tv_tensors.Video(PLAIN[:, None]), labels_of()),
        MANY.format(found=1),
    ),
}


def assert_refused(call, text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        call()
    assert str(error.value) == text


@pytest.mark.parametrize(("settings", "inputs", "text"), REFUSED.values(), ids=REFUSED)
@every_method
def test_what_does_not_fit_is_refused(method, settings, inputs, text):
    assert_refused(lambda: method(**settings)(*inputs), text.format(name=method.__name__))


@every_method
def test_mixing_twice_is_refused_for_labels_of_classes_but_not_for_dense_ones(method):
    """As in torchvision, a second mix sees the dense labels of the first."""
    twice = v2.Compose([method(num_classes=CLASSES), method(num_classes=CLASSES + 1)])
    text = "labels have 7 columns, but num_classes is 8; leave it out for labels (B, K)"
    assert_refused(lambda: twice(PLAIN, labels_of()), text)
    _, labels = v2.Compose([method(num_classes=CLASSES), method()])(PLAIN, labels_of())
    torch.testing.assert_close(labels.sum(1), torch.ones(SIZE))


def test_cutmix_of_images_of_two_sizes_is_refused():
    images = tv_tensors.Image(PLAIN), labels_of(), tv_tensors.Image(PLAIN[..., :8])
    text = "CutMix needs images of one height and width, not [(12, 8), (12, 20)]"
    assert_refused(lambda: CutMix(num_classes=CLASSES)(images), text)
    assert MixUp(num_classes=CLASSES)(images)[2].shape[-1] == 8


SETTINGS = {
    "alpha 0": ({"alpha": 0}, "alpha must be positive and finite, not 0"),
    "alpha nan": ({"alpha": NAN}, "alpha must be positive and finite, not nan"),
    "getter": ({"labels_getter": 12}, 'labels_getter must be "default" or a function, not 12'),
    "getter None": ({"labels_getter": None}, 'labels_getter must be "default" or a function, not None'),
}


@pytest.mark.parametrize(("settings", "text"), SETTINGS.values(), ids=SETTINGS)
@every_method
def test_settings_that_do_not_work_are_refused(method, settings, text):
    assert_refused(lambda: method(**settings), text)


def test_the_example_trains(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["torchvision_collate.py"])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(ROOT / "examples" / "torchvision_collate.py"), run_name="__main__")
    losses = [float(line.split("loss ")[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 3
    assert losses[2] < 0.9 * losses[0]
