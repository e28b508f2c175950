"""What a fit would fail of at its end is refused before its first epoch."""

from __future__ import annotations

from collections import namedtuple

import pytest
from support.toy_datasets import colours, toy_backbone

from sls.pipeline.config import FitConfig
from sls.pipeline.fit import fit
from sls.pipeline.preflight import trainable_parameters
from sls.training.recipe import TrainingConfig
from store.errors import InvalidSettingError, StorageError

BACKBONE = toy_backbone()
Usage = namedtuple("Usage", "total used free")


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "taken").write_text("")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(InvalidSettingError, match=r"taken.* cannot take the result .*: give a folder .*`out=`"):
            fit(colours(), BACKBONE, out=out, progress=_no_step)


def test_a_disk_without_room_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**12, 10**12 - 1000, 1000))
    with pytest.raises(StorageError, match=r"has 1,000 bytes free, the fit writes up to [\d,]+: free some"):
        fit(colours(), BACKBONE, out=tmp_path, progress=_no_step)


@pytest.mark.parametrize("method", ["lora", "repadapter", "ssf", "bitfit"])
def test_what_is_trained_is_what_the_folder_of_the_full_model_holds(tmp_path, method):
    config = FitConfig(tune=TrainingConfig(epochs=1, method=method), retune_mode="none", save_dtype="float32")
    count = trainable_parameters(colours(), BACKBONE, config.tune)
    result = fit(colours(), BACKBONE, out=tmp_path, config=config)
    assert result.full is not None
    stored = sum(path.stat().st_size for path in result.full.glob("*.safetensors"))
    assert count * 4 <= stored * 1.2
    assert stored <= count * 4 * 1.5 + 40_000  # headers; RepAdapter is stored as the equal LoRA


def _no_step(_: object) -> None:
    raise AssertionError("it was tuned")


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "a seed in a text": ({"seed": "1"}, "seed '1' is not a whole number from 0 to"),
    "a negative seed": ({"seed": -1}, "seed -1 is not a whole number from 0 to"),
    "a seed of 33 bits": ({"seed": 2**32}, "seed 4294967296 is not"),
    "a rank in a float": ({"rank": 8.0}, "rank 8.0 is not a whole number from 1 to"),
    "a truth value": ({"epochs": True}, "epochs True is not a whole number"),
    "a rate in a text": ({"learning_rate": "1e-3"}, "learning_rate '1e-3' is not a number"),
    "a rate that is none": ({"learning_rate": float("nan")}, "learning_rate nan"),
    "a scale that is none": ({"scale": float("nan")}, "scale nan"),
    "an unknown method": ({"method": ["lora"]}, "method"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=list(WRONG))
def test_a_value_of_a_wrong_type_is_refused_when_the_config_is_made(values, message):
    with pytest.raises(InvalidSettingError, match=message):
        TrainingConfig(**values)
