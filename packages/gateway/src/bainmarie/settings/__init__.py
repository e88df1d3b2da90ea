"""The configuration: bain.yaml to checked, immutable settings; its JSON Schema and its documentation.

document   YAML to plain data, with the place of every key
shape      what keys there are
explain    a wrong shape as one line with its place
checks     rules between keys
builtin    the models that come with bainmarie
settings   what the gateway runs by
load       finds and reads the file
schema     JSON Schema and table of keys
"""

from bainmarie.home import bain_home
from bainmarie.settings.load import config_path, load_settings, parse_settings
from bainmarie.settings.schema import json_schema, key_table
from bainmarie.settings.settings import Settings, is_loopback
from bainmarie.settings.shape import ToolSettings

__all__ = [
    "Settings",
    "ToolSettings",
    "bain_home",
    "config_path",
    "is_loopback",
    "json_schema",
    "key_table",
    "load_settings",
    "parse_settings",
]
