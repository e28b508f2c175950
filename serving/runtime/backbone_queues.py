"""The queues of several backbones as one: a request goes to that of its version's backbone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from torch import Tensor

from serving.images import ImageSource
from serving.prediction import Prediction
from serving.runtime.prediction_queue import PredictionQueue, Predictions
from serving.runtime.request_times import Origin
from store.registry.store import Version


class BackboneQueues:
    """Takes an image for versions of any of the backbones: where they differ, the image is decoded for each."""

    def __init__(self, queues: Mapping[str, PredictionQueue]) -> None:
        self._queues = queues

    def submit(self, versions: Sequence[Version], image: ImageSource, origin: Origin) -> Predictions:
        """Do what `PredictionQueue.submit` does."""
        return self._divide(versions, lambda queue, own: queue.submit(own, image, origin))

    def submit_pixels(self, versions: Sequence[Version], pixels: Tensor, origin: Origin) -> Predictions:
        """Do what `PredictionQueue.submit_pixels` does; the pixels are the input of the versions' one backbone."""
        return self._divide(versions, lambda queue, own: queue.submit_pixels(own, pixels, origin))

    def submit_encoded(self, versions: Sequence[Version], image: bytes, origin: Origin) -> Predictions:
        """Do what `PredictionQueue.submit_encoded` does."""
        return self._divide(versions, lambda queue, own: queue.submit_encoded(own, image, origin))

    def check_open(self) -> None:
        for queue in self._queues.values():
            queue.check_open()

    def _divide(
        self, versions: Sequence[Version], submit: Callable[[PredictionQueue, Sequence[Version]], Predictions]
    ) -> Predictions:
        of_backbone: defaultdict[str, list[int]] = defaultdict(list)
        for index, version in enumerate(versions):
            of_backbone[version.manifest.backbone].append(index)
        if len(of_backbone) == 1:
            return submit(self._queues[versions[0].manifest.backbone], versions)
        futures: dict[int, Future[Prediction]] = {}
        try:
            for backbone, indexes in of_backbone.items():
                own = submit(self._queues[backbone], [versions[index] for index in indexes])
                futures.update(zip(indexes, own, strict=True))
        except BaseException:  # what was refused for one backbone is not computed for another
            for future in futures.values():
                future.cancel()
            raise
        return tuple(futures[index] for index in range(len(versions)))
