from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.accounting.ownership import Ownership, Place, ownership_of

PLACES: list[Place] = [(task, number) for task in ("a", "b", "c") for number in (1, 2)]
DIGESTS = "uvwxyz"
references = st.dictionaries(st.sampled_from(PLACES), st.sets(st.sampled_from(DIGESTS), min_size=1))
digests = st.sets(st.sampled_from(DIGESTS))


def make(found: dict[Place, set[str]], missing: set[str], of_backbones: set[str], leased: set[str]) -> Ownership:
    sizes = {digest: 10**number for number, digest in enumerate(DIGESTS)}
    return ownership_of(
        [(place, digest, sizes[digest]) for place, digests in found.items() for digest in sorted(digests)],
        present={digest: nbytes for digest, nbytes in sizes.items() if digest not in missing},
        of_backbones={digest: sizes[digest] for digest in of_backbones},
        leased=leased,
    )


def without(found: dict[Place, set[str]], places: set[Place]) -> set[str]:
    return {digest for place, digests in found.items() if place not in places for digest in digests}


@given(references, digests, digests, digests, st.sets(st.sampled_from(PLACES)))
def test_removing_versions_frees_what_nothing_else_holds(found, missing, of_backbones, leased, chosen) -> None:
    owned = make(found, missing, of_backbones, leased)
    chosen &= found.keys()
    left = without(found, chosen) | of_backbones | leased | missing
    expected = {digest for place in chosen for digest in found[place]} - left
    assert owned.freed(chosen) == sum(10 ** DIGESTS.index(digest) for digest in expected)


@given(references, digests, digests, digests, st.dictionaries(st.sampled_from(PLACES), st.sampled_from("gh")))
def test_totals_of_groups_are_those_of_each_group_counted_alone(found, missing, of_backbones, leased, names) -> None:
    owned = make(found, missing, of_backbones, leased)
    name_of = {place: names.get(place, "g") for place in found}
    for name, totals in owned.totals(name_of).items():
        places = {place for place in found if name_of[place] == name}
        assert totals.nbytes == owned.nbytes(owned.blobs(places))
        assert totals.unique_nbytes == owned.nbytes(owned.unique(places))
        assert totals.freed_nbytes == owned.freed(places)
    for place, totals in owned.own.items():
        assert (totals.nbytes, totals.freed_nbytes) == (owned.nbytes(found[place]), owned.freed({place}))
        assert totals.unique_nbytes == owned.nbytes(owned.unique({place}))


@given(references, digests, digests, digests, st.dictionaries(st.sampled_from(PLACES), st.sampled_from("gh")))
def test_groups_of_cells_have_the_totals_of_groups_of_versions(found, missing, of_backbones, leased, names) -> None:
    owned = make(found, missing, of_backbones, leased)
    cell_of = {place: (place[0], names.get(place, "g")) for place in found}
    cells = owned.cells(cell_of)
    for number in (0, 1):
        group_of = {cell: cell[number] for cell in cells.own}
        assert cells.totals(group_of) == owned.totals({place: cell[number] for place, cell in cell_of.items()})
