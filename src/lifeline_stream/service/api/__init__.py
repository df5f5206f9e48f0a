"""The API under /api/v1.

It has no access control yet, so it is served on the loopback interface unless the configuration says otherwise.
"""
