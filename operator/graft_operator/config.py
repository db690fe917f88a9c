"""What the chart tells the operator, through its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graft_operator.engine.leadership import LeaseTimes
from graft_runtime.environment import log_level, required, whole_number


@dataclass(frozen=True)
class Config:
    """One operator process."""

    namespace: str
    pod_name: str
    pod_ip: str
    trainer_image: str
    trainer_pull_policy: str = "IfNotPresent"
    serving_image: str = ""
    serving_pull_policy: str = "IfNotPresent"
    vllm_image: str = ""
    vllm_pull_policy: str = "IfNotPresent"
    reports_service: str = "graft-reports"
    reports_port: int = 8443
    reports_secret: str = "graft-reports-tls"  # noqa: S105 - a name
    reports_certificate_folder: Path | None = None
    """With cert-manager: where its Secret is mounted."""
    policies_file: Path = Path("/etc/graft/policies/policies.yaml")
    prometheus_url: str = ""
    """For TuningPolicies that name no server. Empty: there is none."""
    prometheus_token_file: Path | None = None
    """Sent there and nowhere else."""
    prometheus_authority_file: Path | None = None
    health_port: int = 8080
    lease: str = "graft-operator"
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    watch_namespaces: tuple[str, ...] = ()
    """Empty: all."""
    kubeconfig: Path | None = None
    log_level: str = "INFO"

    @property
    def reports_url(self) -> str:
        """Where pods report to."""
        return f"https://{self.reports_service}.{self.namespace}.svc:{self.reports_port}"


def from_environment(environ: Mapping[str, str]) -> Config:
    """Read GRAFT_* variables. Raises `MissingSetting`."""
    default = LeaseTimes()
    prometheus = {name: environ.get(f"GRAFT_PROMETHEUS_{name}") for name in ("TOKEN_FILE", "CA_FILE")}
    certificate, kubeconfig = environ.get("GRAFT_REPORTS_CERTIFICATE"), environ.get("KUBECONFIG")
    return Config(
        namespace=required(environ, "GRAFT_NAMESPACE"),
        pod_name=required(environ, "GRAFT_POD_NAME"),
        pod_ip=required(environ, "GRAFT_POD_IP"),
        trainer_image=required(environ, "GRAFT_TRAINER_IMAGE"),
        trainer_pull_policy=environ.get("GRAFT_TRAINER_PULL_POLICY", Config.trainer_pull_policy),
        serving_image=required(environ, "GRAFT_SERVING_IMAGE"),
        serving_pull_policy=environ.get("GRAFT_SERVING_PULL_POLICY", Config.serving_pull_policy),
        vllm_image=required(environ, "GRAFT_VLLM_IMAGE"),
        vllm_pull_policy=environ.get("GRAFT_VLLM_PULL_POLICY", Config.vllm_pull_policy),
        reports_service=environ.get("GRAFT_REPORTS_SERVICE", Config.reports_service),
        reports_secret=environ.get("GRAFT_REPORTS_SECRET", Config.reports_secret),
        reports_certificate_folder=Path(certificate) if certificate else None,
        policies_file=Path(environ.get("GRAFT_POLICIES_FILE", Config.policies_file)),
        prometheus_url=environ.get("GRAFT_PROMETHEUS_URL", "").rstrip("/"),
        prometheus_token_file=Path(prometheus["TOKEN_FILE"]) if prometheus["TOKEN_FILE"] else None,
        prometheus_authority_file=Path(prometheus["CA_FILE"]) if prometheus["CA_FILE"] else None,
        reports_port=whole_number(environ, "GRAFT_REPORTS_PORT", Config.reports_port),
        health_port=whole_number(environ, "GRAFT_HEALTH_PORT", Config.health_port),
        lease=environ.get("GRAFT_LEASE", Config.lease),
        lease_times=LeaseTimes(
            duration=float(environ.get("GRAFT_LEASE_DURATION", default.duration)),
            renew=float(environ.get("GRAFT_LEASE_RENEW", default.renew)),
            retry=float(environ.get("GRAFT_LEASE_RETRY", default.retry)),
        ),
        watch_namespaces=tuple(filter(None, environ.get("GRAFT_WATCH_NAMESPACES", "").split(","))),
        kubeconfig=Path(kubeconfig) if kubeconfig else None,
        log_level=log_level(environ),
    )
