package guard_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/guard"
	"github.com/weftnet/weft/pkg/mac"
	"github.com/weftnet/weft/pkg/netnstest"
)

// BenchmarkRoundTrip is a datagram from a pod to its host and back, by the
// processor time of the one thread that does both ends: what others do on the
// machine is not in it. It is the shortest way that a pod's packet has, so what
// the guard adds to it is the most that it can add.
func BenchmarkRoundTrip(b *testing.B) {
	for _, c := range []struct {
		name string
		mac  mac.Addr
	}{{"direct", mac.Addr{}}, {"bridged", mac.Addr{2, 0, 0, 0, 0, 5}}} {
		b.Run(c.name, func(b *testing.B) {
			host, pod := netnstest.New(b), netnstest.New(b)
			pod.Exec("ip", "link", "add", "eth0", "address", "02:00:00:00:00:05", "type", "veth", "peer", "name", "vetha",
				"netns", host.Path())
			host.Exec("sh", "-ec", "ip addr add 10.42.1.1/24 dev vetha; ip link set vetha up")
			pod.Exec("sh", "-ec", "ip addr add 10.42.1.5/24 dev eth0; ip link set eth0 up")
			at, here := listen(b, host, "10.42.1.1"), listen(b, pod, "10.42.1.5")
			s := attachment.Sources{Link: "vetha", MAC: c.mac, Addrs: []netip.Addr{netip.MustParseAddr("10.42.1.5")}}
			const round = 2000
			took := map[bool][]float64{}
			for i := range max(b.N/round, 10) {
				held := i%2 == 1
				host.Do(func() {
					g, err := guard.Open()
					if err == nil && held {
						err = guard.Put(s)
					} else if err == nil {
						err = g.Remove(s)
					}
					if err != nil {
						b.Fatal(err)
					}
					g.Close()
				})
				took[held] = append(took[held], roundTrips(b, here, at, round))
			}
			for _, all := range took {
				slices.Sort(all)
			}
			free, held := took[false][len(took[false])/2], took[true][len(took[true])/2]
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(free, "cpu-ns/free")
			b.ReportMetric(held, "cpu-ns/held")
			b.ReportMetric((held/free-1)*100, "%more")
		})
	}
}

func listen(b *testing.B, n *netnstest.NS, addr string) (fd int) {
	b.Helper()
	n.Do(func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			b.Fatal(err)
		}
		to := &unix.SockaddrInet4{Port: 7, Addr: netip.MustParseAddr(addr).As4()}
		if err := unix.Bind(fd, to); err != nil {
			b.Fatal(err)
		}
	})
	b.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// roundTrips gives the processor time of one, in nanoseconds.
func roundTrips(b *testing.B, pod, host, n int) float64 {
	b.Helper()
	var before, after unix.Rusage
	buf := make([]byte, 64)
	there := &unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 42, 1, 1}}
	back := &unix.SockaddrInet4{Port: 7, Addr: [4]byte{10, 42, 1, 5}}
	pass := func(from, to int, at unix.Sockaddr) error {
		if err := unix.Sendto(from, buf[:1], 0, at); err != nil {
			return err
		}
		_, _, err := unix.Recvfrom(to, buf, 0)
		return err
	}
	var failed error
	done := make(chan struct{})
	go func() { // a thread of its own, which counts
		defer close(done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &before)
		for range n {
			if failed = pass(pod, host, there); failed == nil {
				failed = pass(host, pod, back)
			}
			if failed != nil {
				return
			}
		}
		_ = unix.Getrusage(unix.RUSAGE_THREAD, &after)
	}()
	<-done
	if failed != nil {
		b.Fatal(fmt.Errorf("round trip: %w", failed))
	}
	used := func(r unix.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	return float64(used(after)-used(before)) / float64(n)
}
