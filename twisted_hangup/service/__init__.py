"""What ``twistd hangup`` and ``twist hangup`` run."""

from .options import Options as Options
from .service import LoggedSite as LoggedSite
from .service import makeService as makeService
