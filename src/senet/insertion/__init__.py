"""Insertion into a model that exists: find the sites, change it, change it back, save and load."""

from senet.insertion.config import SEConfig
from senet.insertion.saving import load, save
from senet.insertion.site_plan import InsertionReport, Site, SitePlan
from senet.insertion.sites import find_sites
from senet.insertion.surgery import SEParameters, insert, remove, se_modules, se_parameters
from senet.insertion.synchronise import convert_sync_batchnorm

__all__ = [
    "InsertionReport",
    "SEConfig",
    "SEParameters",
    "Site",
    "SitePlan",
    "convert_sync_batchnorm",
    "find_sites",
    "insert",
    "load",
    "remove",
    "save",
    "se_modules",
    "se_parameters",
]
