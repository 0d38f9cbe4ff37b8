"""The promises of `twisted_hangup.server` for connections that speak HTTP/2 (RFC 9113)."""
