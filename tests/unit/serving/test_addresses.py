from __future__ import annotations

import pytest

from serving.addresses import check_shared
from store.errors import InvalidSettingError

DATABASE = "postgresql+psycopg://onetrunk@db/onetrunk"


@pytest.mark.parametrize(
    ("store", "catalogue"),
    [("/srv/store", None), ("/srv/store", "sqlite:////srv/c.db"), ("s3://a/b", "sqlite:///c.db")],
)
def test_one_sqlite_file_for_several_nodes_is_refused_with_the_remedy(store, catalogue):
    check_shared(store, catalogue, nodes=1)
    with pytest.raises(InvalidSettingError, match=r"3 nodes.*PostgreSQL.*`catalogue=`"):
        check_shared(store, catalogue, nodes=3)


@pytest.mark.parametrize("store", ["/srv/store", "s3://a/b"])
def test_a_database_on_a_server_is_shared_by_any_number(store):
    check_shared(store, DATABASE, nodes=64)
