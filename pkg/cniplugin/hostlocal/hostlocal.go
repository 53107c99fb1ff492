// Package hostlocal gives out the addresses of one node's subnets and keeps
// them on disk in the form of the CNI project's host-local plugin, so that a
// node that moves from flannel and back keeps the addresses of running pods.
//
// Under <data directory>/<network>/ lie
//
//	10.42.1.7             one file per address in use: "<container>\r\n<interface>"
//	last_reserved_ip.0    the address given last, per subnet
//	lock                  held (flock) by who changes the directory
//
// It refuses to know about interfaces and runtimes: an address is free when its
// file is gone, and only its holder's Release takes the file away.
package hostlocal

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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

// Store is the directory of one network. The zero value is not usable.
type Store struct{ dir string }

// Holder is who an address belongs to: CNI's name for one attachment.
type Holder struct{ ContainerID, IfName string }

func (h Holder) String() string { return h.ContainerID + "/" + h.IfName }

// content is what an address file of the holder says.
func (h Holder) content() string { return h.ContainerID + lineBreak + h.IfName }

// ExhaustedError says that a subnet has no free address.
type ExhaustedError struct {
	Subnet netip.Prefix
	InUse  int
	Dir    string
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("no free address in %s: %d in use, each a file in %s", e.Subnet, e.InUse, e.Dir)
}

// HeldError says that the holder has an address already, which CNI forbids to
// ask for twice.
type HeldError struct {
	Holder Holder
	Addr   netip.Addr
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s has address %s already", e.Holder, e.Addr)
}

// At is the store of a network. It touches no disk.
func At(dataDir, network string) Store { return Store{filepath.Join(dataDir, network)} }

// Reserve gives the holder one address of each subnet, in their order, or none
// at all. The first address of a subnet (the network's), the second (the
// gateway's) and the last (IPv4's broadcast) are never given out. The order is
// round robin, so that an address rests as long as possible after its release.
//
// Errors: *HeldError, *ExhaustedError, or what the file system said.
func (s Store) Reserve(h Holder, subnets []netip.Prefix) ([]netip.Addr, error) {
	if err := os.MkdirAll(s.dir, dirMode); err != nil {
		return nil, fmt.Errorf("make the address store: %w", err)
	}
	// Read outside of the lock: nobody else asks for this holder at once.
	held, err := s.Held(h)
	if err != nil {
		return nil, err
	}
	if len(held) > 0 {
		return nil, &HeldError{h, held[0]}
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	used, err := s.used()
	if err != nil {
		return nil, err
	}
	var got []netip.Addr
	for i, subnet := range subnets {
		addr, err := s.reserveOne(h, subnet, i, used)
		if err != nil {
			return nil, errors.Join(err, s.remove(got))
		}
		got = append(got, addr)
	}
	return got, nil
}

// Release frees all that the holder has and says what that was. Having nothing
// is no error, nor is a directory that does not exist.
func (s Store) Release(h Holder) ([]netip.Addr, error) {
	held, errRead := s.Held(h)
	if len(held) == 0 {
		return nil, errRead
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, errors.Join(errRead, err)
	}
	defer unlock()
	// These once more under the lock: a second DEL at the same time may have
	// freed an address that has a new holder by now.
	held, err = s.heldAmong(h, held)
	return held, errors.Join(errRead, err, s.remove(held))
}

func (s Store) reserveOne(h Holder, subnet netip.Prefix, index int, used set) (netip.Addr, error) {
	p, err := poolOf(subnet)
	if err != nil {
		return netip.Addr{}, err
	}
	last := fmt.Sprint(lastPrefix, index)
	addr, ok := p.pick(used, s.readAddr(last))
	if !ok {
		addr, ok = s.leftover(p, used)
	}
	if !ok {
		return netip.Addr{}, &ExhaustedError{subnet, used.in(p), s.dir}
	}
	if err := s.write(addr, h); err != nil {
		return netip.Addr{}, fmt.Errorf("reserve %s: %w", addr, err)
	}
	// Only a hint for the next choice; a pod does not fail for its sake.
	_ = os.WriteFile(s.path(last), []byte(addr.String()), fileMode)
	return addr, nil
}

// write makes the address file appear whole. It is not synced to the disk:
// what a power cut loses, the pods are lost with it.
func (s Store) write(addr netip.Addr, h Holder) error {
	tmp := s.path(newName)
	err := os.WriteFile(tmp, []byte(h.content()), fileMode)
	if err == nil {
		err = os.Rename(tmp, s.path(addr.String()))
	}
	if err != nil {
		return errors.Join(err, removeFile(tmp))
	}
	return nil
}

// leftover finds an address whose file is empty. host-local creates the file
// first and fills it then, both under the lock; an empty file seen by us who
// hold the lock is thus of a process that died, and has no holder.
func (s Store) leftover(p pool, used set) (netip.Addr, bool) {
	for addr := range used {
		if !p.has(addr) {
			continue
		}
		if info, err := os.Lstat(s.path(addr.String())); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// used lists the addresses that have a file.
func (s Store) used() (set, error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list the addresses in use: %w", err)
	}
	used := set{}
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			used[addr] = struct{}{}
		}
	}
	return used, nil
}

// Held lists the holder's addresses. It takes no lock; after an error the list
// is of what could be read.
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

func (s Store) remove(addrs []netip.Addr) error {
	var errs []error
	for _, addr := range addrs {
		if err := removeFile(s.path(addr.String())); err != nil {
			errs = append(errs, fmt.Errorf("release %s: %w", addr, err))
		}
	}
	return errors.Join(errs...)
}

// readAddr reads a file that holds one address; damaged or absent is none.
func (s Store) readAddr(name string) netip.Addr {
	b, err := os.ReadFile(s.path(name))
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(string(b)))
	if err != nil {
		return netip.Addr{}
	}
	return addr
}

func (s Store) path(name string) string { return filepath.Join(s.dir, name) }

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
