"""Drop-in `CutMix` and `MixUp` of torchvision, with the option to return a record for TransMix instead of labels.

Signatures and behaviour are torchvision's: the same seed gives the same batch. With `record=True` a `Mixed` replaces
the labels.
It is made in the loader's workers; the training loop computes its label weights from the model's attention:

    mix = v2.RandomChoice([CutMix(record=True), MixUp(record=True)])

    def collate(samples):
        images, mixed = mix(*default_collate(samples))
        return mixed

    tm = transmix.TransMix(model, smoothing=0.1)
    for mixed in DataLoader(dataset, batch_size=256, num_workers=8, pin_memory=True, collate_fn=collate):
        mixed = mixed.to(device, non_blocking=True)
        loss = tm.loss(model(mixed.images), mixed)

Draws come from torch's global generator, as in all of torchvision's transforms: a loader seeds it for every worker and
epoch.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from transmix.mixing.cutmix import cutmix
from transmix.mixing.mixed import Mixed
from transmix.mixing.mixer import Mixer
from transmix.mixing.mixup import mixup

UNSUPPORTED = (Image.Image, tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask)


class _BatchMix(v2.Transform):
    """The parts that `CutMix` and `MixUp` share: settings, checks, and finding images and labels in a batch."""

    mixes: Callable[..., Mixed]
    """What mixes a batch."""

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        num_classes: int | None = None,
        labels_getter: Callable[[Any], Any] | str = "default",
        record: bool = False,
    ):
        super().__init__()
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, not {alpha}")
        if labels_getter != "default" and not callable(labels_getter):
            raise ValueError(f'labels_getter must be "default" or a function, not {labels_getter!r}')
        self.alpha = float(alpha)
        self.num_classes = num_classes
        self.record = record
        self.labels_getter = labels_getter if callable(labels_getter) else find_labels

    def mix(self, images: Tensor, labels: Tensor, **params: Any) -> Mixed:
        """Mix a batch (B, C, H, W) as drawn; row i with row i - 1 and the first with the last, as torchvision does."""
        return self.mixes(images, labels, partner=torch.arange(len(images), device=images.device).roll(1), **params)

    def forward(self, *inputs: Any) -> Any:
        """Mix images and labels in any nesting of tuples, lists and dicts; return all else unchanged.

        Images are `tv_tensors.Image` (B, C, H, W) and `Video` (B, T, C, H, W), else the first plain tensor.

        Raises:
            ValueError: no images or labels, shapes that do not fit, or unsupported input (PIL images, boxes, keypoints,
                masks).
        """
        batch = inputs[0] if len(inputs) == 1 else inputs
        name = type(self).__name__
        leaves, structure = tree_flatten(batch)
        if unsupported := [type(leaf).__name__ for leaf in leaves if isinstance(leaf, UNSUPPORTED)]:
            raise ValueError(f"{name} mixes batches of tensors; it does not support {unsupported[0]} in its input")
        labels = check_labels(self.labels_getter(batch), self.num_classes, self.record)
        labels_place = next((place for place, leaf in enumerate(leaves) if leaf is labels), None)
        if labels_place is None:
            raise ValueError("labels_getter must return a tensor that is part of the input, not a new one")
        places = image_places(leaves, labels)
        for place in places:
            check_images(leaves[place], len(labels))
        if not places or (self.record and (len(places) > 1 or leaves[places[0]].ndim != 4)):
            wanted = "exactly one batch of images (B, C, H, W), for record=True" if self.record else "a batch of images"
            raise ValueError(f"{name} found {len(places)} batches of images or videos in its input, and needs {wanted}")
        params = self.make_params([leaves[place] for place in places])
        weights = labels if labels.ndim == 1 or labels.is_floating_point() else labels.float()
        for place in places:
            whole = leaves[place].as_subclass(Tensor)
            mixed = self.mix(whole.flatten(1, -3), weights, **params)  # a video's frames are so many channels
            leaves[place] = like(mixed.images.view_as(whole) if whole.ndim == 5 else mixed.images, leaves[place])
        leaves[labels_place] = mixed if self.record else soft_labels(mixed, self.num_classes)
        return tree_unflatten(leaves, structure)


class CutMix(_BatchMix):
    """Paste a box of each row's neighbour into it, one box for the batch; labels by area.

    Row i takes its box from row i - 1 (the batch rolled by one), so batches must be shuffled.

    Args:
        alpha: lam ~ Beta(alpha, alpha); the box leaves about a fraction lam of the image.
        num_classes: K; not needed for labels (B, K) or with `record`.
        labels_getter: "default" (the second item; or, in a dict, the key "labels", else a key with "label" in it,
            in any case), or a function from the whole input to its labels.
        record: replace the labels by a `Mixed`, for `TransMix.loss`. Its `images` are the mixed images; later
            transforms do not change them.

    Raises:
        ValueError: alpha is not positive, or labels_getter has another type.

    Example:
        >>> images, labels = CutMix(num_classes=10)(torch.rand(4, 3, 32, 48), torch.arange(4))
        >>> labels.shape
        torch.Size([4, 10])
    """

    mixes = staticmethod(cutmix)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the box for images (..., H, W) of one size."""
        sizes = {tuple(images.shape[-2:]) for images in flat_inputs}
        if len(sizes) > 1:
            raise ValueError(f"CutMix needs images of one height and width, not {sorted(sizes)}")
        left, top, right, bottom = v2.CutMix(alpha=self.alpha).make_params(flat_inputs)["box"]
        return {"box": (top, left, bottom, right)}


class MixUp(_BatchMix):
    """Blend images and labels of each row with its neighbour, with one lam for the batch.

    Row i is blended with row i - 1 (the batch rolled by one), so batches must be shuffled. uint8 results are rounded
    (torchvision does not support uint8).

    Args:
        alpha: the weight of the row itself comes from Beta(alpha, alpha).
        num_classes: as in `CutMix`.
        labels_getter: as in `CutMix`.
        record: as in `CutMix`. TransMix does not change the labels of a blended batch.

    Raises:
        ValueError: as in `CutMix`.
    """

    mixes = staticmethod(mixup)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw lam."""
        return v2.MixUp(alpha=self.alpha).make_params(flat_inputs)


class BatchMix(_BatchMix):
    """Mix a batch by any method that looks at nothing but the pixels: FMix, ResizeMix, SaliencyMix, ...

    Args:
        mixer: `transmix.Mixer(methods=[...])`; in a worker of a DataLoader its draws depend on the worker's seed.
        num_classes: as in `CutMix`.
        labels_getter: as in `CutMix`.
        record: as in `CutMix`.

    Raises:
        ValueError: as in `CutMix`; when called, for a method that looks at the images with a model: mix those in the
            loop, by `tm.mix`.

    Example:
        >>> mix = BatchMix(transmix.Mixer(methods=[transmix.mixing.FMix()]), num_classes=10)
        >>> images, labels = mix(torch.rand(4, 3, 32, 48), torch.arange(4))
    """

    def __init__(
        self,
        mixer: Mixer,
        *,
        num_classes: int | None = None,
        labels_getter: Callable[[Any], Any] | str = "default",
        record: bool = False,
    ):
        super().__init__(num_classes=num_classes, labels_getter=labels_getter, record=record)
        self.mixer = mixer

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return nothing: the mixer draws when it mixes.

        Raises:
            ValueError: several batches of images, each of which would be mixed in its own way.
        """
        if len(flat_inputs) > 1:
            raise ValueError(f"BatchMix mixes one batch of images with its labels, not {len(flat_inputs)}")
        return {}

    def mix(self, images: Tensor, labels: Tensor, **params: Any) -> Mixed:
        """Mix a batch (B, C, H, W)."""
        return self.mixer(images, labels)


def soft_labels(mixed: Mixed, num_classes: int | None) -> Tensor:
    """Return the mixed labels as (B, K), in the labels' dtype if it is a float type."""
    if mixed.labels.is_floating_point():
        return mixed.targets(mixed.labels.shape[1]).to(mixed.labels.dtype)
    assert num_classes is not None  # check_labels has seen to it
    return mixed.targets(num_classes)


def find_labels(batch: Any) -> Any:
    """Find the labels in the second item of a tuple or list, or under a key like "labels" in a dict."""
    if isinstance(batch, tuple | list):
        batch = batch[1] if len(batch) > 1 else None
    if is_plain(batch):
        return batch
    if not isinstance(batch, Mapping):
        found = f"{type(batch).__name__}; pass a function as labels_getter"
        raise ValueError(f'labels_getter "default" looks for labels in the second item or in a dict, and found {found}')
    keys = [key for key in batch if isinstance(key, str) and "label" in key.lower()]
    if not keys:
        raise ValueError(f'no key has "label" in it: {", ".join(map(str, batch))}; pass a function as labels_getter')
    return batch[next((key for key in keys if key.lower() == "labels"), keys[0])]


def image_places(leaves: list[Any], labels: Tensor) -> list[int]:
    """Return the positions of the images: every tv_tensors.Image, else the first plain tensor that is not the labels.

    Differs from torchvision, which mistakes labels for images if they come first in a dict.
    """
    known = [place for place, leaf in enumerate(leaves) if isinstance(leaf, tv_tensors.Image | tv_tensors.Video)]
    plain = [place for place, leaf in enumerate(leaves) if is_plain(leaf) and leaf is not labels]
    return known or plain[:1]


def is_plain(leaf: Any) -> bool:
    """Whether this is a plain tensor, not a tv_tensor."""
    return isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)


def like(images: Tensor, original: Tensor) -> Tensor:
    """Return images in the original's type: plain tensor, Image or Video."""
    return images if is_plain(original) else tv_tensors.wrap(images, like=original)  # type: ignore[call-arg]


def check_images(images: Tensor, batch: int) -> None:
    """Check a batch of images or videos.

    Raises:
        ValueError: wrong number of dimensions, or the number of images differs from that of labels.
    """
    shape = "(B, T, C, H, W)" if isinstance(images, tv_tensors.Video) else "(B, C, H, W)"
    if images.ndim != shape.count(",") + 1:
        raise ValueError(f"{type(images).__name__} must be a batch {shape}, not {tuple(images.shape)}")
    if len(images) != batch:
        raise ValueError(f"{len(images)} images came with {batch} labels")


def check_labels(labels: Any, num_classes: int | None, record: bool) -> Tensor:
    """Return the labels.

    Raises:
        ValueError: not a tensor (B,) or (B, K), K differs from `num_classes`, or class labels without `num_classes`.
    """
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor, not {type(labels).__name__}; see labels_getter")
    if labels.ndim not in (1, 2):
        raise ValueError(f"labels must be classes (B,) or weights (B, K), not {tuple(labels.shape)}")
    if labels.ndim == 2 and num_classes not in (None, labels.shape[1]):
        remedy = "leave it out for labels (B, K)"
        raise ValueError(f"labels have {labels.shape[1]} columns, but num_classes is {num_classes}; {remedy}")
    if labels.ndim == 1 and num_classes is None and not record:
        raise ValueError("labels that are classes (B,) need num_classes")
    return labels
