"""Tiny models whose attention is far from even, and a look at whether a figure's texts have room."""

import pytest
import torch

timm = pytest.importorskip("timm")
TINY = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2, "num_classes": 5}


def _tiny(architecture, size=(32, 48), **changes):
    settings = {name: value for name, value in {**TINY, **changes}.items() if value is not None}
    model = timm.create_model(architecture, img_size=size, **settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 1.5 / weight[0].numel() ** 0.5)
            if "gamma" in name:
                weight.fill_(0.5)
            if "cls_token" in name:
                weight.mul_(7)
    return model


@pytest.fixture(scope="session")
def tiny():
    """Make a tiny timm model: architecture, (height, width), options."""
    return _tiny


def _nothing_overlaps(figure):
    """Check that every text lies on the page, and over no other text and no picture."""
    figure.draw_without_rendering()
    page, renderer = figure.bbox, figure._get_renderer()
    texts = [text for axes in figure.axes for text in axes.texts if axes.axison is False] + list(figure.texts)
    texts += [axes.title for axes in figure.axes]
    for axes in figure.axes:
        if axes.axison:
            texts += [axes.xaxis.label, axes.yaxis.label]
    texts = [text for text in texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for box, text in zip(boxes, texts, strict=True):
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, text.get_text()
    pictures = [axes.get_window_extent(renderer) for axes in figure.axes if axes.images or axes.axison]
    for i, box in enumerate(boxes):
        for other in [*boxes[i + 1 :], *pictures]:
            apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
            assert apart, texts[i].get_text()


@pytest.fixture(scope="session")
def nothing_overlaps():
    """Give the check that texts have room."""
    return _nothing_overlaps
