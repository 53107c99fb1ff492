package bench

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// count gives how many entries of a kind the kernel has on a link: routes, or permanent
// neighbours (AF_INET) or FDB entries (AF_BRIDGE). It decodes none and has the kernel
// leave out others': whoever is measured shares two cores with it.
func count(kind, index int) (n int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return 0, err
	}
	typ, attribute := unix.RTM_GETNEIGH, netlink.NDA_IFINDEX
	var header nl.NetlinkRequestData = &netlink.Ndmsg{Family: uint8(kind)}
	if kind == unix.RTM_GETROUTE {
		typ, attribute, header = kind, unix.RTA_OIF, &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET}}
	}
	req := nl.NewNetlinkRequest(typ, unix.NLM_F_DUMP)
	req.AddData(header)
	req.AddData(nl.NewRtAttr(attribute, nl.Uint32Attr(uint32(index))))
	if typ == unix.RTM_GETROUTE {
		req.AddData(nl.NewRtAttr(unix.RTA_TABLE, nl.Uint32Attr(unix.RT_TABLE_MAIN)))
	}
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	for buf := make([]byte, 64<<10); ; {
		size, err := unix.Read(fd, buf)
		if err != nil {
			return 0, err
		}
		found, last := entries(buf[:size])
		if n += found; last {
			return n, nil
		}
	}
}

// entries counts in one answer, and tells whether it is the last.
func entries(b []byte) (n int, last bool) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		switch typ := binary.NativeEndian.Uint16(b[4:]); typ {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return n, true
		case unix.RTM_NEWNEIGH:
			if binary.NativeEndian.Uint16(b[unix.SizeofNlMsghdr+8:])&netlink.NUD_PERMANENT != 0 { // ndm_state
				n++
			}
		default:
			n++
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return n, false
}

// said waits until a daemon's log has a text, and tells how long after began.
func (d *running) said(text string, began time.Time) time.Duration {
	d.t.Helper()
	until(d.t, time.Millisecond, func() error {
		raw, err := os.ReadFile(d.log)
		if err == nil && !strings.Contains(string(raw), text) {
			err = fmt.Errorf("its log does not say %q", text)
		}
		return err
	})
	return time.Since(began)
}

// cpu is the processor time so far, in seconds.
func (d *running) cpu() float64 {
	d.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.proc.Pid()))
	must(d.t, err)
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest) // from field 3 on, proc_pid_stat(5)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return float64(user+system) / 100 // USER_HZ
}

// memory is VmRSS or VmHWM in MiB.
func (d *running) memory(field string) float64 {
	d.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.proc.Pid()))
	must(d.t, err)
	for line := range strings.Lines(string(raw)) {
		var kib float64
		if _, err := fmt.Sscanf(line, field+": %f kB", &kib); err == nil {
			return kib / 1024
		}
	}
	d.t.Fatalf("no %s", field)
	return 0
}
