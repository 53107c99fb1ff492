package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	procSys     = "/proc/sys"
	ipForward   = "net/ipv4/ip_forward"
	ip6Forward  = "net/ipv6/conf/all/forwarding"
	acceptRA    = "accept_ra"
	raForwarder = "2" // accept router advertisements though we forward (ip-sysctl.rst)
)

// sysctlFile keeps names below the directory. That of the host's /proc/sys/net,
// mounted elsewhere, shows the opening thread's namespace just as well: the
// kernel looks at who opens, not at the mount (proc_sysctl.c).
func (k *Kernel) sysctlFile(name string) (string, error) {
	if !fs.ValidPath(name) || !strings.HasPrefix(name, "net/") {
		return "", fmt.Errorf("%q is not the name of a network sysctl", name)
	}
	return path.Join(k.sysctlDir, name), nil
}

// readSysctl gives ok false where the kernel has no such file (IPv6 is off, the
// interface is gone).
func (k *Kernel) readSysctl(name string) (value string, ok bool, err error) {
	file, err := k.sysctlFile(name)
	if err != nil {
		return "", false, err
	}
	err = k.ns.do(func() error {
		b, err := os.ReadFile(file)
		value = strings.TrimSpace(string(b))
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return value, err == nil, err
}

func (k *Kernel) writeSysctl(name, value string) error {
	file, err := k.sysctlFile(name)
	if err != nil {
		return err
	}
	err = k.ns.do(func() error {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	})
	if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; set %s to %s on the host, or in a container mount the host's /proc/sys/net and name "+
			"the place with --sysctl-dir", err, strings.ReplaceAll(name, "/", "."), value)
	}
	return err
}

// setSysctl is a write with what must come before it: forwarding IPv6 makes the
// kernel drop the default routes that it learned from router advertisements,
// and refuse to learn more, unless the interface has accept_ra=2.
func (k *Kernel) setSysctl(name, value string) error {
	if name == ip6Forward && value != "0" {
		if err := k.keepAdvertised(); err != nil {
			return err
		}
	}
	return k.writeSysctl(name, value)
}

func (k *Kernel) keepAdvertised() error {
	learned, err := k.routesBy(routeFilter{family: unix.AF_INET6, protocol: unix.RTPROT_RA})
	if err != nil {
		return err
	}
	for _, r := range learned {
		if r.key.Prefix.Bits() != 0 {
			continue
		}
		l, ok, err := k.linkByIndex(r.index)
		if err != nil || !ok {
			return err
		}
		name := "net/ipv6/conf/" + l.name + "/" + acceptRA
		if now, _, err := k.readSysctl(name); err == nil && now == raForwarder {
			continue
		}
		if err := k.writeSysctl(name, raForwarder); err != nil {
			return fmt.Errorf("keep the default route that %s learned from router advertisements: %w", l.name, err)
		}
	}
	return nil
}
