package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/network"
	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/network/probe"
	"github.com/weftnet/weft/pkg/netnstest"
)

// TestBrokenChecksumOffload: a node whose network card breaks the checksums of
// what is inside of the tunnel finds it out and computes them itself, also on the
// next device and in the next process. One whose card is well, and one whose peer
// is away, switch nothing.
func TestBrokenChecksumOffload(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, underlay4)
	daemons := []*daemon{c.daemon(0, c.storeArgs("--network=10.42.0.0/16")...), c.daemon(1), c.daemon(2)}
	for _, d := range daemons {
		d.start()
	}
	for _, d := range daemons {
		d.awaitReady(2)
	}
	w := &ward{cluster: c, t: t, daemon: daemons[2], patient: 2}
	w.underlayIP("link set node2 down")
	daemons[2].awaitUnheard(c.Nodes[1].Addrs[0].String())
	eventually(t, 60*time.Second, func() error { // datagrams are sent instead of echoes, and answered
		if n := daemons[0].refusals(); n < 1 {
			return fmt.Errorf("%d were sent", n)
		}
		return nil
	})
	for _, d := range daemons {
		if said := d.saidOfChecksums(); len(said) > 0 {
			t.Errorf("%s has a card that is well: %v", d.node.Name, said)
		}
	}
	w.underlayIP("link set node2 up")

	w.brokenCard()
	if broken := sick(c.examine(t, 2, "--check", "checksum-offload", "--wait", "3s")); len(broken) == 0 &&
		len(daemons[2].saidOfChecksums()) == 0 {
		t.Fatal("the injury does nothing")
	}
	began := time.Now()
	eventually(t, 90*time.Second, daemons[2].computesChecksums)
	t.Logf("switched off after %s", time.Since(began).Round(100*time.Millisecond))
	eventually(t, 10*time.Second, func() error {
		if broken := sick(c.examine(t, 2, "--check", "checksum-offload,underlay")); len(broken) > 0 {
			return fmt.Errorf("it is switched off, and still: %v", broken)
		}
		return nil
	})
	s, err := daemons[2].status()
	if err != nil || !s.Ready || len(s.Checksums) != 1 || s.Checksums[0].Device != "flannel.1" ||
		s.Checksums[0].Again.IsZero() {
		t.Errorf("status: %+v, %v", s, err)
	}
	daemons[2].awaitLog("checksum offload is switched off", "flannel.1")

	w.ip("link del flannel.1")
	eventually(t, 10*time.Second, daemons[2].computesChecksums)
	daemons[2].stop()
	daemons[2].start().awaitReady(2)
	eventually(t, 10*time.Second, daemons[2].computesChecksums)
	if s, err := daemons[2].status(); err != nil || len(s.Checksums) != 1 {
		t.Errorf("the next process doesn't know why: %+v, %v", s.Checksums, err)
	}
	daemons[2].stop()
	daemons[2].args = append(slices.Clone(daemons[2].args), "--vxlan-checksum-offload=on")
	daemons[2].start().awaitReady(2)
	eventually(t, 10*time.Second, func() error {
		if daemons[2].computesChecksums() == nil {
			return errors.New("it is off against what was said")
		}
		return nil
	})
}

// saidOfChecksums are events about them.
func (d *daemon) saidOfChecksums() (said []string) {
	d.t.Helper()
	for _, e := range d.events() {
		if e.Kind == events.ChecksumsOff || e.Kind == events.ChecksumsOn {
			said = append(said, e.String())
		}
	}
	return said
}

// awaitUnheard waits until probes have found that a node doesn't answer any more.
func (d *daemon) awaitUnheard(public string) {
	d.t.Helper()
	eventually(d.t, 30*time.Second, func() error {
		var peers []network.Peer
		if err := d.ask("/v1/peers", &peers); err != nil {
			return err
		}
		for _, p := range peers {
			if p.Paths[0].Public == public && (p.Paths[0].Probe == probe.UnderlayDown || p.Paths[0].Probe == probe.Down) {
				return nil
			}
		}
		return fmt.Errorf("%s is not known to be away: %+v", public, peers)
	})
}

// events are all that the daemon remembers.
func (d *daemon) events() (all []events.Event) {
	d.t.Helper()
	out, err := output(d.t, &d.node.Namespace, filepath.Join(bin, "weftctl"), "events", "-o", "json",
		"--socket", filepath.Join(d.node.Dir, "weftd.sock"))
	if err != nil {
		d.t.Fatalf("weftctl events: %v\n%s", err, out)
	}
	for line := range strings.Lines(out) {
		var e events.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			d.t.Fatalf("weftctl events: %v\n%s", err, out)
		}
		all = append(all, e)
	}
	return all
}

// computesChecksums looks at the tunnel's device.
func (d *daemon) computesChecksums() error {
	on := false
	err := d.node.Do(func() (err error) {
		on, err = netnstest.TXChecksum("flannel.1")
		return err
	})
	if err == nil && on {
		err = fmt.Errorf("checksum offload of %s is on; events: %v", d.node.Name, d.saidOfChecksums())
	}
	return err
}

// refusals counts the ICMP messages that say that nobody listens.
func (d *daemon) refusals() int {
	d.t.Helper()
	out, err := output(d.t, &d.node.Namespace, "cat", "/proc/net/snmp")
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if words[0] != "Icmp:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		n, _ := strconv.Atoi(words[slices.Index(names, "OutDestUnreachs")])
		return n
	}
	return 0
}
