"""The operator's live page: what went wrong lately, in a browser, as JSON and as it happens.

It shows a site's journal and changes nothing.  `_access` decides who may see it, `_records`
what is told of an error, `_stream` keeps browsers up to date, `_page` is what they load.
"""

from ._access import is_local as is_local
from ._resource import StatusResource as StatusResource
from ._site import StatusSite as StatusSite
