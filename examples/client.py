"""Ask a server that runs already for the labels of some images.

    python examples/client.py http://127.0.0.1:8265 digits@prod one.png two.png

ONETRUNK_KEY is the secret of an API key, where the server wants one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import onetrunk


def main(url: str, ref: str, *images: str) -> None:
    with onetrunk.Client(url, api_key=os.environ.get("ONETRUNK_KEY")) as client:
        for name in images:
            prediction = client.predict(ref, Path(name).read_bytes())
            labels = ", ".join(f"{label} {score:.2f}" for label, score in prediction.top(3))
            print(f"{name}: {labels}  ({prediction.task}:{prediction.version}, {prediction.depth} blocks)")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python examples/client.py URL REF IMAGE...")
    try:
        main(*sys.argv[1:])
    except onetrunk.errors.OnetrunkError as error:
        sys.exit(f"{type(error).__name__}: {error}")
