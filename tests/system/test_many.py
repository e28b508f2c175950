"""Many tasks over a real Ray, killed half way: what is left goes on, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.many_tasks import contents, job, quick, toy_store, write_data
from support.processes import importing
from support.toy_backbone import Toy, publish, tune

from onetrunk.many.fit_many import fit_many
from serving.cluster.descendants import descendants, parent_of
from serving.cluster.task_plan import DONE, FAILED, PROGRESS, TaskPlan
from serving.cluster.task_pool import task_pool
from store.errors import ServerError
from store.registry.store import Store

pytestmark = pytest.mark.cluster
LIMIT_S = 120.0


def begin(*words: str, root: Path) -> subprocess.Popen[bytes]:
    environment = importing() | {"ONETRUNK_STORE": str(root / "store"), "ONETRUNK_CACHE": "off"}
    return subprocess.Popen([sys.executable, "-m", "onetrunk", *words], env=environment, stderr=subprocess.PIPE)


def kill_when(process: subprocess.Popen[bytes], half_way: Callable[[], bool]) -> None:
    """Kill the command, and see that all that it had started ends with it."""
    end = time.monotonic() + LIMIT_S
    while not half_way() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    below = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stderr:
        process.stderr.close()
    assert len(below) > 2
    while any(map(parent_of, below)) and time.monotonic() < end:  # what has ended may wait for its parent, as a zombie
        time.sleep(0.05)
    assert [pid for pid in below if parent_of(pid)] == []


def finish(*words: str, root: Path, code: int = 0) -> object:
    process = subprocess.run(
        [sys.executable, "-m", "onetrunk", *words, "--format", "json"],
        env=importing() | {"ONETRUNK_STORE": str(root / "store"), "ONETRUNK_CACHE": "off", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert process.returncode == code, process.stderr.decode()
    return json.loads(process.stdout)


@pytest.mark.siege
def test_fit_many_that_is_killed_goes_on_and_ends_with_the_bytes_of_each_task_tuned_alone(toy: Toy, tmp_path: Path):
    toy_store(tmp_path / "store", toy).close()
    rows = [f"t{turn},{write_data(tmp_path, f't{turn}', turn=turn)},{3 if turn else 1}" for turn in range(3)]
    (tmp_path / "plan.csv").write_text("name,data,from-block\n" + "\n".join(rows))
    options = ("--backbone", "toy/vit", "--rank", "2", "--criterion", "ridge", "--epochs", "6", "--retune-epochs", "1")
    words = ("fit-many", str(tmp_path / "plan.csv"), *options, "--workers", "2", "--out", str(tmp_path / "work"))
    process = begin(*words, root=tmp_path)
    kill_when(process, lambda: len(list((tmp_path / "work").glob("*/unfinished/*/full.safetensors"))) > 1)
    done = finish(*words, root=tmp_path)
    assert [row["state"] for row in done] == ["published"] * 3
    jobs = [
        job(f"t{turn}", str(tmp_path / f"t{turn}.npz"), config=quick(6, from_block=3 if turn else 1))
        for turn in range(3)
    ]
    alone = fit_many(None, jobs, out=tmp_path / "alone", workers=0, backbones=tmp_path / "store")
    for row, one in zip(done, alone, strict=True):
        assert contents(Path(row["folder"])) == contents(one.folder)
    assert not (tmp_path / "work" / ".features").exists()


@pytest.mark.siege
def test_score_that_is_killed_goes_on_from_its_parts_and_ends_with_the_same_bytes(toy: Toy, tmp_path: Path):
    with toy_store(tmp_path / "store", toy) as store:
        make_tasks(store, tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    chance = np.random.default_rng(0)
    for number in range(1600):
        Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(pictures / f"{number:04}.bmp")
    (pictures / "1234.bmp").write_bytes(b"BM")
    out, parts = tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    words = ("score", "flowers", "trees", str(pictures), "--workers", "2", "--out")
    process = begin(*words, str(out), root=tmp_path)
    kill_when(process, lambda: len(list(parts.glob("0*.jsonl"))) > 0)
    assert not out.exists()
    done = finish(*words, str(out), "--resume", root=tmp_path, code=1)
    assert 0 < done["resumed"] < 1600
    assert (done["images"], done["failed"]) == (1600, 1)
    finish(*words[:-3], "--workers", "0", "--out", str(tmp_path / "whole.jsonl"), root=tmp_path, code=1)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def make_tasks(store: Store, root: Path) -> None:
    for seed, task in enumerate(("flowers", "trees")):
        publish(store, tune(root / task, depth=2, seed=seed), task)


@pytest.mark.parametrize("actors", [False, True])
def test_over_ray_a_job_whose_process_dies_is_tried_three_times_and_the_others_end(actors: bool):
    plan = TaskPlan("support.jobs:make", {"base": 1}, workers=2, actors=actors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", importing()["PYTHONPATH"])
        with task_pool(plan) as pool:
            for number in range(5):
                pool.submit(number, {"steps": 2, "end": number == 1, "wrong": "data" if number == 2 else None})
            events = list(pool.events())
    results = {event.job: event for event in events if event.kind != PROGRESS}
    assert [results[number].kind for number in range(5)] == [DONE, FAILED, FAILED, DONE, DONE]
    assert "its process ended" in results[1].value["message"]
    assert results[2].value["message"] == "no data here"
    assert len([event for event in events if event.job == 3]) == 3
    assert results[4].value["process"] != os.getpid()


def test_an_address_without_a_ray_is_said_at_once():
    plan = TaskPlan("support.jobs:make", {"base": 1}, None, ray_address="127.0.0.1:1")
    with task_pool(plan) as pool:
        pool.submit(0, {"steps": 0})
        with pytest.raises(ServerError, match=r"no Ray at 127\.0\.0\.1:1 .* leave it out"):
            list(pool.events())
