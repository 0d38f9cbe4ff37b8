"""A real ``twistd hangup`` under every kind of bad client at once, beside good ones."""
