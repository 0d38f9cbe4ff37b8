"""What ends a command, besides success."""


class CommandError(Exception):
    """The command cannot be carried out.  The message is one line."""
