"""What clients talk to: from a domain alias to a pod that has the version."""
