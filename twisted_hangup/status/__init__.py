"""The operator's live page: recent errors in a browser and as JSON, as they happen.

It shows a site's journal and changes nothing.  `access` decides who may see it, `snapshots` puts
the journal into JSON, `stream` keeps browsers up to date, `page` makes what they load.
"""

from .access import is_local as is_local
from .resource import StatusResource as StatusResource
from .site import StatusSite as StatusSite
