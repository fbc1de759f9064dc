"""The support table in the repository is the one that the tests run."""

import re

from deltaspace import support


def test_the_page_is_the_table():
    """Where it is not: `python -m deltaspace.support` writes it anew."""
    assert support.PAGE.read_text(encoding="utf-8") == support.page()


def test_every_cell_says_whether_it_is_trained():
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", support.page(), re.M)
    assert [title for title, _ in rows] == [row.title for row in support.ROWS.values()]
    assert len({title for title, _ in rows}) == len(rows)
    for (label, row), (_, cells) in zip(support.ROWS.items(), rows, strict=True):
        identity, merges, *trained = cells.split(" | ")
        assert (identity, merges) == tuple("yes" if it else "no" for it in (row.identity, row.merges))
        for family, cell in zip(support.FAMILIES, trained, strict=True):
            assert (cell == "✓") == ((label, family) in support.CELLS) != ((label, family) in support.REFUSED)
    reasons = re.findall(r"^– \((\d+)\) refused: (.*)\.$", support.page(), re.M)
    assert {reason for _, reason in reasons} == set(support.REFUSED.values())


def test_a_title_is_what_one_writes():
    """Sizes aside, which are of the toys."""
    import deltas

    for row in support.ROWS.values():
        written = eval(row.title, vars(deltas))  # our own words
        assert support.Row(config=written).title == row.title
