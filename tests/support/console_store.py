"""A store for the console's pages: two tenants, aliases with rules, certificates, scores, and hostile text."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from store.records.events import AliasRule
from store.records.evidence import Accuracy, Certificate, Lineage, PruneIndex, Rounding, Validation
from store.records.manifest import Card
from store.records.measures import Calibration, ClassCounts
from store.records.tokens import TokenIndex
from store.records.width import WidthIndex
from store.registry.api_keys import new_key
from store.registry.splits import split_alias
from store.registry.store import Store
from store.weights.backbones import Backbone, encode
from support.oracle import make_backbone, make_task

BLOCKS = 12
HOSTILE = "<script>alert(1)</script>"
DEPTHS = (3, 5, 6, 7, 8, 9, 11, 12)


@dataclass(frozen=True)
class ConsoleStore:
    """The folder of the store, and the secrets of the keys by name."""

    root: Path
    secrets: dict[str, str]


def build(folder: Path) -> ConsoleStore:
    """Make tasks of two tenants and of none, with keys: operator, promoter and reader of acme, rival of garden."""
    backbone = make_backbone(folder / "backbone", depth=BLOCKS)
    with Store.open(folder / "store", create=True, actor="ann@lab") as store:
        store.add_backbone(backbone.record, encode(backbone))
        made = {depth: _folder(backbone, folder / f"depth-{depth}", depth) for depth in (5, 8, 12)}
        for points in (0.0, 0.4, 3.2):  # the third version costs more than prod allows
            _publish(
                store, backbone, made[8], "acme/cars", card=_measured(_card(backbone, 8, points), narrow=points > 1),
                labels="taxi\nwagon\ncoach",
            )  # fmt: skip
        _publish(store, backbone, made[5], "acme/birds", card=_card(backbone, 5, 0.2, candidates=(4, 5)))
        _publish(store, backbone, made[12], "acme/plain", card=None)
        _publish(
            store, backbone, made[5], "garden/roses", card=_card(backbone, 5, 0.1), labels=f"{HOSTILE}\nrose\npoppy"
        )
        _publish(store, backbone, made[8], "digits", card=_card(backbone, 8, 0.0))
        store.set_alias("acme/cars", "prod", 1)
        store.set_alias("acme/cars", "prod", 2)
        split_alias(store, "acme/cars", "beta", {2: 90, 3: 10})
        store.set_rule(AliasRule("acme/cars", "prod", max_drop=1.0, min_accuracy=0.5))
        store.set_rule(AliasRule("acme/*", "frozen", protected=True))
        store.set_tag("acme/cars", "team", "vision")
        store.set_tag("acme/birds", "note", HOSTILE)
        secrets = {
            "operator": _key(store, None, "admin", "read"),
            "promoter": _key(store, "acme", "read", "publish", "promote"),
            "admin": _key(store, "acme", "read", "admin"),
            "reader": _key(store, "acme", "read"),
            "rival": _key(store, "garden", "read", "publish", "promote"),
        }
    return ConsoleStore(folder / "store", secrets)


def add_many(folder: Path, count: int) -> None:
    """Add so many tasks of tenant `many`, which share their blobs, to the store that `build` made there."""
    backbone = make_backbone(folder / "backbone", depth=BLOCKS)
    with Store.open(folder / "store") as store:
        cards = [_card(backbone, depth, 0.1) for depth in DEPTHS]
        made = [_folder(backbone, folder / f"many-{depth}", depth) for depth in DEPTHS]
        for each, card in zip(made, cards, strict=True):
            (each / "onetrunk.json").write_bytes(card.to_json())
        for number in range(count):
            draw = (number * number + 3 * number) % 23
            which = 0 if draw < 2 else min(len(DEPTHS) - 1, 1 + draw // 3)
            task = f"many/{('wing', 'leaf', 'road', 'face', 'tile')[number % 5]}-{number:04d}"
            store.publish(task, made[which])
            if number % 7 == 0:
                store.set_tag(task, "team", ("vision", "maps")[number % 2])


def _key(store: Store, tenant: str | None, *scopes: str) -> str:
    key, secret = new_key(tenant, scopes)
    store.put_key(key)
    return secret


def _folder(backbone: Backbone, folder: Path, depth: int) -> Path:
    modules = ("attn.qkv",)
    return make_task(backbone, folder, depth=depth, classes=3, modules=modules, seed=depth).folder


def _publish(
    store: Store, backbone: Backbone, folder: Path, task: str, *, card: Card | None, labels: str = "rose\ntulip\npoppy"
) -> None:
    own = Path(shutil.copytree(folder, folder.parent / task.replace("/", "-"), dirs_exist_ok=True))
    (own / "classes.txt").write_text(labels + "\n")
    if card is None:
        store.publish(task, own, backbone=backbone.record.name, depth=12)
        return
    (own / "onetrunk.json").write_bytes(card.to_json())
    store.publish(task, own)


def _card(backbone: Backbone, depth: int, points: float, *, candidates: tuple[int, ...] = ()) -> Card:
    """Make evidence by hand: a cut at this depth that costs so many points of test accuracy."""
    full = Accuracy(930, 1000)
    cut = Accuracy(930 - round(10 * points), 1000)
    curve = tuple(Accuracy(min(188, 90 + 13 * number), 200) for number in range(1, BLOCKS + 1))
    scores = tuple(None if number < depth - 2 else 0.2 + 0.05 * number for number in range(1, BLOCKS + 1))
    certificate = Certificate(
        full, cut, dataclasses.replace(cut, correct=cut.correct - 12),
        validation=Validation(Accuracy(188, 200), Accuracy(187, 200)), max_drop=1.0, curve=curve,
    )  # fmt: skip
    index = PruneIndex(
        depth, BLOCKS, "silhouette", alpha=0.9, threshold=0.2 + 0.05 * (depth - 0.5), scores=scores, seed=0,
        samples=512, candidates=candidates,
    )  # fmt: skip
    lineage = Lineage(data="drawings", train_samples=800, test_samples=1000, recipe={"epochs": 8, "rate": 0.002})
    return Card(backbone.record.id.fingerprint, index, certificate, lineage)


def _measured(card: Card, *, narrow: bool) -> Card:
    """Add counts by class, calibration and the cost of the stored type to the card, and a width where it is narrow."""
    certificate, index = card.certificate, card.prune_index
    assert certificate is not None
    assert index is not None
    wrong = certificate.cut.total - certificate.cut.correct
    some, others = wrong // 2, wrong - wrong // 2
    confusion = ((400 - some, some, 0), (0, 350 - others, others), (0, 0, 250))
    answered = tuple(map(sum, zip(*confusion, strict=True)))
    counts = ClassCounts((400, 350, 250), answered, tuple(confusion[place][place] for place in range(3)), confusion)
    measured = dataclasses.replace(
        certificate, class_counts=counts, calibration=Calibration(1.3, 200, 0.061, 0.018), duplicates=2,
        rounding=Rounding("float16", dataclasses.replace(certificate.cut, correct=certificate.cut.correct + 1)),
    )  # fmt: skip
    masks = [(0b111, (1 << 96 + 12 * block) - 1) for block in range(index.depth)]
    width = WidthIndex.of(masks, heads=3, units=192) if narrow else None
    whole = (1 << 16) - 1
    tokens = TokenIndex.of([whole] * 4 + [0x0FF0] * 4, rows=4, columns=4) if narrow else None
    return dataclasses.replace(
        card, certificate=measured, prune_index=dataclasses.replace(index, width=width, tokens=tokens)
    )
