"""What a task takes and gives, as the Open Inference Protocol describes a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.oip import images, outputs
from store.records.backbone import Preprocessing

Json = dict[str, object]
PLATFORM = "onetrunk"


@dataclass(frozen=True)
class TensorMetadata:
    """A tensor by its name; -1 in the shape is the number of images."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_dict(self) -> Json:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class ModelMetadata:
    """A task; a request gives one of the inputs."""

    name: str
    versions: Sequence[str]
    inputs: Sequence[TensorMetadata]
    outputs: Sequence[TensorMetadata]

    def to_dict(self) -> Json:
        return {
            "name": self.name,
            "versions": list(self.versions),
            "platform": PLATFORM,
            "inputs": [tensor.to_dict() for tensor in self.inputs],
            "outputs": [tensor.to_dict() for tensor in self.outputs],
        }


def make_metadata(name: str, versions: Sequence[str], preprocessing: Preprocessing, classes: int) -> ModelMetadata:
    """Describe a task of so many classes on a backbone that sees images of this size."""
    shapes = {
        images.IMAGE: (-1,),
        images.PIXELS: (-1, -1, -1, 3),
        images.NORMALISED: (-1, 3, preprocessing.height, preprocessing.width),
    }
    widths = {outputs.LOGITS: (-1, classes), outputs.SCORES: (-1, classes), outputs.LABEL: (-1,)}
    return ModelMetadata(
        name,
        versions,
        [TensorMetadata(each, images.DATATYPES[each], shape) for each, shape in shapes.items()],
        [TensorMetadata(each, outputs.DATATYPES[each], shape) for each, shape in widths.items()],
    )
