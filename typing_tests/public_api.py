"""What type checkers infer of the public API: checked by mypy and pyright, never run."""

from concurrent.futures import Future
from pathlib import Path
from typing import assert_type

import onetrunk


def registry(path: Path) -> None:
    with onetrunk.open_store(path, create=True, actor="me") as store:
        assert_type(store, onetrunk.Store)
        version = store.publish("flowers", path, depth=3, aliases=("prod",))
        assert_type(version, onetrunk.Version)
        assert_type(version.manifest, onetrunk.Manifest)
        assert_type(version.manifest.prune_index, onetrunk.PruneIndex)
        assert_type(version.manifest.certificate, onetrunk.Certificate | None)
        options = onetrunk.SplitOptions(shadow=(3, 5.0), rules=("errors>1%",))
        split = onetrunk.split_alias(store, "flowers", "prod", {1: 90, 2: 10}, options=options)
        assert_type(split, onetrunk.AliasSplit)
        assert_type(onetrunk.end_split(store, "flowers", "prod"), onetrunk.AliasSplit)
        assert_type(onetrunk.verify(store), list[onetrunk.Finding])
        assert_type(onetrunk.collect_garbage(store, dry_run=True), onetrunk.GarbageReport)
        assert_type(onetrunk.storage_report(store), onetrunk.StorageReport)
        assert_type(onetrunk.adopt_backbone(store, "onetrunk/vit_tiny_64.v2"), onetrunk.Backbone)
        assert_type(onetrunk.publish_folder(store, "flowers", path, parent="flowers:1"), onetrunk.Version)
    with onetrunk.open_read_only(path) as reader:
        assert_type(reader, onetrunk.ReadOnlyStore)
        assert_type(reader.resolve("flowers@prod"), onetrunk.Version)
        assert_type(reader.search(onetrunk.Search(method="LORA")), onetrunk.Page)


def tuning(path: Path) -> None:
    dataset = onetrunk.load_dataset("onetrunk/digits", limit=10)
    assert_type(dataset, onetrunk.Dataset)
    backbone = onetrunk.load_backbone("onetrunk/vit_tiny_64.v2")
    config = onetrunk.FitConfig(tune=onetrunk.TrainingConfig(epochs=1), score=onetrunk.ScoreConfig(criterion="cka"))
    result = onetrunk.fit(dataset, backbone, out=path, config=config, progress=show)
    assert_type(result, onetrunk.FitResult)
    assert_type(onetrunk.choose_depth(result.cut, dataset, backbone).index, onetrunk.PruneIndex)
    with onetrunk.open_store(path) as store:
        assert_type(onetrunk.fit_and_publish(store, "digits", dataset, config=config), onetrunk.Version)


def show(progress: onetrunk.Progress) -> None:
    assert_type(progress.seconds_left, float)


def answering(path: Path, image: bytes) -> None:
    with onetrunk.open_store(path) as store, onetrunk.Predictor(store, dtype="float32") as predictor:
        assert_type(predictor.predict("digits", image), onetrunk.Prediction)
        assert_type(predictor.submit("digits", image), Future[onetrunk.Prediction])
    with onetrunk.serve(str(path)), onetrunk.Client("http://127.0.0.1:8265", api_key=None) as client:
        prediction = client.predict("digits", image)
        assert_type(prediction, onetrunk.Prediction)
        assert_type(prediction.top(1)[0].label, str)
        assert_type(prediction.to_dict(), dict[str, object])


async def asking(image: bytes) -> None:
    async with onetrunk.AsyncClient("https://models", retries=0, ca_file="own.pem") as client:
        assert_type(await client.predict("digits", image), onetrunk.Prediction)
        async for answer in client.predict_folder("digits", "pictures"):
            assert_type(answer, onetrunk.ImageAnswer)


def failing(ref: str) -> None:
    try:
        onetrunk.Ref.parse(ref)
    except onetrunk.errors.InvalidNameError as error:
        assert_type(error, onetrunk.errors.InvalidNameError)
    except onetrunk.OnetrunkError as error:
        assert_type(error, onetrunk.OnetrunkError)
