"""The network for inference: what is left when nothing has to be trained any more."""

from senet.deploy.rewrite import Deployment, deploy

__all__ = ["Deployment", "deploy"]
