"""Tune two embedded tasks, serve them from one backbone, and ask the server for labels.

    python examples/fit_and_serve.py FOLDER [PORT]

One epoch of sixty images is enough to see how it works, and far too little for a good model.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import onetrunk

TASKS = ("digits", "slant")
PORT = 8265
CONFIG = onetrunk.FitConfig(
    tune=onetrunk.TrainingConfig(epochs=1),
    score=onetrunk.ScoreConfig(criterion="ridge"),
    retune=onetrunk.TrainingConfig(epochs=1),
)


def main(folder: Path, port: int = PORT) -> None:
    datasets = {task: onetrunk.load_dataset(f"onetrunk/{task}", limit=60) for task in TASKS}
    with onetrunk.open_store(folder / "store", create=True) as store:
        for task, dataset in datasets.items():
            version = onetrunk.fit_and_publish(store, task, dataset, config=CONFIG, aliases=("prod",))
            index = version.manifest.prune_index
            print(f"{task}:{version.number} runs {index.depth} of {index.blocks} blocks, {version.nbytes:,} bytes")
        print(f"the store takes {onetrunk.storage_report(store).total_nbytes:,} bytes")
    with (
        onetrunk.serve(str(folder / "store"), port=port),
        onetrunk.Client(f"http://127.0.0.1:{port}") as client,
    ):
        for task, dataset in datasets.items():
            image = BytesIO()
            dataset.test.image(0).save(image, "PNG")
            prediction = client.predict(f"{task}@prod", image.getvalue())
            (best,) = prediction.top(1)
            truth = dataset.classes[dataset.test.labels[0]]
            print(f"{task}:{prediction.version} says {best.label!r} ({best.score:.2f}), the label is {truth!r}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/fit_and_serve.py FOLDER [PORT]")
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
