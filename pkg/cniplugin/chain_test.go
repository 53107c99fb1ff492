package cniplugin_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
)

// referenceDir is where Debian's containernetworking-plugins are; `make test`
// installs them.
const referenceDir = "/usr/lib/cni"

// reference wants plugins of the CNI project.
func reference(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(referenceDir, name)); err != nil {
			t.Skipf("apt-get install containernetworking-plugins: %v", err)
		}
	}
}

// chain is a runtime with these plugins, of ours and of the CNI project.
func (n *node) chain(version string, plugins ...map[string]any) runtime {
	n.t.Helper()
	list, err := json.Marshal(map[string]any{"cniVersion": version, "name": "cbr0", "plugins": plugins})
	if err != nil {
		n.t.Fatal(err)
	}
	parsed, err := libcni.NetworkConfFromBytes(list)
	if err != nil {
		n.t.Fatal(err)
	}
	dirs := []string{built(n.t), referenceDir}
	return runtime{n, libcni.NewCNIConfigWithCacheDir(dirs, n.t.TempDir(), nil), parsed}
}

// The life of an attachment through libcni, in every version, alone.
func TestLibcniLife(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		for _, mode := range []string{"bridge", "ptp"} {
			t.Run(version+" "+mode, func(t *testing.T) {
				n := newNode(t, ipv4, ipv6).with("mode", mode)
				n.t = t
				r := n.chain(version, n.conf)
				p, ns := newPod(t, 1)
				res, err := r.add(t.Context(), p)
				if err != nil {
					t.Fatal(err)
				}
				reachAll(t, n.host, ns, res)
				n.host.Do(func() {
					err = r.cni.CheckNetworkList(t.Context(), r.list, r.conf(p))
				})
				if err != nil && (version != "0.3.1" || !strings.Contains(err.Error(), "does not support the CHECK")) {
					t.Errorf("CHECK: %v", err)
				}
				if version == "1.1.0" {
					n.host.Do(func() {
						if err := r.cni.GetStatusNetworkList(t.Context(), r.list); err != nil {
							t.Errorf("STATUS: %v", err)
						}
						valid := []types.GCAttachment{{ContainerID: p.id, IfName: p.ifName}}
						if err := r.cni.GCNetworkList(t.Context(), r.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil {
							t.Errorf("GC: %v", err)
						}
					})
					reachAll(t, n.host, ns, res)
				}
				if err := r.del(t.Context(), p); err != nil {
					t.Error(err)
				}
				n.empty()
			})
		}
	}
}

// The CNI project's plugins behind ours and before it.
func TestChained(t *testing.T) {
	t.Parallel()
	reference(t, "portmap", "bandwidth", "tuning", "host-local")
	bandwidth := map[string]any{
		"type": "bandwidth", "ingressRate": 8e6, "ingressBurst": 8e6, "egressRate": 8e6, "egressBurst": 8e6,
	}
	tuning := map[string]any{"type": "tuning", "sysctl": map[string]any{"net.core.somaxconn": "500"}}
	portmap := map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}, "snat": true}
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} { // what Debian's speak
		for _, mode := range []string{"bridge", "ptp"} {
			t.Run(version+" "+mode, func(t *testing.T) {
				n := newNode(t, ipv4).with("mode", mode)
				n.t = t
				out := n.outside()
				r := n.chain(version, n.conf, portmap, bandwidth, tuning)
				p, ns := newPod(t, 1)
				conf := r.conf(p)
				conf.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
				}}
				n.host.Do(func() {
					if _, err := r.cni.AddNetworkList(t.Context(), r.list, conf); err != nil {
						t.Fatal(err)
					}
					if version != "0.3.1" {
						// portmap v1.1.1 looks for IPv6 chains of a pod without IPv6.
						err := r.cni.CheckNetworkList(t.Context(), r.list, conf)
						if err != nil && !strings.Contains(err.Error(), "could not check ipv6 dnat") {
							t.Errorf("CHECK: %v", err)
						}
					}
				})
				serve(t, ns, "tcp", 80, "pod")
				wantAnswer(t, "portmap behind us", out, "tcp", hostAddr4+":8080", "pod")
				if have := strings.TrimSpace(ns.Exec("cat", "/proc/sys/net/core/somaxconn")); have != "500" {
					t.Errorf("tuning: somaxconn %s", have)
				}
				n.host.Do(func() {
					if qdiscs, err := netlink.QdiscList(link(t, attachmentOf(t, n, p).HostLink)); err != nil || len(qdiscs) == 0 ||
						qdiscs[0].Type() != "tbf" {
						t.Errorf("bandwidth: %v, %v", qdiscs, err)
					}
					if err := r.cni.DelNetworkList(t.Context(), r.list, conf); err != nil {
						t.Error(err)
					}
				})
				n.wantAddresses()
			})
		}
	}
	t.Run("behind another interface", func(t *testing.T) {
		reference(t, "ptp", "host-local")
		n := newNode(t, ipv4).with("isDefaultGateway", true)
		first := map[string]any{"type": "ptp", "ipam": map[string]any{
			"type": "host-local", "subnet": "172.30.0.0/24", "dataDir": n.dir + "/other",
		}}
		// The first one has taken eth0.
		r := n.chain("1.0.0", first, n.conf)
		p, _ := newPod(t, 1)
		_, err := r.add(t.Context(), p)
		if err == nil || !strings.Contains(err.Error(), "has a link eth0 already") {
			t.Errorf("have %v", err)
		}
		n.wantAddresses()
	})
}

// What flannel's plugin does with the real ones, ours does.
func TestRealDelegates(t *testing.T) {
	t.Parallel()
	reference(t, "bridge", "macvlan", "ptp", "host-local")
	for name, delegate := range map[string]map[string]any{
		"bridge with an option": {"type": "bridge", "isDefaultGateway": true, "unknown": true},
		"bridge in process":     {"isDefaultGateway": true, "hairpinMode": true},
		"macvlan":               {"type": "macvlan", "master": "up0"},
		"ptp in process":        {"type": "ptp"},
		"ptp with an option":    {"type": "ptp", "unknown": true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4).flannels(delegate)
			n.t = t
			n.outside()
			p, ns := newPod(t, 1)
			raw := n.conf
			r := n.chain("0.4.0", raw)
			if _, err := os.Stat(filepath.Join(binDir, "flannel")); err != nil {
				_ = os.Symlink("weft", filepath.Join(binDir, "flannel"))
			}
			res, err := r.add(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if len(res.IPs) != 1 || res.IPs[0].Address.IP.String() != "10.42.1.2" {
				t.Errorf("%+v", res.IPs)
			}
			ns.Do(func() { link(t, "eth0") })
			n.host.Do(func() { err = r.cni.CheckNetworkList(t.Context(), r.list, r.conf(p)) })
			// Debian's v1.1.1 doesn't find routes that it made without a gateway.
			if err != nil && !strings.Contains(err.Error(), "Expected Route") {
				t.Errorf("CHECK: %v", err)
			}
			if err := r.del(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			n.wantAddresses()
			n.wantStates()
		})
	}
}

// What portmap made for a pod of before goes with the pod, though portmap is
// not in the chain any more; another pod's stays.
func TestPortmapOfBefore(t *testing.T) {
	reference(t, "portmap", "bridge", "host-local")
	for _, program := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(program, func(t *testing.T) {
			n := newNode(t, ipv4)
			n.t = t
			path := t.TempDir() // portmap runs what is called iptables
			for _, name := range []string{"iptables", "ip6tables"} {
				target := strings.Replace(program, "iptables", name, 1)
				if err := os.Symlink("/usr/sbin/"+target, filepath.Join(path, name)); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", path+":"+os.Getenv("PATH"))
			portmap := map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}}
			old, _ := newPod(t, 1)
			stays, _ := newPod(t, 2)
			for i, p := range []pod{old, stays} {
				r := n.chain("1.0.0", n.conf, portmap)
				conf := r.conf(p)
				conf.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
					{"hostPort": 8080 + i, "containerPort": 80, "protocol": "tcp"},
				}}
				n.host.Do(func() {
					if _, err := r.cni.AddNetworkList(t.Context(), r.list, conf); err != nil {
						t.Fatal(err)
					}
				})
			}
			if err := os.RemoveAll(string(n.records())); err != nil { // as flannel's plugin leaves it
				t.Fatal(err)
			}
			n.del(old)
			rules := n.host.Exec(program, "-t", "nat", "-S")
			if strings.Contains(rules, "8080") || strings.Contains(rules, old.id) || !strings.Contains(rules, stays.id) {
				t.Errorf("%s", rules)
			}
			n.del(stays)
			n.del(stays)
			rules = n.host.Exec(program, "-t", "nat", "-S")
			if strings.Contains(rules, "CNI-DN-") {
				t.Errorf("%s", rules)
			}
		})
	}
}

// portmapTable is what portmap makes since v1.6 where it is told to use
// nftables, for the pods pod-1 and pod-2.
const portmapTable = `table FAMILY cni_hostport {
	comment "CNI portmap plugin"
	chain hostports {
		tcp dport 8080 dnat to ADDR:80 comment "pod-1"
		tcp dport 8081 dnat to ADDR:80 comment "pod-2"
	}
	chain hostip_hostports {
		FAMILY daddr ADDR udp dport 53 dnat to ADDR:53 comment "pod-1"
	}
	chain prerouting {
		type nat hook prerouting priority dstnat
		jump hostip_hostports
		jump hostports
	}
	chain masquerading {
		type nat hook postrouting priority srcnat
		FAMILY saddr ADDR FAMILY daddr ADDR masquerade comment "pod-1"
		FAMILY saddr ADDR FAMILY daddr ADDR masquerade comment "pod-10"
	}
}
`

// The same for nftables, and for pods of ours that had portmap behind us.
func TestPortmapOfBeforeInNFTables(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	for _, ours := range []bool{true, false} {
		t.Run(fmt.Sprintf("ours %t", ours), func(t *testing.T) {
			n := newNode(t, ipv4)
			n.t = t
			p, _ := newPod(t, 1)
			n.add(p)
			if !ours {
				if err := os.RemoveAll(string(n.records())); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range []*strings.Replacer{
				strings.NewReplacer("FAMILY", "ip", "ADDR", "10.42.1.2"),
				strings.NewReplacer("FAMILY", "ip6", "ADDR:", "[fd00::2]:", "ADDR", "fd00::2"),
			} {
				n.host.Exec("nft", r.Replace(portmapTable))
			}
			for range 2 {
				n.del(p)
			}
			rules := n.host.Exec("nft", "list", "ruleset")
			if strings.Contains(rules, `"pod-1"`) {
				t.Errorf("the pod's rules stay:\n%s", rules)
			}
			for _, comment := range []string{`"pod-2"`, `"pod-10"`} {
				if have := strings.Count(rules, comment); have != 2 {
					t.Errorf("want both families' rules of %s, have %d:\n%s", comment, have, rules)
				}
			}
		})
	}
}
