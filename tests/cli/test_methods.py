"""`transmix methods` lists every entry of the tables once, with its settings."""

from transmix.cli import main
from transmix.labels import RULES
from transmix.methods import NAMED
from transmix.mixing import METHODS


def test_every_paper_method_and_rule_is_listed_once(capsys):
    assert main(["methods"]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    names = [[line.split()[0] for line in block.splitlines()[2:]] for block in blocks]
    assert names == [["transmix", *NAMED], [*METHODS], [*RULES]]
    papers = {line.split()[0]: line.split()[1:] for line in blocks[0].splitlines()[2:]}
    assert papers["transmix"] == ["mixup+cutmix", "attention", "transmix.TransMix"]
    assert papers["tlalign"] == ["gridcutmix", "rollout", "transmix.TLAlign"]
    assert papers["fmix"] == ["fmix", "area", "transmix.FMix"]
    assert "alpha=1.0 decay=3.0 soft=0.0" in blocks[1]


def test_a_word_leaves_the_rows_that_contain_it(capsys):
    assert main(["methods", "Snap"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  snap")] == ["snapmix", "snapmix"]
    assert not any("fmix" in line for line in lines)
    assert main(["methods", "nothing-of-the-kind"]) == 2
    assert "no method, rule or paper contains 'nothing-of-the-kind'" in capsys.readouterr().err
