"""HTTP/2 (RFC 9113) for `twisted_hangup.server`, with the same promises as HTTP/1.1."""
