"""The operator's live page: what went wrong lately, in a browser, as JSON and as it happens.

It shows a site's journal and changes nothing.  `access` decides who may see it, `snapshots`
put the journal into JSON, `stream` keeps browsers up to date, `page` is what they load.
"""

from .access import is_local as is_local
from .resource import StatusResource as StatusResource
from .site import StatusSite as StatusSite
