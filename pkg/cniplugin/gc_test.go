package cniplugin_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/netnstest"
)

// gc is GC with these attachments still in use.
func (n *node) gc(valid ...pod) (status int, out []byte) {
	n.t.Helper()
	list := []map[string]string{}
	for _, p := range valid {
		list = append(list, map[string]string{"containerID": p.id, "ifname": p.ifName})
	}
	return n.with("cniVersion", "1.1.0", "cni.dev/valid-attachments", list).call("GC", pod{})
}

func (n *node) collect(valid ...pod) {
	n.t.Helper()
	if status, out := n.gc(valid...); status != 0 || len(out) > 0 {
		n.t.Fatalf("GC: status %d, %s", status, out)
	}
}

func (n *node) wantAddresses(want ...string) {
	n.t.Helper()
	have := n.addresses()
	slices.Sort(have)
	if d := cmp.Diff(want, have); d != "" {
		n.t.Errorf("addresses in use: %s", d)
	}
}

func TestGC(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"bridge", "ptp"} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t, ipv4).with("mode", mode).withPorts(mapping("tcp", 8080, 80, ""))
			n.collect() // nothing there
			gone, _ := newPod(t, 1)
			n.add(gone)
			kept, keptNS := newPod(t, 2)
			r := n.withPorts(mapping("tcp", 8081, 80, "")).add(kept)
			// Of flannel's time, and what nobody knows.
			networks := filepath.Join(n.dir, "networks", "cbr0")
			n.write(filepath.Join(networks, "10.42.1.100"), "pod-100\r\neth0")
			n.write(filepath.Join(networks, "10.42.1.101"), "pod-2")
			n.write(filepath.Join(networks, "10.42.1.102"), "")
			other := attachment.Attachment{
				Key: attachment.Key{Network: "other", Container: "a", Interface: "eth0"}, Mode: attachment.ModePTP,
				HostLink: "vethother", Addrs: attachmentOf(t, n, kept).Addrs, Gateways: attachmentOf(t, n, kept).Gateways,
			}
			if err := n.records().Put(other); err != nil {
				t.Fatal(err)
			}

			n.collect(kept)
			n.wantAddresses("10.42.1.101", "10.42.1.3")
			if v := veths(t, n.host); len(v) != 1 {
				t.Errorf("links: %v", v)
			}
			if status, out := n.withPorts(mapping("tcp", 8081, 80, "")).check(kept, r); status != 0 {
				t.Errorf("%s", out)
			}
			reachAll(t, n.host, keptNS, r)
			records, err := n.records().Load()
			if err != nil || len(records) != 2 {
				t.Errorf("%v, %v", records, err)
			}
			n.del(gone)
			n.collect()
			n.wantAddresses()
			n.wantNoPorts(mode)
		})
	}
}

func attachmentOf(t *testing.T, n *node, p pod) attachment.Attachment {
	t.Helper()
	a, err := n.records().Get(attachment.Key{Network: "cbr0", Container: p.id, Interface: p.ifName})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestGCOfLittle(t *testing.T) {
	n := newNode(t, ipv4)
	p, _ := newPod(t, 1)
	n.add(p)
	n.with("cniVersion", "1.1.0").refused("GC", pod{}, 7, "cni.dev/valid-attachments is missing")
	n.refused("GC", pod{}, 1, `"1.0.0" knows no GC`, "1.1.0")

	// An ADD under way is not in the runtime's list yet.
	done, err := n.records().Begin(attachmentOf(t, n, p))
	if err != nil {
		t.Fatal(err)
	}
	n.collect()
	n.wantAddresses("10.42.1.2")
	done()
	n.collect()
	n.empty()
}

// A delegate undoes what it did for a pod that is gone, with what it was given.
func TestGCOfADelegate(t *testing.T) {
	n := newNode(t, ipv4).flannels(map[string]any{"type": "macvlan"})
	n.path = plugins(t, "macvlan")
	gone, _ := newPod(t, 1)
	kept, _ := newPod(t, 2)
	for _, p := range []pod{gone, kept} {
		if status, out := n.call("ADD", p); status != 0 {
			t.Fatalf("%s", out)
		}
	}
	n.collect(kept)
	if r := recorded(t, n.path, "macvlan", "DEL"); r.Env["CNI_CONTAINERID"] != "pod-1" || r.Env["CNI_IFNAME"] != "eth0" {
		t.Errorf("macvlan was called with %v", r.Env)
	}
	n.wantStates("pod-2", "pod-2:eth0")
}

func TestStatus(t *testing.T) {
	n := newNode(t, "10.42.1.0/30").with("cniVersion", "1.1.0")
	ok := func(n *node) {
		t.Helper()
		if status, out := n.call("STATUS", pod{}); status != 0 || len(out) > 0 {
			t.Errorf("status %d, %s", status, out)
		}
	}
	ok(n)
	ok(n.flannels(map[string]any{}, "cniVersion", "1.1.0"))
	p, _ := newPod(t, 1)
	n.add(p)
	n.refused("STATUS", pod{}, 50, "no free address in 10.42.1.0/30", "10.42.1.2 by pod-1/eth0")
	n.host.Exec("sh", "-ec", "ip link del $(ip -o link show type veth | sed 's/^[0-9]*: \\([^@]*\\)@.*/\\1/')")
	ok(n) // the dead keep nobody waiting
	n.del(p)
	ok(n)
	later := n.with("subnetFile", filepath.Join(n.dir, "later.env"))
	later.refused("STATUS", pod{}, 50, "later.env", "systemctl status weftd")
	n.with("cniVersion", "1.0.0").refused("STATUS", pod{}, 1, "STATUS", "1.1.0")
	n.flannels(map[string]any{"type": "macvlan"}, "cniVersion", "1.1.0").refused("STATUS", pod{}, 50, `"macvlan"`)
	n.notMasquerading()
	n.with("ipMasq", true).refused("STATUS", pod{}, 50, "--ip-masq")
}

// After a reboot all that was given before is free, whoever gave it.
func TestReboot(t *testing.T) {
	n := newNode(t, "10.42.1.0/29") // pods: .2 to .6
	networks := filepath.Join(n.dir, "networks", "cbr0")
	for i := range 3 {
		p, _ := newPod(t, i)
		n.add(p)
	}
	n.write(filepath.Join(networks, "10.42.1.5"), "flannels\r\neth0")
	n.write(filepath.Join(networks, "10.42.1.6"), "flannels-now\r\neth0")
	n.del(pod{id: "pod-2", ifName: "eth0"}) // which notes the boot

	// As the next boot finds it: other boot ids, no links, an old file.
	before := time.Now().AddDate(-1, 0, 0)
	if err := os.Chtimes(filepath.Join(networks, "10.42.1.5"), before, before); err != nil {
		t.Fatal(err)
	}
	records, err := n.records().Load()
	if err != nil || len(records) != 2 {
		t.Fatalf("%v, %v", records, err)
	}
	for _, r := range records {
		r.Boot = "the one before"
		if err := n.records().Put(r); err != nil {
			t.Fatal(err)
		}
	}
	rest := filepath.Join(networks, ".weft.rest")
	b, err := os.ReadFile(rest)
	if err != nil {
		t.Fatal(err)
	}
	_, releases, _ := strings.Cut(string(b), "\n")
	n.write(rest, "boot the-one-before\n"+releases)

	p, _ := newPod(t, 9)
	n.add(p)
	n.wantAddresses("10.42.1.4", "10.42.1.6")
	if records, err := n.records().Load(); err != nil || len(records) != 1 {
		t.Errorf("%v, %v", records, err)
	}
	// The runtime's DEL for a pod of before comes late.
	n.del(pod{id: "pod-0", ifName: "eth0"})
	n.wantAddresses("10.42.1.4", "10.42.1.6")
}

// When nothing is free, what the dead have is found, and what the living have
// is not.
func TestExhaustionFindsTheDead(t *testing.T) {
	n := newNode(t, "10.42.1.0/29") // pods: .2 to .6
	networks := filepath.Join(n.dir, "networks", "cbr0")
	living, livingNS := newPod(t, 1)
	n.attachAsFlannel(living, livingNS, "10.42.1.2")
	inhabit(t, livingNS)
	n.write(filepath.Join(networks, "10.42.1.3"), "leaked\r\neth0")
	n.write(filepath.Join(networks, "10.42.1.4"), "in-the-making\r\neth0")
	long := time.Now().Add(-time.Hour)
	for _, addr := range []string{"10.42.1.2", "10.42.1.3"} {
		if err := os.Chtimes(filepath.Join(networks, addr), long, long); err != nil {
			t.Fatal(err)
		}
	}
	dead, _ := newPod(t, 5)
	n.add(dead) // .5
	full, _ := newPod(t, 6)
	n.add(full) // .6
	n.host.Do(func() {
		if err := netlink.LinkDel(link(t, attachmentOf(t, n, dead).HostLink)); err != nil {
			t.Fatal(err)
		}
	})
	var given []string
	for i := range 2 {
		p, _ := newPod(t, 10+i)
		given = append(given, n.add(p).IPs[0].Address.IP.String())
	}
	slices.Sort(given)
	if d := cmp.Diff([]string{"10.42.1.3", "10.42.1.5"}, given); d != "" {
		t.Error(d)
	}
	last, _ := newPod(t, 20)
	n.refused("ADD", last, 102, "no free address in 10.42.1.0/29", "5 in use", "10.42.1.2 by pod-1/eth0")
	n.wantAddresses("10.42.1.2", "10.42.1.3", "10.42.1.4", "10.42.1.5", "10.42.1.6")
}

// inhabit has a process live in a namespace, as a pod's do.
func inhabit(t *testing.T, ns *netnstest.NS) {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	ns.Do(func() {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// The clock of the wall jumps by years, to and fro, between the moment in which
// another plugin writes its files and that in which we look at them. What a pod
// has is never given again, what nobody has is found, and what was written just
// now is left alone.
func TestReapWhenTheClockJumps(t *testing.T) {
	jumps := map[string]time.Time{
		"put back by years since":  time.Now().AddDate(20, 0, 0),
		"put ahead by years since": time.Now().AddDate(-20, 0, 0),
		"at the beginning of time": time.Unix(0, 0),
	}
	for name, written := range jumps {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, "10.42.1.0/29") // pods: .2 to .6
			networks := filepath.Join(n.dir, "networks", "cbr0")
			living, livingNS := newPod(t, 1)
			n.attachAsFlannel(living, livingNS, "10.42.1.2")
			inhabit(t, livingNS)
			n.write(filepath.Join(networks, "10.42.1.3"), "leaked\r\neth0")
			n.write(filepath.Join(networks, "10.42.1.4"), "in-the-making\r\neth0")
			n.write(filepath.Join(networks, ".weft.rest"), "boot the-one-before\n")
			jump := func(addr string) {
				if err := os.Chtimes(filepath.Join(networks, addr), written, written); err != nil {
					t.Fatal(err)
				}
			}
			jump("10.42.1.2")
			jump("10.42.1.3")
			p, _ := newPod(t, 5)
			n.add(p) // the first one of this boot: .3 is free, and rests
			n.wantAddresses("10.42.1.2", "10.42.1.4", "10.42.1.5")
			n.write(filepath.Join(networks, "10.42.1.3"), "leaked\r\neth0")
			n.write(filepath.Join(networks, "10.42.1.6"), "leaked-too\r\neth0")
			jump("10.42.1.3")
			jump("10.42.1.6")
			for i := range 2 { // they have run out
				p, _ := newPod(t, 10+i)
				n.add(p)
			}
			last, _ := newPod(t, 20)
			n.refused("ADD", last, 102, "no free address", "10.42.1.2 by pod-1/eth0", "10.42.1.4 by in-the-making/eth0")
		})
	}
}

func TestSubnetMoves(t *testing.T) {
	n := newNode(t, ipv4)
	forward(t, n.host)
	old, oldNS := newPod(t, 1)
	n.add(old)
	b, err := os.ReadFile(n.subnetFile())
	if err != nil {
		t.Fatal(err)
	}
	n.write(n.subnetFile(), strings.Replace(string(b), "10.42.1.", "10.42.7.", 1))
	n.noisy = true
	p, ns := newPod(t, 2)
	r := n.add(p)
	if !strings.Contains(n.said, "[10.42.7.0/24]") || strings.Count(n.said, "\n") != 1 {
		t.Errorf("said %q", n.said)
	}
	reachAll(t, n.host, ns, r)
	reach(t, n.host, oldNS, []byte{10, 42, 1, 2})
	reach(t, oldNS, ns, r.IPs[0].Address.IP)
	again, _ := newPod(t, 3)
	n.add(again)
	if n.said != "" {
		t.Errorf("said again: %q", n.said)
	}
}

// The gateway of a subnet of before goes with the last pod that has an address of
// it, and not while somebody may need it of whom nothing is known.
func TestGatewayOfBeforeGoesWithItsLastPod(t *testing.T) {
	for name, c := range map[string]struct {
		stranger bool
		want     []string
	}{
		"no other port":           {false, []string{"10.42.7.1/24", "fd00:5:0:7::1/64"}},
		"a port without a record": {true, []string{"10.42.1.1/24", "10.42.7.1/24", "fd00:5:0:7::1/64", "fd00:5:0:1::1/64"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, ipv4, ipv6)
			first, _ := newPod(t, 1)
			n.add(first)
			second, _ := newPod(t, 2)
			n.add(second)
			b, err := os.ReadFile(n.subnetFile())
			if err != nil {
				t.Fatal(err)
			}
			moved := strings.NewReplacer("10.42.1.", "10.42.7.", "fd00:5:0:1:", "fd00:5:0:7:").Replace(string(b))
			n.write(n.subnetFile(), moved)
			n.noisy = true
			third, _ := newPod(t, 3)
			n.add(third)
			if c.stranger {
				n.host.Exec("sh", "-ec", "ip link add other type veth peer name other1; ip link set other master cni0")
			}
			both := []string{"10.42.1.1/24", "10.42.7.1/24", "fd00:5:0:7::1/64", "fd00:5:0:1::1/64"}
			n.del(first)
			n.host.Do(func() { wantAddrs(t, link(t, "cni0"), both...) })
			n.del(second)
			n.host.Do(func() { wantAddrs(t, link(t, "cni0"), c.want...) })
			n.del(third) // the node's own gateway stays
			n.host.Do(func() { wantAddrs(t, link(t, "cni0"), c.want...) })
		})
	}
}
