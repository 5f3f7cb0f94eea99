"""Any rule in the three lines: it gets the evidence that it asks for, of the batch that it labels, and nothing else."""

import copy
import pickle
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transmix import MixedBCE, Mixer, TransMix
from transmix.labels import AreaLabels, LineLabels
from transmix.mixing import CutMix
from transmix.plugins import UnknownNameError

CLASSES, SIZE = 4, (12, 20)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.dropped = nn.Dropout(0.5)

    def forward(self, tokens):
        query, key, value = self.qkv(tokens)[:, None].chunk(3, -1)
        return self.dropped(F.scaled_dot_product_attention(query, key, value)[:, 0])


class ViT(nn.Module):
    """A ViT of one block, with dropout and batch norm, as somebody would write it."""

    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.cut = nn.Conv2d(3, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.attention = Attention(width)
        self.head = nn.Linear(width, CLASSES)

    def tokens(self, images):
        patches = self.cut(self.norm(images)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)

    def forward(self, images):
        return self.head(self.attention(self.tokens(images))[:, 0])


def a_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ViT()


def a_batch(size=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(size, 3, *SIZE, generator=rng), torch.randint(0, CLASSES, (size,), generator=rng)


@dataclass(frozen=True)
class Looks:
    """Labels by area; keeps what it was given."""

    needs: ClassVar = ()
    seen: list = field(default_factory=list)

    def __call__(self, mixed, evidence):
        self.seen.append(evidence)
        return replace(mixed, lam=mixed.lam_area)


def looking_at(*kinds):
    return type("Looks", (Looks,), {"needs": kinds})()


def made(model, rule, **settings):
    generator = torch.Generator().manual_seed(0)
    return TransMix(model, labels=rule, mixer=Mixer(mixup_alpha=0, generator=generator), module="attention", **settings)


def explicit_row(model, images):
    """softmax(q k^T / sqrt(D)) of the class token, in float64."""
    model = _copy(model).double().eval()
    with torch.no_grad():
        query, key, _ = model.attention.qkv(model.tokens(images.double())).chunk(3, -1)
    scores = query[:, :1] @ key.transpose(1, 2) / query.shape[-1] ** 0.5
    return scores.softmax(-1)[:, 0, 1:]


def _copy(model):
    other = ViT()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("rule", ["area", "line", "centre", AreaLabels(), LineLabels(0.5)])
def test_a_rule_that_looks_at_nothing_needs_no_model_and_reads_none(rule):
    model = a_model()
    for read in (None, model):
        tm = made(read, rule)
        mixed = tm.mix(*a_batch())
        loss = tm.loss(model(mixed.images), mixed)
        loss.backward()
        assert tm.reader is None
        assert "forward" not in model.attention.__dict__
        assert tm.relabel(mixed).rule in ("area", "line", "centre")


def test_labels_by_area_are_the_mixers():
    tm = made(None, "area")
    images, labels = a_batch()
    mixed, plain = (
        tm.mix(images, labels),
        Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(0))(images, labels),
    )
    logits = torch.randn(3, CLASSES)
    expected = -(plain.targets(CLASSES) * logits.log_softmax(1)).sum(1).mean()
    assert float(tm.loss(logits, mixed)) == pytest.approx(float(expected), abs=1e-6)


def test_each_kind_of_evidence_is_what_it_says():
    model = a_model()
    rule = looking_at("attention", "logits", "maps", "clean", "foreground")
    tm = made(model, rule)
    images, labels = a_batch()
    foreground = torch.rand(3, *SIZE) > 0.5
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tm.reader.eval = True
    mixed = tm.mix(images, labels, foreground=foreground)
    tm.reader.eval = True
    logits = model(mixed.images)
    tm.loss(logits, mixed)
    (found,) = rule.seen
    assert torch.allclose(found.attention.row.double(), explicit_row(model, mixed.images), atol=1e-6)
    assert torch.allclose(found.clean.row.double(), explicit_row(model, images), atol=1e-6)
    assert not torch.allclose(found.clean.row, found.attention.row, atol=1e-4)
    assert found.attention.grid == found.clean.grid == (3, 5)
    assert torch.equal(found.logits, logits)
    assert not found.logits.requires_grad
    assert found.maps.shape == (3, 1, 1, 16, 16)
    assert torch.allclose(found.maps[:, 0, 0, 0, 1:].double(), explicit_row(model, mixed.images), atol=1e-6)
    assert found.foreground is foreground
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_not_asked_for_is_not_there():
    model = a_model()
    rule = looking_at("logits")
    tm = made(model, rule)
    mixed = tm.mix(*a_batch())
    tm.loss(model(mixed.images), mixed)
    (found,) = rule.seen
    assert {name for name, value in vars(found).items() if value is not None} == {"logits"}
    with pytest.raises(ValueError, match=r"look at the logits: tm\.relabel\(mixed, logits=logits\)"):
        tm.relabel(mixed)


def test_looking_at_clean_images_leaves_the_model_and_random_numbers_as_they_were():
    model = a_model().train()
    model.norm.eval()  # frozen, as in fine-tuning
    tm = made(model, looking_at("clean"))
    state, buffers = torch.get_rng_state(), {name: value.clone() for name, value in model.named_buffers()}
    tm.mix(*a_batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    assert (model.training, model.attention.dropped.training, model.norm.training) == (True, True, False)
    assert all(weight.grad is None for weight in model.parameters())


def test_the_evidence_from_before_is_that_of_the_batch_whatever_the_order():
    model = a_model().eval()
    rule = looking_at("clean")
    tm = made(model, rule)
    batches = [a_batch(seed=seed) for seed in range(3)]
    mixed = [tm.mix(*batch) for batch in batches]
    for at in (1, 0, 2):
        tm.loss(model(mixed[at].images), mixed[at])
        assert torch.allclose(rule.seen[-1].clean.row.double(), explicit_row(model, batches[at][0]), atol=1e-6)
    with pytest.raises(ValueError, match=r"none of the last 4 that tm\.mix returned: pass the record"):
        tm.relabel(replace(mixed[0], images=mixed[0].images.clone()))
    for seed in range(4):
        tm.mix(*a_batch(seed=seed))
    with pytest.raises(ValueError, match="none of the last 4"):
        tm.relabel(mixed[0])


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"labels": "atention"}, UnknownNameError, "no rule is called 'atention'; did you mean attention?"),
        ({"labels": "line", "weight": 0.3}, TypeError, "rule 'line' has no setting 'weight'; it has slope"),
        ({"labels": "line", "labels_options": {"slope": 2}}, ValueError, "slope must lie in [0, 1], not 2"),
        ({"labels": LineLabels(), "weight": 0.3}, TypeError, "line brings its own settings; give it weight"),
        ({"labels": looking_at("entrails")}, ValueError, "Looks needs entrails; there is attention, logits, maps"),
        (
            {"labels": 3},
            TypeError,
            "a label rule is called with (mixed, evidence) and says what it needs, a tuple of names; int does not",
        ),
        ({"mixer": Mixer(), "mode": "elem"}, TypeError, "mixer brings its own settings; give it mode, not TransMix"),
        ({"labels": "line", "prob": 0}, ValueError, "labels 'line' would change nothing: prob 0 mixes no batch"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error, text):
    model = a_model()
    with pytest.raises(error) as refused:
        TransMix(model, module="attention", **settings)
    assert text in str(refused.value)
    assert "forward" not in model.attention.__dict__


def test_a_rule_that_looks_at_a_model_needs_one():
    with pytest.raises(ValueError, match=r"labels 'attention' look at the model: TransMix\(model, \.\.\.\)"):
        TransMix(None)
    with pytest.raises(ValueError, match=r"need masks of the objects: tm\.mix\(images, labels, foreground=masks\)"):
        made(None, looking_at("foreground")).mix(*a_batch())


def test_methods_and_a_loss_of_ones_own():
    model = a_model()
    mixer = Mixer(methods=[CutMix(minmax=(0.3, 0.6))], generator=torch.Generator().manual_seed(0))
    tm = TransMix(model, mixer=mixer, labels="attention", weight=1.0, module="attention", criterion=MixedBCE())
    mixed = tm.mix(*a_batch())
    logits = model(mixed.images)
    labelled = tm.relabel(mixed)
    assert torch.equal(tm.attention.row, tm.attention.row)
    expected = F.binary_cross_entropy_with_logits(logits, labelled.targets(CLASSES))
    assert float(tm.loss(logits, labelled).detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert repr(tm) == (
        "TransMix(CutMix, labels by AttentionLabels(weight=1.0, downsample='nearest', shift=0), reads 'attention')"
    )


def test_two_weights_that_do_not_sum_to_one():
    """SnapMix: loss = mean over rows of lam * CE(own) + lam_partner * CE(partner)."""
    images, labels = a_batch(4)
    mixed = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(1))(images, labels)
    lam, theirs = torch.tensor([0.2, 0.9, 0.0, 1.0]), torch.tensor([0.5, 0.4, 0.0, 0.7])
    mixed = replace(mixed, lam=lam, lam_partner=theirs)
    logits = torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(2))
    both = [F.cross_entropy(logits, one, reduction="none") for one in (labels, labels[mixed.partner])]
    slow = sum(float(lam[row] * both[0][row] + theirs[row] * both[1][row]) for row in range(4)) / 4
    tm = made(None, "area", smoothing=0.0)
    assert float(tm.criterion(logits, mixed)) == pytest.approx(slow, abs=1e-6)
    dense = replace(mixed, labels=F.one_hot(labels, CLASSES).float())
    assert float(tm.criterion(logits, dense)) == pytest.approx(slow, abs=1e-6)
    assert torch.allclose(mixed.targets(CLASSES).sum(1), lam + theirs)
    lost = replace(mixed, labels=labels.index_fill(0, torch.tensor([1]), -100))
    assert tm.criterion(logits, lost).isfinite()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_a_copy_of_model_and_transmix_in_the_middle_of_a_step_begins_anew(copied):
    model = a_model().eval()
    tm = made(model, Clean(), prefix_tokens=1)
    tm.mix(*a_batch())
    other, theirs = copied((model, tm))
    mixed = theirs.mix(*a_batch(seed=1))
    clean = theirs._from_before(mixed).clean
    assert torch.allclose(clean.row.double(), explicit_row(other, a_batch(seed=1)[0]), atol=1e-6)
    assert theirs.guide.reader.model is other
    assert len(theirs._before) == 1


@dataclass(frozen=True)
class Clean:
    """Looks at the clean images; picklable, as a rule must be for spawned workers."""

    needs: ClassVar = ("clean",)

    def __call__(self, mixed, evidence):
        return mixed


def test_nothing_of_a_rule_before_stays_in_what_the_next_rule_makes():
    mixed = Mixer(mixup_alpha=0, generator=torch.Generator().manual_seed(1))(*a_batch(4))
    before = replace(mixed, lam=torch.full((4,), 0.3), lam_partner=torch.full((4,), 0.2), rule="snapmix")
    labelled = made(None, looking_at()).relabel(before)
    assert labelled.lam_partner is None
    assert torch.equal(labelled.lam, mixed.lam_area)
    assert torch.allclose(labelled.targets(CLASSES).sum(1), torch.ones(4))


def test_masks_and_weights_of_another_size_are_refused():
    tm = made(None, looking_at("foreground"))
    with pytest.raises(ValueError, match=r"foreground must be \(B, H, W\) of the images, not \(1, 3, 3\)"):
        tm.mix(*a_batch(), foreground=torch.ones(1, 3, 3))
    wrong = type("Wrong", (Looks,), {"__call__": lambda self, mixed, _: replace(mixed, lam=mixed.lam_area[:1])})()
    with pytest.raises(ValueError, match=r"gave weights \(1,\) for 3 rows"):
        made(None, wrong).relabel(made(None, "area").mix(*a_batch()))
    with pytest.raises(TypeError, match="a tuple of names; LineLabels does not"):
        TransMix(None, labels=LineLabels)
