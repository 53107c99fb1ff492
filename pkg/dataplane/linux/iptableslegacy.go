package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// The older tables of iptables are one array of entries each, which a getsockopt
// of any socket of the family gives as it stands (uapi linux/netfilter_ipv4/ip_tables.h and
// linux/netfilter_ipv6/ip6_tables.h). Its rules are left to the programs of
// iptables; what is read here is enough to know whether one has to be run.

// legacyTable is what is known of a table without a program.
type legacyTable struct {
	chains []string // that users made
	drops  bool     // the policy of its FORWARD chain is drop
	digest uint64   // of all but counters
	// stateful are chains as in ruleset.Facts: what is to be said behind the table.
	stateful []string
}

// legacyLayout is where things are in the answers, for one family.
type legacyLayout struct {
	domain, level  int
	getInfo, get   int
	names          string // of the tables that exist in the namespace
	target, next   int    // offsets of 16 bits each in an entry
	counters, size int    // of an entry, without its matches and target
}

const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65

	legacyNameSize  = 32 // XT_TABLE_MAXNAMELEN
	legacyInfoSize  = 84 // struct ipt_getinfo
	legacyHooks     = 5  // NF_INET_NUMHOOKS
	targetHeader    = 32 // struct xt_entry_target
	targetNameAt    = 2
	targetNameSize  = 29
	errorNameSize   = 30 // XT_FUNCTION_MAXNAMELEN
	counterSize     = 16
	verdictDrop     = -1 // -NF_DROP - 1
	legacyTries     = 5
	maxLegacyTables = 1 << 28 // bytes; the kernel refuses larger ones
)

func layoutOf(ipv6 bool) legacyLayout {
	if ipv6 {
		l := legacyLayout{
			domain: unix.AF_INET6, level: unix.SOL_IPV6, getInfo: soGetInfo, get: soGetEntries,
			names: "ip6_tables_names", target: 140, next: 142, counters: 152, size: 168,
		}
		if wordAligned() {
			l.counters, l.size = 148, 164
		}
		return l
	}
	return legacyLayout{
		domain: unix.AF_INET, level: unix.SOL_IP, getInfo: soGetInfo, get: soGetEntries,
		names: "ip_tables_names", target: 88, next: 90, counters: 96, size: 112,
	}
}

// wordAligned tells whether 64-bit numbers are aligned to 32 bits only.
func wordAligned() bool { return runtime.GOARCH == "386" }

// entriesAt is the offset of the entries in struct ipt_get_entries.
func entriesAt() int {
	if wordAligned() {
		return legacyNameSize + 4
	}
	return legacyNameSize + 8
}

var errNotATable = errors.New("not a table as the kernel gives it")

// legacy reads a table; ok is false where the namespace has none of the name, or
// we may not look. Asking the kernel for one that is not there would make it.
func (k *Kernel) legacy(ipv6 bool, table string) (t legacyTable, ok bool, err error) {
	l := layoutOf(ipv6)
	err = k.ns.do(func() error {
		names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if ok = slices.Contains(strings.Fields(string(names)), table); !ok || err != nil {
			return err
		}
		fd, err := unix.Socket(l.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		t, err = l.read(fd, table)
		return err
	})
	if errors.Is(err, fs.ErrPermission) {
		return legacyTable{}, false, nil
	}
	if err != nil {
		return legacyTable{}, false, fmt.Errorf("read the legacy iptables table %s: %w", table, err)
	}
	return t, ok, nil
}

// read asks for the size of the table, then for the table. Somebody may write
// it in between.
func (l legacyLayout) read(fd int, table string) (t legacyTable, err error) {
	for range legacyTries {
		info := make([]byte, legacyInfoSize)
		copy(info, table)
		if err = getsockopt(fd, l.level, l.getInfo, info); err != nil {
			return t, err
		}
		size := int(binary.NativeEndian.Uint32(info[legacyInfoSize-4:]))
		if size > maxLegacyTables {
			return t, errNotATable
		}
		answer := make([]byte, entriesAt()+size)
		copy(answer, table)
		binary.NativeEndian.PutUint32(answer[legacyNameSize:], uint32(size))
		if err = getsockopt(fd, l.level, l.get, answer); err == nil {
			return l.parse(info, answer[entriesAt():])
		}
		if !errors.Is(err, unix.EAGAIN) {
			return t, err
		}
	}
	return t, err
}

// getsockopt fills buf, which begins with what is asked for.
func getsockopt(fd, level, option int, buf []byte) error {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// parse walks the entries. It sets their counters to zero.
func (l legacyLayout) parse(info, entries []byte) (legacyTable, error) {
	var t legacyTable
	if len(info) != legacyInfoSize {
		return t, errNotATable
	}
	w := newLegacyWalk(info)
	forward := int(binary.NativeEndian.Uint32(info[legacyNameSize+4+4*legacyHooks+4*unix.NF_INET_FORWARD:]))
	hooked := binary.NativeEndian.Uint32(info[legacyNameSize:])&(1<<unix.NF_INET_FORWARD) != 0
	for at := 0; at < len(entries); {
		e := entries[at:]
		if len(e) < l.size {
			return t, errNotATable
		}
		target := int(binary.NativeEndian.Uint16(e[l.target:]))
		next := int(binary.NativeEndian.Uint16(e[l.next:]))
		if target < l.size || next < target+targetHeader || next > len(e) {
			return t, errNotATable
		}
		clear(e[l.counters : l.counters+counterSize])
		name := e[target+targetNameAt : target+targetNameAt+targetNameSize]
		data := e[target+targetHeader : next]
		w.add(legacyEntry{at, at + next, matchesOf(e[l.size:target]), cString(name), data})
		switch {
		case cString(name) == errorTarget && len(data) >= errorNameSize && at+next < len(entries): // the head of a chain
			t.chains = append(t.chains, cString(data[:errorNameSize]))
		case cString(name) == "" && len(data) >= 4 && hooked && at == forward:
			t.drops = int32(binary.NativeEndian.Uint32(data)) == verdictDrop
		}
		at += next
	}
	t.stateful = w.stateful()
	h := fnv.New64a()
	_, _ = h.Write(info)
	_, _ = h.Write(entries)
	t.digest = h.Sum64()
	return t, nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// hasLegacy tells whether a chain is there, without running a program.
func (k *Kernel) hasLegacy(key ruleset.Key) (bool, error) {
	t, ok, err := k.legacy(key.IPv6, key.Table)
	return ok && slices.Contains(t.chains, key.Chain), err
}
