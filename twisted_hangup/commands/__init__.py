"""What ``python -m twisted_hangup`` runs."""
