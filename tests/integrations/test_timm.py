"""`TransMixup` in a loop with train.py's order of calls, against the loop of three lines."""

import inspect
import runpy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from transmix import AttentionError, Mixed, MixedCrossEntropy, Mixer, TransMix, TransMixWarning
from transmix.integrations.timm import TransMixup

timm_data, timm_loss, timm_task = (pytest.importorskip(f"timm.{part}") for part in ("data", "loss", "task"))

ROOT = Path(__file__).resolve().parents[2]
CLASSES = 3
MIXUP_ARGS = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "num_classes": CLASSES}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def in_fours(photographs):
    return list(zip(*(part.split(4) for part in photographs), strict=True))


def a_batch(size=4, seed=0):
    return torch.rand(size, 3, 32, 48, generator=seeded(seed)), torch.randint(CLASSES, (size,), generator=seeded(seed))


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def step_now(number, loader, accumulate):
    return (number + 1) % accumulate == 0 or number == len(loader) - 1


def losses_of_train_py(
    model, loader, mixup_fn, loss_fn, *, accumulate=1, off_epoch=2, autocast=nullcontext, channels_last=False
):
    """Train two epochs, calling everything in train.py's order; the loss of each batch."""
    task = timm_task.ClassificationTask(model, loss_fn.to(device="cpu"), device=torch.device("cpu"), verbose=False)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for epoch in range(2):
        if epoch >= off_epoch:
            mixup_fn.mixup_enabled = False
        task.get_trainable_module().train()
        optimizer.zero_grad()
        for number, (images, target) in enumerate(loader):
            images, target = images.to(device="cpu", dtype=None), target.to(device="cpu")
            images, target = mixup_fn(images, target)
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with autocast():
                loss = task(images, target)["loss"]
            (loss / accumulate).backward()
            losses.append(loss.item())
            if step_now(number, loader, accumulate):
                optimizer.step()
                optimizer.zero_grad()
    return losses


def losses_of_three_lines(model, loader, *, accumulate=1, off_epoch=2, autocast=nullcontext, **mixing):
    """Train the same two epochs without anything of timm's."""
    tm = TransMix(model, smoothing=0.1, generator=seeded(), **mixing)
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.05), []
    for epoch in range(2):
        tm.mixer.enabled = epoch < off_epoch
        for number, (images, labels) in enumerate(loader):
            mixed = tm.mix(images, labels)
            with autocast():
                loss = tm.loss(model(mixed.images), mixed)
            (loss / accumulate).backward()
            losses.append(loss.item())
            if step_now(number, loader, accumulate):
                optimizer.step()
                optimizer.zero_grad()
    return losses


LOOPS = {
    "plain": ({}, {}),
    "accumulate 2 of 3": ({}, {"accumulate": 2}),
    "mixing off in epoch 1": ({}, {"off_epoch": 1}),
    "autocast": ({}, {"autocast": bfloat16}),
    "channels last": ({}, {"channels_last": True}),
    "mode elem": ({"mode": "elem", "prob": 0.7}, {}),
    "by fraction": ({"downsample": "fraction", "weight": 1.0, "switch_prob": 0.9}, {}),
}
CRITERIA = {"ours": None, "timm's": timm_loss.SoftTargetCrossEntropy()}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
@pytest.mark.parametrize(("mixing", "loop"), LOOPS.values(), ids=LOOPS)
def test_the_losses_of_train_py_are_those_of_three_lines(photographs, make_model, mixing, loop, criterion):
    loader, model = in_fours(photographs), make_model()
    mixup_fn = TransMixup(model, criterion, generator=seeded(), **MIXUP_ARGS, **mixing)
    losses = losses_of_train_py(model, loader, mixup_fn, mixup_fn.loss, **loop)
    loop = {name: value for name, value in loop.items() if name != "channels_last"}  # changes no number
    expected = losses_of_three_lines(make_model(), loader, **loop, **mixing)
    assert losses == pytest.approx(expected, rel=0, abs=2e-3 if "autocast" in loop else 1e-5)
    assert len(losses) == 6


class ByArea(torch.nn.Module):
    def forward(self, logits, target):
        return MixedCrossEntropy(0.1)(logits, target)


class SmoothedTwice(torch.nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, logits, target):
        dense = target.targets(CLASSES, 0.1)
        return self.loss(logits, Mixed(target.images, dense, target.partner, *[target.lam] * 2, target.mask))


WRONG = {
    "labels by area": lambda mixup_fn: ByArea(),
    "smoothed twice": lambda mixup_fn: SmoothedTwice(mixup_fn.loss),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_loss_is_seen_in_the_comparison(photographs, make_model, wrong):
    loader, model = in_fours(photographs), make_model()
    mixup_fn = TransMixup(model, generator=seeded(), **MIXUP_ARGS)
    losses = losses_of_train_py(model, loader, mixup_fn, wrong(mixup_fn))
    expected = losses_of_three_lines(make_model(), loader)
    assert losses != pytest.approx(expected, rel=0, abs=2e-3)


def test_the_generator_is_that_of_the_seed_that_train_py_sets(make_model):
    model = make_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)  # train.py: the seed plus the rank
        torch.rand(7)  # whatever was drawn since
        mixup_fn = TransMixup(model, **MIXUP_ARGS)
    expected = TransMix(make_model(), generator=seeded(42)).mix(*a_batch())
    assert torch.equal(mixup_fn(*a_batch())[0], expected.images)


# ---------------------------------------------------------------------------------------------- timm's losses


BCE = {
    "mean": {},
    "threshold": {"target_threshold": 0.2},
    "sum": {"sum_classes": True},
    "weight": {"pos_weight": 2.0},
}


@pytest.mark.parametrize("settings", BCE.values(), ids=BCE)
def test_timms_binary_cross_entropy_gets_labels_by_attention(make_model, settings):
    criterion, model = timm_loss.BinaryCrossEntropy(**settings), make_model()
    mixup_fn = TransMixup(model, criterion, switch_prob=1.0, generator=seeded(), **MIXUP_ARGS)
    images, mixed = mixup_fn(*a_batch())
    logits = model(images)
    row = mixup_fn.transmix.reader.attention
    loss = mixup_fn.loss(logits, mixed)
    by_attention, by_area = (
        criterion(logits, record.targets(CLASSES, 0.1)) for record in (label_by_hand(mixed, row), mixed)
    )
    assert torch.allclose(loss, by_attention, atol=1e-6)
    if "target_threshold" not in settings:
        assert not torch.allclose(loss, by_area, atol=1e-4)


def label_by_hand(mixed, row):
    """TransMix's label in a loop over rows."""
    pasted = mixed.mask[:, ::8, ::8].expand(len(row), -1, -1).flatten(1)
    shares = torch.stack([a[~m].sum() / a.sum() for a, m in zip(row, pasted, strict=True)])
    return replace(mixed, lam=(shares + mixed.lam_area) / 2)


def test_the_criterion_of_timm_moves_with_the_loss(make_model):
    criterion = timm_loss.BinaryCrossEntropy(pos_weight=2.0)
    mixup_fn = TransMixup(make_model(), criterion, **MIXUP_ARGS)
    mixup_fn.loss.to(torch.float64)
    assert criterion.pos_weight.dtype == torch.float64
    assert not list(mixup_fn.loss.parameters())  # the model is not the loss's


def test_a_relabelled_target_is_not_relabelled_again(make_model):
    model = make_model()
    for criterion in CRITERIA.values():
        mixup_fn = TransMixup(model, criterion, generator=seeded(), switch_prob=1.0, **MIXUP_ARGS)
        images, mixed = mixup_fn(*a_batch())
        logits = model(images)
        relabelled = mixup_fn.transmix.relabel(mixed)
        assert mixup_fn.loss(logits, relabelled) == mixup_fn.loss(logits, relabelled)
        mixup_fn.transmix.detach()


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_targets_stay_smoothed_while_mixing_is_off(make_model, criterion):
    images, target = a_batch()
    timms = timm_data.Mixup(**MIXUP_ARGS)
    model = make_model()
    mixup_fn = TransMixup(model, criterion, **MIXUP_ARGS)
    mixup_fn.mixup_enabled = timms.mixup_enabled = False
    assert mixup_fn.transmix.mixer.enabled is False
    logits = model(images)
    expected = timm_loss.SoftTargetCrossEntropy()(logits, timms(images.clone(), target)[1])
    unmixed, record = mixup_fn(images, target)
    assert torch.equal(unmixed, images)
    loss = mixup_fn.loss(model(unmixed), record)
    assert torch.allclose(loss, expected, atol=1e-6)
    assert not torch.allclose(loss, torch.nn.functional.cross_entropy(logits, target), atol=1e-3)


def test_multi_label_targets_are_smoothed_towards_a_half_as_in_timm(make_model):
    if "multi_label" not in inspect.signature(timm_data.Mixup).parameters:
        pytest.skip("this timm has no multi_label")
    images, classes = a_batch()
    target = torch.nn.functional.one_hot(classes, CLASSES) | torch.tensor([[0, 0, 1]])
    timms = timm_data.Mixup(multi_label=True, **MIXUP_ARGS)
    timms.mixup_enabled = False
    model = make_model()
    mixup_fn = TransMixup(model, multi_label=True, generator=seeded(), **MIXUP_ARGS)
    _, mixed = mixup_fn(images, target)
    assert not torch.allclose(mixed.targets(CLASSES), timms(images.clone(), target)[1], atol=1e-3)
    mixup_fn.mixup_enabled = False
    images, mixed = mixup_fn(images, target)
    expected = timms(images.clone(), target)[1]
    assert torch.allclose(mixed.targets(CLASSES), expected)
    logits = model(images)
    by_hand = torch.nn.functional.binary_cross_entropy_with_logits(logits, expected)
    assert torch.allclose(mixup_fn.loss(logits, mixed), by_hand)


# ------------------------------------------------------------------------------------------------- parameters

OUR_OWN = ["model", "criterion", "weight", "downsample", "module", "prefix_tokens", "grid", "generator", "transmix"]
OTHER_DEFAULTS = {"cutmix_alpha": (0.0, 1.0), "num_classes": (1000, None)}


def test_parameters_have_timms_names_and_defaults_but_for_two():
    timms, ours = (inspect.signature(kind).parameters for kind in (timm_data.Mixup, TransMixup))
    assert set(timms) <= set(ours)
    assert [name for name in ours if name not in timms and name != "multi_label"] == OUR_OWN
    defaults = {name: (timms[name].default, ours[name].default) for name in timms}
    assert {name: pair for name, pair in defaults.items() if pair[0] != pair[1]} == OTHER_DEFAULTS


UNUSUAL = {
    "mixup_alpha": 0.3,
    "cutmix_alpha": 0.4,
    "cutmix_minmax": [0.2, 0.7],
    "prob": 0.6,
    "switch_prob": 0.9,
    "mode": "pair",
    "correct_lam": False,
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_every_parameter_arrives_at_the_mixer(make_model, name):
    def state(mixer):
        return {attribute: value for attribute, value in vars(mixer).items() if attribute != "generator"}

    defaults = {other: inspect.signature(TransMixup).parameters[other].default for other in UNUSUAL}
    mixer = TransMixup(make_model(), **{name: UNUSUAL[name]}).transmix.mixer
    assert state(mixer) == state(Mixer(**defaults | {name: UNUSUAL[name]}))
    assert state(mixer) != state(Mixer(**defaults))


def test_odd_batches_pass_and_images_are_not_modified(make_model):
    model = make_model()
    mixup_fn = TransMixup(model, generator=seeded(), **MIXUP_ARGS)
    images, target = a_batch(3)
    before = images.clone()
    mixed_images, mixed = mixup_fn(images, target)
    assert torch.equal(images, before)
    assert not torch.equal(mixed_images, before)
    assert mixed.images is mixed_images
    assert torch.isfinite(mixup_fn.loss(model(mixed_images), mixed))


# --------------------------------------------------------------------------------------------------- failures

NOT_CALLED = (
    ", not the record that TransMixup returns: mixup_fn was not called for this batch. timm's prefetcher mixes in the "
    "collate function and never calls it: run train.py with --no-prefetcher, or mix after the prefetcher "
    "(see transmix.integrations.timm)"
)


def assert_refused(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


def test_a_batch_that_timms_collate_mixed_is_refused(make_model):
    model = make_model()
    mixup_fn = TransMixup(model, **MIXUP_ARGS)
    images, target = a_batch()
    samples = [((image * 255).byte().numpy(), int(label)) for image, label in zip(images, target, strict=True)]
    collated, soft = timm_data.FastCollateMixup(**MIXUP_ARGS)(samples)
    logits = model(collated.float())
    assert_refused(lambda: mixup_fn.loss(logits, soft), ValueError, "the target is a tensor (4, 3)" + NOT_CALLED)
    assert_refused(lambda: mixup_fn.loss(logits, target), ValueError, "the target is a tensor (4,)" + NOT_CALLED)
    assert_refused(lambda: mixup_fn.loss(logits, [1, 2]), ValueError, "the target is list" + NOT_CALLED)


def test_a_forward_that_never_came_is_an_error_and_not_a_label_by_area(make_model):
    model = make_model()
    for criterion in CRITERIA.values():
        mixup_fn = TransMixup(model, criterion, **MIXUP_ARGS)
        logits = model(mixup_fn(*a_batch())[0])
        _, mixed = mixup_fn(*a_batch(seed=1))
        with pytest.raises(AttentionError, match=r"no attention was recorded in 'blocks\.1\.attn'"):
            mixup_fn.loss(logits, mixed)
        mixup_fn.transmix.detach()


NOTHING = "TransMix would change nothing: "
REFUSED = {
    "no CutMix": ({"cutmix_alpha": 0.0}, NOTHING + "without CutMix (cutmix_alpha 0) no image has a box"),
    "mode": ({"mode": "half"}, "mode must be 'batch', 'pair' or 'elem', not 'half'"),
    "smoothing": ({"label_smoothing": 1.0}, "smoothing must lie in [0, 1), not 1.0"),
}


@pytest.mark.parametrize(("settings", "text"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_work_are_refused(make_model, settings, text):
    assert_refused(lambda: TransMixup(make_model(), **settings), ValueError, text)


def test_another_number_of_classes_is_refused(make_model):
    model = make_model()
    mixup_fn = TransMixup(model, num_classes=1000)
    images, mixed = mixup_fn(*a_batch())
    text = "the model gives 3 classes, but num_classes is 1000"
    assert_refused(lambda: mixup_fn.loss(model(images), mixed), ValueError, text)


def test_classes_where_multi_label_wants_columns_are_refused(make_model):
    mixup_fn = TransMixup(make_model(), multi_label=True)
    text = "multi_label targets must be (B, K), one column a class, not (4,)"
    assert_refused(lambda: mixup_fn(*a_batch()), ValueError, text)


def test_a_batch_of_one_is_told_of(make_model):
    mixup_fn = TransMixup(make_model(), **MIXUP_ARGS)
    with pytest.warns(TransMixWarning, match="a batch of one image has no partner"):
        mixup_fn(*a_batch(1))


def test_the_example_trains(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["timm_train.py"])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(ROOT / "examples" / "timm_train.py"), run_name="__main__")
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 0 (mixed): loss ")
    assert second.startswith("epoch 1 (mixed): loss ")
    assert last.startswith("epoch 2 (not mixed): loss ")
    assert float(last.split()[-1]) < 0.7 * float(first.split()[-1])
