package hostlocal_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
)

const network = "cbr0"

func subnets(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

func addrs(texts ...string) []netip.Addr {
	var as []netip.Addr
	for _, t := range texts {
		as = append(as, netip.MustParseAddr(t))
	}
	return as
}

func equal(t *testing.T, want, have []netip.Addr) {
	t.Helper()
	if d := cmp.Diff(want, have, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
}

func holder(n int) hostlocal.Holder {
	return hostlocal.Holder{ContainerID: fmt.Sprintf("pod%d", n), IfName: "eth0"}
}

func reserve(t *testing.T, s hostlocal.Store, h hostlocal.Holder, of ...string) []netip.Addr {
	t.Helper()
	got, err := s.Reserve(hostlocal.Request{Holder: h, Subnets: subnets(of...)})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func at(dir string) hostlocal.Store { return later(dir, 0) }

// later is the store so long after the boot.
func later(dir string, uptime time.Duration) hostlocal.Store {
	return hostlocal.At(dir, network, hostlocal.Machine{Boot: "boot-1", Uptime: time.Hour + uptime})
}

// release frees all that the holder has.
func release(s hostlocal.Store, h hostlocal.Holder) ([]netip.Addr, error) {
	held, err := s.Held(h)
	freed, errFree := s.Release(h, held)
	return freed, errors.Join(err, errFree)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOnDiskFormatIsHostLocals(t *testing.T) {
	dir := t.TempDir()
	s := at(dir)
	equal(t, addrs("10.42.1.2", "fd00:5::2"), reserve(t, s, holder(1), "10.42.1.0/24", "fd00:5::/64"))
	want := map[string]string{
		"10.42.1.2":          "pod1\r\neth0",
		"fd00:5::2":          "pod1\r\neth0",
		"last_reserved_ip.0": "10.42.1.2",
		"last_reserved_ip.1": "fd00:5::2",
		"lock":               "",
	}
	have := map[string]string{}
	entries, err := os.ReadDir(filepath.Join(dir, network))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, network, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		have[e.Name()] = string(b)
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
}

// What was given last is written over, of whatever length it was.
func TestLastReservedIsWhole(t *testing.T) {
	for before, want := range map[string]string{
		"10.42.1.254": "10.42.1.2", "10.42.1.99": "10.42.1.100", "10.42.1.100": "10.42.1.101", "": "10.42.1.2",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, network, "last_reserved_ip.0")
		write(t, path, before)
		reserve(t, at(dir), holder(1), "10.42.1.0/24")
		if have, err := os.ReadFile(path); string(have) != want || err != nil {
			t.Errorf("after %q: want %s, have %s, %v", before, want, have, err)
		}
	}
}

func TestRoundRobin(t *testing.T) {
	s := at(t.TempDir())
	const subnet = "10.42.1.0/29" // pods: .2 to .6
	for n := range 3 {
		reserve(t, s, holder(n), subnet)
	}
	if _, err := release(s, holder(0)); err != nil {
		t.Fatal(err)
	}
	equal(t, addrs("10.42.1.5"), reserve(t, s, holder(3), subnet))
	equal(t, addrs("10.42.1.6"), reserve(t, s, holder(4), subnet))
	equal(t, addrs("10.42.1.2"), reserve(t, s, holder(5), subnet))
}

func TestEdgesOfASubnet(t *testing.T) {
	for subnet, want := range map[string][]netip.Addr{
		"10.42.1.0/30":         addrs("10.42.1.2"),
		"10.42.1.8/29":         addrs("10.42.1.10", "10.42.1.11", "10.42.1.12", "10.42.1.13", "10.42.1.14"),
		"255.255.255.252/30":   addrs("255.255.255.254"),
		"fd00::8/125":          addrs("fd00::a", "fd00::b", "fd00::c", "fd00::d", "fd00::e"),
		"fd00:5:0:1::fffc/126": addrs("fd00:5:0:1::fffe"),
	} {
		t.Run(subnet, func(t *testing.T) {
			dir := t.TempDir()
			s := at(dir)
			var have []netip.Addr
			for n := range want {
				have = append(have, reserve(t, s, holder(n), subnet)...)
			}
			equal(t, want, have)

			_, err := s.Reserve(hostlocal.Request{Holder: holder(99), Subnets: subnets(subnet)})
			var exhausted *hostlocal.ExhaustedError
			if !errors.As(err, &exhausted) {
				t.Fatalf("want ExhaustedError, have %v", err)
			}
			if len(exhausted.InUse) != len(want) {
				t.Errorf("in use: want %d, have %d", len(want), len(exhausted.InUse))
			}
		})
	}
	for _, tiny := range []string{"10.42.1.0/31", "10.42.1.7/32", "fd00::/127"} {
		_, err := at(t.TempDir()).Reserve(hostlocal.Request{Holder: holder(1), Subnets: subnets(tiny)})
		if err == nil || !strings.Contains(err.Error(), "no room for a pod") {
			t.Errorf("%s: %v", tiny, err)
		}
	}
}

func TestAllFamiliesOrNone(t *testing.T) {
	s := at(t.TempDir())
	reserve(t, s, holder(1), "10.42.1.0/24", "fd00::/126")
	_, err := s.Reserve(hostlocal.Request{Holder: holder(2), Subnets: subnets("10.42.1.0/24", "fd00::/126")})
	var exhausted *hostlocal.ExhaustedError
	if !errors.As(err, &exhausted) || exhausted.Subnet != netip.MustParsePrefix("fd00::/126") {
		t.Fatalf("want the IPv6 subnet exhausted, have %v", err)
	}
	freed, err := release(s, holder(2))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, nil, freed)
}

func TestRelease(t *testing.T) {
	dir := t.TempDir()
	s := at(dir)

	freed, err := release(s, holder(1))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, nil, freed)
	if _, err := os.Stat(filepath.Join(dir, network)); !errors.Is(err, os.ErrNotExist) {
		t.Error("releasing nothing made a directory")
	}

	got := reserve(t, s, holder(1), "10.42.1.0/24", "fd00::/64")
	reserve(t, s, holder(2), "10.42.1.0/24", "fd00::/64")
	for _, want := range [][]netip.Addr{got, nil} { // the second time there is nothing
		freed, err := release(s, holder(1))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, want, freed)
	}
	freed, err = release(s, hostlocal.Holder{ContainerID: holder(2).ContainerID, IfName: "net1"})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, nil, freed) // another interface's address stays
}

func TestFilesOfOthers(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		next  string // what a new pod gets of 10.42.1.0/29
		freed []netip.Addr
	}{
		"host-local's own": {
			files: map[string]string{"10.42.1.2": "pod1\r\neth0", "last_reserved_ip.0": "10.42.1.2"},
			next:  "10.42.1.3", freed: addrs("10.42.1.2"),
		},
		"host-local of old names the container only": {
			files: map[string]string{"10.42.1.2": "pod1"},
			next:  "10.42.1.3", freed: addrs("10.42.1.2"),
		},
		"a container of the old form that is another's": {
			files: map[string]string{"10.42.1.2": "pod11"},
			next:  "10.42.1.3",
		},
		"line break at the end": {
			files: map[string]string{"10.42.1.2": "pod1\r\neth0\n"},
			next:  "10.42.1.3", freed: addrs("10.42.1.2"),
		},
		"an address of a former subnet": {
			files: map[string]string{"10.9.9.9": "pod1\r\neth0", "last_reserved_ip.0": "10.9.9.9"},
			next:  "10.42.1.2", freed: addrs("10.9.9.9"),
		},
		"a damaged hint": {
			files: map[string]string{"last_reserved_ip.0": "10.42."},
			next:  "10.42.1.2",
		},
		"an empty file rests as long as others are free": {
			files: map[string]string{"10.42.1.2": ""},
			next:  "10.42.1.3",
		},
		"an empty file is taken when nothing else is free": {
			files: map[string]string{
				"10.42.1.2": "a\r\neth0", "10.42.1.3": "b\r\neth0", "10.42.1.4": "",
				"10.42.1.5": "c\r\neth0", "10.42.1.6": "d\r\neth0",
			},
			next: "10.42.1.4",
		},
		"a crash before the file got its name": {
			files: map[string]string{".weft.new": "pod1\r\neth0"},
			next:  "10.42.1.2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range c.files {
				write(t, filepath.Join(dir, network, file), content)
			}
			s := at(dir)
			equal(t, addrs(c.next), reserve(t, s, holder(50), "10.42.1.0/29"))
			freed, err := release(s, holder(1))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, c.freed, freed)
			equal(t, addrs(c.next), mustRelease(t, s, holder(50)))
		})
	}
}

func mustRelease(t *testing.T, s hostlocal.Store, h hostlocal.Holder) []netip.Addr {
	t.Helper()
	freed, err := release(s, h)
	if err != nil {
		t.Fatal(err)
	}
	return freed
}

// What a holder is said to have is its own while it is, or nobody's.
func TestHold(t *testing.T) {
	s := at(t.TempDir())
	hold := func(want ...string) {
		t.Helper()
		held, err := s.Hold(holder(1), addrs("10.42.1.2", "fd00:42::2"))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, addrs(want...), held)
	}
	hold("10.42.1.2", "fd00:42::2") // nobody's, in no directory
	hold("10.42.1.2", "fd00:42::2")
	if _, err := s.Release(holder(1), addrs("10.42.1.2")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Reserve(hostlocal.Request{
		Holder: holder(2), Subnets: subnets("10.42.1.0/24"), Wanted: addrs("10.42.1.2"),
	})
	if err != nil {
		t.Fatal(err)
	}
	hold("fd00:42::2")
	if h, _ := s.Holder(addrs("10.42.1.2")[0]); h != holder(2) {
		t.Errorf("another's address is of %s now", h)
	}
	if _, err := s.Release(holder(2), addrs("10.42.1.2")); err != nil {
		t.Fatal(err)
	}
	hold("10.42.1.2", "fd00:42::2")
}

func TestAStoreThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, network), "a file where the directory should be")
	s := at(dir)
	if _, err := s.Reserve(hostlocal.Request{Holder: holder(1), Subnets: subnets("10.42.1.0/24")}); err == nil {
		t.Error("reserved in a file")
	}
	if _, err := release(s, holder(1)); err == nil {
		t.Error("released from a file")
	}
	// One address file that can't be read hides no other.
	dir = t.TempDir()
	s = at(dir)
	if err := os.MkdirAll(filepath.Join(dir, network, "10.42.1.2"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, network, "10.42.1.3"), "pod1\r\neth0")
	freed, err := release(s, holder(1))
	if err == nil || !strings.Contains(err.Error(), "10.42.1.2") {
		t.Errorf("want the unreadable address named, have %v", err)
	}
	equal(t, addrs("10.42.1.3"), freed)
}

// Whatever the order of reservations and releases: no address has two
// holders, none is outside of the pool, none is lost.
func TestNeverTwoHolders(t *testing.T) {
	const (
		subnet  = "10.42.1.0/28"
		size    = 13
		steps   = 1500
		holders = 20
	)
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	s := at(t.TempDir())
	of := map[netip.Addr]hostlocal.Holder{}
	has := map[hostlocal.Holder]netip.Addr{}
	for range steps {
		h := holder(r.IntN(holders))
		if addr, ok := has[h]; ok {
			equal(t, []netip.Addr{addr}, mustRelease(t, s, h))
			delete(has, h)
			delete(of, addr)
			continue
		}
		got, err := s.Reserve(hostlocal.Request{Holder: h, Subnets: subnets(subnet)})
		var exhausted *hostlocal.ExhaustedError
		if errors.As(err, &exhausted) && len(of) == size {
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %d in use: %v", seed, len(of), err)
		}
		if before, taken := of[got[0]]; taken {
			t.Fatalf("seed %d: %s given to %s and %s", seed, got[0], before, h)
		}
		of[got[0]], has[h] = h, got[0]
	}
}

func TestManyAtOnce(t *testing.T) {
	const many = 40
	dir := t.TempDir()
	got := make([]netip.Addr, many)
	var wg sync.WaitGroup
	for n := range many {
		wg.Go(func() {
			// Each with a Store of its own, as each process has.
			s := at(dir)
			for range 3 {
				as, err := s.Reserve(hostlocal.Request{Holder: holder(n), Subnets: subnets("10.42.1.0/26")})
				if err != nil {
					t.Error(err)
					return
				}
				if freed, err := release(s, holder(n)); err != nil || !slices.Equal(freed, as) {
					t.Errorf("reserved %v, released %v: %v", as, freed, err)
				}
			}
			as, err := s.Reserve(hostlocal.Request{Holder: holder(n), Subnets: subnets("10.42.1.0/26")})
			if err != nil {
				t.Error(err)
				return
			}
			got[n] = as[0]
		})
	}
	wg.Wait()
	slices.SortFunc(got, netip.Addr.Compare)
	if distinct := slices.Compact(slices.Clone(got)); len(distinct) != many {
		t.Errorf("%d holders share %d addresses", many, len(distinct))
	}
}

func BenchmarkReserve(b *testing.B) {
	s := at(b.TempDir())
	of := subnets("10.42.1.0/24")
	for n := range 200 {
		if _, err := s.Reserve(hostlocal.Request{Holder: holder(n), Subnets: of}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := s.Reserve(hostlocal.Request{Holder: holder(999), Subnets: of}); err != nil {
			b.Fatal(err)
		}
		if _, err := release(s, holder(999)); err != nil {
			b.Fatal(err)
		}
	}
}
