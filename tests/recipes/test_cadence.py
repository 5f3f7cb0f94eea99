"""How often to save: steps, minutes, epochs."""

import pytest

from transmix.recipes.settings import Cadence, parse_cadence

KNOWN = {
    None: Cadence(epochs=1),
    500: Cadence(steps=500),
    "500": Cadence(steps=500),
    "500steps": Cadence(steps=500),
    "1 step": Cadence(steps=1),
    "15min": Cadence(minutes=15.0),
    "0.5 minutes": Cadence(minutes=0.5),
    "2epochs": Cadence(epochs=2),
    " 1epoch ": Cadence(epochs=1),
}


@pytest.mark.parametrize(("text", "cadence"), KNOWN.items())
def test_steps_minutes_and_epochs_are_understood(text, cadence):
    assert parse_cadence(text) == cadence


@pytest.mark.parametrize("text", ["", "0", 0, "-3", "2.5", "1.5epochs", "10 hours", "min", "0min", "ten", -1])
def test_anything_else_is_refused(text, says):
    with says(ValueError, f"must be a number of steps, or like 15min or 2epochs, not {text!r}"):
        parse_cadence(text)


def test_when_it_is_time():
    assert [step for step in range(1, 8) if Cadence(steps=3).at_step(step)] == [3, 6]
    assert not any(Cadence(minutes=1).at_step(step) or Cadence(epochs=1).at_step(step) for step in range(1, 8))
    assert [epoch for epoch in range(1, 6) if Cadence(epochs=2).at_epoch(epoch)] == [2, 4]
    assert all(Cadence(steps=3).at_epoch(epoch) and Cadence(minutes=3).at_epoch(epoch) for epoch in range(1, 6))
