package kerneltest

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weftnet/weft/pkg/dataplane"
)

// Run runs every case of the contract, each in a World of its own.
//
// What the interface does not say by itself and the cases demand:
//   - A VXLAN device is ours by VNI, port and the family of its Local, whatever
//     its name; failing that, by the wanted name and our VNI. Any other
//     bearer of the wanted name is in Occupied.Links. Ops name our device by
//     its wanted name even while it has another one.
//   - Of the addresses on our device, IPv4 ones are ours inside
//     Domain.Networks only, IPv6 ones always but for link-local.
//   - A full Observe reports the sysctls that went through this Kernel before,
//     in the keys of a scope or in an op, and always net/ipv4/ip_forward and
//     net/ipv6/conf/all/forwarding; what does not exist is left out. No
//     notification tells of a sysctl.
//   - A Create of a route on which a marked one stands replaces it; a Delete of
//     a route leaves one that is not as it was seen (marked or not).
//   - An address that goes makes its link's scope dirty: the kernel does not
//     tell what it took along.
func Run(t *testing.T, open func(t *testing.T) World) {
	groups := []struct {
		name  string
		cases map[string]func(*bench)
	}{
		{"converge", convergeCases()},
		{"own", ownershipCases()},
		{"drift", driftCases()},
		{"routes", routeCases()},
		{"apply", applyCases()},
		{"offload", offloadCases()},
		{"watch", watchCases()},
	}
	for _, group := range groups {
		t.Run(group.name, func(t *testing.T) {
			for name, run := range group.cases {
				t.Run(name, func(t *testing.T) { run(newBench(t, open)) })
			}
		})
	}
	t.Run("repair", func(t *testing.T) {
		for _, m := range mutations() {
			t.Run(m.name, func(t *testing.T) { newBench(t, open).repair(everything(3), m) })
		}
	})
}

// bench is one World with the underlay in place.
type bench struct {
	*testing.T
	World
}

func newBench(t *testing.T, open func(t *testing.T) World) *bench {
	b := &bench{T: t, World: open(t)}
	b.Admin.Put(underlay())
	return b
}

func (b *bench) observe(s dataplane.Scope) dataplane.Observed {
	b.Helper()
	s.Domain = domain()
	o, err := b.Kernel.Observe(b.Context(), s)
	if err != nil {
		b.Fatalf("observe: %v", err)
	}
	return o
}

func (b *bench) plan(want dataplane.State, s dataplane.Scope) dataplane.Plan {
	b.Helper()
	return dataplane.Diff(want.Within(s), b.observe(s))
}

func full() dataplane.Scope { return dataplane.Scope{All: true} }

func narrow(keys dataplane.State) dataplane.Scope { return dataplane.Scope{Keys: keys} }

func (b *bench) apply(p dataplane.Plan) {
	b.Helper()
	for _, err := range b.Kernel.Apply(b.Context(), p) {
		b.Errorf("apply: %v", err)
	}
}

// settle asks for convergence in one round.
func (b *bench) settle(want dataplane.State) {
	b.Helper()
	b.apply(b.plan(want, full()))
	b.converged(want)
}

// converged reads everything, and everything again by its keys.
func (b *bench) converged(want dataplane.State) {
	b.Helper()
	for name, scope := range map[string]dataplane.Scope{"full": full(), "narrow": narrow(want)} {
		o := b.observe(scope)
		if diff := cmp.Diff(want, without(o.Have, want), equateNetip()); diff != "" {
			b.Fatalf("the kernel has not what is wanted, %s (-want +have):\n%s", name, diff)
		}
		if p := dataplane.Diff(want.Within(scope), o); !p.Empty() || len(p.Conflicts) > 0 {
			b.Fatalf("plan of a converged kernel, %s:\n%s", name, p)
		}
	}
}

// without leaves out sysctls that nobody asked for.
func without(have, want dataplane.State) dataplane.State {
	sysctls := maps.Clone(have.Sysctls)
	maps.DeleteFunc(sysctls, func(k, _ string) bool { _, asked := want.Sysctls[k]; return !asked })
	have.Sysctls = sysctls
	if len(sysctls) == 0 {
		have.Sysctls = want.Sysctls
	}
	return have
}

func equateNetip() cmp.Option {
	return cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}
}

func (b *bench) same(want, have any) {
	b.Helper()
	if diff := cmp.Diff(want, have, equateNetip()); diff != "" {
		b.Errorf("(-want +have):\n%s", diff)
	}
}

// notices is a Watch that runs beside the case.
type notices struct {
	b      *bench
	scopes chan dataplane.Scope
	seen   dataplane.Scope // since the last reset
}

// patience is how long a notification may take, and longest a Watch to end.
const patience = 2 * time.Second

// watch starts Watch and takes the first scope, which is All.
func (b *bench) watch() *notices {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	n := &notices{b: b, scopes: make(chan dataplane.Scope, 1)}
	ended := make(chan error, 1)
	go func() { ended <- b.Kernel.Watch(ctx, n.scopes) }()
	b.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				b.Errorf("Watch returned %v, want context.Canceled", err)
			}
		case <-time.After(patience):
			b.Error("Watch does not end when its context does")
		}
	})
	if first := n.next("the first scope"); !first.All {
		b.Fatalf("the first scope is not All: %+v", first)
	}
	return n
}

func (n *notices) next(what string) dataplane.Scope {
	n.b.Helper()
	select {
	case s := <-n.scopes:
		return s
	case <-time.After(patience):
		n.b.Fatalf("no notification of %s within %s; told of so far: %+v", what, patience, n.seen)
		return dataplane.Scope{}
	}
}

// until takes scopes until together they cover the keys, which are some of
// want: by the keys themselves or by the links that they stand on.
func (n *notices) until(keys, want dataplane.State) {
	n.b.Helper()
	for !covers(want.Within(n.seen), keys) {
		n.seen.Add(n.next("the change"))
	}
}

func covers(s, keys dataplane.State) bool {
	before := s.Len()
	var merged dataplane.State
	merged.Merge(s)
	merged.Merge(keys)
	return merged.Len() == before
}
