"""Makes errors readable for people, with secrets hidden: no Twisted, and no parsing."""

from .lookalikes import LOOKALIKES as LOOKALIKES
from .lookalikes import lookalike_of as lookalike_of
from .masking import DEFAULT_POLICY as DEFAULT_POLICY
from .masking import UNMASKED as UNMASKED
from .masking import MaskingPolicy as MaskingPolicy
from .report import WIDTH as WIDTH
from .report import Excerpt as Excerpt
from .report import byte_name as byte_name
from .report import field_of as field_of
from .report import masked_line as masked_line
from .report import masked_packet as masked_packet
from .report import opening_text as opening_text
from .report import report_error as report_error
from .report import request_line_of as request_line_of
from .report import request_so_far as request_so_far
