"""Lightning equals a loop that draws alike; validation stays plain."""

import os
import runpy
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from explicit import sharpen
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from transmix import AttentionError, TransMix
from transmix.data.seeding import derive_seed

lightning = pytest.importorskip("lightning")
timm = pytest.importorskip("timm")

from transmix.integrations.lightning import TransMixModule, mix_by_key  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lightning_fit.py"
CLASSES, LR, SEED = 3, 0.02, 5


def a_model():
    """A tiny DeiT whose attention is far from uniform."""
    tiny = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    return sharpen(timm.create_model("deit_tiny_patch16_224", img_size=(32, 48), **tiny)).train()


class Classifier(TransMixModule):
    """A user's module, and lists of what went on."""

    def __init__(self, model=None, compiled=False):
        super().__init__()
        self.model = model or a_model()
        self.transmix = TransMix(self.model, smoothing=0.1)
        if compiled:
            self.model.compile(backend="eager")
        self.losses, self.validated = [], []

    def forward(self, images):
        return self.model(images)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item() * self.trainer.accumulate_grad_batches)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.validated.append((len(self.losses), loss.item()))
        self.log("val_loss", loss, sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR)


@pytest.fixture
def noise():
    rng = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(20, 3, 32, 48, generator=rng), torch.randint(CLASSES, (20,), generator=rng))


@pytest.fixture
def real(photographs):
    """Twelve photographs, each twice."""
    images, labels = photographs
    return TensorDataset(((images - 0.5) / 0.25).repeat(2, 1, 1, 1), labels.repeat(2))


def a_trainer(**changes):
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return lightning.Trainer(**settings | changes)


@pytest.fixture(autouse=True)
def seeded():
    """What `seed_everything` leaves, and nothing of what Lightning leaves: neither variables nor a process group."""
    with mock.patch.dict(os.environ, {"PL_GLOBAL_SEED": str(SEED)}):
        yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fit(data, module=None, compile_all=False, **changes):
    """(Losses of every micro-batch, last weights)."""
    module = module or Classifier()
    loader = DataLoader(data, batch_size=4)
    a_trainer(**changes).fit(torch.compile(module, backend="eager") if compile_all else module, loader, loader)
    return module.losses, module.model.state_dict()


def the_loop(data, accumulate=1, amp=None):
    """The same of a loop of one's own, which draws by (seed, step, batch, process)."""
    model = a_model().train()
    tm = TransMix(model, smoothing=0.1)
    batches, losses, boxes, step = list(DataLoader(data, batch_size=4)), [], [], 0
    for index, (images, labels) in enumerate(batches):
        tm.mixer.generator.manual_seed(derive_seed(SEED, "mix", step, index, 0))
        mixed = tm.mix(images, labels)
        boxes.append(mixed.mask is not None)
        with torch.autocast("cpu", amp, enabled=amp is not None):
            logits = model(mixed.images)
        loss = tm.loss(logits, mixed) / accumulate
        loss.backward()
        losses.append(loss.item() * accumulate)
        if (index + 1) % accumulate == 0 or index + 1 == len(batches):
            step += 1
            with torch.no_grad():
                for weight in model.parameters():
                    weight -= LR * weight.grad
                    weight.grad = None
    assert len(set(boxes)) == 2  # Mixup and CutMix both came up
    return losses, model.state_dict()


def assert_equal(one, two):
    assert one[0] == pytest.approx(two[0], rel=1e-5)
    assert all(torch.allclose(one[1][name], weight, atol=1e-5) for name, weight in two[1].items())


SETTINGS = {
    "plain": {},
    "accumulated, the last step of fewer batches": {"accumulate_grad_batches": 2},
    "bfloat16": {"precision": "bf16-mixed"},
    "DDP": {"strategy": "ddp", "use_distributed_sampler": False},  # the data's order stays as it is
    "compiled as a whole": {"compile_all": True, "limit_val_batches": 0},
    "validated after every batch": {"val_check_interval": 1},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_lightning_equals_the_loop(settings, noise):
    torch._dynamo.reset()
    amp = torch.bfloat16 if "precision" in settings else None
    assert_equal(fit(noise, **settings), the_loop(noise, settings.get("accumulate_grad_batches", 1), amp))


def test_lightning_equals_the_loop_with_a_compiled_model(noise):
    torch._dynamo.reset()
    assert_equal(fit(noise, Classifier(compiled=True)), the_loop(noise))


def test_lightning_equals_the_loop_on_photographs(real):
    assert_equal(fit(real, accumulate_grad_batches=2), the_loop(real, 2))


def test_labels_by_area_are_rejected(noise):
    module = Classifier()
    tm = module.transmix
    tm.relabel = lambda mixed: (tm.reader.take().row, mixed)[1]
    with pytest.raises(AssertionError):
        assert_equal(fit(noise, module), the_loop(noise))


def test_the_batchs_mean_lam_is_rejected(noise):
    module = Classifier()
    whole = module.transmix.criterion
    module.transmix.criterion = lambda logits, mixed: whole(
        logits, replace(mixed, lam=mixed.lam.mean().expand_as(mixed.lam))
    )
    with pytest.raises(AssertionError):
        assert_equal(fit(noise, module), the_loop(noise))


def test_validation_sees_plain_images_and_labels(noise):
    module, mixed = Classifier(), []
    mix = module.transmix.mix
    module.transmix.mix = lambda *batch: mixed.append(mix(*batch)) or mixed[-1]
    loader = DataLoader(noise, batch_size=20)
    trainer = a_trainer()
    trainer.fit(module, DataLoader(noise, batch_size=4), loader)
    assert len(mixed) == 5
    with torch.no_grad():
        logits = module.model.eval()(noise.tensors[0])
    expected = F.cross_entropy(logits, noise.tensors[1]).item()
    assert module.validated == [(5, pytest.approx(expected, rel=1e-5))]
    assert trainer.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert trainer.callback_metrics["train_loss"].item() == pytest.approx(module.losses[-1], rel=1e-6)


def test_a_resumed_run_mixes_as_if_it_had_not_stopped(noise, tmp_path):
    whole = fit(noise, max_epochs=2)
    first, second, loader = Classifier(), Classifier(), DataLoader(noise, batch_size=4)
    trainer = a_trainer()
    trainer.fit(first, loader)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    a_trainer(max_epochs=2).fit(second, loader, ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert_equal((first.losses + second.losses, second.model.state_dict()), whole)


def test_a_checkpoint_holds_the_users_model_alone(noise):
    assert set(Classifier().state_dict()) == {f"model.{name}" for name in a_model().state_dict()}


def test_a_training_step_of_ones_own_uses_the_same_loss(noise):
    class Manual(Classifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            images, labels = batch
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.mixed_loss(images, labels, batch_idx)
            self.manual_backward(loss)
            optimizer.step()
            return loss

    assert_equal(fit(noise, Manual()), the_loop(noise))


def test_other_seeds_processes_and_batches_draw_otherwise(noise, monkeypatch):
    images, labels = noise[:4]
    module, drawn = Classifier(), []
    for seed, rank, batch_idx in [(5, 0, 0), (6, 0, 0), (5, 1, 0), (5, 0, 1), (5, 0, 0)]:
        monkeypatch.setenv("PL_GLOBAL_SEED", str(seed))
        monkeypatch.setattr(Classifier, "global_rank", rank)
        drawn.append(float(mix_by_key(module, images, labels, batch_idx).lam[0]))
    assert len(set(drawn)) == 4
    assert drawn[0] == drawn[-1]


def test_a_module_without_transmix_is_an_error(noise):
    module = Classifier()
    del module.transmix
    with pytest.raises(AttributeError) as error:
        fit(noise, module)
    assert str(error.value) == (
        "Classifier has no TransMix: set self.transmix = TransMix(self.model, ...) in its __init__"
    )


def test_a_model_left_in_eval_mode_is_an_error(noise):
    module = Classifier(a_model().eval())
    with (
        pytest.warns(match="1 module|eval mode"),
        pytest.raises(AttentionError, match=r"no attention was recorded in 'blocks\.1\.attn'"),
    ):
        fit(noise, module)


def test_a_transmix_that_reads_another_model_is_an_error(noise):
    module = Classifier()
    module.transmix = TransMix(nn.ModuleDict({"other": a_model()})["other"])
    with pytest.raises(AttentionError, match=r"no attention was recorded in 'blocks\.1\.attn'"):
        fit(noise, module)


def test_the_example_runs_as_it_stands(capsys, monkeypatch):
    monkeypatch.setattr("lightning.seed_everything", torch.manual_seed)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines() if "_loss" in line} == {
        "train_loss",
        "val_loss",
    }
