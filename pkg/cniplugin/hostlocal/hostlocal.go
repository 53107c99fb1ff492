// Package hostlocal gives out the addresses of one node's subnets and keeps
// them on disk in the form of the CNI project's host-local plugin, so that a
// node that moves from flannel and back keeps the addresses of running pods.
//
// Under <data directory>/<network>/ lie
//
//	10.42.1.7             one file per address in use: "<container>\r\n<interface>"
//	last_reserved_ip.0    the address given last, per subnet
//	lock                  held (flock) by who changes the directory
//	.weft.rest            ours: the boot, and what was released of late (rest.go)
//
// It refuses to know about interfaces and runtimes: an address is free when its
// file is gone. Its holder's Release takes the file away, or Reclaim for those
// whose holder is said to be dead.
package hostlocal

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	lineBreak  = "\r\n"
	lastPrefix = "last_reserved_ip."
	lockName   = "lock"
	// newName is where an address file is written before it gets its name, so
	// that a crash never leaves a file that says half. The lock allows one.
	newName = ".weft.new"

	dirMode  = 0o755
	fileMode = 0o644
)

// Machine is what the store has to know of the machine that it runs on.
type Machine struct {
	Boot   string        // the id of this boot; no white space
	Uptime time.Duration // since this boot, by a clock that never jumps
}

// Store is the directory of one network. The zero value is not usable.
type Store struct {
	dir     string
	machine Machine
}

// At is the store of a network. It touches no disk.
func At(dataDir, network string, m Machine) Store {
	return Store{filepath.Join(dataDir, network), m}
}

// Holder is who an address belongs to: CNI's name for one attachment.
type Holder struct{ ContainerID, IfName string }

func (h Holder) String() string { return strings.TrimSuffix(h.ContainerID+"/"+h.IfName, "/") }

// content is what an address file of the holder says.
func (h Holder) content() string { return h.ContainerID + lineBreak + h.IfName }

// holderOf reads an address file's content. host-local of old names the
// container only; an empty file has no holder.
func holderOf(content []byte) Holder {
	container, ifName, _ := strings.Cut(strings.TrimSpace(string(content)), lineBreak)
	return Holder{container, strings.TrimSpace(ifName)}
}

// Entry is one address in use.
type Entry struct {
	Addr   netip.Addr
	Holder Holder
	Since  time.Time // by the file system's clock
}

// Request asks for the addresses of one attachment.
type Request struct {
	Holder  Holder
	Subnets []netip.Prefix // one address of each
	// Wanted are addresses that it must be, at most one of each subnet.
	Wanted []netip.Addr
	// Commit is called with what was chosen before any of it is written down,
	// under the lock: when it fails nothing has happened. May be nil.
	Commit func([]netip.Addr) error
}

// Reserve gives the holder one address of each subnet, in their order, or none
// at all. The first address of a subnet (the network's), the second (the
// gateway's) and the last (IPv4's broadcast) are never given out. The order is
// round robin; what was released less than half a minute ago is passed over
// as long as anything else is free.
//
// Errors: *TakenError, *OutsideError, *ExhaustedError, or what the file system
// or Commit said.
func (s Store) Reserve(r Request) ([]netip.Addr, error) {
	unlock, err := s.lockMade()
	if err != nil {
		return nil, err
	}
	defer unlock()
	chosen, err := s.choose(r)
	if err != nil {
		return nil, err
	}
	if r.Commit != nil {
		if err := r.Commit(chosen); err != nil {
			return nil, err
		}
	}
	for i, addr := range chosen {
		if err := s.write(addr, r.Holder); err != nil {
			return nil, errors.Join(fmt.Errorf("reserve %s: %w", addr, err), s.remove(chosen[:i]))
		}
		// Only a hint for the next choice; a pod does not fail for its sake.
		_ = overwrite(s.path(fmt.Sprint(lastPrefix, i)), []byte(addr.String()), fileMode)
	}
	return chosen, nil
}

// choose decides, and writes nothing.
func (s Store) choose(r Request) ([]netip.Addr, error) {
	wanted := map[netip.Addr]bool{}
	for _, w := range r.Wanted {
		wanted[w] = true
	}
	resting := s.readRest().of(s.machine)
	var chosen []netip.Addr
	for i, subnet := range r.Subnets {
		p, err := poolOf(subnet)
		if err != nil {
			return nil, err
		}
		addr, asked := p.among(r.Wanted)
		if asked {
			delete(wanted, addr)
			if holder, taken := s.Holder(addr); taken {
				return nil, &TakenError{addr, holder}
			}
		} else if addr, err = s.pick(p, fmt.Sprint(lastPrefix, i), resting); err != nil {
			return nil, s.exhausted(subnet, p, err)
		}
		chosen = append(chosen, addr)
	}
	for w := range wanted {
		return nil, &OutsideError{w, r.Subnets}
	}
	return chosen, nil
}

// Hold gives those of the addresses that the holder has, and has made that of
// those that nobody had: until Release nobody else is given them. Another's are
// not among them. One that can't be written down (the disk is full) is not, either.
func (s Store) Hold(h Holder, addrs []netip.Addr) ([]netip.Addr, error) {
	held, err := s.heldAmong(h, addrs)
	if err != nil || len(held) == len(addrs) {
		return held, err // the usual case, without a lock
	}
	unlock, err := s.lockMade()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, addr := range addrs {
		if !s.taken(addr) {
			_ = s.write(addr, h)
		}
	}
	return s.heldAmong(h, addrs)
}

// Release frees those of the addresses that the holder has, and says which
// these were. Having nothing is no error, nor is a directory that does not exist.
func (s Store) Release(h Holder, addrs []netip.Addr) ([]netip.Addr, error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	unlock, err := s.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Looked at under the lock: a second DEL at the same time may have freed an
	// address that has a new holder by now.
	held, err := s.heldAmong(h, addrs)
	return held, errors.Join(err, s.free(held))
}

// Reclaim frees the addresses whose entries are dead, and says which these
// were. dead is called under the lock. What can't be read is not freed, but
// told.
func (s Store) Reclaim(dead func(Entry) bool) ([]Entry, error) {
	unlock, err := s.lock()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, errRead := s.entries()
	var gone []Entry
	var addrs []netip.Addr
	for _, e := range entries {
		if dead(e) {
			gone, addrs = append(gone, e), append(addrs, e.Addr)
		}
	}
	return gone, errors.Join(errRead, s.free(addrs))
}

// free removes address files, which must be looked at by who has the lock.
// They are marked as resting before: a crash in between harms nobody. A mark
// that can't be written (the disk is full) keeps no address from being freed.
func (s Store) free(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	_ = s.writeRest(s.readRest().with(addrs, s.machine))
	return s.remove(addrs)
}

// Entries lists the addresses in use. It takes no lock; what can't be read is
// told beside the others.
func (s Store) Entries() ([]Entry, error) { return s.entries() }

func (s Store) entries() ([]Entry, error) {
	used, err := s.used()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Entry
	var errs []error
	for _, addr := range used.sorted() {
		path := s.path(addr.String())
		content, err := os.ReadFile(path)
		var info fs.FileInfo
		if err == nil {
			info, err = os.Lstat(path)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist): // freed since we listed
		case err != nil:
			errs = append(errs, fmt.Errorf("who holds %s: %w", addr, err))
		default:
			out = append(out, Entry{addr, holderOf(content), info.ModTime()})
		}
	}
	return out, errors.Join(errs...)
}

// Held lists the holder's addresses, by looking at all that are in use. It
// takes no lock; after an error the list is of what could be read.
func (s Store) Held(h Holder) ([]netip.Addr, error) {
	used, err := s.used()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.heldAmong(h, used.sorted())
}

// heldAmong says which of the addresses the holder has. Files of an older
// host-local name the container only; they count when nothing names the
// interface too. A file that can't be read is reported, and the others are
// looked at all the same.
func (s Store) heldAmong(h Holder, addrs []netip.Addr) ([]netip.Addr, error) {
	const slack = 8 // room to see that a file says more, or ends in line breaks
	buf := make([]byte, len(h.content())+slack)
	var whole, old []netip.Addr
	var errs []error
	for _, addr := range addrs {
		n, err := readStart(s.path(addr.String()), buf)
		switch text := strings.TrimSpace(string(buf[:n])); {
		case errors.Is(err, fs.ErrNotExist): // freed since we listed
		case err != nil:
			errs = append(errs, fmt.Errorf("who holds %s: %w", addr, err))
		case text == h.content():
			whole = append(whole, addr)
		case text == h.ContainerID:
			old = append(old, addr)
		}
	}
	if len(whole) == 0 {
		whole = old
	}
	return whole, errors.Join(errs...)
}
