package cniplugin

import (
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/cniplugin/hostlocal"
)

// newRecord is what is written down of an attachment.
func (a *attaching) newRecord(bridge hostLink) attachment.Attachment {
	p := a.plan
	r := attachment.Attachment{
		Key: a.req.key(a.conf.network), Boot: a.boot, NetNS: a.req.netns, NetNSInode: a.kernel.podInode(),
		Mode: attachment.Mode(a.conf.mode), HostLink: p.hostIf, HostMAC: p.hostMAC, MTU: p.mtu,
		Addrs: p.podAddrs, Gateways: p.gateways, MAC: p.podMAC, Ports: a.conf.ports,
		Guard: !a.conf.spoofing.allows(a.req.args),
	}
	if p.bridge != nil {
		r.Bridge = &attachment.Bridge{
			Name: p.bridge.name, MAC: bridge.mac, Addr: p.bridge.addrs, Hairpin: p.hairpin, Promisc: p.bridge.promisc,
		}
	}
	return r
}

// bootID is the kernel's name for this boot.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown" // and the same until the next boot
	}
	return strings.TrimSpace(string(b))
}

func machine() hostlocal.Machine {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // fails for no clock that is there
	return hostlocal.Machine{Boot: bootID(), Uptime: time.Duration(now.Nano())}
}

// podInode is the number of the pod's namespace.
func (k *kernel) podInode() uint64 {
	var stat unix.Stat_t
	if unix.Fstat(int(k.podNS), &stat) != nil {
		return 0
	}
	return stat.Ino
}

// previous is the result of the plugins before us in the chain; nil is none.
func previous(c config) (*types100.Result, error) {
	if len(c.runtime.PrevResult) == 0 || string(c.runtime.PrevResult) == "null" {
		return nil, nil
	}
	raw, err := create.Create(c.version, c.runtime.PrevResult)
	var r *types100.Result
	if err == nil {
		r, err = types100.NewResultFromResult(raw)
	}
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	return r, nil
}

// chained puts a result behind that of the plugins before. Their interfaces go
// first, so ours are counted from there.
func chained(prev, r *types100.Result) *types100.Result {
	if prev == nil {
		return r
	}
	for _, ip := range r.IPs {
		if ip.Interface != nil {
			ip.Interface = types100.Int(*ip.Interface + len(prev.Interfaces))
		}
	}
	r.Interfaces = slices.Concat(prev.Interfaces, r.Interfaces)
	r.IPs = slices.Concat(prev.IPs, r.IPs)
	r.Routes = slices.Concat(prev.Routes, r.Routes)
	if dnsIsEmpty(r.DNS) {
		r.DNS = prev.DNS
	}
	return r
}

func dnsIsEmpty(d types.DNS) bool {
	return len(d.Nameservers)+len(d.Search)+len(d.Options) == 0 && d.Domain == ""
}
