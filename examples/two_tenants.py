"""Serve two tenants from one store: each key sees the tasks of its own tenant, and no others.

python examples/two_tenants.py FOLDER [PORT]
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import onetrunk

PORT = 8265
CONFIG = onetrunk.FitConfig(
    tune=onetrunk.TrainingConfig(epochs=1), score=onetrunk.ScoreConfig(criterion="ridge"), retune_mode="head"
)


def main(folder: Path, port: int = PORT) -> None:
    dataset = onetrunk.load_dataset("onetrunk/slant", limit=60)
    secrets: dict[str, str] = {}
    with onetrunk.open_store(folder / "store", create=True) as store:
        version = onetrunk.fit_and_publish(store, "garden/slant", dataset, config=CONFIG)
        exported = store.export("garden/slant", folder / f"slant-{version.number}")
        store.publish("zoo/slant", exported)  # the same content: its bytes are kept once
        for tenant in ("garden", "zoo"):
            key, secrets[tenant] = onetrunk.new_key(tenant, ("read",))
            store.put_key(key)
    image = BytesIO()
    dataset.test.image(0).save(image, "PNG")
    with onetrunk.serve(str(folder / "store"), port=port, keys=True):
        for tenant, secret in secrets.items():
            with onetrunk.Client(f"http://127.0.0.1:{port}", api_key=secret) as client:
                for ref in ("garden/slant", "zoo/slant"):
                    try:
                        prediction = client.predict(ref, image.getvalue())
                        print(f"{tenant} asks for {ref}: {prediction.top(1)[0].label}")
                    except onetrunk.errors.ServerError as error:
                        print(f"{tenant} asks for {ref}: {error}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/two_tenants.py FOLDER [PORT]")
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
