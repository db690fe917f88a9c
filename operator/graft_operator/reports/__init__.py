"""
The server that training pods, agents and gateways report to, and everything that makes its answers trustworthy.

    server.py        HTTPS routes: bounded, strict, leader only
    identity.py      token -> pod, remembered for a minute
    chains.py        pod -> Job -> FineTuneJob, pod -> ReplicaSet -> Deployment -> ModelEndpoint
    coalesce.py      progress: acknowledged at once, the latest kept, written every two seconds
    fleet.py         agents and gateways: the latest of each, and whom it wakes
    sink.py          what the reconcilers implement
    certificates.py  CA and serving certificate in one named Secret, or files of cert-manager
    tls.py           the socket's context: a new certificate without a dropped connection
    ca.py            the CA and the trainer's service account, carried into workload namespaces
    service.py       the EndpointSlice that points at the leader
    policies.py      the guard: nothing counts while an admission policy is missing or changed
"""
