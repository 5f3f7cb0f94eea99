"""Images that people give: every kind upright and in colour, or a sentence."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from transmix.app import picture
from transmix.app.parts import write_code
from transmix.app.picture import SAMPLES, is_sample, read_picture, received, sample
from transmix.app.values import Controls, answer
from transmix.data.dataset import DataError

NO_IMAGE = "cannot read the image (not an image, or of a kind that is not read); replace or remove it"


def scaled_by(loaded, grey):
    return replace(loaded, preprocessing=replace(loaded.preprocessing, grey=grey))


@pytest.mark.parametrize(
    ("name", "above", "below"),
    [
        ("plain", (255, 0, 0), (0, 0, 255)),
        ("large", (254, 0, 0), (0, 0, 254)),
        ("rotated", (254, 0, 0), (0, 0, 254)),
        ("grey", (76, 76, 76), (29, 29, 29)),
        ("deep", (117, 117, 117), (117, 117, 117)),
        ("clear", (255, 255, 255), (255, 255, 255)),
    ],
)
def test_every_kind_is_upright_and_in_colour(name, above, below, files, page_model, monkeypatch):
    monkeypatch.setattr(page_model, "loaded", scaled_by(page_model.loaded, (0.0, 65535.0)))
    pixels = read_picture(files[name], (0.0, 65535.0))
    height, width = pixels.shape[:2]
    np.testing.assert_allclose(pixels[height // 4, width // 2].astype(int), above, atol=3)
    np.testing.assert_allclose(pixels[3 * height // 4, width // 2].astype(int), below, atol=3)
    found = answer(Controls(files[name], files["plain"], (9, 9, 59, 59), (9, 9, 59, 59)), page_model)
    assert found.errors == ()
    assert found.shown is not None
    assert found.shown.mixed.shape == (3, 224, 224)


def test_what_is_no_image_or_too_large_is_a_sentence(tmp_path, files, page_model, monkeypatch):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.jpeg").write_bytes(files["large"].read_bytes()[:3000])
    expected = {
        "text.png": f"text.png: {NO_IMAGE}",
        "empty.png": "empty.png: the file is empty",
        "gone.png": "gone.png: the file no longer exists; upload it again",
    }
    for name, message in expected.items():
        with pytest.raises(DataError) as error:
            read_picture(tmp_path / name)
        assert str(error.value) == message
    with pytest.raises(DataError, match=r"^cut\.jpeg: cannot read the image"):
        read_picture(tmp_path / "cut.jpeg")
    asked = Controls(tmp_path / "text.png", files["plain"], (9, 9, 59, 59), (9, 9, 59, 59))
    assert answer(asked, page_model).errors == (f"{expected['text.png']}.",)
    assert answer(replace(asked, own=files["plain"]), page_model).errors == ()
    monkeypatch.setattr(picture, "LARGEST_IMAGE", 60 * 40 - 1)
    Image.new("RGB", (40, 60)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"^wide\.png: 60 x 40 pixels are too many"):
        read_picture(tmp_path / "wide.png")
    monkeypatch.setattr(picture, "LARGEST_FILE", 10)
    Image.new("RGB", (4, 4)).save(tmp_path / "heavy.png")
    with pytest.raises(DataError, match=r"^heavy\.png: 0 MB are too much"):
        read_picture(tmp_path / "heavy.png")


def test_deep_grey_is_scaled_by_the_range_of_the_model_and_refused_where_it_has_none(files, page_model, monkeypatch):
    message = (
        "deep.png: grey of more than 8 bits, and its value range is unknown; give the values for black "
        "and white: --grey-range LOW HIGH"
    )
    with pytest.raises(DataError, match=f"^{message}$"):
        received({"path": str(files["deep"])}, files["deep"].parent)
    asked = Controls(files["deep"], files["plain"], (9, 9, 59, 59), (9, 9, 59, 59))
    assert answer(asked, page_model).errors == (f"{message}.",)
    monkeypatch.setattr(page_model, "loaded", scaled_by(page_model.loaded, (20_000.0, 40_000.0)))
    found = answer(asked, page_model)
    assert found.errors == ()
    assert int(found.images[0][0, 0, 0]) == 128  # round(255 * (30,000 - 20,000) / 20,000)
    code = write_code(found.setting, *found.given, page_model)
    assert f"decode_image({str(files['deep'])!r}, 'deep.png', (20000.0, 40000.0))" in code


def test_only_files_given_to_the_page_are_read(tmp_path, files):
    folder = files["plain"].parent
    assert received({"path": str(files["plain"])}, folder) == files["plain"].resolve()
    with pytest.raises(DataError, match="not a file that was uploaded to this page"):
        received({"path": str(folder / ".." / "elsewhere.png")}, folder)
    with pytest.raises(DataError, match=r"^big\.png: 100 MB are too much; up to 32 MB are read$"):
        received({"name": "big.png", "size": 100 * 2**20}, tmp_path)
    with pytest.raises(DataError, match=r"^a\.png: the upload failed; upload it again$"):
        received({"name": "a.png", "size": 3}, tmp_path)


def test_samples_are_known_by_their_content(tmp_path):
    assert all(is_sample(sample(name)) for name in SAMPLES)
    (tmp_path / SAMPLES[0]).write_bytes(b"another picture of that name")
    assert not is_sample(tmp_path / SAMPLES[0])
