"""Figures of attention: what is drawn is the attention that was given, in its place, for pictures of any shape."""

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transmix.visual.attention import (
    BETWEEN,
    LEAST,
    Panel,
    arrange,
    attention_figure,
    epochs_figure,
    heads_figure,
    layers_figure,
    most_columns,
    panels_figure,
    prediction,
    rollout_figure,
    spaced,
)
from transmix.visual.palette import AVERAGE, GAP, INK, MARGIN

GRID, SIZE = (2, 3), (16, 48)
IMAGES = torch.randint(0, 256, (2, 3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
NAMES = ["cat.jpg", "a file whose name is much too long to stand below a small picture.jpg"]


def attention(*shape, seed=0):
    return torch.rand(*shape, 6, generator=torch.Generator().manual_seed(seed)) / 6


def laid_over(image, row, end):
    """Lay attention over an image, by means of its own: resize by repetition, colour and mix pixel by pixel."""
    pixels = image.numpy() / 255
    grey = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    resized = row.numpy().reshape(GRID).repeat(SIZE[0] // GRID[0], 0).repeat(SIZE[1] // GRID[1], 1)
    colours = matplotlib.colormaps["cividis"](np.minimum(resized / resized.mean() / end, 1))
    return np.stack([0.45 * grey + 0.55 * colours[..., channel] for channel in range(3)], -1)


def drawn(figure):
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if not axes.axison]


def end_of(figure):
    """Where the one scale of a figure ends: at the highest multiple of an even share, within 2 to 10."""
    (bar,) = [axes for axes in figure.axes if axes.axison]
    return bar.get_xlim()[1]


def highest(*rows):
    return min(max(2.0, *((row / row.mean()).max() for group in rows for row in group.reshape(-1, 6).numpy())), 10.0)


def words(figure):
    return [text.get_text() for text in figure.texts]


def test_every_head_and_their_mean_are_laid_over_their_image():
    rows = attention(2, 4)
    figure = heads_figure(IMAGES, rows, GRID, NAMES, layer=7)
    pictures = drawn(figure)
    assert len(pictures) == 2 * 6
    end = end_of(figure)
    assert end == pytest.approx(highest(rows, rows.mean(1)))
    for index, image in enumerate(IMAGES):
        picture, mean, *heads = pictures[6 * index : 6 * index + 6]
        assert picture == pytest.approx(image.numpy().transpose(1, 2, 0) / 255)
        assert mean == pytest.approx(laid_over(image, rows[index].mean(0), end), abs=1e-6)
        for head, shown in enumerate(heads):
            assert shown == pytest.approx(laid_over(image, rows[index, head], end), abs=1e-6)
        assert np.abs(heads[0] - laid_over(image, rows[index, 1], end)).max() > 0.1
        assert np.abs(heads[0] - laid_over(IMAGES[1 - index], rows[index, 0], end)).max() > 0.1
    text = words(figure)
    assert [t for t in text if t.startswith("head ")] == ["head 0", "head 1", "head 2", "head 3"]
    assert any("heads of layer 7" in t for t in text)
    shares = [f"≤ {row.max() / row.mean():.1f}×" for sample in rows.numpy() for row in [sample.mean(0), *sample]]
    assert [t for t in text if t.endswith("×")] == shares
    assert "cat.jpg" in text


def test_layers_and_rollout_stand_beside_their_image():
    rows = {number: attention(2, seed=number) for number in (3, 4)}
    figure = layers_figure(IMAGES, rows, GRID, NAMES)
    assert {"layer 3", "layer 4"} <= set(words(figure))
    for position, index, number in ((1, 0, 3), (2, 0, 4), (4, 1, 3), (5, 1, 4)):
        assert drawn(figure)[position] == pytest.approx(
            laid_over(IMAGES[index], rows[number][index], end_of(figure)), abs=1e-6
        )

    figure = rollout_figure(IMAGES, rows[3], rows[4], GRID, NAMES, layers=12)
    assert {"last layer", "rollout"} <= set(words(figure))
    assert any("rollout over 12 layers" in text and "Abnar and Zuidema, 2020" in text for text in words(figure))
    assert drawn(figure)[2] == pytest.approx(laid_over(IMAGES[0], rows[4][0], end_of(figure)), abs=1e-6)
    one = rollout_figure(IMAGES, rows[3], rows[4], GRID, NAMES, layers=1)
    assert any("the one layer that attends over the whole image" in text for text in words(one))


def test_epochs_show_the_same_images_with_what_was_predicted():
    rows = {epoch: attention(2, seed=epoch) for epoch in range(1, 5)}
    logits = {epoch: torch.tensor([[2.0, 0.0], [0.0, float(epoch - 3)]]) for epoch in rows}
    figure = epochs_figure(IMAGES, rows, GRID, torch.tensor([0, 1]), logits, ["cat", "dog"])
    for index in range(2):
        for epoch in rows:
            expected = laid_over(IMAGES[index], rows[epoch][index], end_of(figure))
            assert drawn(figure)[5 * index + epoch] == pytest.approx(expected, abs=1e-6)
    notes = [(text.get_text(), text.get_color()) for text in figure.texts if text.get_text()[0] in "✓✗"]
    sure = f"{np.exp(2) / (np.exp(2) + 1):.0%}"
    assert notes[:4] == [(f"✓ cat ({sure})", INK)] * 4
    assert notes[4] == (f"✗ cat ({sure})", AVERAGE)
    assert notes[7] == (f"✓ dog ({np.e / (np.e + 1):.0%})", INK)


def test_of_many_epochs_as_many_as_have_room_are_drawn_the_first_and_last_among_them():
    rows = {epoch: attention(2, seed=epoch) for epoch in range(1, 101)}
    logits = dict.fromkeys(rows, torch.zeros(2, 2))
    shown = {}
    for width in (3.3, 6.9):
        figure = epochs_figure(IMAGES, rows, GRID, torch.tensor([0, 1]), logits, ["cat", "dog"], width=width)
        shown[width] = [int(text.split()[1]) for text in words(figure) if text.startswith("epoch ")]
        assert len(shown[width]) == most_columns(width)
        assert (shown[width][0], shown[width][-1]) == (1, 100)
    assert len(shown[3.3]) < len(shown[6.9])
    assert spaced(range(1, 10), 1) == [9]
    assert spaced(range(1, 10), 3) == [1, 5, 9]
    assert spaced([4, 8], 9) == [4, 8]


def test_a_prediction_is_its_softmax_for_large_logits_too():
    assert prediction(np.array([1000.0, 1000.0, 0.0])) == (0, 0.5)


@settings(deadline=None, max_examples=200)
@given(panels=st.integers(1, 40), blocks=st.integers(1, 9), width=st.floats(2, 14))
def test_panels_fill_the_width_and_stay_readable(panels, blocks, width):
    placed = arrange(panels, blocks, width)
    assert placed.lines * placed.columns >= panels > (placed.lines - 1) * placed.columns
    across = placed.across * (placed.columns + 1) * (placed.side + GAP) - placed.across * GAP
    assert across + (placed.across - 1) * BETWEEN <= width - 2 * MARGIN + 1e-9
    assert placed.side >= LEAST
    assert 1 <= placed.across <= blocks
    assert placed.across == 1 or placed.lines == 1


@pytest.mark.parametrize("width", [3.3, 6.9])
@pytest.mark.parametrize("size", [(16, 48), (48, 16), (24, 24)])
@pytest.mark.parametrize(("panels", "blocks"), [(1, 5), (2, 3), (13, 1)])
def test_no_title_or_note_runs_into_another(panels, blocks, size, width, nothing_overlaps):
    block = [Panel(np.zeros((*size, 3)), f"layer {number}", NAMES[number % 2]) for number in range(panels + 1)]
    figure = panels_figure([block] * blocks, width=width, notes=("a note", "and another that is rather long " * 3))
    assert figure.get_size_inches()[0] == pytest.approx(width)
    nothing_overlaps(figure)
    extent = figure.axes[0].get_window_extent()
    assert extent.height / extent.width == pytest.approx(size[0] / size[1])  # pixels stay square


def test_long_class_names_never_cost_the_probability(nothing_overlaps):
    """With many columns and long names, each note lies inside the figure, apart from others, with its number."""
    names = ["a class whose name is much too long, of kind one", "a class whose name is much too long, of kind two"]
    rows = {epoch: attention(2, seed=epoch) for epoch in range(1, 30)}
    logits = {epoch: torch.tensor([[3.0, 0.0], [0.0, 9.0]]) for epoch in rows}
    for width in (2.0, 3.3, 6.9):
        figure = epochs_figure(IMAGES, rows, GRID, torch.tensor([0, 0]), logits, names, width=width)
        nothing_overlaps(figure)
        notes = [text.get_text() for text in figure.texts if text.get_text()[0] in "✓✗"]
        assert len(notes) == 2 * most_columns(width)
        numbers = [f"({np.exp(3) / (np.exp(3) + 1):.0%})", "(100%)"]
        assert [note.split(" ")[-1] for note in notes] == [one for one in numbers for _ in range(len(notes) // 2)]
        assert any("…" in note for note in notes)


def test_one_image_is_drawn_with_its_box_and_its_scale():
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:6, 3:9] = True
    row = attention(1)[0]
    figure = attention_figure(IMAGES[0], row, GRID, mask)
    assert drawn(figure)[0] == pytest.approx(laid_over(IMAGES[0], row, end_of(figure)), abs=1e-6)
    (outline,) = figure.axes[1].patches
    assert outline.get_bbox().bounds == (2.5, 1.5, 6, 4)


def test_attention_and_names_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"expected attention \(2, 8\) for 2 images and a grid of \(2, 4\), got \(2, 6\)"
    ):
        layers_figure(IMAGES, {0: attention(2)}, (2, 4), NAMES)
    with pytest.raises(ValueError, match="shorter"):
        layers_figure(IMAGES, {0: attention(2)}, GRID, NAMES[:1])
    with pytest.raises(ValueError, match="nothing to draw: 0 images"):
        layers_figure(IMAGES[:0], {}, GRID, [])
