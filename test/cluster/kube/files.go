package kube

import (
	"fmt"
	"strings"
)

// The networks of a cluster.
const (
	Pods4                = "10.244.0.0/16"
	Pods6                = "fd00:10:244::/56"
	services4, services6 = "10.96.0.0/16", "fd00:10:96::/112"
	kubernetes4          = "10.96.0.1" // what Kubernetes calls itself by
	kubernetes6          = "fd00:10:96::1"
	DNS                  = "10.96.0.10"
)

// Images that no manifest of ours names.
const (
	Pause = "registry.k8s.io/pause:3.10.1"
)

// auditPolicy notes every write and nothing else.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
`

// containerd: no process here may lower an oom_score_adj (CAP_SYS_RESOURCE).
func containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "runc"
`, Pause)
}

// kubeletConfig: a node of a test is small, and shares its disk with the rest
// of the machine, which must not make it evict pods.
func kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true, cacheTTL: 10s}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
failCgroupV1: false
oomScoreAdj: 0
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [%q]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
failSwapOn: false
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%"}
enforceNodeAllocatable: [pods]
maxPods: 60
syncFrequency: 10s
nodeStatusUpdateFrequency: 5s
shutdownGracePeriod: 0s
logging: {verbosity: 2}
`, DNS)
}

// proxyConfig: conntrack's table is the whole machine's, so it stays as it is.
func proxyConfig(mode string) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clusterCIDR: %s,%s
clientConnection: {kubeconfig: /etc/kubernetes/proxy.conf}
conntrack: {maxPerCore: 0, min: 0}
oomScoreAdj: 0
iptables: {minSyncPeriod: 0s, syncPeriod: 30s}
nftables: {minSyncPeriod: 0s, syncPeriod: 30s}
`, mode, Pods4, Pods6)
}

// apiserverFlags are those of the one API server, at its node's first address.
func apiserverFlags(addr string) []string {
	return []string{
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + addr, "--secure-port=6443", "--bind-address=::",
		"--service-cluster-ip-range=" + services4 + "," + services6,
		"--allow-privileged", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=/etc/kubernetes/ca.crt",
		"--tls-cert-file=/etc/kubernetes/apiserver.crt", "--tls-private-key-file=/etc/kubernetes/apiserver.key",
		"--kubelet-client-certificate=/etc/kubernetes/admin.crt", "--kubelet-client-key=/etc/kubernetes/admin.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file=/etc/kubernetes/apiserver.key",
		"--service-account-key-file=/etc/kubernetes/apiserver.key",
		"--audit-policy-file=/etc/kubernetes/audit.yml", "--audit-log-path=" + auditLog,
		"--shutdown-watch-termination-grace-period=1s",
	}
}

const auditLog = "/var/log/audit.log"

func controllerFlags() []string {
	return []string{
		"--kubeconfig=/etc/kubernetes/controllers.conf", "--use-service-account-credentials",
		"--allocate-node-cidrs", "--cluster-cidr=" + Pods4 + "," + Pods6,
		"--service-cluster-ip-range=" + services4 + "," + services6,
		"--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64",
		"--root-ca-file=/etc/kubernetes/ca.crt",
		"--service-account-private-key-file=/etc/kubernetes/apiserver.key",
		"--leader-elect=false",
	}
}

func kubeletFlags(name string, addrs []string) []string {
	return []string{
		"--config=/etc/kubernetes/kubelet.yml", "--kubeconfig=/etc/kubernetes/kubelet.conf",
		"--hostname-override=" + name, "--node-ip=" + strings.Join(addrs, ","),
	}
}
