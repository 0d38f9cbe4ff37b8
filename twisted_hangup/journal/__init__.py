"""The record of errors: it keeps and counts them, and writes them to the logs."""

from .console import ConsoleLog as ConsoleLog
from .error_log import ErrorLog as ErrorLog
from .journal import PEERS_COUNTED as PEERS_COUNTED
from .journal import RECENT_BYTES as RECENT_BYTES
from .journal import RECENT_ERRORS as RECENT_ERRORS
from .journal import TOP as TOP
from .journal import Entry as Entry
from .journal import Follower as Follower
from .journal import Journal as Journal
from .journal import SettledWatcher as SettledWatcher
from .journal import Snapshot as Snapshot
from .journal import UpstreamWatcher as UpstreamWatcher
from .journal import Watcher as Watcher
from .journal import peer_name as peer_name
