"""`fit-many`: a plan becomes jobs as `fit` reads its options, and the command ends as its tasks did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Shell
from support.many_tasks import toy_store, write_data
from support.toy_backbone import Toy

from onetrunk.cli.fit_plan import PlanRow, RowParser, read_plan
from onetrunk.cli.fit_search import parse_search, title_of
from store.errors import InvalidSettingError

QUICK = ("--backbone", "toy/vit", "--epochs", "1", "--retune-epochs", "1", "--criterion", "ridge", "--workers", "0")


@pytest.fixture
def shop(toy: Toy, tmp_path: Path) -> Shell:
    toy_store(tmp_path / "store", toy).close()
    return Shell(tmp_path / "store", tmp_path, toy)


def plan(folder: Path, text: str, name: str = "plan.toml") -> Path:
    (folder / name).write_text(text, "utf-8")
    return folder / name


def test_toml_has_defaults_for_all_and_options_for_each(tmp_path):
    data = write_data(tmp_path)
    path = plan(tmp_path, 'lr = 0.01\n[[task]]\nname = "a"\ndata = "haze.npz"\nfrom_block = 3\nalias = ["x", "y"]\n'
                          '[[task]]\nname = "b"\ndata = "onetrunk/digits"\nlr = 0.002\nparity = true\n'
                          'save-dtype = "float32"\n')  # fmt: skip
    found = read_plan(path)
    assert [(row.place, row.name, row.data) for row in found.rows] == [
        ("row 1", "a", data),
        ("row 2", "b", "onetrunk/digits"),
    ]
    parser = RowParser()
    one, other = (parser.job(row, found.shared, {"epochs": 3, "lr": 0.005}, row.options) for row in found.rows)
    assert (one.config.tune.learning_rate, one.config.tune.from_block, one.config.tune.epochs) == (0.005, 3, 3)
    assert (one.aliases, one.place) == (("x", "y"), "row 1")
    assert (other.config.tune.learning_rate, other.config.score.criterion) == (0.002, "sls-authors")
    assert (one.config.save_dtype, other.config.save_dtype) == ("float16", "float32")


def test_csv_has_a_column_for_each_option_and_an_empty_cell_is_the_default(tmp_path):
    found = read_plan(plan(tmp_path, "name, data, rank, parity\na, x.npz, 4,\n\nb, y.npz, , yes\n", "plan.csv"))
    assert found.rows == [
        PlanRow("line 2", "a", "x.npz", {"rank": "4"}),
        PlanRow("line 4", "b", "y.npz", {"parity": "yes"}),
    ]
    assert RowParser().job(found.rows[0], found.rows[0].options).config.tune.rank == 4


def test_a_folder_has_a_task_for_each_data_set(tmp_path):
    for name in ("dogs/akita", "dogs/beagle", ".hidden/x"):
        (tmp_path / "sets" / name).mkdir(parents=True)
    (tmp_path / "sets" / "digits.npz").touch()
    (tmp_path / "sets" / "README.txt").touch()
    assert [(row.name, Path(row.data).name) for row in read_plan(tmp_path / "sets").rows] == [
        ("digits", "digits.npz"),
        ("dogs", "dogs"),
    ]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("[[task]]\nname = 'a'\n", "plan.toml", "row 1 has no data"),
        ("name,data\na\n", "plan.csv", "line 2 has 1 cells, its first line 2"),
        ("lr = 1\n", "plan.toml", "has no task"),
        ("task = 3\n", "plan.toml", "task is not a list of tables"),
        ("lr =\n", "plan.toml", "cannot be read"),
        ("", "plan.yaml", "is not a plan: give a TOML or CSV file"),
    ],
)
def test_what_is_not_a_plan_is_refused(tmp_path, text, name, said):
    with pytest.raises(InvalidSettingError, match=said):
        read_plan(plan(tmp_path, text, name))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lrr": 1}, "No such option"),
        ({"rank": 0}, "'--rank': 0 is not in the range"),
        ({"criterion": "nope"}, "'nope' is not one of"),
        ({"parity": "perhaps"}, "write true or false"),
        ({"lr": {"a": 1}}, "give it a value"),
        ({"out": "x"}, "No such option"),
        ({"when": "before", "retune": "head"}, "leave out --retune head"),
    ],
)
def test_a_wrong_option_of_a_row_is_named(options, said):
    with pytest.raises(InvalidSettingError, match=said):
        RowParser().job(PlanRow("row 1", "a", "x.npz", options), options)


def test_a_search_is_a_grid():
    assert [title_of(one) for one in parse_search("lr=1e-3:1e-2,rank=4:8")] == [
        "lr 1e-3, rank 4",
        "lr 1e-3, rank 8",
        "lr 1e-2, rank 4",
        "lr 1e-2, rank 8",
    ]
    assert len(parse_search("lr,rank,method")) == 27
    assert parse_search(None) == []
    for wrong in ("epochs", "lr,lr", "lr=1:1", "lr=", "seed=1:2", ""):
        with pytest.raises(InvalidSettingError, match="--search"):
            parse_search(wrong)
    with pytest.raises(InvalidSettingError, match="has 250 settings"):
        parse_search("lr=" + ":".join(map(str, range(250))))


def test_the_command_publishes_each_and_names_at_the_end_what_failed(shop, tmp_path):
    write_data(tmp_path, "one")
    write_data(tmp_path, "two", turn=1)
    path = plan(tmp_path, '[[task]]\nname = "one"\ndata = "one.npz"\n[[task]]\nname = "two"\ndata = "two.npz"\n')
    words = ("fit-many", str(path), *QUICK, "--out", str(tmp_path / "work"))
    dry = shop.json(*words, "--dry-run", "--search", "lr")
    assert [(row["task"], row["epochs"], row["settings"]) for row in dry] == [("one", 1, 3), ("two", 1, 3)]
    assert shop.json("ls") == []
    done = shop(*words, "--format", "json")
    assert [(row["task"], row["state"], row["version"]) for row in done.json] == [
        ("one", "published", 1),
        ("two", "published", 1),
    ]
    assert "two: published, depth" in done.err
    shop("alias", "rule", "two", "prod", "--min-accuracy", "1")
    gated = shop(*words, "--alias", "prod", "--format", "json", code=1)
    assert [row["state"] for row in json.loads(gated.out)] == ["published", "failed"]
    assert "the tuned task is kept in" in gated.err
    assert gated.err.splitlines()[-1] == "DataError: 1 of 2 tasks failed: each is named above with the reason"


def test_the_command_lists_every_fault_of_the_rows_and_tunes_nothing(shop, tmp_path):
    path = plan(tmp_path, "name,data,rank\na,x.npz,0\nb,y.npz,4\nc d,z.npz,oops\n", "plan.csv")
    done = shop("fit-many", str(path), *QUICK, code=2)
    assert "2 of 3 tasks cannot be tuned as they are, and none was" in done.err
    assert "line 2 (a): " in done.err
    assert "line 4 (c d): " in done.err
    done = shop("fit-many", str(plan(tmp_path, "name,data\na,x.npz\nb,y.npz\n", "other.csv")), *QUICK, code=2)
    assert done.err.count("no file") == 2
