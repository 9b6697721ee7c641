"""The network for inference, and out of PyTorch: what is left when nothing has to be trained."""

from senet.deploy.engines import Loaded, load_exported
from senet.deploy.exporting import ExportReport, export
from senet.deploy.rewrite import Deployment, deploy

__all__ = ["Deployment", "ExportReport", "Loaded", "deploy", "export", "load_exported"]
