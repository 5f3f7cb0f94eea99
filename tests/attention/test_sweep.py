"""Listed models bent as scripts/sweep.py bends all of them: labels are right, or refused with a remedy that works."""

import importlib
from functools import partial

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

from readable import READABLE

from transmix import TransMix
from transmix.attention import AttentionReader

MODELS = (
    "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "cait_xxs24_224", "vit_base_patch16_siglip_224",
    "pit_ti_224", "swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_gap_224", "Dinov2ForImageClassification",
)  # fmt: skip
"""Class token, two prefix tokens, class attention, pool, no grid told, a head over 2-D and over 1-D features, HF."""
COMPILED = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def sweep():
    """Give scripts/sweep.py as a module."""
    return importlib.import_module("sweep")


@pytest.fixture(scope="module")
def bends(sweep):
    """Give scripts/bends.py as a module."""
    return importlib.import_module("bends")


@pytest.fixture(params=MODELS)
def entry(request):
    return next(entry for entry in READABLE if entry.name == request.param)


def test_every_bend_of_a_model_is_right_or_refused_with_a_remedy_that_works(sweep, bends, entry):
    used = [bend for bend in bends.BENDS if bend.use is not bends.compiled or entry.name == COMPILED]
    answers = [(bend.words, sweep.cell(bend, entry)) for bend in used]
    assert [(words, cell.text) for words, cell in answers if cell.answer == "wrong"] == []
    counts = [sum(cell.answer == answer for _, cell in answers) for answer in ("right", "refused")]
    assert min(counts) >= 15  # and few that do not run


def test_every_integration_is_right_whatever_runs_between_forward_and_loss(sweep, bends):
    neighbours = importlib.import_module("neighbours")
    for name, train in neighbours.NEIGHBOURS.items():
        cells = [sweep.neighbour(train, between) for between in neighbours.BETWEEN]
        assert [cell.answer for cell in cells[:-1]] == ["right"] * 5, (name, cells)
        assert cells[-1].answer == ("right" if name == "`transmix train`" else "refused"), (name, cells)


def take_the_last(self, images=None, rows=None):
    """As it was: the row of whatever the model saw last, and its grid."""
    return self._as_attention(self._reading.rows[-1], None), self._reading.rows[-1]


def test_a_reader_that_hands_over_the_last_forward_is_found_wrong(sweep, bends, monkeypatch):
    monkeypatch.setattr(AttentionReader, "take_record", take_the_last)
    entry = READABLE[0]
    answers = {bend.use: sweep.cell(bend, entry).answer for bend in bends.BENDS[:6]}
    assert answers[bends.clean_before] == "right"
    for use in (bends.clean_after, bends.two_views, bends.two_batches, bends.clean_alone):
        assert answers[use] == "wrong", use
    neighbours = importlib.import_module("neighbours")
    assert sweep.neighbour(neighbours.timm_script, "clean forward after").answer == "wrong"


def test_labels_by_area_alone_are_found_wrong(sweep, bends, monkeypatch):
    def by_area(self, mixed, rows=None):
        self.reader.take(mixed.images, rows)
        return mixed

    monkeypatch.setattr(TransMix, "relabel", by_area)
    assert sweep.cell(bends.BENDS[0], READABLE[0]).answer == "wrong"


def test_a_refusal_without_a_remedy_or_with_one_that_does_not_work_is_found_wrong(sweep, bends):
    def refuses(make, told):
        if make().reads:
            raise ValueError("no")

    silent = sweep.cell(bends.Bend("", refuses, "say this"), READABLE[0])
    assert (silent.answer, silent.text) == ("wrong", "refused, but the text does not say what to do: no")
    useless = sweep.cell(bends.Bend("", refuses, "no", remedied=True), READABLE[0])
    assert useless.answer == "wrong"
    assert "and then, as it says: ValueError('no')" in useless.text
    assert sweep.cell(bends.Bend("", refuses, "no"), READABLE[0]).answer == "refused"


def test_a_use_that_fails_without_transmix_too_does_not_count(sweep, bends):
    def fails(make, told):
        raise RuntimeError("shapes")

    assert sweep.cell(bends.Bend("", fails), READABLE[0]) == sweep.Cell("does not run", "shapes")


def test_the_label_by_hand_takes_the_pixel_at_the_top_left_of_each_patch(bends):
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 1:, 2:] = True  # its top left pixels: of patches (1, 1) and (1, 2) alone
    row = torch.tensor([[0.1, 0.2, 0.1, 0.1, 0.2, 0.1]])
    expected = ((0.5 / 0.8) + (1 - 12 / 24)) / 2
    assert bends.label_by_hand(mask, row, (2, 3)).tolist() == pytest.approx([expected])


def test_the_page_holds_the_table_of_every_bend_and_nothing_wrong(sweep, bends):
    text = sweep.PAGE.read_text(encoding="utf-8")
    section = text.split(sweep.BEGIN)[1].split(sweep.END)[0]
    rows = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")]
    titles = next(row for row in rows if row[0] == "what is done")
    assert titles[1:5] == list(sweep.ANSWERS)
    words = list(dict.fromkeys(bend.words for bend in bends.BENDS))
    counted = [[cell.strip() for cell in row] for row in rows if row[0] in words]
    assert [row[0] for row in counted] == words
    for row in counted:
        numbers = [int(cell or 0) for cell in row[1:5]]
        assert (sum(numbers), numbers[3]) == (len(READABLE), 0), row
    assert partial(sweep.markdown, ["a"])([["b"]]) == "| a |\n| --- |\n| b |"
