package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/pkg/topology"
)

// absence is a way in which a node hears nothing while its lease ends.
type absence struct {
	begin, end func(*testing.T, *cluster, *daemon)
}

func absences() map[string]absence {
	signal := func(s syscall.Signal) func(*testing.T, *cluster, *daemon) {
		return func(t *testing.T, _ *cluster, d *daemon) {
			if err := d.proc.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	noWay := func(verb string) func(*testing.T, *cluster, *daemon) {
		return func(t *testing.T, c *cluster, d *daemon) {
			out, err := output(t, &d.node.Namespace, "ip", "route", verb, "blackhole", c.Outside.Addrs[0].String())
			if err != nil {
				t.Fatal(err, out)
			}
		}
	}
	return map[string]absence{
		"asleep":              {signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		"no way to the store": {noWay("add"), noWay("del")},
	}
}

// TestSubnetGivenToAnotherNode: a node's lease ends while it is away, and another
// node gets that very subnet, and its pods the same addresses. When the node is
// back it has another subnet, serves new pods in it, and is not ready as long as
// it has pods of before. Nobody's packets suffer but theirs.
func TestSubnetGivenToAnotherNode(t *testing.T) {
	for name, away := range absences() {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, underlay4, underlay6)
			c.newStore(dualConfig(`{"Type":"vxlan"}`))
			first, second := c.daemon(0).start(), c.daemon(1).start()
			had := first.awaitReady(1).Node
			second.awaitReady(1)
			old := []*topology.Pod{c.pod(c.Nodes[0], "a"), c.pod(c.Nodes[0], "b")}
			there := c.pod(c.Nodes[1], "a")
			away.begin(t, c, first)
			third, heir := c.inherit(2, first, had)
			c.mesh([]*topology.Pod{heir, there}, 1430)

			away.end(t, c, first)
			now := first.awaitNotReady(had.Subnets[0]+" is the subnet of node "+third.node.Addrs[0].String(), "cni0")
			if slices.ContainsFunc(now.Node.Subnets, func(s string) bool { return slices.Contains(had.Subnets, s) }) {
				t.Errorf("has %v, as before, beside the new owner", now.Node.Subnets)
			}
			first.awaitLog("this node has another subnet now", had.Subnets[0])
			fresh := c.pod(c.Nodes[0], "c")
			c.mesh([]*topology.Pod{heir, there}, 1430)  // the new owner's
			c.mesh([]*topology.Pod{fresh, there}, 1430) // new pods
			for _, from := range old {                  // those of before, by the node's address
				c.reaches(from, old[0], old[1], there)
			}
			for _, d := range []*daemon{first, second, third} {
				if s, err := d.status(); err != nil || len(s.Fights) > 0 {
					t.Errorf("%s: fights %v, %v", d.node.Name, s.Fights, err)
				}
			}
			for _, p := range old {
				if err := p.Delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			first.awaitReady(2)
			first.awaitPlanEmpty()
			c.mesh([]*topology.Pod{fresh, heir, there}, 1430)
		})
	}
}

// TestSubnetGivenAwayIsTheLastOne: there is no other for the node that comes back.
// All that it has stays as it is, and it takes the first subnet that is free.
func TestSubnetGivenAwayIsTheLastOne(t *testing.T) {
	c := newCluster(t, 2, underlay4)
	c.newStore(`{"Network":"10.42.0.0/16","SubnetMin":"10.42.7.0","SubnetMax":"10.42.7.0","Backend":{"Type":"vxlan"}}`)
	first := c.daemon(0).start()
	had := first.awaitReady(0).Node
	old := []*topology.Pod{c.pod(c.Nodes[0], "a"), c.pod(c.Nodes[0], "b")}
	asleep := absences()["asleep"]
	asleep.begin(t, c, first)
	second, _ := c.inherit(1, first, had)
	asleep.end(t, c, first)
	first.awaitNotReady("10.42.7.0/24 is the subnet of node "+second.node.Addrs[0].String(), "there is no other")
	first.awaitLog("no lease yet", "10.42.7.0")
	c.mesh(old, 1450)
	second.stop()
	if _, err := c.store.try("del", keyOf(had.Lease)); err != nil {
		t.Fatal(err)
	}
	if s := first.awaitReady(0); s.Node.Lease != had.Lease {
		t.Errorf("lease %s, want %s again", s.Node.Lease, had.Lease)
	}
	c.mesh(old, 1450)
}

// reaches wants answers of pods, whatever address they see.
func (c *cluster) reaches(from *topology.Pod, all ...*topology.Pod) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	for _, to := range all {
		for _, addr := range to.Addrs {
			if _, err := from.Fetch(ctx, netip.AddrPortFrom(addr, pagePort)); err != nil {
				c.t.Error(err)
			}
		}
	}
}

// inherit ends the lease of a daemon that is away, and starts another one, which
// gets the same subnets; and a pod there.
func (c *cluster) inherit(i int, from *daemon, had network.NodeStatus) (*daemon, *topology.Pod) {
	c.t.Helper()
	env, err := os.ReadFile(from.node.SubnetFile())
	if err == nil {
		err = errors.Join(c.store.revoke(keyOf(had.Lease)), os.WriteFile(c.Nodes[i].SubnetFile(), env, 0o600))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	d := c.daemon(i).start()
	eventually(c.t, 30*time.Second, func() error {
		s, err := d.status()
		if err == nil && (!s.Ready || !slices.Equal(s.Node.Subnets, had.Subnets)) {
			err = fmt.Errorf("ready %v %v, subnets %v, want %v", s.Ready, s.Reasons, s.Node.Subnets, had.Subnets)
		}
		return err
	})
	pod := c.pod(c.Nodes[i], "a")
	if !netip.MustParsePrefix(had.Subnets[0]).Contains(pod.Addrs[0]) {
		c.t.Fatalf("pod has %v", pod.Addrs)
	}
	return d, pod
}

// awaitNotReady waits until the daemon is not ready, for a reason with these words.
func (d *daemon) awaitNotReady(words ...string) (s network.Status) {
	d.t.Helper()
	eventually(d.t, 20*time.Second, func() (err error) {
		if s, err = d.status(); err != nil {
			return err
		}
		said := strings.Join(s.Reasons, "; ")
		for _, w := range words {
			if s.Ready || !strings.Contains(said, w) {
				return fmt.Errorf("%s: ready %v because %q, want %q", d.node.Name, s.Ready, said, w)
			}
		}
		return nil
	})
	return s
}
