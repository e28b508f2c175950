"""Scripts and styles: the files of one folder, the same for everyone, named with their digest so that they are kept."""

from __future__ import annotations

import hashlib
from importlib import resources

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from store.accounting.pictures.style import css

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {
    file.name: file.read_bytes()
    for file in (resources.files("serving.console") / "static").iterdir()
    if file.name[file.name.rfind(".") :] in TYPES
}
FILES["pictures.css"] = css().encode()  # the style of the storage report's pictures
DIGESTS = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in FILES.items()}


def versioned(name: str) -> str:
    """Return the file's path below the console, which changes with its content."""
    return f"/static/{name}?v={DIGESTS[name]}"


async def answer(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404)
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return Response(FILES[name], headers=headers, media_type=TYPES[name[name.rfind(".") :]])
