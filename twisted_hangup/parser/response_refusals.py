"""What is refused in a response and in no request, as `refusals` has the rest.

Where llhttp 9.4 refuses, code and reason are its words; the last group is ours, and
docs/deviations.md tells why.
"""

from __future__ import annotations

from typing import Final

from .refusals import Why

# The status line
SPACE_AFTER_VERSION: Final = Why("HPE_INVALID_VERSION", "Expected space after version")
STATUS_CODE: Final = Why("HPE_INVALID_STATUS", "Invalid status code")
BEHIND_STATUS: Final = Why("HPE_INVALID_STATUS", "Invalid response status")
STATUS_LINE_CR: Final = Why("HPE_CR_EXPECTED", "Missing expected CR after response line")
STATUS_LINE_LF: Final = Why("HPE_STRICT", "Expected LF after CR")

# Ours
STATUS_BELOW_100: Final = Why("HPE_INVALID_STATUS", "Status code below 100")
REASON_CHAR: Final = Why("HPE_INVALID_STATUS", "Invalid character in reason phrase")
TE_IN_HTTP_1_0: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in an HTTP/1.0 response"
)
TE_WITHOUT_BODY: Final = Why(
    "HPE_INVALID_TRANSFER_ENCODING", "Transfer-Encoding in a 1xx or 204 response"
)
CL_WITHOUT_BODY: Final = Why(
    "HPE_UNEXPECTED_CONTENT_LENGTH", "Content-Length in a 1xx or 204 response"
)
UPGRADE_UNASKED: Final = Why("ERR_HTTP_INVALID_UPGRADE", "101 to a request without Upgrade")
UPGRADE_UNNAMED: Final = Why("ERR_HTTP_INVALID_UPGRADE", "101 without Upgrade")
NOT_REQUESTED: Final = Why("ERR_HTTP_UNREQUESTED_RESPONSE", "Bytes that no request asked for")
EMPTY_LINES: Final = Why(
    "ERR_HTTP_TOO_MANY_EMPTY_LINES", "Too many empty lines before the status line"
)
