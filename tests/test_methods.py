"""Every method under its own name: three lines on any ViT, right per sample, and leaving no traces."""

import copy
import pickle
from functools import cache

import pytest
import torch
from torch import nn

from transmix import AttentionError, Mixer, TransMix, mixing
from transmix.labels import RULES, ObjectLabels
from transmix.methods import NAMED, SMMix, SnapMix
from transmix.mixing import METHODS
from transmix.mixing.mixer import looks_at

timm = pytest.importorskip("timm")

CLASSES, SIDE = 5, 32
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 2, "num_classes": CLASSES, "img_size": SIDE, "patch_size": 8}


def timms():
    return timm.create_model("deit_tiny_patch16_224", **SMALL)


def torchvisions():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.VisionTransformer(SIDE, 8, 2, 2, 48, 96, num_classes=CLASSES)


def hugging_faces():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    return transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=SIDE, patch_size=8, num_labels=CLASSES)
    )


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


LIBRARIES = {"timm": timms, "torchvision": torchvisions, "transformers": hugging_faces}


@cache
def _model(library):
    torch.manual_seed(0)
    return LIBRARIES[library]()


def a_model(library="timm"):
    return copy.deepcopy(_model(library)).train()


def a_batch(size=5, seed=0, side=SIDE):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=rng)
    return images, torch.randint(0, CLASSES, (size,), generator=rng)


def masks(name, images):
    return {"foreground": images[:, 0] > 0} if name == "objectmix" else {}


def logits_of(output):
    return getattr(output, "logits", output)


def made(name, model, **settings):
    return NAMED[name](model, smoothing=0.1, generator=torch.Generator().manual_seed(0), **settings)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", NAMED)
def test_three_lines_train_any_vit(name, library):
    model = a_model(library)
    tm = made(name, model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    before = [weight.detach().clone() for weight in model.parameters()]
    for step in range(2):
        images, labels = a_batch(seed=step)
        mixed = tm.mix(images, labels, **masks(name, images))
        loss = tm.loss(logits_of(model(mixed.images)), mixed)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert loss.isfinite()
        assert mixed.images.shape == images.shape
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_labels_are_weights_per_sample_with_no_gradient(name, mode):
    model, (images, labels) = a_model(), a_batch(size=6)
    tm = made(name, model, mode=mode)
    kept = images.clone()
    mixed = tm.mix(images, labels, **masks(name, images))
    mixed = tm.relabel(mixed, logits=model(mixed.images))
    assert torch.equal(images, kept)
    assert mixed.lam.shape == (6,)
    assert mixed.lam.dtype == torch.float32
    assert not mixed.lam.requires_grad
    assert ((mixed.lam >= 0) & (mixed.lam <= 1)).all()
    shown = 1 - mixed.mask.float().mean((1, 2)).expand(6)
    torch.testing.assert_close(mixed.lam_area, shown, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_the_same_generator_mixes_alike_and_global_random_states_stay(name):
    images, labels = a_batch()
    results = []
    for _ in range(2):
        model = a_model().eval()  # no dropout: the second forward is the first
        tm = made(name, model)
        torch.manual_seed(5)
        state = torch.random.get_rng_state()
        results.append(tm.mix(images, labels, **masks(name, images)))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(results[0].images, results[1].images)
    assert torch.equal(results[0].lam, results[1].lam)


@pytest.mark.parametrize("name", NAMED)
def test_a_batch_of_one_or_of_mixing_turned_off_is_left_alone(name):
    model, (images, labels) = a_model(), a_batch(size=3)
    tm = made(name, model)
    tm.mixer.enabled = False
    mixed = tm.mix(images, labels, **masks(name, images))
    assert torch.equal(mixed.images, images)
    loss = tm.loss(model(mixed.images), mixed)
    expected = nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.usefixtures("fresh_compiler")
def test_it_trains_under_compile_as_without(name):
    images, labels = a_batch()
    losses = []
    for compiled in (False, True):
        model = a_model()
        tm = made(name, model)
        run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        mixed = tm.mix(images, labels, **masks(name, images))
        losses.append(tm.loss(run(mixed.images), mixed))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


LOOKING = [name for name, kind in NAMED.items() if looks_at(kind.method) not in (None, "saliency")]
LOOKING += ["tokenmix", "snapmix"]


@pytest.mark.parametrize("name", LOOKING)
def test_maps_are_of_the_clean_images(name):
    """Given the mixed images' maps instead, the labels or the images differ: the negative control."""
    model, (images, labels) = a_model(), a_batch()
    seen = []

    def looks(pictures, _):
        seen.append(pictures)
        return torch.rand(len(pictures), 4, 4, generator=torch.Generator().manual_seed(len(seen)))

    kind = SnapMix if name == "snapmix" else NAMED[name]
    tm = kind(model, guide=looks, generator=torch.Generator().manual_seed(0))
    if name == "smmix":
        tm.mix(images, labels)  # its loss needs the logits of a model; its mixing does not
    else:
        mixed = tm.mix(images, labels)
        tm.loss(model(mixed.images), mixed)
    assert len(seen) == 1
    assert seen[0] is images


@pytest.mark.parametrize("name", LOOKING)
def test_a_teacher_can_look_and_is_not_trained(name):
    model, teacher, (images, labels) = a_model(), a_model("torchvision"), a_batch()
    tm = made(name, model, guide=teacher)
    mixed = tm.mix(images, labels)
    tm.loss(model(mixed.images), mixed).backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", METHODS)
def test_any_method_goes_with_any_rule(method, rule):
    if not getattr(METHODS[method], "has_mask", True) and rule != "area":
        with pytest.raises(ValueError, match="would change nothing"):
            TransMix(a_model(), mixer=Mixer(methods=[METHODS[method]()]), labels=rule)
        return
    model, (images, labels) = a_model(), a_batch()
    mixer = Mixer(methods=[METHODS[method]()], generator=torch.Generator().manual_seed(0))
    tm = TransMix(model, mixer=mixer, labels=rule)
    foreground = {"foreground": images[:, 0] > 0} if "foreground" in RULES[rule].needs else {}
    mixed = tm.mix(images, labels, **foreground)
    logits = model(mixed.images)
    again = tm.relabel(mixed, logits=logits)
    assert again.rule == rule
    assert ((again.lam >= 0) & (again.lam <= 1)).all()
    assert tm.criterion(logits, again).isfinite()


def test_smmix_adds_its_losses_and_its_own_head_on_request():
    images, labels = a_batch()
    found = {}
    for head in (None, nn.Linear(48, CLASSES)):
        model = a_model()
        tm = SMMix(model, token_head=head, generator=torch.Generator().manual_seed(0))
        mixed = tm.mix(images, labels)
        logits = model(mixed.images)
        loss = tm.loss(logits, mixed)
        found[head] = loss
        assert loss > tm.criterion(logits, mixed)
        loss.backward()
        assert head is None or head.weight.grad.abs().sum() > 0
    tm = SMMix(a_model(), guide=lambda *_: torch.rand(5, 4, 4))
    mixed = tm.mix(images, labels)
    logits = tm.reader.model(mixed.images)
    with pytest.raises(AttentionError, match=r"a function as guide gives none: guide=a model"):
        tm.loss(logits, mixed)


def between_eval(model, images):
    model.eval()
    model(images.flip(0))
    model.train()


def between_train(model, images):
    model(images.flip(0))


@pytest.mark.parametrize("between", [between_eval, between_train])
def test_smmix_takes_the_tokens_of_its_own_forward_whatever_runs_since(between):
    images, labels = a_batch()
    losses = []
    for disturbed in (False, True):
        model = a_model()
        tm = made("smmix", model)
        mixed = tm.mix(images, labels)
        logits = model(mixed.images)
        if disturbed:
            between(model, images)
        losses.append(tm.loss(logits, mixed))
    assert torch.equal(*losses)


def test_smmix_takes_the_tokens_of_its_rows_in_a_larger_batch():
    images, labels = a_batch()
    losses = []
    for larger in (False, True):
        model = a_model()
        tm = made("smmix", model)
        mixed = tm.mix(images, labels)
        logits = model(torch.cat([mixed.images, images]) if larger else mixed.images)[:5]
        losses.append(tm.loss(logits, tm.relabel(mixed, rows=slice(0, 5) if larger else None)))
    torch.testing.assert_close(*losses)


def test_smmix_refuses_a_head_that_fsdp2_has_sharded():
    model = a_model()
    tm = SMMix(model)
    mixed = tm.mix(*a_batch())
    logits = model(mixed.images)
    model.head.weight.device_mesh = "of a DTensor"
    with pytest.raises(ValueError, match=r"FSDP2 has sharded them again: pass token_head=nn.Linear\(D, K\)"):
        tm.loss(logits, mixed)


def test_smmix_under_squares_and_mixup_in_turn():
    model, (images, labels) = a_model(), a_batch()
    mixer = Mixer(methods=[mixing.SMMix(), mixing.Mixup()], generator=torch.Generator().manual_seed(1))
    tm = SMMix(model, mixer=mixer)
    kinds = set()
    for _ in range(8):
        mixed = tm.mix(images, labels)
        kinds.add(mixed.mask is None)
        assert tm.loss(model(mixed.images), mixed).isfinite()
    assert kinds == {True, False}


def test_what_makes_no_sense_is_refused_with_the_reason():
    with pytest.raises(TypeError, match="SnapMix has no setting 'beta'; it has alpha, prob, mode, partner"):
        SnapMix(a_model(), beta=1)
    with pytest.raises(ValueError, match="need maps of the clean images: give a model, or guide="):
        SnapMix()
    with pytest.raises(ValueError, match="guide is given, but neither the method nor the label rule needs"):
        NAMED["fmix"](guide=a_model())
    with pytest.raises(TypeError, match="sum_to_one belong to the labels of TokenMix, but labels is given"):
        NAMED["tokenmix"](a_model(), labels="area", sum_to_one=False)
    with pytest.raises(ValueError, match=r"need masks of the objects: tm.mix\(images, labels, foreground=masks\)"):
        NAMED["objectmix"]().mix(*a_batch())
    with pytest.raises(ValueError, match="A mixer alone has no model, nor has a worker"):
        Mixer(methods=[mixing.SMMix()])(*a_batch())
    cait = timm.create_model("cait_xxs24_224", num_classes=CLASSES, depth=1)
    with pytest.raises(AttentionError, match="the class token is the only query in its last block"):
        SMMix(cait)
    assert TransMix(cait).reader.name.startswith("blocks_token_only")  # the refused method has left the model


@pytest.mark.parametrize("name", ["tlalign", "tokenmix"])
def test_tokens_are_the_models_patches(name):
    assert NAMED[name](a_model()).mixer.methods[0].cell == 8
    assert NAMED[name](a_model(), cell=4).mixer.methods[0].cell == 4


@pytest.mark.parametrize("name", ["fmix", "resizemix", "saliencymix", "objectmix"])
def test_a_model_is_not_needed_where_nothing_reads_it(name):
    images, labels = a_batch()
    tm = NAMED[name](smoothing=0.1)
    mixed = tm.mix(images, labels, **masks(name, images))
    assert tm.loss(torch.randn(5, CLASSES), mixed).isfinite()


def test_another_rule_can_take_the_papers_place():
    model = a_model()
    assert NAMED["fmix"](model, labels="attention").name == "attention"
    assert NAMED["resizemix"](labels=ObjectLabels(by="pixels")).rule.by == "pixels"
    assert repr(SnapMix(model)).startswith("SnapMix(SnapMix, labels by SemanticLabels(")


@pytest.mark.parametrize("name", NAMED)
def test_copies_of_model_and_method_read_the_copy(name):
    model = a_model()
    tm = made(name, model)
    images, labels = a_batch()
    for twin, other in (copy.deepcopy((model, tm)), pickle.loads(pickle.dumps((model, tm)))):
        mixed = other.mix(images, labels, **masks(name, images))
        assert other.loss(twin(mixed.images), mixed).isfinite()
