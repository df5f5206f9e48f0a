"""Telling people: what is said, the signed webhook, and delivery until it is received."""
