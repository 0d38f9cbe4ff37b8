"""Bytes in, events or one `ParseError` out: no Twisted, no I/O, no clock."""

from .request import RequestParser as RequestParser
from .response import ResponseParser as ResponseParser
