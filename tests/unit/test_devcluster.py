"""The pure parts of the development cluster: what is configured, what is imported, and above all what is removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from graft_devcluster import (
    apiclient,
    certificates,
    cleanup,
    containerd,
    controlplane,
    discovery,
    host,
    iptables,
    manifests,
    node,
    packages,
    ports,
    tools,
)
from graft_devcluster import settings as cluster_settings
from graft_devcluster.apitier import free_ports, plane_of
from graft_devcluster.errors import ClusterError
from graft_devcluster.iptables import KubeProxy
from graft_devcluster.process import Daemon, Processes, base_environment, write_atomically
from graft_devcluster.settings import Port, Settings, Tier


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("dev", tmp_path / "cache", 16400, IPv4Network("10.212.0.0/16"))


RULES = r"""*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
:CNI-aaaaaaaaaaaaaaaaaaaaaaaa - [0:0]
:CNI-bbbbbbbbbbbbbbbbbbbbbbbb - [0:0]
:CNI-DN-aaaaaaaaaaaaaaaaaaaaa - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
:CNI-HOSTPORT-SETMARK - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NPX46M4PTMTKRN6Y - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A POSTROUTING -s 10.212.4.3/32 -m comment --comment "name: \"graft-dev\" id: \"94\"" -j CNI-aaaaaaaaaaaaaaaaaaaaaaaa
-A POSTROUTING -s 10.88.0.3/32 -m comment --comment "name: \"podman\" id: \"95\"" -j CNI-bbbbbbbbbbbbbbbbbbbbbbbb
-A CNI-aaaaaaaaaaaaaaaaaaaaaaaa -d 10.212.4.0/22 -m comment --comment "name: \"graft-dev\" id: \"94\"" -j ACCEPT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"graft-dev\" id: \"94\"" -j CNI-DN-aaaaaaaaaaaaaaaaaaaaa
-A KUBE-SERVICES -d 10.212.128.1/32 -p tcp -m comment --comment "default/kubernetes:https" -j KUBE-SVC-NPX46M4PTMTKRN6Y
-A KUBE-SVC-NPX46M4PTMTKRN6Y -m comment --comment "default/kubernetes:https -> 10.212.0.1:16443" -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:GRAFT-DEV-IN - [0:0]
:GRAFT-OTHER-IN - [0:0]
-A INPUT -j GRAFT-DEV-IN
-A INPUT -j GRAFT-OTHER-IN
-A INPUT -p tcp --dport 22 -j ACCEPT
COMMIT
"""


class TestRulesAreRemovedByEvidence:
    def test_own_rules_go_and_all_others_stay(self, settings: Settings) -> None:
        removed = iptables.removal(RULES, settings, kube_chains=True).splitlines()
        assert [line for line in removed if line.startswith("-D")] == [
            '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            "-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT",
            '-D POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ',
            r'-D POSTROUTING -s 10.212.4.3/32 -m comment --comment "name: \"graft-dev\" id: \"94\"" -j CNI-aaaaaaaaaaaaaaaaaaaaaaaa',
            "-D INPUT -j GRAFT-DEV-IN",
        ]
        assert {line[3:] for line in removed if line.startswith("-X")} == {
            "CNI-aaaaaaaaaaaaaaaaaaaaaaaa",
            "CNI-DN-aaaaaaaaaaaaaaaaaaaaa",
            "CNI-HOSTPORT-DNAT",
            "CNI-HOSTPORT-MASQ",
            "CNI-HOSTPORT-SETMARK",
            "KUBE-SERVICES",
            "KUBE-SVC-NPX46M4PTMTKRN6Y",
            "GRAFT-DEV-IN",
        }

    def test_every_chain_is_emptied_before_any_is_deleted(self, settings: Settings) -> None:
        for part in iptables.removal(RULES, settings, kube_chains=True).split("COMMIT"):
            verbs = [line[:2] for line in part.splitlines() if line.startswith("-")]
            assert verbs == sorted(verbs, key=["-D", "-F", "-X"].index)

    def test_kube_chains_of_another_cluster_stay(self, settings: Settings) -> None:
        assert "KUBE-" not in iptables.removal(RULES, settings, kube_chains=False)

    def test_shared_hostport_chains_stay_while_somebody_else_maps_a_port(self, settings: Settings) -> None:
        foreign = r'-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"podman\" id: \"95\"" -j CNI-DN-b'
        removed = iptables.removal(RULES.replace("-A KUBE-SERVICES", f"{foreign}\n-A KUBE-SERVICES", 1), settings, kube_chains=True)
        assert "-X CNI-HOSTPORT" not in removed
        assert "-X CNI-DN-aaaaaaaaaaaaaaaaaaaaa" in removed
        assert "-D CNI-HOSTPORT-DNAT -p tcp -m comment" in removed

    def test_chains_that_were_there_before_stay(self, settings: Settings) -> None:
        assert "CNI-HOSTPORT-MASQ" not in iptables.removal(RULES, settings, kube_chains=True, before=["nat/CNI-HOSTPORT-MASQ"])

    def test_a_clean_host_needs_no_change(self, settings: Settings) -> None:
        assert iptables.removal("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", settings, kube_chains=True) == ""

    @pytest.mark.parametrize(
        ("rules", "owner"),
        [
            pytest.param("", KubeProxy.NONE, id="no chains: nobody's"),
            pytest.param(RULES, KubeProxy.OURS, id="services in our network: ours"),
            pytest.param(
                "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SVC-X", KubeProxy.FOREIGN, id="services elsewhere: another cluster"
            ),
            pytest.param(RULES + "-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-X", KubeProxy.FOREIGN, id="a mixture: another cluster too"),
        ],
    )
    def test_whose_kube_proxy(self, rules: str, owner: KubeProxy) -> None:
        assert iptables.kube_proxy(rules, IPv4Network("10.212.0.0/16")) is owner

    def test_nobody_but_host_and_pods_reaches_the_api_server_and_the_kubelet(self, settings: Settings) -> None:
        rules = iptables.additions(settings).splitlines()
        guard = [rule for rule in rules if rule.startswith("-A GRAFT-DEV-IN")]
        assert guard[-1] == "-A GRAFT-DEV-IN -p tcp -m multiport --dports 16443,16405 -j DROP"
        assert all(rule.endswith("-j RETURN") for rule in guard[:-1])


class TestOnlyOwnThingsAreStopped:
    def test_processes(self, settings: Settings) -> None:
        state, run = settings.state, settings.run
        table = {
            1: ["/cache/bin/kubelet", f"--root-dir={state}/kubelet"],
            2: ["/usr/bin/containerd-shim-runc-v2", "-address", f"{run}/containerd.sock"],
            3: ["/usr/bin/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock"],
            4: ["tail", "-f", f"{state}/logs/kubelet.log"],
            5: ["kubelet", f"--root-dir={state}2/kubelet"],
            6: ["containerd"],
            7: [""],
        }
        assert cleanup.own_processes(table, settings) == [1, 2]

    def test_mounts_the_innermost_first(self, settings: Settings) -> None:
        state = settings.state
        mounts = "\n".join(
            [
                f"/dev/x {state}/kubelet ext4 rw 0 0",
                f"tmpfs {state}/kubelet/pods/1/a\\040b tmpfs rw 0 0",
                f"tmpfs {settings.run}/state/shm tmpfs rw 0 0",
                f"tmpfs {settings.run}2/state tmpfs rw 0 0",
                "proc /proc proc rw 0 0",
            ]
        )
        assert cleanup.own_mounts(mounts, settings) == [f"{settings.run}/state/shm", f"{state}/kubelet/pods/1/a b", f"{state}/kubelet"]

    def test_cached_cni_results(self, settings: Settings) -> None:
        names = ["graft-dev-0a-eth0", "cni-loopback-0a-lo", "cni-loopback-0b-lo", "podman-0b-eth0", "graft-dev2-0c-eth0"]
        assert cleanup.own_cni_results(names, settings) == ["graft-dev-0a-eth0", "cni-loopback-0a-lo"]

    def test_state_goes_and_images_stay(self, settings: Settings) -> None:
        for name in ("etcd", "pki", "containerd"):
            (settings.state / name).mkdir(parents=True)
        cluster_settings.remember(settings, Tier.NODE)
        cleanup.remove_state(settings, keep_images=True)
        assert [path.name for path in settings.state.iterdir()] == ["containerd"]
        cleanup.remove_state(settings, keep_images=False)
        assert not settings.state.exists()


def layout(folder: Path, layers: list[bytes]) -> containerd.Layout:
    """An OCI layout with these layers, read back."""
    descriptors = [containerd._store(folder, layer, "layer") for layer in layers]
    config = containerd._store(folder, b"{}", "config")
    manifest = containerd._store(folder, json.dumps({"config": config, "layers": descriptors}).encode(), "manifest")
    entry = {**manifest, "annotations": {"org.opencontainers.image.ref.name": "old:1"}}
    (folder / "index.json").write_text(json.dumps({"manifests": [entry]}))
    return containerd.read_layout(folder)


class TestThinImport:
    def test_only_the_changed_layer_and_what_names_it_is_sent(self, tmp_path: Path) -> None:
        first = layout(tmp_path / "a", [b"base", b"app 1"])
        second = layout(tmp_path / "b", [b"base", b"app 2"])
        missing = containerd.missing_blobs(second.blobs, set(first.blobs))
        contents = {(tmp_path / "b" / "blobs" / digest.replace(":", "/")).read_bytes()[:5] for digest in missing}
        assert contents == {b"app 2", b'{"con'}
        assert missing[-1] == second.digest

    def test_nothing_is_known_so_everything_is_sent(self, tmp_path: Path) -> None:
        image = layout(tmp_path, [b"base"])
        assert containerd.missing_blobs(image.blobs, set()) == image.blobs

    def test_a_layer_that_occurs_twice_is_sent_once(self, tmp_path: Path) -> None:
        assert len(layout(tmp_path, [b"same", b"same"]).blobs) == 3

    def test_the_image_gets_the_asked_name_only(self, tmp_path: Path) -> None:
        image = layout(tmp_path, [b"base"])
        assert image.name == "old:1"
        (entry,) = json.loads(containerd.named_index(image.descriptor, "new:2"))["manifests"]
        assert set(entry["annotations"].values()) == {"new:2"}
        assert entry["digest"] == image.digest

    def test_several_images_in_one_folder_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "index.json").write_text('{"manifests": [{}, {}]}')
        with pytest.raises(ClusterError, match="holds 2 images"):
            containerd.read_layout(tmp_path)

    def test_a_folder_without_an_index_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match="no OCI layout"):
            containerd.read_layout(tmp_path)

    def test_the_same_pause_program_makes_the_same_image(self, tmp_path: Path) -> None:
        (tmp_path / "pause").write_bytes(b"program")
        for folder in ("a", "b"):
            containerd.pause_layout(tmp_path / "pause", tmp_path / folder)
        assert containerd.read_layout(tmp_path / "a").digest == containerd.read_layout(tmp_path / "b").digest

    @pytest.mark.parametrize(
        ("short", "full"),
        [
            ("app", "docker.io/library/app:latest"),
            ("app:1", "docker.io/library/app:1"),
            ("team/app", "docker.io/team/app:latest"),
            ("localhost/app:1", "localhost/app:1"),
            ("graft.dev/app", "graft.dev/app:latest"),
            ("host:5000/app", "host:5000/app:latest"),
            ("graft.dev/app@sha256:0", "graft.dev/app@sha256:0"),
        ],
    )
    def test_the_kubelet_finds_it_by_its_full_name(self, short: str, full: str) -> None:
        assert containerd.normalized(short) == full


class TestSettings:
    def test_addresses_do_not_overlap(self, settings: Settings) -> None:
        node_network = IPv4Network("10.212.0.0/24")
        networks = [node_network, settings.pod_network, settings.service_network]
        assert settings.node_address in node_network
        assert all(network.subnet_of(settings.network) for network in networks)
        assert not any(a.overlaps(b) for a in networks for b in networks if a is not b)

    def test_every_port_is_different(self, settings: Settings) -> None:
        assert len({settings.port(which) for which in Port}) == len(Port)

    def test_interface_names_fit_the_kernel(self, tmp_path: Path) -> None:
        longest = Settings("a" * 10, tmp_path, 16400, IPv4Network("10.0.0.0/8"))
        assert max(len(longest.pod_bridge), len(longest.node_bridge)) <= 15

    @pytest.mark.parametrize("name", ["", "Dev", "1dev", "a-b", "elevenchars"])
    def test_bad_names_are_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match="cluster name"):
            Settings(name, tmp_path, 16400, IPv4Network("10.212.0.0/16"))

    @pytest.mark.parametrize("network", ["10.0.0.0/24", "10.0.0.1/16", "banana"])
    def test_bad_networks_are_refused(self, network: str, tmp_path: Path) -> None:
        with pytest.raises(ClusterError, match="network"):
            cluster_settings.requested(None, None, network, {"GRAFT_CACHE": str(tmp_path)})

    def test_a_running_cluster_is_found_without_flags(self, tmp_path: Path) -> None:
        environ = {"GRAFT_CACHE": str(tmp_path)}
        started = cluster_settings.requested("x", 20000, "10.9.0.0/16", environ)
        cluster_settings.remember(started, Tier.API)
        assert cluster_settings.requested("x", None, None, environ) == started
        with pytest.raises(ClusterError, match="port base 20000"):
            cluster_settings.requested("x", 21000, None, environ)
        with pytest.raises(ClusterError, match="runs as tier api"):
            cluster_settings.remember(started, Tier.NODE)

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            pytest.param({"GRAFT_CACHE": "/c", "XDG_CACHE_HOME": "/x"}, "/c", id="GRAFT_CACHE is the folder itself"),
            pytest.param({"XDG_CACHE_HOME": "/x"}, "/x/graft", id="else below XDG_CACHE_HOME"),
        ],
    )
    def test_cache_folder(self, environ: dict[str, str], expected: str) -> None:
        assert str(cluster_settings.cache_root(environ)) == expected


def flag(daemon: Daemon, name: str) -> str:
    (value,) = [argument.partition("=")[2] for argument in daemon.argv if argument.startswith(f"--{name}=")]
    return value


class TestConfiguration:
    def test_api_tier_listens_on_loopback_only(self, settings: Settings) -> None:
        daemon = controlplane.api_server(plane_of(settings, Tier.API), Path("/kube-apiserver"))
        assert flag(daemon, "bind-address") == "127.0.0.1"
        assert not any(argument.startswith("--kubelet") for argument in daemon.argv)

    def test_the_audit_log_has_one_line_per_request(self, settings: Settings) -> None:
        daemon = controlplane.api_server(plane_of(settings, Tier.NODE), Path("/kube-apiserver"))
        assert flag(daemon, "audit-log-path") == str(settings.audit_log)
        assert json.loads(controlplane.audit_policy())["omitStages"] == ["RequestReceived"]

    def test_controllers_have_service_accounts_of_their_own(self, settings: Settings) -> None:
        daemon = controlplane.controller_manager(plane_of(settings, Tier.NODE), Path("/cm"), Path("/k"))
        assert flag(daemon, "use-service-account-credentials") == "true"

    def test_etcd_trusts_its_own_authority_only(self, settings: Settings) -> None:
        plane = plane_of(settings, Tier.NODE)
        assert flag(controlplane.etcd(plane, Path("/etcd")), "trusted-ca-file") == str(plane.pki.certificate("etcd-ca"))
        assert {one.authority for one in controlplane.identities(plane) if one.file.startswith("etcd")} == {"etcd-ca"}

    def test_only_the_administrator_is_master(self, settings: Settings) -> None:
        everybody = [*controlplane.identities(plane_of(settings, Tier.NODE)), *node.identities(settings)]
        assert [one.file for one in everybody if "system:masters" in one.organizations] == ["admin"]

    def test_the_kubelet_never_removes_images_and_keeps_to_its_cgroup(self, settings: Settings) -> None:
        configuration = node.kubelet_configuration(settings, Path("/etc/resolv.conf"))
        assert configuration["imageGCHighThresholdPercent"] == 100
        assert configuration["cgroupRoot"] == "/graft-dev"
        assert configuration["authentication"]["anonymous"] == {"enabled": False}

    def test_containerd_shares_nothing_with_another_one(self, settings: Settings) -> None:
        document = tomllib.loads(containerd.configuration(settings))
        cri = document["plugins"]["io.containerd.grpc.v1.cri"]
        assert document["root"].startswith(str(settings.state))
        assert document["state"].startswith(str(settings.run))
        assert cri["restrict_oom_score_adj"] is True
        assert cri["netns_mounts_under_state_dir"] is True

    @pytest.mark.parametrize(
        ("resolv_conf", "forwarded"),
        [
            pytest.param("nameserver 1.1.1.1\nnameserver 9.9.9.9\n", "forward . 1.1.1.1 9.9.9.9", id="the host's servers are asked"),
            pytest.param("search example.org\n", None, id="without servers nothing is forwarded"),
        ],
    )
    def test_corefile(self, settings: Settings, resolv_conf: str, forwarded: str | None) -> None:
        text = node.corefile(settings, Path("/k"), node.upstream_servers(resolv_conf))
        assert "bind 10.212.0.1" in text
        assert ("forward" in text) == (forwarded is not None)
        assert forwarded is None or forwarded in text

    def test_prometheus_reads_running_pods_that_ask_for_it(self) -> None:
        def pod(name: str, phase: str = "Running", **annotations: str) -> dict[str, object]:
            asked = {f"prometheus.io/{key}": value for key, value in annotations.items()}
            metadata = {"name": name, "namespace": "team", "annotations": asked}
            return {"metadata": metadata, "status": {"phase": phase, "podIP": "10.0.0.7"}}

        pods = [pod("a", scrape="true", port="9090"), pod("b", scrape="true"), pod("c"), pod("d", "Pending", scrape="true", port="1")]
        assert discovery.targets(pods) == [{"targets": ["10.0.0.7:9090"], "labels": {"namespace": "team", "pod": "a"}}]

    def test_s3_is_a_service_that_leads_to_the_node(self, settings: Settings) -> None:
        service, endpoints = manifests.on_node(settings, "s3", Port.S3)
        assert "selector" not in service["spec"]
        assert endpoints["endpoints"][0]["addresses"] == ["10.212.0.1"]
        assert endpoints["ports"][0]["port"] == settings.port(Port.S3)

    @pytest.mark.parametrize(
        ("version", "kind", "metadata", "path"),
        [
            ("v1", "Namespace", {"name": "a"}, "/api/v1/namespaces/a"),
            ("v1", "Secret", {"name": "a", "namespace": "b"}, "/api/v1/namespaces/b/secrets/a"),
            (
                "discovery.k8s.io/v1",
                "EndpointSlice",
                {"name": "a", "namespace": "b"},
                "/apis/discovery.k8s.io/v1/namespaces/b/endpointslices/a",
            ),
            ("rbac.authorization.k8s.io/v1", "ClusterRole", {"name": "a:b"}, "/apis/rbac.authorization.k8s.io/v1/clusterroles/a:b"),
        ],
    )
    def test_object_path(self, version: str, kind: str, metadata: dict[str, str], path: str) -> None:
        assert apiclient.object_path({"apiVersion": version, "kind": kind, "metadata": metadata}) == path

    def test_a_client_certificate_cannot_serve(self) -> None:
        client = certificates.request_arguments(certificates.Identity("a", "system:a", ("g1", "g2")))
        server = certificates.request_arguments(certificates.Identity("b", "b", addresses=("127.0.0.1",), names=("localhost",)))
        assert "/O=g1/O=g2/CN=system:a" in client
        assert "extendedKeyUsage=clientAuth" in client
        assert "subjectAltName=IP:127.0.0.1,DNS:localhost" in server

    def test_cgroup_mounts_of_a_hybrid_host(self) -> None:
        version_1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
        text = f"{version_1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
        assert host.cgroup_mounts(text) == [(Path("/sys/fs/cgroup/cpu"), False), (Path("/sys/fs/cgroup/unified"), True)]


class TestPrograms:
    def test_every_module_is_pinned(self) -> None:
        for tool in tools.TOOLS:
            folder = tools.MODULES / tool.module
            assert (folder / "go.mod").exists()
            assert tool.package == "." or (folder / "go.sum").exists()
            assert tool.package == "." or f'"{tool.package}"' in (folder / "tools.go").read_text()

    def test_another_pin_or_another_go_is_another_build(self, tmp_path: Path) -> None:
        (tmp_path / "go.mod").write_text("a")
        before = tools.module_hash(tmp_path, "go1.26.8")
        assert tools.module_hash(tmp_path, "go1.26.9") != before
        (tmp_path / "go.mod").write_text("b")
        assert tools.module_hash(tmp_path, "go1.26.8") != before

    def test_kubernetes_knows_its_version(self) -> None:
        (kubelet,) = tools.named(["kubelet"])
        assert f"-X k8s.io/component-base/version.gitVersion={tools.KUBERNETES_VERSION}" in tools.linker_flags(kubelet)
        assert f"k8s.io/kubernetes {tools.KUBERNETES_VERSION}\n" in (tools.MODULES / "kubernetes" / "go.mod").read_text()

    def test_an_unknown_tool_is_named(self) -> None:
        with pytest.raises(ClusterError, match="no such tool: nothing"):
            tools.named(["nothing"])

    def test_packages_are_asked_for_by_the_version_of_the_release(self) -> None:
        (containerd_package,) = [package for package in packages.PACKAGES if package.name == "containerd"]
        assert packages.install_command([containerd_package], "12")[-1] == "containerd=1.6.20*"

    @pytest.mark.parametrize(
        ("text", "release"), [('ID=debian\nVERSION_ID="12"\n', "12"), ('ID=ubuntu\nVERSION_ID="24.04"\n', None), ("ID=debian\n", None)]
    )
    def test_debian_release(self, text: str, release: str | None, tmp_path: Path) -> None:
        (tmp_path / "os-release").write_text(text)
        assert packages.debian_release(tmp_path / "os-release") == release


class TestProcesses:
    def test_a_daemon_runs_once_and_restarts_when_its_configuration_changes(self, tmp_path: Path) -> None:
        processes = Processes(tmp_path / "pids", tmp_path / "logs", die_with_parent=True)
        (tmp_path / "config").write_text("1")
        daemon = Daemon("sleeper", ("sleep", "60"), (tmp_path / "config",))
        try:
            assert processes.ensure(daemon)
            first = processes.find("sleeper")
            assert first
            assert not processes.ensure(daemon)
            (tmp_path / "config").write_text("2")
            assert processes.ensure(daemon)
            second = processes.find("sleeper")
            assert second
            assert second.pid != first.pid
        finally:
            processes.stop("sleeper")
        assert processes.find("sleeper") is None
        assert processes.names() == []

    def test_a_pid_of_another_boot_is_nobody(self, tmp_path: Path) -> None:
        processes = Processes(tmp_path, tmp_path)
        record = {"pid": os.getpid(), "start_time": 1, "boot": "another", "fingerprint": "", "started": 0}
        (tmp_path / "ghost.json").write_text(json.dumps(record))
        assert processes.find("ghost") is None
        processes.stop("ghost")
        assert processes.names() == []

    def test_a_process_that_exited_at_once_is_not_alive(self, tmp_path: Path) -> None:
        with subprocess.Popen(["true"]) as gone:
            gone.wait()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"pid": gone.pid, "start_time": None, "boot": boot, "fingerprint": "", "started": 0}
        (tmp_path / "gone.json").write_text(json.dumps(record))
        assert Processes(tmp_path, tmp_path).find("gone") is None

    def test_a_daemon_that_exits_is_reported_with_the_end_of_its_log(self, tmp_path: Path) -> None:
        processes = Processes(tmp_path / "pids", tmp_path / "logs")
        processes.ensure(Daemon("broken", ("sh", "-c", "echo no such flag; exit 1")))
        with pytest.raises(ClusterError, match=r"broken exited while starting(.|\n)*no such flag"):
            processes.wait_for("broken", lambda: False, timeout=5)

    def test_daemons_inherit_no_proxy_and_no_kubeconfig(self) -> None:
        kept = base_environment({"HOME": "/h", "HTTPS_PROXY": "p", "KUBECONFIG": "k", "PATH": "/somewhere"})
        assert set(kept) == {"HOME", "PATH"}
        assert "/usr/sbin" in kept["PATH"]

    def test_an_occupied_port_is_named_with_its_holder(self) -> None:
        (number,) = free_ports(1)
        program = f"import socket; s = socket.create_server(('127.0.0.1', {number})); print('ready', flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout
            holder.stdout.readline()
            with pytest.raises(ClusterError, match=rf"port {number} \(versitygw\) on 127.0.0.1 is in use by .*(\n|.)*--port-base"):
                ports.require_free([ports.Listener("versitygw", "versitygw", "127.0.0.1", number)])
            holder.communicate("\n")
        ports.require_free([ports.Listener("versitygw", "versitygw", "127.0.0.1", number)])

    def test_secrets_are_written_for_their_owner_only(self, tmp_path: Path) -> None:
        write_atomically(tmp_path / "secret", "s")
        assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]
