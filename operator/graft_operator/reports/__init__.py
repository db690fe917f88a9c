"""
The server that training pods report to, and everything that makes its answers trustworthy.

    server.py        HTTPS routes: bounded, strict, leader only
    identity.py      token -> pod -> Job -> FineTuneJob
    coalesce.py      progress: acknowledged at once, the latest kept, written every two seconds
    sink.py          what the reconciler implements
    certificates.py  CA and serving certificate in one named Secret, or files of cert-manager
    tls.py           the socket's context: a new certificate without a dropped connection
    ca.py            the CA and the trainer's service account, carried into workload namespaces
    service.py       the EndpointSlice that points at the leader
    policies.py      the guard: nothing counts while an admission policy is missing or changed
"""
