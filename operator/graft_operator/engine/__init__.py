"""
The ground that every reconciler stands on: gateway to the API server, watches, queue, leadership.

`process.py` runs all of it and is the place to start reading; `kube.py` alone talks to the API server.
"""
