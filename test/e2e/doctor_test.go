package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/topology"
)

// ward is a cluster with one patient: a node that things are done to. Its
// daemon is dead, so that nothing is mended meanwhile.
type ward struct {
	*cluster
	t       *testing.T
	daemon  *daemon // of the patient
	patient int
}

// examine runs `weftctl doctor` on a node.
func (c *cluster) examine(t *testing.T, i int, args ...string) []doctor.Result {
	t.Helper()
	n := c.Nodes[i]
	usual := []string{
		"doctor", "-o", "json", "--socket", filepath.Join(n.Dir, "weftd.sock"), "--state-dir", filepath.Join(n.Dir, "state"),
		"--subnet-file", n.SubnetFile(), "--attachments-dir", n.Attachments(), "--root", t.TempDir(),
	}
	out, err := output(t, &n.Namespace, filepath.Join(bin, "weftctl"), append(usual, args...)...)
	var results []doctor.Result
	if jsonErr := json.Unmarshal([]byte(out), &results); jsonErr != nil {
		t.Fatalf("weftctl doctor %v: %v\n%s", args, err, out)
	}
	if failed := doctor.Worst(results) == doctor.Fail; failed != (err != nil) {
		t.Errorf("weftctl doctor: worst is %s, exit status %v", doctor.Worst(results), err)
	}
	return results
}

// sick are the checks that found something.
func sick(results []doctor.Result) (names []string) {
	for _, r := range results {
		if r.Level != doctor.OK {
			names = append(names, r.Check)
		}
	}
	return names
}

func text(results []doctor.Result) string {
	var b strings.Builder
	for _, r := range results {
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "%s %s: %s; seen: %s; mend: %s\n", f.Level, r.Check, f.Cause, f.Evidence, f.Mend)
		}
	}
	return b.String()
}

// A healthy node has nothing to hear, whatever it is set up with: in dual stack,
// with pods, and with the store asked as well.
func TestDoctorOfHealthyNodes(t *testing.T) {
	for name, setUp := range map[string]struct {
		engine kind // of iptables; "": nftables
		config string
		dock   bool // iptables' FORWARD drops, as Docker has it
	}{
		"nftables":               {"", engineConfig("true"), false},
		"iptables-nft":           {"nft", engineConfig("false"), false},
		"iptables-legacy":        {"legacy", engineConfig("false"), false},
		"iptables beside Docker": {"nft", engineConfig(""), true},
		"direct routing":         {"", dualConfig(`{"Type":"vxlan","DirectRouting":true}`), false},
		"host-gw":                {"", dualConfig(`{"Type":"host-gw"}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, underlay4, underlay6)
			if setUp.engine == "legacy" && len(kinds(t, c)) < 2 {
				t.Skip("this kernel has no legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY)")
			}
			daemons := []*daemon{c.daemon(0, c.storeArgs()...), c.daemon(1)}
			for i, d := range daemons {
				if setUp.engine != "" {
					d.env = c.env(setUp.engine)
				}
				if setUp.dock {
					c.iptables(i, "iptables-nft", "-P", "FORWARD", "DROP")
					c.iptables(i, "ip6tables-nft", "-P", "FORWARD", "DROP")
				}
				d.start()
			}
			c.setConfig(setUp.config)
			for _, d := range daemons {
				d.awaitReady(1)
			}
			for i, n := range c.Nodes {
				if _, err := n.AddPod(t.Context(), filepath.Join(bin, "weft"), "a"); err != nil {
					t.Fatal(err)
				}
				results := c.examine(t, i, "--etcd-endpoints", c.etcdURL())
				if names := sick(results); len(names) > 0 {
					t.Errorf("false alarms on %s: %v\n%s", c.Nodes[i].Name, names, text(results))
				}
				if len(results) != len(doctor.Checks()) {
					t.Errorf("%d checks were run of %d", len(results), len(doctor.Checks()))
				}
			}
		})
	}
}

// injury is one failure: done to the patient, found, and undone.
type injury struct {
	check string
	// also may be found: what follows from the injury by itself.
	also []string
	// hurt does it, and gives more arguments of doctor.
	hurt func(*ward) []string
	// mends is a part of the command that the finding must name.
	mends string
	// probes: packets are sent to peers. heal: the daemon has to put right
	// what the injury changed.
	probes, heal bool
}

func (w *ward) ip(args string) {
	w.t.Helper()
	w.command(w.patient, "ip", strings.Fields(args)...)
}

func (w *ward) node() *topology.Node { return w.Nodes[w.patient] }

// file makes a root directory with a file.
func (w *ward) file(name, content string) []string {
	w.t.Helper()
	root := w.t.TempDir()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return []string{"--root", root}
}

// cleanup runs when the case ends, before the patient is healed.
func (w *ward) undo(i int, name string, args ...string) {
	w.t.Cleanup(func() { _, _ = output(w.t, &w.Nodes[i].Namespace, name, args...) })
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, underlay4)
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...).start(), c.daemon(1).start(), c.daemon(2).start(),
	}
	for _, d := range daemons {
		d.awaitReady(2)
	}
	if _, err := c.Nodes[2].AddPod(t.Context(), filepath.Join(bin, "weft"), "a"); err != nil {
		t.Fatal(err)
	}
	if names := sick(c.examine(t, 2)); len(names) > 0 {
		t.Fatalf("false alarms before anything is done: %v", names)
	}
	daemons[2].kill()
	cases := slices.Concat(deviceInjuries(), rulesInjuries(), hostInjuries(), storeInjuries(), pathInjuries())
	found, alarms := 0, 0
	for _, in := range cases {
		t.Run(in.check, func(t *testing.T) {
			mine := *c
			mine.t = t // what fails, fails the case
			w := &ward{cluster: &mine, t: t, daemon: daemons[2], patient: 2}
			if in.heal {
				t.Cleanup(func() { w.heal() })
			}
			args := in.hurt(w)
			if args = append(args, "--wait", "1200ms"); !in.probes {
				args = append(args, "--peers", "0")
			}
			results := c.examine(t, w.patient, args...)
			names := sick(results)
			named := slices.ContainsFunc(results, func(r doctor.Result) bool {
				return r.Check == in.check && slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool {
					return strings.Contains(f.Mend, in.mends) && f.Evidence != "" && f.Cause != ""
				})
			})
			if named {
				found++
			} else {
				t.Errorf("not found, or without %q as what mends it; found: %v\n%s", in.mends, names, text(results))
			}
			for _, n := range names {
				if n != in.check && n != "daemon" && !slices.Contains(in.also, n) {
					alarms++
					t.Errorf("false alarm %s:\n%s", n, text(results))
				}
			}
		})
	}
	t.Run("what mends the checksums", func(t *testing.T) {
		mine := *c
		mine.t = t
		w := &ward{cluster: &mine, t: t, daemon: daemons[2], patient: 2}
		w.brokenCard()
		w.checksumsOff()
		if names := sick(c.examine(t, 2)); !slices.Equal(names, []string{"daemon"}) {
			t.Errorf("after the command that doctor names: %v", names)
		}
	})
	kernel := doctor.Examine(doctor.Facts{Host: doctor.Host{Kernel: "4.14.0", Lacks: []string{"VXLAN devices"}}})
	if got := sick(kernel); slices.Equal(got, []string{"kernel"}) {
		found++
	} else {
		t.Errorf("an old kernel: %v", got)
	}
	if names := sick(c.examine(t, 2)); !slices.Equal(names, []string{"daemon"}) {
		t.Errorf("at the end, with weftd dead only: %v", names)
	} else {
		found++ // that is a check too
	}
	t.Logf("%d of %d found and named rightly, %d false alarms", found, len(cases)+2, alarms)
	tested := map[string]bool{"kernel": true, "daemon": true}
	for _, in := range cases {
		tested[in.check] = true
	}
	for _, check := range doctor.Checks() {
		if !tested[check.Name] {
			t.Errorf("no injury for the check %s", check.Name)
		}
	}
}

// heal has a daemon put everything right, and ends it again.
func (w *ward) heal() {
	w.daemon.start()
	w.daemon.awaitReady(2)
	w.daemon.awaitPlanEmpty()
	w.daemon.kill()
}

func deviceInjuries() []injury {
	return []injury{
		{check: "device", also: []string{"lease-mismatch"}, heal: true, mends: "flannel.1 up", hurt: func(w *ward) []string {
			w.ip("link set flannel.1 down")
			return nil
		}},
		{check: "port-taken", also: []string{"device"}, heal: true, mends: "8472", hurt: func(w *ward) []string {
			w.ip("link del flannel.1")
			var conn net.PacketConn
			if err := w.node().Do(func() (err error) {
				conn, err = net.ListenPacket("udp", ":8472")
				return err
			}); err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { _ = conn.Close() })
			return nil
		}},
		{check: "overlay-clash", also: []string{"device"}, heal: true, mends: "ip link del cilium_vxlan", hurt: func(w *ward) []string {
			w.ip("link del flannel.1")
			w.ip("link add cilium_vxlan type vxlan external dstport 8472")
			w.ip("link set cilium_vxlan up")
			w.undo(w.patient, "ip", "link", "del", "cilium_vxlan")
			return nil
		}},
		{check: "mac-changed", also: []string{"lease-mismatch"}, heal: true, mends: "MACAddressPolicy=none", hurt: func(w *ward) []string {
			w.ip("link set flannel.1 address 02:aa:bb:cc:dd:ee")
			return w.file("usr/lib/systemd/network/99-default.link",
				"[Match]\nOriginalName=*\n[Link]\nMACAddressPolicy=persistent\n")
		}},
		{check: "uplink", mends: "--iface", hurt: func(w *ward) []string {
			w.detour()
			return nil
		}},
		{check: "rp-filter", also: []string{"uplink"}, mends: "rp_filter=2", hurt: func(w *ward) []string {
			w.detour()
			w.command(w.patient, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
			w.undo(w.patient, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
			return nil
		}},
		{check: "lease-mismatch", heal: true, mends: "weftctl plan", hurt: func(w *ward) []string {
			entry := strings.Fields(w.command(w.patient, "bridge", "fdb", "show", "dev", "flannel.1"))
			w.command(w.patient, "bridge", "fdb", "replace", entry[0], "dev", "flannel.1", "dst", "192.168.77.99")
			return nil
		}},
		{check: "stale-routes", mends: "ip route del 10.42.77.0/24", hurt: func(w *ward) []string {
			w.ip("route add 10.42.77.0/24 via 192.168.77.9 proto bird")
			w.undo(w.patient, "ip", "route", "del", "10.42.77.0/24")
			return nil
		}},
		{check: "subnet-overlap", mends: "another Network", hurt: func(w *ward) []string {
			w.ip("link add legacy0 type bridge")
			w.undo(w.patient, "ip", "link", "del", "legacy0")
			w.ip("addr add 10.42.250.1/24 dev legacy0")
			return nil
		}},
		{check: "ip-forward", mends: "ip_forward=1", hurt: func(w *ward) []string {
			w.command(w.patient, "sysctl", "-qw", "net.ipv4.ip_forward=0")
			w.undo(w.patient, "sysctl", "-qw", "net.ipv4.ip_forward=1")
			return nil
		}},
	}
}

// detour leads to a peer by another interface than the tunnel's.
func (w *ward) detour() {
	w.ip("link add alt type bridge")
	w.undo(w.patient, "ip", "link", "del", "alt")
	w.ip("link set alt up")
	w.ip("route add " + w.Nodes[0].Addrs[0].String() + "/32 dev alt")
}

// rule puts a table on the patient for as long as the case lasts.
func (w *ward) rule(name, script string) {
	w.nft(w.patient, "table "+name+" {\n"+script+"\n}")
	w.undo(w.patient, "nft", append([]string{"delete", "table"}, strings.Fields(name)...)...)
}

func rulesInjuries() []injury {
	return []injury{
		{check: "port-blocked", mends: "udp dport 8472 accept", hurt: func(w *ward) []string {
			w.rule("inet guard", "chain i { type filter hook input priority 0; udp dport 8472 drop; }")
			return nil
		}},
		{check: "forward-drop", mends: "FORWARD ACCEPT", hurt: func(w *ward) []string {
			w.rule("ip guard", "chain f { type filter hook forward priority 10; policy drop; }")
			return nil
		}},
		{check: "masquerade", heal: true, mends: "--ip-masq", hurt: func(w *ward) []string {
			w.command(w.patient, "nft", "flush", "chain", "ip", "weft", "postrouting")
			return nil
		}},
		{check: "firewalld", mends: "--add-interface=flannel.1", hurt: func(w *ward) []string {
			w.rule("inet firewalld", "chain i { type filter hook input priority 10; }")
			return w.file("etc/firewalld/zones/trusted.xml", `<zone><interface name="cni0"/></zone>`)
		}},
		{check: "br-netfilter", mends: "bridge-nf-call-iptables=1", hurt: func(w *ward) []string {
			w.rule("ip kube-proxy", "chain services { }")
			// Without the module there is no such setting, which is the same fault.
			_, _ = output(w.t, &w.node().Namespace, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0")
			w.undo(w.patient, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1")
			return nil
		}},
		{check: "service-overlap", also: []string{"br-netfilter"}, mends: "--service-cluster-ip-range", hurt: func(w *ward) []string {
			w.rule("ip kube-proxy", `
				chain api { }
				map service-ips {
					type ipv4_addr . inet_proto . inet_service : verdict
					elements = { 10.42.0.1 . tcp . 443 : goto api }
				}`)
			return nil
		}},
	}
}

func hostInjuries() []injury {
	return []injury{
		{check: "network-manager", mends: "unmanaged-devices", hurt: func(w *ward) []string {
			return w.file("run/NetworkManager/NetworkManager.pid", "1\n")
		}},
		{check: "networkd", mends: "Unmanaged=yes", hurt: func(w *ward) []string {
			args := w.file("run/systemd/netif/state", "OPER_STATE=routable\n")
			file := filepath.Join(args[1], "etc/systemd/network/99-all.network")
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				w.t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte("[Match]\nName=en* flannel*\n[Network]\nDHCP=yes\n"), 0o600); err != nil {
				w.t.Fatal(err)
			}
			return args
		}},
		{check: "cni-config", mends: "the other file", hurt: func(w *ward) []string {
			return w.file("etc/cni/net.d/05-cilium.conflist", `{"name": "cilium", "plugins": [{"type": "cilium-cni"}]}`)
		}},
		{check: "conntrack-full", mends: "nf_conntrack_max=524288", hurt: func(w *ward) []string {
			return w.sysctls("net/netfilter/nf_conntrack_max", "262144", "net/netfilter/nf_conntrack_count", "262000")
		}},
		{check: "neighbour-overflow", mends: "gc_thresh3=2", hurt: func(w *ward) []string {
			return w.sysctls("net/ipv4/neigh/default/gc_thresh3", "1")
		}},
		{check: "disk-full", mends: "df -h", hurt: func(w *ward) []string {
			dir := w.t.TempDir()
			if err := unix.Mount("weft-e2e", dir, "tmpfs", 0, "size=64k"); err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			_ = os.WriteFile(filepath.Join(dir, "all"), make([]byte, 1<<20), 0o600) // until it is full
			return []string{"--attachments-dir", dir}
		}},
		{check: "rbac", mends: "kubectl", hurt: func(w *ward) []string {
			return w.says(network.Status{Reasons: []string{
				`store: nodes is forbidden: User "system:serviceaccount:kube-weft:weft" cannot list resource "nodes"`,
			}})
		}},
		{check: "conflict", mends: "remove it", hurt: func(w *ward) []string {
			taken := map[string]string{"route 10.42.1.0/24": "something stands there"}
			return w.says(network.Status{Ready: true, Conflicts: taken})
		}},
	}
}

// sysctls makes a directory of sysctls; what is not in it is not known.
func (w *ward) sysctls(pairs ...string) []string {
	w.t.Helper()
	root := w.t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		file := filepath.Join(root, pairs[i])
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(pairs[i+1]+"\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return []string{"--sysctl-dir", root}
}

// says answers as a weftd would that has this to say.
func (w *ward) says(s network.Status) []string {
	w.t.Helper()
	socket := filepath.Join(w.node().Dir, "fake.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
		func(out http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(out).Encode(s) })}
	go func() { _ = server.Serve(listener) }()
	w.t.Cleanup(func() { _ = server.Close() })
	return []string{"--socket", socket}
}

func storeInjuries() []injury {
	return []injury{
		{check: "store", mends: "--etcd-endpoints", hurt: func(*ward) []string {
			return []string{"--etcd-endpoints", "http://127.0.0.1:1", "--timeout", "500ms"}
		}},
		{check: "store-slow", mends: "etcdctl", hurt: func(w *ward) []string {
			return []string{"--etcd-endpoints", w.slowStore(150 * time.Millisecond)}
		}},
		{check: "clock-skew", mends: "timedatectl", hurt: func(w *ward) []string {
			listener, err := w.node().Listen(netip.MustParseAddrPort("127.0.0.1:2380"))
			if err != nil {
				w.t.Fatal(err)
			}
			server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(
				func(out http.ResponseWriter, _ *http.Request) {
					out.Header().Set("Date", time.Now().Add(-5*time.Minute).UTC().Format(http.TimeFormat))
				})}
			go func() { _ = server.Serve(listener) }()
			w.t.Cleanup(func() { _ = server.Close() })
			return []string{"--etcd-endpoints", "http://127.0.0.1:2380," + w.etcdURL()}
		}},
	}
}

// slowStore is the store behind a proxy that takes its time with every piece.
func (w *ward) slowStore(delay time.Duration) string {
	w.t.Helper()
	listener, err := w.node().Listen(netip.MustParseAddrPort("127.0.0.1:2379"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = listener.Close() })
	carry := func(from, to net.Conn) {
		defer func() { _ = to.Close() }()
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			<-time.After(delay)
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for {
			front, err := listener.Accept()
			if err != nil {
				return
			}
			var back net.Conn
			if err := w.node().Do(func() (err error) {
				back, err = net.Dial("tcp", strings.TrimPrefix(w.etcdURL(), "http://"))
				return err
			}); err != nil {
				_ = front.Close()
				continue
			}
			go carry(front, back)
			go carry(back, front)
		}
	}()
	return "http://127.0.0.1:2379"
}
