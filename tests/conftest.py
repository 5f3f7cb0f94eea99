"""What all tests share: real images where they are present."""

from pathlib import Path

import pytest

REAL_IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_images():
    """Give the folder of real data sets, or skip: a checkout alone does not carry them."""
    if not REAL_IMAGES.is_dir():
        pytest.skip(f"real images are not present at {REAL_IMAGES}")
    return REAL_IMAGES
