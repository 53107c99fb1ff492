package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/topology"
)

type benched struct {
	Ways []struct {
		Family, Through, Address, Reason string
		RTT                              float64 `json:"rttMs"`
		MTU                              int
		Bits                             float64 `json:"bitsPerSecond"`
	}
	Ratios []struct {
		MTU  int     `json:"mtuDifference"`
		Bits float64 `json:"throughput"`
	}
}

// TestBench measures from one node to another, with and without somebody there
// who takes it in, and knocks at the open port from where no peer is.
func TestBench(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2, underlay4, underlay6)
	daemons := []*daemon{
		c.daemon(0, c.storeArgs("--network=10.42.0.0/16", "--ipv6-network=fd00:42::/48")...).start(), c.daemon(1).start(),
	}
	for _, d := range daemons {
		d.awaitReady(1)
	}
	pods := c.pods()
	c.mesh(pods, 1430)
	peer := c.Nodes[1].Addrs[0]
	measure := func() (m benched) {
		t.Helper()
		out, err := output(t, &c.Nodes[0].Namespace, filepath.Join(bin, "weftctl"), "bench", peer.String(), "-o", "json",
			"--socket", filepath.Join(c.Nodes[0].Dir, "weftd.sock"), "--time", "500ms", "--pings", "5")
		if err := errors.Join(err, json.Unmarshal([]byte(out), &m)); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if len(m.Ways) != 4 || len(m.Ratios) != 2 {
			t.Fatalf("want two ways of two families: %s", out)
		}
		for i, mtu := range []int{1450, 1500, 1430, 1500} {
			if w := m.Ways[i]; w.MTU != mtu || w.RTT <= 0 {
				t.Errorf("want MTU %d and a round trip: %+v", mtu, w)
			}
		}
		if m.Ratios[0].MTU != 50 || m.Ratios[1].MTU != 70 {
			t.Errorf("what the overlay costs: %+v", m.Ratios)
		}
		return m
	}
	for _, w := range measure().Ways { // no port is open by itself
		if w.Bits != 0 || !strings.Contains(w.Reason, "does weftctl bench --serve run there?") {
			t.Errorf("without a server: %+v", w)
		}
	}

	log := filepath.Join(c.Nodes[1].Dir, "bench.log")
	server := c.benchServer(1, log, "20s")
	m := measure()
	for _, w := range m.Ways {
		if w.Bits < 1e6 || w.Reason != "" {
			t.Errorf("with a server: %+v", w)
		}
	}
	if m.Ratios[0].Bits <= 0 || m.Ratios[1].Bits <= 0 {
		t.Errorf("ratios: %+v", m.Ratios)
	}
	strangers := map[string]struct {
		ns *topology.Namespace
		to netip.Addr
	}{
		"a host beside the nodes":      {c.Outside, peer},
		"a pod of the node":            {&pods[2].Namespace, peer},
		"a pod, at the tunnel":         {&pods[2].Namespace, netip.MustParseAddr(m.Ways[0].Address)},
		"a pod of the peer, at it too": {&pods[0].Namespace, netip.MustParseAddr(m.Ways[0].Address)},
	}
	for name, s := range strangers {
		var heard []byte
		err := s.ns.Do(func() error {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.to, 8473).String(), 5*time.Second)
			if err != nil {
				return nil // the kernel's refusal is as good
			}
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			buffer := make([]byte, 64)
			n, err := conn.Read(buffer)
			heard = buffer[:n]
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return fmt.Errorf("it is kept waiting: %w", err)
			}
			return nil
		})
		if err != nil || len(heard) > 0 {
			t.Errorf("%s: %v, hears %q", name, err, heard)
		}
	}
	select { // by itself, when its time is over
	case <-server.Done():
	case <-time.After(40 * time.Second):
		t.Fatal("the server goes on")
	}
	text, err := os.ReadFile(log)
	refused := bytes.Contains(text, []byte("is refused: no peer has this address"))
	if err := errors.Join(err, server.Err()); err != nil || !refused {
		t.Errorf("the server: %v\n%s", err, text)
	}
}

// benchServer starts one and waits until it listens.
func (c *cluster) benchServer(i int, log, stay string) *topology.Process {
	c.t.Helper()
	out, err := os.Create(log)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(filepath.Join(bin, "weftctl"), "bench", "--serve", "--for", stay,
		"--socket", filepath.Join(c.Nodes[i].Dir, "weftd.sock"))
	cmd.Stdout, cmd.Stderr = out, out
	p, err := c.Nodes[i].Start(cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, 10*time.Second, func() error {
		text, err := os.ReadFile(log)
		if err == nil && strings.Count(string(text), ":8473") < 4 {
			err = fmt.Errorf("it does not listen at four addresses: %s", text)
		}
		return err
	})
	return p
}
