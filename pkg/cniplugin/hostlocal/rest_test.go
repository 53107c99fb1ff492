package hostlocal_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
)

// What was released rests for half a minute, by a clock that no one sets.
func TestRest(t *testing.T) {
	const subnet = "10.42.1.0/29" // pods: .2 to .6
	fill := func(t *testing.T, n int) string {
		dir := t.TempDir()
		for i := range n {
			reserve(t, at(dir), holder(i), subnet)
		}
		return dir
	}
	free := func(t *testing.T, dir string, after time.Duration, n int) {
		if _, err := release(later(dir, after), holder(n)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("while others are free", func(t *testing.T) {
		dir := fill(t, 3)
		free(t, dir, 0, 1) // .3
		for i, want := range []string{"10.42.1.5", "10.42.1.6", "10.42.1.3"} {
			equal(t, addrs(want), reserve(t, later(dir, time.Second), holder(10+i), subnet))
		}
	})
	t.Run("also when the round comes by", func(t *testing.T) {
		dir := fill(t, 5)
		free(t, dir, 0, 0)              // .2
		free(t, dir, 20*time.Second, 1) // .3
		s := later(dir, 31*time.Second)
		equal(t, addrs("10.42.1.2"), reserve(t, s, holder(10), subnet))
		equal(t, addrs("10.42.1.3"), reserve(t, s, holder(11), subnet))
	})
	t.Run("the one that rested longest is given first", func(t *testing.T) {
		dir := fill(t, 5)
		free(t, dir, 0, 3)           // .5
		free(t, dir, time.Second, 0) // .2
		free(t, dir, 2*time.Second, 1)
		s := later(dir, 3*time.Second)
		equal(t, addrs("10.42.1.5"), reserve(t, s, holder(10), subnet))
	})
	t.Run("not after the next boot", func(t *testing.T) {
		dir := fill(t, 4)
		free(t, dir, 0, 1) // .3
		write(t, filepath.Join(dir, network, "last_reserved_ip.0"), "10.42.1.2")
		s := hostlocal.At(dir, network, hostlocal.Machine{Boot: "boot-2", Uptime: time.Second})
		equal(t, addrs("10.42.1.3"), reserve(t, s, holder(10), subnet))
	})
	t.Run("a damaged file is none", func(t *testing.T) {
		dir := fill(t, 4)
		free(t, dir, 0, 1)
		write(t, filepath.Join(dir, network, ".weft.rest"), "boot boot-1\n10.42.1.3 -5\n10.42. 7\n\n10.42.1.3")
		write(t, filepath.Join(dir, network, "last_reserved_ip.0"), "10.42.1.2")
		equal(t, addrs("10.42.1.3"), reserve(t, at(dir), holder(10), subnet))
	})
}

func TestWantedAddresses(t *testing.T) {
	dual := subnets("10.42.1.0/24", "fd00:5::/64")
	for name, c := range map[string]struct {
		wanted, got []netip.Addr
		err         string
	}{
		"of both families":         {addrs("fd00:5::9", "10.42.1.9"), addrs("10.42.1.9", "fd00:5::9"), ""},
		"of one":                   {addrs("fd00:5::9"), addrs("10.42.1.3", "fd00:5::9"), ""},
		"that another has":         {addrs("10.42.1.2"), nil, "10.42.1.2 is held by pod1/eth0"},
		"of another node":          {addrs("10.42.2.9"), nil, "10.42.2.9 is none that this node gives to pods"},
		"of the gateway":           {addrs("10.42.1.1"), nil, "10.42.1.1 is none that this node"},
		"of all the subnet's pods": {addrs("10.42.1.255"), nil, "10.42.1.255 is none that this node"},
		"two of a subnet":          {addrs("10.42.1.8", "10.42.1.9"), nil, "10.42.1.9 is none that this node"},
	} {
		t.Run(name, func(t *testing.T) {
			s := at(t.TempDir())
			reserve(t, s, holder(1), "10.42.1.0/24", "fd00:5::/64")
			have, err := s.Reserve(hostlocal.Request{Holder: holder(2), Subnets: dual, Wanted: c.wanted})
			if said := fmt.Sprint(err); c.err == "" && err != nil || !strings.Contains(said, c.err) {
				t.Errorf("want %q, have %v", c.err, err)
			}
			equal(t, c.got, have)
			held, err := s.Held(holder(2))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, c.got, held)
		})
	}
}

// What is chosen is known to the caller before there is any trace of it.
func TestCommit(t *testing.T) {
	dir := t.TempDir()
	s := at(dir)
	refused := errors.New("refused")
	var told []netip.Addr
	_, err := s.Reserve(hostlocal.Request{
		Holder: holder(1), Subnets: subnets("10.42.1.0/24", "fd00:5::/64"),
		Commit: func(as []netip.Addr) error {
			told = as
			for _, a := range as {
				if _, err := os.Stat(filepath.Join(dir, network, a.String())); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is written down already: %v", a, err)
				}
			}
			return refused
		},
	})
	if !errors.Is(err, refused) {
		t.Errorf("have %v", err)
	}
	equal(t, addrs("10.42.1.2", "fd00:5::2"), told)
	entries, err := s.Entries()
	if err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestReclaim(t *testing.T) {
	dir := t.TempDir()
	s := at(dir)
	if gone, err := s.Reclaim(func(hostlocal.Entry) bool { return true }); gone != nil || err != nil {
		t.Errorf("of no directory: %v, %v", gone, err)
	}
	for i := range 4 {
		reserve(t, s, holder(i), "10.42.1.0/24")
	}
	write(t, filepath.Join(dir, network, "10.42.1.9"), "old")
	write(t, filepath.Join(dir, network, "10.42.1.10"), "")
	if err := os.MkdirAll(filepath.Join(dir, network, "10.42.1.99"), 0o755); err != nil {
		t.Fatal(err)
	}
	var seen []string
	gone, err := s.Reclaim(func(e hostlocal.Entry) bool {
		seen = append(seen, e.Addr.String()+" "+e.Holder.String())
		return e.Holder == holder(2) || e.Addr.String() == "10.42.1.9"
	})
	want := []string{
		"10.42.1.2 pod0/eth0", "10.42.1.3 pod1/eth0", "10.42.1.4 pod2/eth0", "10.42.1.5 pod3/eth0", "10.42.1.9 old", "10.42.1.10 ",
	}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
	if err == nil || !strings.Contains(err.Error(), "10.42.1.99") {
		t.Errorf("want what can't be read named, have %v", err)
	}
	if len(gone) != 2 {
		t.Errorf("gone: %v", gone)
	}
	write(t, filepath.Join(dir, network, "last_reserved_ip.0"), "10.42.1.3")
	equal(t, addrs("10.42.1.6"), reserve(t, s, holder(9), "10.42.1.0/24")) // .4 rests
}

func TestReboot(t *testing.T) {
	dir := t.TempDir()
	if have := at(dir).Boot(); have != "" {
		t.Errorf("a new store is of boot %q", have)
	}
	reserve(t, at(dir), holder(1), "10.42.1.0/24")
	if err := at(dir).Reboot(); err != nil {
		t.Fatal(err)
	}
	if have := at(dir).Boot(); have != "boot-1" {
		t.Errorf("have boot %q", have)
	}
	if _, err := release(at(dir), holder(1)); err != nil {
		t.Fatal(err)
	}
	if have := at(dir).Boot(); have != "boot-1" {
		t.Errorf("have boot %q", have)
	}
}

func TestExhaustionNamesTheHolders(t *testing.T) {
	s := at(t.TempDir())
	for i := range 13 {
		reserve(t, s, holder(i), "10.42.1.0/28")
	}
	_, err := s.Reserve(hostlocal.Request{Holder: holder(99), Subnets: subnets("10.42.1.0/28")})
	for _, want := range []string{
		"no free address in 10.42.1.0/28", "13 in use", "10.42.1.2 by pod0/eth0 since 2", "and 8 more",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in %v", want, err)
		}
	}
}

// The cost of an address does not grow with those in use.
func BenchmarkReserveAmong(b *testing.B) {
	for _, inUse := range []int{0, 200, 20000} {
		b.Run(fmt.Sprint(inUse), func(b *testing.B) {
			dir := b.TempDir()
			subnet := netip.MustParsePrefix("10.0.0.0/16")
			if err := os.MkdirAll(filepath.Join(dir, network), 0o755); err != nil {
				b.Fatal(err)
			}
			addr := netip.MustParseAddr("10.0.0.2")
			for range inUse {
				if err := os.WriteFile(filepath.Join(dir, network, addr.String()), []byte("x\r\neth0"), 0o600); err != nil {
					b.Fatal(err)
				}
				addr = addr.Next()
			}
			last := filepath.Join(dir, network, "last_reserved_ip.0")
			if err := os.WriteFile(last, []byte(addr.String()), 0o600); err != nil {
				b.Fatal(err)
			}
			s := at(dir)
			for b.Loop() {
				got, err := s.Reserve(hostlocal.Request{Holder: holder(1), Subnets: []netip.Prefix{subnet}})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if _, err := s.Release(holder(1), got); err != nil {
					b.Fatal(err)
				}
				if err := os.Remove(filepath.Join(dir, network, ".weft.rest")); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
