// Package gather learns the facts that doctor judges: from the kernel, from
// files of the host and of weft, from weftd and the store as far as they
// answer, and from packets that it sends to peers.
//
// It owns the order, the limits of time and how much is sent. What can't be
// learned is left out; only a kernel that does not answer is an error. It
// refuses to judge.
package gather

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/weftnet/weft/pkg/dataplane/linux"
	"github.com/weftnet/weft/pkg/doctor"
	"github.com/weftnet/weft/pkg/subnetenv"
	"github.com/weftnet/weft/subnet"
)

// Options say where to look. The zero value of each leaves that out.
type Options struct {
	Root        string // before the host's files; "" is /
	SysctlDir   string // "" is /proc/sys
	StateDir    string // of weftd
	SubnetFile  string
	Attachments string // of the CNI plugin
	// Daemon asks weftd.
	Daemon func(context.Context) doctor.Daemon
	// Leases asks the store, and writes down what else it learned from it: how
	// quick it was, at least.
	Leases func(context.Context, *doctor.Store) ([]subnet.Lease, error)
	// Clock is where an HTTP server tells the store's clock; empty: Leases does.
	Clock string
	// ClockTLS is how it is talked to if its URL begins with https; nil: by the
	// host's certificates.
	ClockTLS *tls.Config
	Peers    int           // at most so many get packets
	Wait     time.Duration // for an answer of theirs; the first may wait for a neighbour's
}

// Facts gathers. It reads the namespace of the calling thread.
func Facts(ctx context.Context, o Options) (doctor.Facts, error) {
	var f doctor.Facts
	kernel, err := linux.New(linux.Options{SysctlDir: o.SysctlDir})
	if err != nil {
		return f, fmt.Errorf("%w; run it as root", err)
	}
	defer kernel.Close()
	if f.Tables, err = kernel.Tables(ctx); err != nil {
		return f, fmt.Errorf("read the kernel's tables: %w; run it as root", err)
	}
	if o.Daemon != nil {
		f.Daemon = o.Daemon(ctx)
	}
	saved := o.saved()
	leases, fromStore := saved.leases, false
	if o.Leases != nil {
		var all []subnet.Lease
		if all, fromStore = o.askStore(ctx, &f.Store); fromStore {
			leases = all
		}
	}
	f.Overlay = o.overlay(saved)
	f.Overlay.Self, f.Peers = members(saved.own, leases, fromStore, f.Store.Machines)
	f.Host = o.host(f)
	o.probe(ctx, &f)
	return f, nil
}

// overlay is what the files say this node's part is.
func (o Options) overlay(s saved) doctor.Overlay {
	v := doctor.Overlay{Networks: s.networks, Backend: s.backend, VNI: s.vni, Port: s.port}
	if env, err := subnetenv.Read(o.SubnetFile); err == nil {
		v.Networks, v.Subnets, v.MTU, v.Masquerade = env.Networks, env.Subnets, env.MTU, env.IPMasq
	}
	return v
}

// storeTime bounds an answer of the store.
const storeTime = 5 * time.Second

func (o Options) askStore(ctx context.Context, s *doctor.Store) ([]subnet.Lease, bool) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	s.Asked = true
	all, err := o.Leases(ctx, s)
	if err != nil {
		s.Err = err.Error()
	}
	if o.Clock != "" {
		s.Skew, s.Clocked = skewOf(ctx, o.Clock, o.ClockTLS)
	}
	return all, err == nil
}

func (o Options) path(name string) string { return filepath.Join("/", o.Root, name) }

// content is a file of the host; empty where it can't be read.
func (o Options) content(name string) string {
	b, _ := os.ReadFile(o.path(name)) // absent or not readable: nothing is known
	return string(b)
}

func (o Options) exists(name string) bool {
	_, err := os.Stat(o.path(name))
	return err == nil
}
