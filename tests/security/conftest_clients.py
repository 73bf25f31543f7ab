"""The fixtures of tests/clients, under a name that does not collide with our own conftest."""

import importlib.util
from pathlib import Path

_path = Path(__file__).resolve().parent.parent / "clients" / "conftest.py"
_spec = importlib.util.spec_from_file_location("clients_conftest", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

pytest_sessionstart = _module.pytest_sessionstart
start, site, rooted = _module.start, _module.site, _module.rooted
image, Site = _module.image, _module.Site
