"""The catalogue changed by another program, cell by cell: `verify` finds it, and no answer is wrong."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.backends.layout import CATALOGUE
from store.errors import IntegrityError, OnetrunkError
from store.maintenance.verify import verify
from store.records.events import GENESIS, Event
from store.registry.store import Store

EPHEMERAL = {"leases", "holds", "condemned"}  # they end by themselves, and no answer depends on them
Row = tuple[object, ...]


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with Store.open(root) as store:
        yield store


@pytest.fixture
def books(store: Store) -> Iterator[sqlite3.Connection]:
    """The catalogue, opened by someone else."""
    connection = sqlite3.connect(store.root / CATALOGUE, isolation_level=None)
    connection.execute("pragma synchronous = off")
    yield connection
    connection.close()


def tables(books: sqlite3.Connection) -> list[str]:
    names = [name for (name,) in books.execute("select name from sqlite_master where type = 'table' order by name")]
    return [name for name in names if name not in EPHEMERAL]


def read(books: sqlite3.Connection, table: str) -> tuple[list[str], list[Row]]:
    found = books.execute(f"select rowid as row, * from {table}")
    return [column[0] for column in found.description], found.fetchall()


def others(value: object) -> list[object]:
    """Return what someone might put in the place of a value."""
    if value is None:
        return [1, "x"]
    if isinstance(value, int | float):
        return [value + 1, None, "x"]
    text = str(value)
    flipped = chr(ord(text[-1]) ^ 1) if text else "x"
    return [text[:-1] + flipped, None, b"\xff\x00"]


def faults(store: Store) -> list[str]:
    try:
        return [str(finding) for finding in verify(store, metadata_only=True)]
    except OnetrunkError as error:
        return [str(error)]


def write(books: sqlite3.Connection, table: str, columns: list[str], row: Row) -> None:
    """Put a row back as it was, under its old place in the table."""
    named, marks = ", ".join(f'"{name}"' for name in columns[1:]), ", ".join("?" * len(columns))
    books.execute(f"delete from {table} where rowid = ?", row[:1])
    books.execute(f"insert into {table} (rowid, {named}) values ({marks})", row)


def test_other_processes_find_what_this_one_finds(store: Store, books: sqlite3.Connection) -> None:
    assert verify(store, metadata_only=True, processes=2) == []
    books.execute("update versions set depth = depth + 1")
    books.execute("delete from named where task = (select min(task) from versions)")
    blob = Path(store.blobs.locate(store.versions()[-1].manifest_blob))
    blob.chmod(0o644)
    blob.write_bytes(b"{" + blob.read_bytes()[1:-1] + b"]")
    for metadata_only in (True, False):
        found = verify(store, metadata_only=metadata_only)
        assert len(found) > 3
        assert verify(store, metadata_only=metadata_only, processes=2) == found


def test_every_cell_of_every_table_that_is_changed_is_found(store: Store, books: sqlite3.Connection) -> None:
    assert faults(store) == []
    tried, missed = 0, []
    for table in tables(books):
        columns, rows = read(books, table)
        assert rows, table
        for row in rows:
            for column, value in zip(columns[1:], row[1:], strict=True):
                for other in others(value):
                    try:
                        changed = books.execute(f'update {table} set "{column}" = ? where rowid = ?', (other, row[0]))
                    except sqlite3.IntegrityError:
                        continue
                    tried += changed.rowcount
                    found = faults(store)
                    if not any("restore" in line or "rebuild" in line or "upgrade" in line for line in found):
                        missed.append((table, row[0], column, value, other, found))
                    if column == columns[1] and isinstance(value, int):  # an integer key is the row's place itself
                        books.execute(f'delete from {table} where "{column}" = ?', (other,))
                    write(books, table, columns, row)
    assert missed == []
    assert tried > 900
    assert faults(store) == []


def test_every_row_of_every_table_that_is_deleted_is_found(store: Store, books: sqlite3.Connection) -> None:
    tried = 0
    for table in tables(books):
        columns, rows = read(books, table)
        for row in rows:
            tried += books.execute(f"delete from {table} where rowid = ?", row[:1]).rowcount
            assert faults(store) != [], (table, row)
            write(books, table, columns, row)
    assert tried > 60
    assert faults(store) == []


INSERTS = {
    "a version": "insert into versions select task, 9, 'e' || substr(digest, 2), nbytes, backbone, published_at, null, "
    "depth, blocks, classes, method, total_nbytes from versions where task = 'birds'",
    "a name": "insert into named select task, version, record, record_nbytes from versions join backbones",
    "an alias": "insert into aliases values ('flowers', 'canary', 1)",
    "a task": "insert into tasks values ('ghost', '', 1)",
    "a tag": "insert into tags values ('flowers', 3, 'note', 'x')",
    "a rule": "insert into rules values ('birds', 'prod', 1, null, null)",
    "a key": "insert into keys values ('k3', null, 'admin', substr(hex(zeroblob(40)), 1, 64), '2026', null)",
    "a backbone": "insert into backbones select 'f' || substr(fingerprint, 2), 'x', record, record_nbytes, weights, "
    "weights_nbytes from backbones limit 1",
    "an event": "insert into history select number + 1, at, action, subject, version, alias, digest, previous, actor, "
    "details, number + 1 from history order by number desc limit 1",
    "an event of another time": "insert into history select -1, at, action, subject, version, alias, digest, previous, "
    "actor, details, batch from history where number = 2",
}


@pytest.mark.parametrize("statement", INSERTS.values(), ids=INSERTS)
def test_a_row_that_is_put_in_is_found(store: Store, books: sqlite3.Connection, statement: str) -> None:
    books.execute("pragma foreign_keys = off")
    assert books.execute(statement).rowcount >= 1
    assert faults(store) != []


def test_two_events_in_each_others_place_are_found(store: Store, books: sqlite3.Connection) -> None:
    numbers = [number for (number,) in books.execute("select number from history")]
    for one, other in itertools.pairwise(numbers):
        for before, after in ((one, -1), (other, one), (-1, other)):
            books.execute("update history set number = ? where number = ?", (after, before))
        assert any("history breaks" in line for line in faults(store)), one
        for before, after in ((one, -1), (other, one), (-1, other)):
            books.execute("update history set number = ? where number = ?", (after, before))
    assert faults(store) == []


def chained(books: sqlite3.Connection, store: Store) -> None:
    """Compute every digest of the chain again, as someone with the source code would."""
    previous = GENESIS
    for event in list(store.queries.history()):
        books.execute("update history set previous = ? where number = ?", (previous, event.number))
        previous = Event(**{**vars(event), "previous": previous}).sha256


@pytest.mark.parametrize(
    "statements",
    [
        ["update history set actor = 'nobody' where number = 4"],
        ["update history set at = '2020-01-01T00:00:00.000+00:00' where number = 2"],
        [
            "update history set version = 3 where action = 'alias' and alias = 'prod'",
            "update aliases set version = 3 where alias = 'prod'",
        ],
        ["delete from history where number = (select max(number) from history)", "update keys set revoked_at = null"],
        [
            "update history set details = replace(details, 'ann', 'eve') where action = 'tag'",
            "update tags set value = 'eve' where value = 'ann'",
        ],
    ],
    ids=["actor", "time", "alias", "end", "tag"],
)
def test_a_history_that_was_rewritten_with_all_its_digests_contradicts_the_journal(
    store: Store, books: sqlite3.Connection, statements: list[str]
) -> None:
    for statement in statements:
        assert books.execute(statement).rowcount >= 1
    chained(books, store)
    assert any("journal" in line for line in faults(store))
    assert any("restore" in line or "rebuild" in line for line in faults(store))


def test_a_digest_of_another_kind_is_not_taken_for_a_manifest(store: Store, books: sqlite3.Connection) -> None:
    version = store.resolve("acme/cars")
    for blob in (*version.manifest.blobs, store.resolve("birds").manifest_blob):
        books.execute("update versions set digest = ?, nbytes = ? where task = 'acme/cars'", (blob.sha256, blob.nbytes))
        with pytest.raises(OnetrunkError) as caught:
            store.resolve("acme/cars")
        assert type(caught.value).__name__ in ("FormatError", "IntegrityError")
        assert faults(store) != []


def test_a_record_of_another_backbone_is_not_given_out(store: Store, books: sqlite3.Connection) -> None:
    books.execute(
        "update backbones set (record, record_nbytes) = (select record, record_nbytes from backbones "
        "where name = 'other/vit') where name = 'toy/vit'"
    )
    with pytest.raises(IntegrityError, match="restore the catalogue"):
        store.backbone("toy/vit")
    assert faults(store) != []
