"""A real single-node Kubernetes from pinned Go modules and Debian packages, without Docker, for demo, tests and benchmarks."""
