package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/weftnet/weft/pkg/topology"
)

// BenchmarkStart starts a daemon where so many peers are in the store already,
// on an empty kernel and again on one that is right, and reports the time until
// every route stands, the daemon's CPU, and its resident memory.
func BenchmarkStart(b *testing.B) {
	for _, peers := range []int{1000, 10000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			c := newCluster(b, 2, underlay4)
			c.daemon(0, c.storeArgs("--network=10.0.0.0/8")...).start().awaitReady(0)
			c.fill(peers)
			for b.Loop() {
				d := c.daemon(1)
				if err := os.RemoveAll(filepath.Join(d.node.Dir, "state")); err != nil {
					b.Fatal(err)
				}
				_ = d.node.Do(func() error { return deleteLink("flannel.1") }) // there is none at first
				b.ReportMetric(c.timed(d, peers+1), "s/empty")
				b.ReportMetric(float64(d.memory())/1024, "MiB")
				d.stop()
				b.ReportMetric(d.proc.CPU().Seconds(), "s-cpu/empty")
				b.ReportMetric(c.timed(d, peers+1), "s/right")
				d.stop()
				b.ReportMetric(d.proc.CPU().Seconds(), "s-cpu/right")
			}
		})
	}
}

// timed starts a daemon and gives the seconds until it is ready with all peers'
// routes in the kernel.
func (c *cluster) timed(d *daemon, peers int) float64 {
	began := time.Now()
	d.start()
	eventually(c.t, time.Minute, func() error {
		s, err := d.status()
		if err == nil && (!s.Ready || s.Peers != peers) {
			err = fmt.Errorf("ready %v, %d of %d peers", s.Ready, s.Peers, peers)
		}
		return err
	})
	eventually(c.t, time.Minute, func() error {
		if n := routesOf(c.t, &d.node.Namespace); n != peers {
			return fmt.Errorf("%d of %d routes", n, peers)
		}
		return nil
	})
	return time.Since(began).Seconds()
}

func routesOf(t testing.TB, ns *topology.Namespace) int {
	n := 0
	err := ns.Do(func() error {
		link, err := netlink.LinkByName("flannel.1")
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		if err != nil {
			return err
		}
		routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
		n = len(routes)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// memory is the daemon's peak resident memory in KiB (proc_pid_status(5)).
func (d *daemon) memory() (kib int) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.proc.Pid()))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib
		}
	}
	d.t.Fatal("no VmHWM")
	return 0
}

// fill puts leases of so many peers into the store. They have subnets that no node
// has taken.
func (c *cluster) fill(peers int) {
	c.t.Helper()
	taken := c.etcdctl("get", "--prefix", "--keys-only", subnetsPrefix)
	at := 0
	c.putLeases(peers, func(int) (key, value string) {
		for {
			key, i := fmt.Sprintf("10.%d.%d.0-24", 100+at/256, at%256), at
			if at++; strings.Contains(taken, key) {
				continue
			}
			return key, fmt.Sprintf(`{"PublicIP":"172.16.%d.%d","PublicIPv6":null,"BackendType":"vxlan",`+
				`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}}`, i/256, i%256, i/256, i%256)
		}
	})
}

// putLeases writes n leases by transactions of etcdctl.
func (c *cluster) putLeases(n int, lease func(i int) (key, value string)) {
	c.t.Helper()
	const most = 100 // etcd takes 128 operations in one transaction
	for i := 0; i < n; {
		var ops strings.Builder
		for range min(most, n-i) {
			key, value := lease(i)
			fmt.Fprintf(&ops, "put %s%s '%s'\n", subnetsPrefix, key, value)
			i++
		}
		cmd := exec.Command(filepath.Join(bin, "etcdctl"), "--endpoints", c.etcdURL(), "txn")
		cmd.Stdin = strings.NewReader("\n" + ops.String() + "\n\n")
		out, err := outputOf(c.t, &c.Nodes[0].Namespace, cmd)
		if err != nil {
			c.t.Fatalf("etcdctl txn: %v\n%s", err, out)
		}
	}
}
