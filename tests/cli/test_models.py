"""transmix models: the table, filtered; a word that nothing holds gets the nearest names."""

import pytest

from transmix.cli import main
from transmix.cli.models import TITLES
from transmix.models.readable import read_table


def shown(capsys, *words):
    assert main(["models", *words]) == 0
    return capsys.readouterr().out.splitlines()


def complaint(capsys, *words):
    assert main(["models", *words]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_row_of_the_table_is_shown(capsys):
    lines = shown(capsys)
    rows = read_table()
    read = [row for row in rows if row["read"] != "refused"]
    assert lines[0].split() == list(TITLES)
    assert lines[len(read) + 1 :][:2] == ["", "refused:"]
    assert len(lines) == len(rows) + 3
    for line, row in zip(lines[1:], read, strict=False):
        assert line.startswith(row["family"])
        assert all(row[name] in line for name in ("library", "model", "options", "read", "module", "grid"))


@pytest.mark.parametrize("word", ["CaiT", "cait", "cait_xxs24", "AIT_XX"])
def test_a_filter_is_a_part_of_a_family_or_a_model(word, capsys):
    (title, line) = shown(capsys, word)
    assert title.startswith("family")
    assert "blocks_token_only.1.attn" in line
    assert "14 x 14" in line


def test_a_filter_may_be_a_library(capsys):
    lines = shown(capsys, "torchvision")
    assert len(lines) == 7
    assert all("torchvision" in line for line in lines[1:])


def test_another_size_than_224_is_said(capsys):
    assert "20 x 20 at 240" in shown(capsys, "crossvit_9_240")[1]


def test_a_refused_model_is_shown_with_its_error(capsys):
    assert shown(capsys, "coat_tiny") == [
        "refused:",
        "  timm coat_tiny: CoaT factorises its attention: its class tokens have no softmax over the "
        "patches. Use another model",
    ]


def test_a_word_that_nothing_holds_gets_the_nearest_names(capsys):
    assert complaint(capsys, "siwn").startswith(
        "transmix: no listed model, family or library holds 'siwn'; the nearest names are Swin"
    )
    assert complaint(capsys, "0000").endswith("holds '0000'; transmix models lists them all")


def test_help_explains_the_columns_and_too_many_words_are_not_understood(capsys):
    for words in (["--help"], ["swin", "-h"]):
        with pytest.raises(SystemExit) as stop:
            main(["models", *words])
        assert not stop.value.code
        assert "overhead: time of a training step" in capsys.readouterr().out
    assert complaint(capsys, "swin", "cait") == "transmix: Unrecognized options: cait; see transmix models --help"
    assert complaint(capsys, "--swin") == "transmix: Unrecognized options: --swin; see transmix models --help"
