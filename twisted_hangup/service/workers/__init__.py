"""Worker processes on shared listening sockets, which can be replaced without a client's notice.

`Workers` is the service of the first process.  It opens the sockets, starts the workers, replaces
those that die, and on demand all of them one after the other.  A worker runs the service that a
function of yours makes, which is given a `Worker`.
"""

from .channel import Channel as Channel
from .channel import Kind as Kind
from .supervisor import Workers as Workers
from .worker import Worker as Worker
