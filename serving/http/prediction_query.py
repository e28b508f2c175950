"""The arguments of a prediction in the query of its URL, checked as the schema says."""

from __future__ import annotations

import urllib.parse
from functools import lru_cache
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field, ValidationError

from serving.http.errors import invalid

MAX_REFS = 256
MOST_FIELDS = 1024


Top = Annotated[int, Field(ge=1)]
TimeoutMs = Annotated[float | None, Field(gt=0)]


class PredictionQuery(BaseModel):
    """What may be asked for beside the image and its task, which is in the path."""

    top: Top = 5
    logits: bool = False
    timeout_ms: TimeoutMs = None


class ManyQuery(BaseModel):
    """The same with the tasks before it: of several wrong arguments the first one is named."""

    ref: Annotated[list[str], Field(min_length=1, max_length=MAX_REFS)]
    top: Top = 5
    logits: bool = False
    timeout_ms: TimeoutMs = None


Single = Annotated[PredictionQuery, Query()]
Many = Annotated[ManyQuery, Query()]


@lru_cache(maxsize=1024)
def parse_query(query: bytes, *, many: bool) -> PredictionQuery | ManyQuery:
    """Parse and check the query; raise `InvalidSettingError` with the first argument that is wrong."""
    kind: type[PredictionQuery | ManyQuery] = ManyQuery if many else PredictionQuery
    values: dict[str, object] = {}
    try:
        pairs = urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise invalid({"loc": ["query"], "msg": f"has more than {MOST_FIELDS} arguments"}) from None
    refs = [value for name, value in pairs if name == "ref"]
    values.update(pairs)  # of an argument that is given twice, the last one counts
    if refs:
        values["ref"] = refs
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False)[0]) from None
