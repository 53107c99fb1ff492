package linux

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

// floorPeers have an FDB entry, a neighbour and a route each, and a nexthop object.
const floorPeers = 10_000

// BenchmarkFloor is what writing the entries of 10,000 peers costs the kernel in
// different ways, without a thought about what is there: the daemon's own time is
// held against the best of them (Documentation/performance.md).
func BenchmarkFloor(b *testing.B) {
	ways := map[string]func(b *testing.B, k *Kernel, index int){
		"one by one, on one socket":          func(b *testing.B, k *Kernel, i int) { write(b, k, i, 1, false) },
		"batched, each acknowledged":         func(b *testing.B, k *Kernel, i int) { write(b, k, i, maxBatch, true) },
		"batched, the last acknowledged":     func(b *testing.B, k *Kernel, i int) { write(b, k, i, maxBatch, false) },
		"batched by 1,024, the last of them": func(b *testing.B, k *Kernel, i int) { write(b, k, i, 1024, false) },
	}
	for name, way := range ways {
		b.Run(name, func(b *testing.B) { floor(b, way) })
	}
	b.Run("plain routes, batched", func(b *testing.B) {
		floor(b, func(b *testing.B, k *Kernel, i int) {
			send(b, k, maxBatch, false, func(e *encoder, n int) { e.entries(n, i, false) })
		})
	})
	b.Run("ip -batch", ipBatch)
	b.Run("Apply", floorApply)
}

// floorApply is what the daemon takes for the same: the ops of a plan.
func floorApply(b *testing.B) {
	link := dataplane.Link{VNI: 1, Port: 8472, Local: netip.MustParseAddr("127.0.0.1")}
	want := dataplane.State{
		FDB: map[dataplane.FDBKey]netip.Addr{}, Neighs: map[dataplane.NeighKey]mac.Addr{},
		Routes: map[dataplane.RouteKey]dataplane.Route{},
	}
	for n := range floorPeers {
		subnet, hw, vtep := floorPeer(n)
		want.FDB[dataplane.FDBKey{Link: "vx", MAC: hw}] = vtep
		want.Neighs[dataplane.NeighKey{Link: "vx", IP: subnet.Addr()}] = hw
		want.Routes[dataplane.RouteKey{Prefix: subnet}] = dataplane.Route{Via: subnet.Addr(), Link: "vx", OnLink: true}
	}
	plan := dataplane.Diff(want, dataplane.Observed{})
	scope := dataplane.Scope{All: true, Domain: dataplane.Domain{Links: map[string]dataplane.Link{"vx": link}}}
	n := netnstest.New(b)
	k, err := New(Options{Namespace: n.Handle()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(k.Close)
	spent, rounds := 0.0, 0.0
	for b.Loop() {
		b.StopTimer()
		floorDevice(b, n)
		if _, err := k.Observe(b.Context(), scope); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		b.StartTimer()
		before := processorTime()
		for _, err := range k.Apply(b.Context(), plan) {
			b.Fatal(err)
		}
		spent, rounds = spent+processorTime()-before, rounds+1
	}
	b.ReportMetric(spent/rounds, "cpu-ms")
}

func floor(b *testing.B, way func(*testing.B, *Kernel, int)) {
	n := netnstest.New(b)
	k, err := New(Options{Namespace: n.Handle()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(k.Close)
	spent, rounds := 0.0, 0.0
	for b.Loop() {
		b.StopTimer()
		index := floorDevice(b, n)
		b.StartTimer()
		before := processorTime()
		way(b, k, index)
		spent, rounds = spent+processorTime()-before, rounds+1
	}
	b.ReportMetric(spent/rounds, "cpu-ms")
}

// processorTime is ours and our children's in ms: on a machine that does more than
// this it says more than a clock.
func processorTime() (ms float64) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			ms += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
		}
	}
	return ms
}

// floorDevice makes the VXLAN device anew, with nothing on it.
func floorDevice(b *testing.B, n *netnstest.NS) (index int) {
	b.Helper()
	n.Do(func() {
		_ = exec.Command("ip", "link", "del", "vx").Run()
		for _, line := range []string{
			"link add vx type vxlan id 1 local 127.0.0.1 dstport 8472 nolearning", "link set vx up",
			"address add 10.42.1.0/32 dev vx",
		} {
			if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
				b.Fatalf("ip %s: %v: %s", line, err, out)
			}
		}
		raw, err := os.ReadFile("/sys/class/net/vx/ifindex")
		if err != nil {
			out, errIP := exec.Command("ip", "-o", "link", "show", "vx").Output()
			if _, err = fmt.Sscanf(string(out), "%d:", &index); err != nil {
				b.Fatal(err, errIP)
			}
			return
		}
		_, _ = fmt.Sscan(string(raw), &index)
	})
	return index
}

func floorPeer(n int) (subnet netip.Prefix, hw mac.Addr, vtep netip.Addr) {
	hi, lo := byte(n>>8), byte(n)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + hi, lo, 0}), 24), mac.Addr{2, 0, 0, 0, hi, lo},
		netip.AddrFrom4([4]byte{172, 16, hi, lo})
}

// entries encodes those of one peer.
func (e *encoder) entries(n, index int, object bool) {
	subnet, hw, vtep := floorPeer(n)
	to := gateway{index, subnet.Addr()}
	w := routeWrite{protocol: RouteProtocol, index: index, flags: unix.NLM_F_EXCL}
	w.key.Prefix, w.route.Via, w.route.OnLink = subnet, subnet.Addr(), true
	e.putForward(index, hw, vtep)
	e.putNeighbour(index, subnet.Addr(), hw)
	if object {
		w.nexthop = to.id(0)
		e.putNexthop(RouteProtocol, w.nexthop, to)
	}
	e.putRoute(w)
}

func write(b *testing.B, k *Kernel, index, many int, each bool) {
	b.Helper()
	send(b, k, many, each, func(e *encoder, n int) { e.entries(n, index, true) })
}

// send puts up to so many messages into a system call.
func send(b *testing.B, k *Kernel, many int, each bool, encode func(*encoder, int)) {
	b.Helper()
	var all encoder
	for n := range floorPeers {
		encode(&all, n)
	}
	for from, buf := 0, all.buf; from < len(all.types); from += many {
		var e encoder
		e.types = all.types[from:min(from+many, len(all.types))]
		size := 0
		for i := range e.types {
			flags := binary.NativeEndian.Uint16(buf[size+6:])
			if each || i == len(e.types)-1 {
				binary.NativeEndian.PutUint16(buf[size+6:], flags|unix.NLM_F_ACK)
			}
			size += int(binary.NativeEndian.Uint32(buf[size:]))
		}
		e.buf, buf = buf[:size], buf[size:]
		last := len(e.types) - 1
		if err := k.exchange(&e, func(i int, m message) bool {
			if err := m.failure(); err != nil {
				b.Fatalf("message %d: %v", from+i, err)
			}
			return i == last
		}); err != nil {
			b.Fatal(err)
		}
	}
}

func ipBatch(b *testing.B) {
	n := netnstest.New(b)
	spent, rounds := 0.0, 0.0
	for b.Loop() {
		b.StopTimer()
		index := floorDevice(b, n)
		var links, fdb strings.Builder
		for i := range floorPeers {
			subnet, hw, vtep := floorPeer(i)
			id := gateway{index, subnet.Addr()}.id(0)
			fmt.Fprintf(&fdb, "fdb append %s dev vx dst %s self permanent\n", hw, vtep)
			fmt.Fprintf(&links, "neigh add %s lladdr %s dev vx nud permanent\n", subnet.Addr(), hw)
			fmt.Fprintf(&links, "nexthop add id %d via %s dev vx onlink proto 83\n", id, subnet.Addr())
			fmt.Fprintf(&links, "route add %s nhid %d proto 83\n", subnet, id)
		}
		dir := b.TempDir()
		for file, text := range map[string]string{"bridge": fdb.String(), "ip": links.String()} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		before := processorTime()
		n.Do(func() {
			for _, program := range []string{"bridge", "ip"} {
				out, err := exec.Command(program, "-batch", filepath.Join(dir, program)).CombinedOutput() //nolint:gosec // ours
				if err != nil {
					b.Fatalf("%s -batch: %v: %.200s", program, err, out)
				}
			}
		})
		spent, rounds = spent+processorTime()-before, rounds+1
	}
	b.ReportMetric(spent/rounds, "cpu-ms")
}
