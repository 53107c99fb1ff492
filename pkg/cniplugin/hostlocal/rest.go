package hostlocal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// restName is the file of what was released of late. It is only about what to
// choose: without it, or with a damaged one, no address is given out twice.
//
//	boot 0f3f7a51-6d4a-4f0f-8f43-0d6c2a1b9e55
//	10.42.1.7 86400123            released so many milliseconds after the boot
//
// host-local passes it over, since its name is no address.
const restName = ".weft.rest"

// restTime is how long an address is not given again: a client that still
// talks to the pod of before, and what others remember of it, shall not meet
// another pod.
const restTime = 30 * time.Second

// rest is that file: the boot that it is of, and when what was released, the
// oldest first.
type rest struct {
	boot     string
	released []release
}

type release struct {
	addr netip.Addr
	at   time.Duration // since the boot
}

// of gives what rests now. Others may have written after we asked for the time.
func (r rest) of(m Machine) []release {
	if r.boot != m.Boot {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(r.released), func(x release) bool {
		return x.at-m.Uptime >= restTime || m.Uptime-x.at >= restTime
	})
}

// with adds what is released now, and forgets what has rested.
func (r rest) with(addrs []netip.Addr, m Machine) rest {
	released := slices.DeleteFunc(r.of(m), func(x release) bool { return slices.Contains(addrs, x.addr) })
	for _, a := range addrs {
		released = append(released, release{a, m.Uptime})
	}
	return rest{m.Boot, released}
}

func (r rest) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "boot %s\n", r.boot)
	for _, x := range r.released {
		fmt.Fprintf(&b, "%s %d\n", x.addr, x.at.Milliseconds())
	}
	return b.Bytes()
}

// parseRest takes what it can: the file is no more than advice.
func parseRest(b []byte) rest {
	var r rest
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if key == "boot" {
			r.boot = value
			continue
		}
		addr, errAddr := netip.ParseAddr(key)
		ms, errAt := strconv.ParseUint(value, 10, 40) // of 35 years
		if errAddr == nil && errAt == nil {
			r.released = append(r.released, release{addr, time.Duration(ms) * time.Millisecond})
		}
	}
	return r
}

func (s Store) readRest() rest {
	b, err := os.ReadFile(s.path(restName))
	if err != nil {
		return rest{}
	}
	return parseRest(b)
}

func (s Store) writeRest(r rest) error { return s.replace(restName, r.encode()) }

// Boot is the boot in which Reboot was last called; "" is none. It is the file's first
// line, and the rest of it may be long.
func (s Store) Boot() string {
	var line [64]byte
	n, err := readStart(s.path(restName), line[:])
	if err != nil {
		return ""
	}
	return parseRest(line[:n]).boot
}

// Reboot notes that the store has been looked through after a reboot, so that
// Boot is the machine's.
func (s Store) Reboot() error {
	unlock, err := s.lockMade()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.writeRest(s.readRest().with(nil, s.machine)); err != nil {
		return fmt.Errorf("note the boot in the address store: %w", err)
	}
	return nil
}

// Moved tells whether the addresses given last were of other subnets than these,
// and gives one of them.
func (s Store) Moved(subnets []netip.Prefix) (netip.Addr, bool) {
	for i, subnet := range subnets {
		if last := s.readAddr(fmt.Sprint(lastPrefix, i)); last.IsValid() && !subnet.Contains(last) {
			return last, true
		}
	}
	return netip.Addr{}, false
}

// Room tells, without a lock, whether Reserve would find an address of each
// subnet now; if not, with what error.
func (s Store) Room(subnets []netip.Prefix) error {
	used, err := s.used()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, subnet := range subnets {
		p, err := poolOf(subnet)
		if err != nil {
			return err
		}
		_, ok := p.search(netip.Addr{}, len(used)+1, func(a netip.Addr) bool {
			_, taken := used[a]
			return taken
		})
		if _, empty := s.leftover(p, used); !ok && !empty {
			return s.exhausted(subnet, p, errNoneFree)
		}
	}
	return nil
}
