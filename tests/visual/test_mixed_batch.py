import random
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from transmix.labels.attention import attention_labels
from transmix.mixing import Mixed
from transmix.visual.overlay import attention_map, attention_notes, attention_overlay, box_of, mask_edges, scale_end
from transmix.visual.page import save_figure, shorten, text_width
from transmix.visual.pairs import Pair, choose_rows, mixed_batch_figure, pairs_figure, row_mask, row_shares
from transmix.visual.palette import INK, OWN, PARTNER

NAMES = ["cat", "dog", "bird", "a name that nobody would ever give to any class of animals", "$5_bill^", "six"]
HEIGHT, WIDTH, GRID = 24, 40, (4, 5)


def cutmix_batch(batch=5, height=HEIGHT, width=WIDTH, grid=GRID):
    """Make a mixed batch with boxes, its attention, and the images before."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randint(0, 256, (batch, 3, height, width), generator=generator, dtype=torch.uint8)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    for row in range(batch):
        mask[row, 3 : 8 + row, 5 + row : 20] = True
    partner = torch.arange(batch).flip(0)
    images = torch.where(mask[:, None], base[partner], base)
    lam_area = 1 - mask.float().mean((1, 2))
    lam = (lam_area + torch.tensor([0.05, -0.3, 0.01, 0.2, 0.0, 0.1])[:batch]).clamp(0, 1)
    attention = torch.rand(batch, grid[0] * grid[1], generator=generator)
    return Mixed(images, torch.arange(batch) % len(NAMES), partner, lam, lam_area, mask, "attention"), attention, base


def panels(figure):
    """Give the axes with a picture, and those with bars, each row by row."""
    return [a for a in figure.axes if a.images and not a.axison], [a for a in figure.axes if not a.images]


def bar_shares(axes):
    """Read the shares back from the drawn bars: [(own, partner), ...] from top to bottom."""
    bars = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_height() > 0.12]
    own = [p for p in bars if to_hex(p.get_facecolor()).upper() == OWN]
    partner = [p for p in bars if to_hex(p.get_facecolor()).upper() == PARTNER]
    lengths = [(a.get_width(), b.get_width()) for a, b in zip(own, partner, strict=True)]
    for a, b in zip(own, partner, strict=True):
        assert a.get_x() + a.get_width() == pytest.approx(b.get_x())
    return [(a / (a + b), b / (a + b)) for a, b in lengths]


def test_rows_whose_label_attention_changed_most_come_first():
    mixed, _, _ = cutmix_batch()
    assert choose_rows(mixed, 3) == [1, 3, 0]
    assert choose_rows(mixed, 99) == [1, 3, 0, 2, 4]
    assert choose_rows(replace(mixed, lam=mixed.lam_area), 2) == [0, 1]


def by_attention_alone(mixed, attention, row):
    """The own share of the attention, patch by patch: each by its top left pixel."""
    h, w = GRID
    own = total = 0.0
    for patch, value in enumerate(attention[row].tolist()):
        y, x = patch // w * HEIGHT // h, patch % w * WIDTH // w
        total += value
        own += 0 if bool(mixed.mask[row, y, x]) else value
    return own / total


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0])
def test_the_three_bars_are_area_attention_alone_and_what_was_trained(weight):
    plain, attention, _ = cutmix_batch()
    mixed = attention_labels(plain, attention, grid=GRID, weight=weight)
    drawn = [bar_shares(axes) for axes in panels(mixed_batch_figure(mixed, attention, GRID, NAMES))[1]]
    for shares, row in zip(drawn, choose_rows(mixed, 6), strict=True):
        area = 1 - float(mixed.mask[row].float().mean())
        alone = by_attention_alone(mixed, attention, row)
        wanted = [area, alone, weight * alone + (1 - weight) * area]
        assert [own for own, _ in shares] == pytest.approx(wanted, abs=1e-5)
    words = [text.get_text() for text in panels(mixed_batch_figure(mixed, attention, GRID, NAMES))[1][0].texts]
    assert [word for word in words if word in ("area", "attention", "trained")] == ["area", "attention", "trained"]


def test_what_was_trained_would_not_pass_for_attention_alone():
    plain, attention, _ = cutmix_batch()
    mixed = attention_labels(plain, attention, grid=GRID)
    assert any(abs(float(mixed.lam[row]) - by_attention_alone(mixed, attention, row)) > 0.02 for row in range(5))


def test_where_nothing_but_the_area_is_known_the_bars_are_area_and_trained():
    mixed, _, _ = cutmix_batch()
    assert [share.rule for share in row_shares(mixed, 1)] == ["area", "trained"]
    assert [share.rule for share in row_shares(replace(mixed, rule="area"), 1)] == ["area", "trained"]


def test_what_is_trained_is_said_with_its_weight():
    plain, attention, _ = cutmix_batch()
    mixed = attention_labels(plain, attention, grid=GRID, weight=0.3)
    words = " ".join(text.get_text() for text in mixed_batch_figure(mixed, attention, GRID, NAMES, weight=0.3).texts)
    assert "trained: 30% attention, 70% area" in words
    by_area = mixed_batch_figure(replace(mixed, rule="area"), attention, GRID, NAMES, weight=0.3)
    assert "trained:" not in " ".join(text.get_text() for text in by_area.texts)


def test_a_sample_without_a_box_has_one_share():
    mixed, _, _ = cutmix_batch()
    assert [share.rule for share in row_shares(replace(mixed, mask=None), 1)] == ["trained"]
    empty = mixed.mask.clone()
    empty[1] = False
    shares = [len(row_shares(replace(mixed, mask=empty), row)) for row in range(3)]
    assert shares == [2, 1, 2]


def test_drawn_bars_and_percentages_are_the_shares():
    mixed, attention, base = cutmix_batch()
    _, bars = panels(mixed_batch_figure(mixed, attention, GRID, NAMES, base_images=base))
    for axes, row in zip(bars, choose_rows(mixed, 6), strict=True):
        shares = row_shares(mixed, row)
        drawn = bar_shares(axes)
        assert np.array(drawn) == pytest.approx(np.array([(s.own, 1 - s.own) for s in shares]), abs=1e-6)
        texts = [text.get_text() for text in axes.texts]
        own = [round(100 * s.own) for s in shares]
        assert [t for t in texts if t.endswith("%")] == [f"{n}%" for o in own for n in (o, 100 - o)]


def test_bars_stand_beside_both_class_names():
    mixed, attention, _ = cutmix_batch()
    _, bars = panels(mixed_batch_figure(mixed, attention, GRID, NAMES))
    for axes, row in zip(bars, choose_rows(mixed, 6), strict=True):
        own, partner = (text.get_text() for text in axes.texts[:2])
        for text, letter, label in ((own, "A", row), (partner, "B", mixed.partner[row])):
            name = NAMES[mixed.labels[label]]
            start, _, end = text.removeprefix(f"{letter}: ").partition("…")
            assert text == f"{letter}: {name}" or (name.startswith(start) and name.endswith(end))


def test_columns_show_own_partner_mixed_and_attention():
    mixed, attention, base = cutmix_batch()
    images, _ = panels(mixed_batch_figure(mixed, attention, GRID, NAMES, base_images=base, rows=2))
    assert len(images) == 8
    for line, row in enumerate(choose_rows(mixed, 2)):
        own, partner, mix, overlay = [a.images[0].get_array() for a in images[4 * line : 4 * line + 4]]
        as_picture = [
            t.permute(1, 2, 0).numpy() / 255 for t in (base[row], base[mixed.partner[row]], mixed.images[row])
        ]
        for drawn, expected in zip((own, partner, mix), as_picture, strict=True):
            assert np.asarray(drawn) == pytest.approx(expected)
        end = scale_end(attention[choose_rows(mixed, 2)].numpy())
        expected = attention_overlay(as_picture[2], attention[row].numpy(), GRID, end)
        assert np.asarray(overlay) == pytest.approx(expected)


def test_the_attention_map_is_each_patch_repeated_over_its_pixels():
    values = np.random.default_rng(0).random(20)
    expected = np.kron(values.reshape(GRID) / values.mean(), np.ones((6, 8)))
    ours = attention_map(values, GRID, (HEIGHT, WIDTH))
    assert ours == pytest.approx(expected)
    swapped = np.kron(values.reshape(5, 4) / values.mean(), np.ones((8, 6))).reshape(HEIGHT, WIDTH)
    assert np.abs(ours - swapped).max() > 0.1


@settings(deadline=None, max_examples=40)
@given(grid=st.tuples(st.integers(1, 6), st.integers(1, 6)), size=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_the_attention_map_is_that_of_nearest_interpolation_for_any_size(grid, size):
    values = torch.rand(grid, generator=torch.Generator().manual_seed(1)) + 0.1
    expected = torch.empty(size)
    for y in range(size[0]):
        for x in range(size[1]):
            expected[y, x] = values[y * grid[0] // size[0], x * grid[1] // size[1]]
    ours = attention_map(values.numpy().ravel(), grid, size)
    assert ours == pytest.approx((expected / values.mean()).numpy())


def test_the_overlay_does_not_depend_on_the_scale_of_the_attention():
    image, values = np.full((HEIGHT, WIDTH, 3), 0.5), np.random.default_rng(0).random(20)
    ours = attention_overlay(image, values, GRID, 2.0)
    assert attention_overlay(image, values * 1e-3, GRID, 2.0) == pytest.approx(ours)
    assert np.abs(attention_overlay(image, values, GRID, 3.0) - ours).max() > 0.05
    assert ours.min() >= 0
    assert ours.max() <= 1


def test_flat_attention_looks_flat_and_is_called_so():
    image, rng = np.full((HEIGHT, WIDTH, 3), 0.5), np.random.default_rng(0)
    flat, peaked = 1 + 0.05 * rng.random(20), rng.random(20) ** 4
    assert scale_end([flat]) == 2
    assert np.ptp(attention_overlay(image, flat, GRID, 2.0)[..., 0]) < 0.02
    assert np.ptp(attention_overlay(image, peaked, GRID, scale_end([flat, peaked]))[..., 0]) > 0.2
    said = "attention is flat: no patch has more than 1.2 times its even share"
    assert said in attention_notes([flat])
    assert said not in attention_notes([flat, peaked])
    spike = np.zeros(20)
    spike[3] = 1.0
    assert scale_end([spike]) == 10  # so that the rest is still told apart
    assert "the highest: 20" in attention_notes([spike])


def test_the_scale_stands_below_in_multiples_of_an_even_share():
    mixed, attention, _ = cutmix_batch()
    figure = mixed_batch_figure(mixed, attention, GRID, NAMES)
    (bar,) = [axes for axes in figure.axes if axes.images and axes.axison]
    end = scale_end(attention.numpy())
    assert bar.images[0].get_extent()[:2] == [0, end]
    figure.draw_without_rendering()
    assert {"0×", "1×"} <= {label.get_text() for label in bar.get_xticklabels()}
    left, right = np.asarray(bar.images[0].get_array())[0, [0, -1]]
    grey = np.full((1, 1, 3), 0.5)
    for colour, share in ((left, 0.0), (right, 1.0)):
        expected = 0.45 * 0.5 + 0.55 * np.array(matplotlib.colormaps["cividis"](share)[:3])
        assert colour == pytest.approx(expected)
    assert right == pytest.approx(attention_overlay(grey, np.array([1.0, 0.0]), (1, 2), 2.0)[0, 0])
    assert not [axes for axes in mixed_batch_figure(mixed, None, None, NAMES).axes if axes.images and axes.axison]


def test_attention_of_zero_everywhere_is_drawn_as_none():
    assert not attention_map(np.zeros(20), GRID, (HEIGHT, WIDTH)).any()


def test_the_box_is_outlined_where_the_mask_is():
    mixed, attention, _ = cutmix_batch()
    images, _ = panels(mixed_batch_figure(mixed, attention, GRID, NAMES, rows=1))
    assert choose_rows(mixed, 1) == [1]
    for axes in images:
        (outline,) = axes.patches
        assert outline.get_bbox().bounds == (6 - 0.5, 3 - 0.5, 14, 6)


def test_a_mask_that_is_no_box_is_outlined_along_its_pixels():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1, 2] = mask[2, 2] = mask[2, 3] = True
    assert box_of(mask) == (2, 1, 2, 2)
    edges = {tuple(map(tuple, line)) for line in mask_edges(mask)}
    assert len(edges) == len(mask_edges(mask)) == 8
    assert ((1.5, 0.5), (2.5, 0.5)) in edges  # above the upper pixel
    assert ((2.5, 1.5), (3.5, 1.5)) in edges  # above the right pixel
    assert ((2.5, 0.5), (2.5, 1.5)) in edges  # right of the upper pixel

    mixed, attention, _ = cutmix_batch()
    mixed.mask[:, 3, :7] = True
    images, _ = panels(mixed_batch_figure(mixed, attention, GRID, NAMES, rows=1))
    assert all(any(isinstance(c, LineCollection) for c in axes.collections) for axes in images)


def test_an_empty_mask_has_no_box_and_a_full_one_that_of_the_image():
    assert box_of(np.zeros((5, 7), dtype=bool)) is None
    assert box_of(np.ones((5, 7), dtype=bool)) == (0, 0, 7, 5)


def test_one_mask_serves_the_whole_batch():
    mixed, attention, _ = cutmix_batch()
    shared = replace(mixed, mask=mixed.mask[:1].float())
    images, _ = panels(mixed_batch_figure(shared, attention, GRID, NAMES, rows=2))
    assert {axes.patches[0].get_bbox().bounds for axes in images} == {(4.5, 2.5, 15, 5)}


def test_mixup_without_mask_and_attention_has_bars_of_lam_only():
    mixed, _, base = cutmix_batch()
    figure = mixed_batch_figure(replace(mixed, mask=None), None, GRID, NAMES, base_images=base, rows=2)
    images, bars = panels(figure)
    assert len(images) == 6
    lam = [mixed.lam[row].item() for row in choose_rows(mixed, 2)]
    assert [bar_shares(axes)[0][0] for axes in bars] == pytest.approx(lam)
    assert all(len(bar_shares(axes)) == 1 for axes in bars)


@pytest.mark.parametrize("size", [(24, 40), (60, 20), (16, 200), (32, 32)])
@pytest.mark.parametrize(("with_base", "width"), [(True, 6.9), (False, 6.9), (True, 3.3), (True, 12.0)])
def test_no_text_is_cut_off_or_runs_into_another(size, with_base, width, nothing_overlaps):
    mixed, attention, base = cutmix_batch(3, *size)
    mixed.labels[:] = torch.tensor([3, 3, 4])
    mixed.lam[:] = torch.tensor([1.0, 0.0, 0.5])
    names = [name * 2 for name in NAMES]
    base = base if with_base else None
    figure = mixed_batch_figure(mixed, attention, GRID, names, base_images=base, width=width)
    assert figure.get_size_inches()[0] == pytest.approx(width)
    nothing_overlaps(figure)


def test_long_names_are_shortened_and_short_ones_kept():
    assert shorten("cat", 2.0, 7.5) == "cat"
    assert shorten("two\nlines", 2.0, 7.5) == "two lines"
    short = shorten(NAMES[3], 1.0, 7.5)
    start, _, end = short.partition("…")
    assert NAMES[3].startswith(start)
    assert NAMES[3].endswith(end)
    assert min(len(start), len(end)) > 2
    assert text_width(short, 7.5) <= 1.0
    assert len(shorten("W" * 60, 1.0, 7.5)) < len(shorten("i" * 60, 1.0, 7.5))


@pytest.mark.parametrize(("size", "expected"), [(32, "nearest"), (224, "hanning")])
def test_small_images_are_shown_crisply_and_large_ones_smoothly(size, expected):
    mixed, attention, _ = cutmix_batch(2, size, size)
    images, _ = panels(mixed_batch_figure(mixed, attention, GRID, NAMES))
    assert {axes.images[0].get_interpolation() for axes in images} == {expected}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_float_images_are_drawn_as_their_bytes_would_be(kind):
    mixed, attention, _ = cutmix_batch()
    images, _ = panels(mixed_batch_figure(mixed, attention, GRID, NAMES, rows=1))
    as_float = replace(mixed, images=(mixed.images / 255).to(kind))
    others, _ = panels(mixed_batch_figure(as_float, attention.to(kind), GRID, NAMES, rows=1))
    assert np.asarray(others[0].images[0].get_array()) == pytest.approx(
        np.asarray(images[0].images[0].get_array()), abs=1e-6 if kind == torch.float32 else 4e-3
    )


def test_files_are_written_at_paper_width(tmp_path):
    mixed, attention, base = cutmix_batch()
    save_figure(mixed_batch_figure(mixed, attention, GRID, NAMES, base_images=base), tmp_path / "batch.png")
    save_figure(mixed_batch_figure(mixed, attention, GRID, NAMES), str(tmp_path / "batch.svg"))
    assert imread(tmp_path / "batch.png").shape[1] == round(6.9 * 220)
    assert "<svg" in (tmp_path / "batch.svg").read_text()


def test_matplotlib_and_random_states_are_untouched(tmp_path):
    settings_before = matplotlib.rcParams.copy()
    states_before = torch.get_rng_state(), np.append(*np.random.get_state()[1:3]), random.getstate()  # noqa: NPY002
    mixed, attention, base = cutmix_batch()
    images = mixed.images.clone()
    save_figure(mixed_batch_figure(mixed, attention, GRID, NAMES, base_images=base, rows=1), tmp_path / "batch.png")
    assert matplotlib.rcParams.copy() == settings_before
    assert torch.equal(states_before[0], torch.get_rng_state())
    assert np.array_equal(states_before[1], np.append(*np.random.get_state()[1:3]))  # noqa: NPY002
    assert states_before[2] == random.getstate()
    assert torch.equal(images, mixed.images)


def test_a_dark_style_of_the_user_does_not_make_the_text_unreadable():
    mixed, attention, _ = cutmix_batch()
    with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "white"}):
        figure = mixed_batch_figure(mixed, attention, GRID, NAMES)
    assert to_hex(figure.get_facecolor()) == "#ffffff"
    colours = {to_hex(text.get_color()) for axes in figure.axes for text in axes.texts}
    assert colours == {INK}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.full((5,), 6)}, "do not fit 6 class names"),
        ({"lam": torch.zeros(5, 1)}, "expected lam"),
        ({"mask": torch.zeros(5, WIDTH, HEIGHT)}, "expected mask"),
        ({"images": torch.zeros(5, 1, HEIGHT, WIDTH)}, r"expected images \(B, 3, H, W\)"),
        ({"images": torch.full((5, 3, HEIGHT, WIDTH), -2.1)}, "undo their normalisation"),
    ],
)
def test_a_batch_that_does_not_fit_together_is_refused(change, message):
    mixed, attention, _ = cutmix_batch()
    with pytest.raises(ValueError, match=message):
        mixed_batch_figure(replace(mixed, **change), attention, GRID, NAMES)


def test_attention_base_images_rows_and_paths_that_do_not_fit_are_refused(tmp_path):
    mixed, attention, base = cutmix_batch()
    with pytest.raises(ValueError, match=r"expected attention \(5, 16\)"):
        mixed_batch_figure(mixed, attention, (4, 4), NAMES)
    with pytest.raises(ValueError, match="finite and not negative"):
        mixed_batch_figure(mixed, attention - 1, GRID, NAMES)
    with pytest.raises(ValueError, match="finite and not negative"):
        mixed_batch_figure(mixed, attention * float("nan"), GRID, NAMES)
    with pytest.raises(ValueError, match="base_images are"):
        mixed_batch_figure(mixed, attention, GRID, NAMES, base_images=base[:4])
    with pytest.raises(ValueError, match="nothing to draw"):
        mixed_batch_figure(mixed, attention, GRID, NAMES, rows=0)
    with pytest.raises(ValueError, match=r"\.png or \.svg"):
        save_figure(mixed_batch_figure(mixed, attention, GRID, NAMES), tmp_path / "batch.jpg")


def test_a_soft_mask_is_drawn_as_it_is_and_outlined_where_the_partner_has_the_larger_share():
    plain, _, base = cutmix_batch()
    across = torch.linspace(0, 1, WIDTH).expand(5, HEIGHT, WIDTH).clone()
    mixed = replace(plain, mask=across, rule="corner", lam_evidence=torch.full((5,), 0.25))
    images, bars = panels(mixed_batch_figure(mixed, None, None, NAMES, base_images=base, rows=1))
    picture = np.full((HEIGHT, WIDTH, 3), 0.5)
    pair = Pair(None, None, picture, row_mask(mixed, 0), None, ("cat", "dog"), row_shares(mixed, 0))
    drawn = panels(pairs_figure([pair], None, mask=True))[0][0].images[0].get_array()
    assert np.array_equal(np.asarray(drawn, dtype=np.float32), across[0].numpy())
    (outline,) = [patch for patch in images[2].patches if isinstance(patch, Rectangle)]
    half = int((across[0, 0] < 0.5).sum())
    assert (outline.get_x(), outline.get_width()) == (half - 0.5, WIDTH - half)
    words = [text.get_text() for text in bars[0].texts]
    assert [word for word in words if word in ("area", "corner", "trained")] == ["area", "corner", "trained"]


def test_a_weight_of_the_partners_own_is_drawn_as_its_share_of_both():
    plain, _, _ = cutmix_batch()
    mixed = replace(plain, lam=torch.full((5,), 0.2), lam_partner=torch.full((5,), 0.6), rule="snapmix")
    assert row_shares(mixed, 0)[-1].own == pytest.approx(0.25)
