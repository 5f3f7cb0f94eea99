"""The integrations, each for one batch, with other forwards of the model between its forward and its loss.

What the model saw comes from a hook; box and partners are found by comparing pixels, and the loss is computed by hand.
"""

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from bends import CLOSE, Case, WrongError, drift, label_by_hand, logits_of
from explicit import explicit_attention
from readable import READABLE
from torch import Tensor, nn

from transmix import TransMix

BOX = {"mixup_alpha": 0.0, "cutmix_minmax": (0.4, 0.7)}

Trained = Callable[[nn.Module, Tensor, Tensor], Tensor]


def plain_loop(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Three lines in a loop of one's own."""
    tm = TransMix(model, **BOX)
    mixed = tm.mix(images, labels)
    return tm.loss(model(mixed.images), mixed)


def timm_script(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """As timm's train.py calls it."""
    from transmix.integrations.timm import TransMixup

    mixup_fn = TransMixup(model, label_smoothing=0.0, **BOX)
    images, target = mixup_fn(images, labels)
    return mixup_fn.loss(model(images), target)


def transformers_trainer(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One `compute_loss` of the Trainer."""
    from transformers import TrainingArguments

    from transmix.integrations.transformers import TransMixTrainer

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, report_to="none", use_cpu=True)
        trainer = TransMixTrainer(model, arguments, transmix=TransMix(model, **BOX))
        return trainer.compute_loss(model, {"pixel_values": images, "labels": labels})


def lightning_module(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One `training_step`, outside of any Trainer."""
    from transmix.integrations.lightning import TransMixModule

    class Classifier(TransMixModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.transmix = model, TransMix(model, **BOX)

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images)

        def log(self, *_: Any, **__: Any) -> None:
            """Leave it: there is no Trainer."""

    return Classifier().training_step((images, labels), 0)


def torchvision_collate(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """CutMix of torchvision in the collate function, which keeps a record."""
    from transmix.integrations.torchvision import CutMix

    tm = TransMix(model, **BOX)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        _, mixed = CutMix(record=True)(images, labels)
    return tm.loss(model(mixed.images), mixed)


def own_trainer(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """One step of `transmix train`, whose loss is overheard."""
    from transmix.data.settings import Data
    from transmix.recipes.settings import Mixing, Recipe
    from transmix.training.step import TrainingStep, build_transmix

    recipe = Recipe(data=Data(), mixing=Mixing(mix="transmix", mixup_alpha=0.0, smoothing=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    tm = build_transmix(recipe.mixing, model)
    step = TrainingStep(model, tm, optimizer, None, lambda pixels: pixels, recipe, torch.device("cpu"), 0)
    losses, criterion = [], tm.criterion
    tm.criterion = lambda *of: losses.append(criterion(*of)) or losses[-1]  # type: ignore[assignment]
    step(4, [(images, labels)], lr=0.0)
    return losses[0]


NEIGHBOURS: dict[str, Trained] = {
    "plain loop": plain_loop,
    "`integrations.timm.TransMixup`": timm_script,
    "`integrations.transformers.TransMixTrainer`": transformers_trainer,
    "`integrations.lightning.TransMixModule`": lightning_module,
    "`integrations.torchvision.CutMix(record=True)`": torchvision_collate,
    "`transmix train`": own_trainer,
}


class Hooks:
    """Keeps what a model saw first, and runs something else before or after that."""

    def __init__(self, model: nn.Module, other: Callable[[Tensor], Any] | None, first: bool):
        self.other, self.first = other, first
        self.seen: list[Tensor] = []
        model.register_forward_pre_hook(self.before, with_kwargs=True)
        model.register_forward_hook(self.after, with_kwargs=True)
        self.busy = False

    def before(self, _: nn.Module, args: tuple, kwargs: dict) -> None:
        """Note the images, and run the other forward if that comes first."""
        if not self.busy:
            self.seen.append((args[0] if args else kwargs["pixel_values"]).detach().clone())
            if self.first:
                self.run()

    def after(self, *_: Any) -> None:
        """Run the other forward if it comes later."""
        if not self.busy and not self.first:
            self.run()

    def run(self) -> None:
        """Run it, once."""
        if self.other is not None:
            self.busy = True
            with torch.no_grad():
                self.other(self.seen[0])
            self.busy = False


def judge(train: Trained, between: str) -> None:
    """Train one batch with what comes `between`, and compare the loss with the one by hand.

    Raises:
        WrongError: another loss.
    """
    kind = "transformers" if train is transformers_trainer else "timm"
    entry = next(entry for entry in READABLE if entry.library == kind and entry.family == "ViT")
    case = Case(entry, False)
    model, labels = case.model, torch.tensor([0, 3, 1])
    ema = copy.deepcopy(model)
    drift(ema)
    others: dict[str, Callable[[Tensor], Any]] = {
        "clean forward before": lambda seen: model(case.images),
        "clean forward after": lambda seen: model(case.images),
        "flipped view after": lambda seen: model(seen.flip(3)),
        "EMA copy after": lambda seen: ema(seen),
    }
    if between == "attention in eval mode":
        model.get_submodule(case.name).eval()
    hooks = Hooks(model, others.get(between), "before" in between)
    loss = train(model, case.images, labels)
    expected = loss_by_hand(case, hooks.seen[0], labels)
    if abs(loss.item() - expected) > CLOSE:
        raise WrongError(f"the loss is {loss.item()} instead of {expected}")


BETWEEN = (
    "nothing", "clean forward before", "clean forward after", "flipped view after", "EMA copy after",
    "attention in eval mode",
)  # fmt: skip


def loss_by_hand(case: Case, seen: Tensor, labels: Tensor) -> float:
    """Return the cross-entropy of the images that the model saw, by the labels of their attention."""
    images, count = case.images, len(labels)
    mask = (seen != images).flatten(0, 1).any(0)
    if not mask.any() or mask.all():
        raise WrongError("no box to tell labels by")
    partners = [
        next((c for c in range(count) if torch.equal(seen[b][:, mask], images[c][:, mask])), None) for b in range(count)
    ]
    patches = case.grid[0] * case.grid[1]
    row = explicit_attention(case.twin, case.name, seen)[:, :, 0, -patches:].mean(1)
    lam = label_by_hand(mask[None], row, case.grid).tolist()
    with torch.no_grad():
        surprise = -logits_of(case.twin(seen)).double().log_softmax(1)
    losses = [
        lam[b] * surprise[b, labels[b]] + (1 - lam[b]) * surprise[b, labels[partners[b]]]  # type: ignore[index]
        for b in range(count)
    ]
    return float(sum(losses)) / count
