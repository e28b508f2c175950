"""Serve many image tasks from one frozen vision transformer.

    import onetrunk

    dataset = onetrunk.load_dataset("onetrunk/digits")
    with onetrunk.open_store("store", create=True) as store:
        version = onetrunk.fit_and_publish(store, "digits", dataset)
        with onetrunk.Predictor(store) as predictor:
            print(predictor.predict("digits", dataset.test.image(0)).top(3))

Each name is imported when it is first used: `import onetrunk` itself loads nothing.
"""

TYPE_CHECKING = False  # type checkers take it for true; `typing` alone takes longer to import than all of this

if TYPE_CHECKING:
    from onetrunk.doctor import Check, diagnose
    from onetrunk.many.fit_job import FitJob, FitOutcome
    from onetrunk.many.fit_many import fit_many
    from onetrunk.many.score import ScoreSummary, score
    from onetrunk.rendering.model_card import export_hub
    from onetrunk.request_log import AnsweredRequest, AnsweringVersion, find_request
    from onetrunk.stores import open_read_only, open_store
    from onetrunk.workflows import add_backbone, adopt_backbone, fit_and_publish, order_backbone, publish_folder
    from serving.client import AsyncClient, Client, ImageAnswer
    from serving.prediction import Prediction
    from serving.runtime.predictor import Predictor
    from serving.server import serve
    from serving.telemetry_options import TelemetryOptions
    from sls.choose_depth import DepthChoice, ScoreConfig, choose_depth
    from sls.data.dataset import Dataset
    from sls.data.loading import load_dataset
    from sls.pipeline.config import FitConfig
    from sls.pipeline.fit import FitResult, fit, fit_budgets
    from sls.plots.depth_plot import draw_depths
    from sls.plots.tsne_maps import draw_maps
    from sls.progress import Progress
    from sls.training.recipe import TrainingConfig
    from sls.width.of_folder import width_of_folder
    from sls.width.search import WidthConfig
    from sls.width.trial import WidthPoint
    from store import errors
    from store.accounting.report import StorageReport, storage_report
    from store.errors import OnetrunkError
    from store.maintenance.garbage import GarbageReport, collect_garbage
    from store.maintenance.migrate import migrate
    from store.maintenance.rebuild import rebuild
    from store.maintenance.verify import verify
    from store.maintenance.verify_versions import Finding
    from store.records.events import AliasRule, ApiKey
    from store.records.evidence import Certificate, PruneIndex
    from store.records.listing import Page, Search
    from store.records.manifest import Manifest
    from store.records.refs import Ref
    from store.records.splits import AliasSplit, SplitOptions
    from store.records.tokens import TokenIndex
    from store.records.version import Version
    from store.records.width import WidthIndex
    from store.registry.api_keys import new_key
    from store.registry.bundle import export_bundle, import_bundle
    from store.registry.diff import Difference, diff
    from store.registry.read_only_store import ReadOnlyStore
    from store.registry.splits import end_split, split_alias
    from store.registry.store import Store
    from store.registry.tenant_store import TenantStore
    from store.weights.backbones import Backbone, load_backbone
    from store.weights.converted.leaving import export_merged, export_onnx
    from store.weights.converted.transformers_export import export_transformers

_MODULES = {
    "AliasRule": "store.records.events",
    "AliasSplit": "store.records.splits",
    "AnsweredRequest": "onetrunk.request_log",
    "AnsweringVersion": "onetrunk.request_log",
    "ApiKey": "store.records.events",
    "AsyncClient": "serving.client",
    "Backbone": "store.weights.backbones",
    "Certificate": "store.records.evidence",
    "Check": "onetrunk.doctor",
    "Client": "serving.client",
    "Dataset": "sls.data.dataset",
    "DepthChoice": "sls.choose_depth",
    "Difference": "store.registry.diff",
    "Finding": "store.maintenance.verify_versions",
    "FitConfig": "sls.pipeline.config",
    "FitJob": "onetrunk.many.fit_job",
    "FitOutcome": "onetrunk.many.fit_job",
    "FitResult": "sls.pipeline.fit",
    "GarbageReport": "store.maintenance.garbage",
    "ImageAnswer": "serving.client",
    "Manifest": "store.records.manifest",
    "OnetrunkError": "store.errors",
    "Page": "store.records.listing",
    "Prediction": "serving.prediction",
    "Predictor": "serving.runtime.predictor",
    "Progress": "sls.progress",
    "PruneIndex": "store.records.evidence",
    "ReadOnlyStore": "store.registry.read_only_store",
    "Ref": "store.records.refs",
    "ScoreConfig": "sls.choose_depth",
    "ScoreSummary": "onetrunk.many.score",
    "Search": "store.records.listing",
    "SplitOptions": "store.records.splits",
    "StorageReport": "store.accounting.report",
    "Store": "store.registry.store",
    "TelemetryOptions": "serving.telemetry_options",
    "TenantStore": "store.registry.tenant_store",
    "TokenIndex": "store.records.tokens",
    "TrainingConfig": "sls.training.recipe",
    "Version": "store.records.version",
    "WidthConfig": "sls.width.search",
    "WidthIndex": "store.records.width",
    "WidthPoint": "sls.width.trial",
    "add_backbone": "onetrunk.workflows",
    "adopt_backbone": "onetrunk.workflows",
    "choose_depth": "sls.choose_depth",
    "collect_garbage": "store.maintenance.garbage",
    "diagnose": "onetrunk.doctor",
    "diff": "store.registry.diff",
    "draw_depths": "sls.plots.depth_plot",
    "draw_maps": "sls.plots.tsne_maps",
    "end_split": "store.registry.splits",
    "errors": "store.errors",
    "export_bundle": "store.registry.bundle",
    "export_hub": "onetrunk.rendering.model_card",
    "export_merged": "store.weights.converted.leaving",
    "export_onnx": "store.weights.converted.leaving",
    "export_transformers": "store.weights.converted.transformers_export",
    "find_request": "onetrunk.request_log",
    "fit": "sls.pipeline.fit",
    "fit_and_publish": "onetrunk.workflows",
    "fit_budgets": "sls.pipeline.fit",
    "fit_many": "onetrunk.many.fit_many",
    "import_bundle": "store.registry.bundle",
    "load_backbone": "store.weights.backbones",
    "load_dataset": "sls.data.loading",
    "migrate": "store.maintenance.migrate",
    "new_key": "store.registry.api_keys",
    "open_read_only": "onetrunk.stores",
    "open_store": "onetrunk.stores",
    "order_backbone": "onetrunk.workflows",
    "publish_folder": "onetrunk.workflows",
    "rebuild": "store.maintenance.rebuild",
    "score": "onetrunk.many.score",
    "serve": "serving.server",
    "split_alias": "store.registry.splits",
    "storage_report": "store.accounting.report",
    "verify": "store.maintenance.verify",
    "width_of_folder": "sls.width.of_folder",
}
"""The module of each public name."""

__all__ = [
    "AliasRule",
    "AliasSplit",
    "AnsweredRequest",
    "AnsweringVersion",
    "ApiKey",
    "AsyncClient",
    "Backbone",
    "Certificate",
    "Check",
    "Client",
    "Dataset",
    "DepthChoice",
    "Difference",
    "Finding",
    "FitConfig",
    "FitJob",
    "FitOutcome",
    "FitResult",
    "GarbageReport",
    "ImageAnswer",
    "Manifest",
    "OnetrunkError",
    "Page",
    "Prediction",
    "Predictor",
    "Progress",
    "PruneIndex",
    "ReadOnlyStore",
    "Ref",
    "ScoreConfig",
    "ScoreSummary",
    "Search",
    "SplitOptions",
    "StorageReport",
    "Store",
    "TelemetryOptions",
    "TenantStore",
    "TokenIndex",
    "TrainingConfig",
    "Version",
    "WidthConfig",
    "WidthIndex",
    "WidthPoint",
    "add_backbone",
    "adopt_backbone",
    "choose_depth",
    "collect_garbage",
    "diagnose",
    "diff",
    "draw_depths",
    "draw_maps",
    "end_split",
    "errors",
    "export_bundle",
    "export_hub",
    "export_merged",
    "export_onnx",
    "export_transformers",
    "find_request",
    "fit",
    "fit_and_publish",
    "fit_budgets",
    "fit_many",
    "import_bundle",
    "load_backbone",
    "load_dataset",
    "migrate",
    "new_key",
    "open_read_only",
    "open_store",
    "order_backbone",
    "publish_folder",
    "rebuild",
    "score",
    "serve",
    "split_alias",
    "storage_report",
    "verify",
    "width_of_folder",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_MODULES[name])
    return getattr(module, name, module)  # `errors` is a module itself


def __dir__() -> list[str]:
    return __all__
