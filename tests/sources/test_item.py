from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ferstore.sources.item import Duplicate, Expectation, Item, Refused, settle

entries = st.lists(
    st.builds(Item, st.sampled_from(["a", "b", "a#2"]), st.just("u"), st.sampled_from(["x", "y", None]))
    | st.builds(Refused, st.sampled_from(["a", "b", "a#2"]), st.just("u"), st.just("bad")),
    max_size=12,
)


@given(entries)
def test_every_entry_stays_in_place_and_ids_become_unique(listed: list[Item | Refused]) -> None:
    settled = settle(listed)
    assert len(settled) == len(listed)
    ids = [entry.item_id for entry in settled if not isinstance(entry, Duplicate)]
    assert len(set(ids)) == len(ids)
    items = {entry.item_id for entry in settled if isinstance(entry, Item)}
    assert items == {entry.item_id for entry in listed if isinstance(entry, Item)}
    assert items >= {entry.item_id for entry in settled if isinstance(entry, Duplicate)}


def test_the_same_item_again_is_a_duplicate_and_another_label_is_refused() -> None:
    first, other = Item("a", "u", "x"), Item("a", "u", "y")
    settled = settle([first, first, Item("a", "u", "x"), other])
    assert settled[0] is first
    assert [type(entry) for entry in settled] == [Item, Duplicate, Duplicate, Refused]
    assert settled[3] == Refused("a#2", "u", "listed again with another label")


def test_a_refused_entry_never_takes_the_id_of_an_item() -> None:
    refused, item = settle([Refused("a", "u", "bad"), Item("a", "u")])
    assert (refused.item_id, item) == ("a#2", Item("a", "u"))


def test_the_difference_is_found_less_expected() -> None:
    assert Expectation("items", 10, 8).difference == -2
