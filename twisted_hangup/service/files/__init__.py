"""The files of a folder: which one a path names, whether a client has it, and how it is sent."""

from .static import StaticFiles as StaticFiles
