"""`python -m support.rehearsal one|three FOLDER`: what deploy/ promises, done; FOLDER/report.json has what came of it.

one: a Ray of one node, the very file of deploy/, a prediction with a key and without. three: a head and two nodes with
the cores, HAProxy in front, a node that loses its power under load and comes back, and a store of SQLite, refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from torch import Generator, randint, uint8

from serving.runtime.predictor import Predictor
from store.records.backbone import DEFAULT_BACKBONE
from store.registry.store import Store
from store.registry.tenant_store import new_key
from store.weights.backbones import encode, load_backbone
from support.checked_load import Asked, CheckedLoad
from support.deployed_cluster import CATALOGUE, DEPLOY, Cluster, balancer, enter, get, services, wait_for
from support.nodes import network
from support.oracle import make_random_task, png

STORE = "s3://onetrunk/vision"
TASKS = [f"team/task-{index}" for index in range(5)]
IMAGE = png(randint(0, 255, (64, 64, 3), generator=Generator().manual_seed(7), dtype=uint8))
MEASURE_S, LOST_S, AFTER_S = 10.0, 30.0, 10.0


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    kind, folder = sys.argv[1], Path(sys.argv[2])
    nodes = ["head"] if kind == "one" else ["head", "alpha", "beta"]
    with network(nodes, services=("postgres", "s3")) as net:
        enter(net.hub)
        with services() as environment:
            os.environ.update(environment)
            key, asked = publish(folder)
            cluster = Cluster(net, environment, folder)
            with running(cluster, head_cpus=4 if kind == "one" else 0):
                report = (rehearse_one if kind == "one" else rehearse_three)(cluster, key, asked, folder)
    (folder / "report.json").write_text(json.dumps(report, indent=2))


@contextlib.contextmanager
def running(cluster: Cluster, *, head_cpus: int) -> Iterator[None]:
    note("starting Ray")
    cluster.start(head_cpus=head_cpus)
    try:
        yield
    finally:
        cluster.save_logs()
        for node in cluster.network.nodes:
            node.stop()


def note(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def publish(folder: Path) -> tuple[str, Sequence[Asked]]:
    """Fill the store that the file names; return a key's secret, and the right answers of each task's versions."""
    note("publishing")
    backbone, asked = load_backbone(DEFAULT_BACKBONE), []
    with Store.open(STORE, catalogue=CATALOGUE, create=True) as store:
        store.add_backbone(backbone.record, encode(backbone))
        for index, task in enumerate([*TASKS, *TASKS[:2]]):
            made = make_random_task(backbone, folder / f"task-{index}", index)
            store.publish(task, made.folder, backbone=DEFAULT_BACKBONE, depth=made.depth)
        with Predictor(store) as predictor:
            for task in [*TASKS, f"{TASKS[0]}:1"]:
                prediction = predictor.predict(task, IMAGE)
                asked.append(Asked(task, prediction.version, [float(each) for each in prediction.logits]))
        key, secret = new_key(None, ("read",))
        store.put_key(key)
    return secret, asked


def deployed(cluster: Cluster, url: str) -> float:
    """Deploy the very file; return the seconds until a prediction is answered at the address."""
    note("serve deploy deploy/serve.yaml")
    start = time.monotonic()
    cluster.deploy(DEPLOY / "serve.yaml")
    wait_for(lambda: cluster.application().get("status") == "RUNNING", "the application")
    wait_for(lambda: get(f"{url}/readyz")[0] == 200, "an answer")
    return round(time.monotonic() - start, 1)


def ask(url: str, key: str | None, asked: Asked) -> int:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return get(f"{url}/v1/predict/{asked.ref}", headers, body=IMAGE)[0]


def replicas(url: str, key: str) -> Sequence[Mapping[str, object]]:
    status, body = get(f"{url}/v1/statistics", {"Authorization": f"Bearer {key}"})
    found: Sequence[Mapping[str, object]] = json.loads(body)["replicas"] if status == 200 else []
    return found


def rehearse_one(cluster: Cluster, key: str, asked: Sequence[Asked], folder: Path) -> Mapping[str, object]:
    url = f"http://{cluster.head.address}:8000"
    ready_s = deployed(cluster, url)
    wait_for(lambda: len(replicas(url, key)) == 2, "both replicas")
    note("load")
    with CheckedLoad(url, key, IMAGE, asked) as load:
        time.sleep(MEASURE_S)
    time.sleep(0.5)  # the last lines of the log
    (folder / "requests.log").write_bytes(cluster.log_lines(cluster.head))
    last = load.endings[-1]
    return {
        "ready_s": ready_s,
        "with_a_key": ask(url, key, asked[0]),
        "without_a_key": ask(url, None, asked[0]),
        "with_a_wrong_key": ask(url, "ot_wrong", asked[0]),
        "dashboard": {kind: cluster.ask_dashboard("/api/serve/applications/", token=token)
                      for kind, token in (("its token", None), ("a wrong one", "0" * 64), ("none", ""))},
        "load": load.report(),
        "request_id": last.request_id,
        "which": which(last.request_id, folder / "requests.log"),
    }  # fmt: skip


def which(request_id: str, log: Path) -> Mapping[str, object]:
    """Say what the documented command says of a request."""
    command = [sys.executable, "-m", "onetrunk", "which", request_id, str(log), "--format", "json"]
    done = subprocess.run(
        [*command, "--store", STORE, "--catalogue", CATALOGUE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    answer: Mapping[str, object] = found
    return answer


def rehearse_three(cluster: Cluster, key: str, asked: Sequence[Asked], folder: Path) -> Mapping[str, object]:
    hosts, lost = cluster.head.hosts, cluster.workers[0]
    with balancer(hosts, folder / "haproxy.log") as url:
        report: dict[str, object] = {"ready_s": deployed(cluster, url)}
        wait_for(lambda: len({each["node"] for each in replicas(url, key)}) == 2, "a replica on each node")
        note("load, then a node loses its power")
        with CheckedLoad(url, key, IMAGE, asked) as load:
            time.sleep(MEASURE_S)
            cut = time.monotonic()
            lost.cut_power()
            noticed_s = wait_for(lambda: lost.address not in cluster.alive(), "Ray to notice")
            recovered_s = noticed_s + wait_for(lambda: len(replicas(url, key)) == 2, "as many replicas as before")
            time.sleep(max(0.0, cut + LOST_S - time.monotonic()))
            alone = time.monotonic()
            time.sleep(AFTER_S)
            note("the node comes back")
            back = time.monotonic()
            lost.restore_link()
            cluster.join(lost)
            wait_for(lambda: lost.address in cluster.alive(), "the node")
            time.sleep(AFTER_S)
        report |= {
            "noticed_s": round(noticed_s, 1),
            "replicas_again_s": round(recovered_s, 1),
            "longest_without_an_answer_s": round(longest_gap(load, cut), 2),
            "before": load.report(end=cut),
            "lost": load.report(begin=cut, end=alone),
            "alone": load.report(begin=alone, end=back),
            "back": load.report(begin=back),
            "failures": [vars(each) for each in load.failures()[:20]],
        }
        note("a store that SQLite cannot share")
        return report | {"sqlite": refusal_of_sqlite(cluster)}


def longest_gap(load: CheckedLoad, since: float) -> float:
    """Return the longest time in which no request was answered."""
    times = sorted(ending.at for ending in load.endings if ending.how == "right" and ending.at >= since)
    return max(later - earlier for earlier, later in zip([since, *times], times, strict=False))


def refusal_of_sqlite(cluster: Cluster) -> str:
    """Deploy the file with a folder in the place of the bucket; return what Ray says why it does not run."""
    content = yaml.safe_load((DEPLOY / "serve.yaml").read_text())
    (application,) = content["applications"]
    application["args"] = {"store": "/srv/onetrunk", "keys": True}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as changed:
        yaml.safe_dump(content, changed)
        changed.flush()
        cluster.deploy(Path(changed.name))
    wait_for(lambda: "SQLite" in json.dumps(cluster.application()), "the refusal")
    said = json.dumps(cluster.application())
    return said[said.index("InvalidSettingError") :][:400] if "InvalidSettingError" in said else said[-400:]


if __name__ == "__main__":
    main()
