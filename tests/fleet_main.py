"""Runs a fleet by the environment, as the command line does: `fleet_main.py module:attribute`."""

from __future__ import annotations

import os
import sys

from bananas.log import configure
from bananas.runtime.fleet import Fleet, run_fleet
from bananas.settings import Settings

if __name__ == "__main__":
    settings = Settings.from_sources(os.environ)
    configure(settings.log_level, settings.log_format)
    apis = int(os.environ.get("FLEET_APIS", "0"))
    sys.exit(run_fleet(Fleet.of(settings, sys.argv[1], apis=apis), settings))
