package storetest

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftnet/weft/subnet"
)

func acquireCases() []testcase {
	chooses := func(h Harness) bool { return h.Give == nil }
	return []testcase{
		{name: "twenty nodes at once get twenty subnets, the next one none", run: acquireAtOnce, needs: chooses},
		{name: "IPv6-only nodes get distinct leases", run: acquireSix},
		{name: "a dual-stack node gets a subnet of each family", run: acquireDual},
		{name: "a lease without backend data", run: acquireWithoutData},
		{name: "a restarted node keeps its subnet and changes its data", run: acquireAfterRestart},
		{name: "a restarted node with nothing new changes nothing", run: acquireUnchanged},
		{name: "a node with a new address is known by its state file", run: acquireByState},
		{name: "a lease is taken over by address and subnet.env", run: acquireByEnv},
		{name: "a lease is taken over by address and backend data", run: acquireByData},
		{name: "another node's lease with our address is not ours", run: acquireSameAddress},
		{name: "another node's lease in place of our old one is not ours", run: acquireSuccessor, needs: chooses},
		{name: "a node whose lease is gone gets its old subnet if free", run: acquirePrevious},
		{name: "a lease that no longer fits the configuration is replaced", run: acquireOtherConfig},
	}
}

func acquireAtOnce(t *testing.T, h Harness) {
	const nodes = 20
	cfg := configure(t, h, `{"Network":"10.9.0.0/24","SubnetLen":29,`+
		`"SubnetMin":"10.9.0.8","SubnetMax":"10.9.0.160","Backend":{"Type":"vxlan"}}`)
	type result struct {
		lease subnet.Lease
		err   error
	}
	results := make(chan result, nodes)
	ctx := timeout(t)
	clients := []subnet.Store{h.Store, h.Client(t), h.Client(t), h.Client(t)}
	for n := range nodes {
		go func() {
			l, err := clients[n%len(clients)].Acquire(ctx, claim(cfg, n+1))
			results <- result{l, err}
		}()
	}
	holders := map[netip.Prefix]int{}
	var one subnet.Lease
	for range nodes {
		r := wait(t, results, "a lease")
		if r.err != nil {
			t.Fatalf("%d subnets for %d nodes: %v", nodes, nodes, r.err)
		}
		one = r.lease
		holders[one.Shares[0].Subnet]++
	}
	if len(holders) != nodes {
		t.Fatalf("want %d subnets, each held once; have %v", nodes, holders)
	}
	if l, err := h.Store.Acquire(ctx, claim(cfg, 99)); !errors.Is(err, subnet.ErrExhausted) {
		t.Fatalf("a full network: want ErrExhausted, have %+v, %v", l, err)
	}
	h.Delete(t, one)
	if l := acquire(t, h, h.Store, claim(cfg, 99)); l.Shares[0].Subnet != one.Shares[0].Subnet {
		t.Errorf("want the only free subnet %s, have %s", one.Shares[0].Subnet, l.Shares[0].Subnet)
	}
}

func acquireSix(t *testing.T, h Harness) {
	cfg := configure(t, h, six)
	a, b := acquire(t, h, h.Store, claim(cfg, 1)), acquire(t, h, h.Client(t), claim(cfg, 2))
	if a.ID == b.ID || a.Shares[0].Subnet.Overlaps(b.Shares[0].Subnet) {
		t.Errorf("two nodes have %q %s and %q %s", a.ID, a.Shares[0].Subnet, b.ID, b.Shares[0].Subnet)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{a, b}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

func acquireDual(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	l := acquire(t, h, h.Store, claim(cfg, 1))
	if !l.Shares[0].Subnet.Addr().Is4() || !l.Shares[1].Subnet.Addr().Is6() {
		t.Errorf("want IPv4 first, have %v", l.Shares)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

func acquireWithoutData(t *testing.T, h Harness) {
	cfg := configure(t, h, `{"Network":"10.9.0.0/16","Backend":{"Type":"host-gw"}}`)
	c := claim(cfg, 1)
	c.Shares[0].Data = nil
	l := acquire(t, h, h.Store, c)
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

// reclaimed checks that a lease was found again, and is the only one.
func reclaimed(t *testing.T, h Harness, old, l subnet.Lease) {
	t.Helper()
	if l.ID != old.ID || l.Created != old.Created {
		t.Errorf("want lease %s of %d again, have %s of %d", old.ID, old.Created, l.ID, l.Created)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

func acquireAfterRestart(t *testing.T, h Harness) {
	for _, raw := range []string{single, dual} {
		cfg := configure(t, h, raw)
		c := claim(cfg, 1)
		old := acquire(t, h, h.Store, c)
		c.Shares = moved(old).Shares
		l := acquire(t, h, h.Client(t), again(c, old))
		reclaimed(t, h, old, l)
		if l.Revision == old.Revision {
			t.Error("the content is new, but not the revision")
		}
		h.Delete(t, l)
	}
}

func acquireUnchanged(t *testing.T, h Harness) {
	c := claim(configure(t, h, dual), 1)
	old := acquire(t, h, h.Store, c)
	reclaimed(t, h, old, acquire(t, h, h.Client(t), again(c, old)))
}

func acquireByState(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	old := acquire(t, h, h.Store, claim(cfg, 1))
	c := again(claim(cfg, 2), old)
	c.Node = claim(cfg, 1).Node
	reclaimed(t, h, old, acquire(t, h, h.Client(t), c))
}

func acquireByEnv(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	old := acquire(t, h, h.Store, claim(cfg, 1))
	c := claim(cfg, 1)
	c.Shares = moved(old).Shares
	for _, share := range old.Shares {
		c.Previous = append(c.Previous, share.Subnet)
	}
	reclaimed(t, h, old, acquire(t, h, h.Client(t), c))
}

func acquireByData(t *testing.T, h Harness) {
	c := claim(configure(t, h, dual), 1)
	old := acquire(t, h, h.Store, c)
	reclaimed(t, h, old, acquire(t, h, h.Client(t), c))
}

// untouched checks that other still stands as it was beside ours.
func untouched(t *testing.T, h Harness, other, ours subnet.Lease) {
	t.Helper()
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{other, ours}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}

func acquireSameAddress(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	other := acquire(t, h, h.Store, claim(cfg, 1))
	c := claim(cfg, 2)
	for i := range c.Shares {
		c.Shares[i].Public = other.Shares[i].Public
	}
	untouched(t, h, other, acquire(t, h, h.Client(t), c))
}

func acquireSuccessor(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	old := acquire(t, h, h.Store, claim(cfg, 1))
	h.Delete(t, old)
	successor := claim(cfg, 2)
	for _, share := range old.Shares {
		successor.Previous = append(successor.Previous, share.Subnet)
	}
	other := acquire(t, h, h.Client(t), successor)
	if other.ID != old.ID || other.Created == old.Created {
		t.Fatalf("want a new lease under the ID %s, have %s; it was of %d and is of %d",
			old.ID, other.ID, old.Created, other.Created)
	}
	c := again(claim(cfg, 1), old)
	c.Previous = successor.Previous
	untouched(t, h, other, acquire(t, h, h.Store, c))
}

func acquirePrevious(t *testing.T, h Harness) {
	cfg := configure(t, h, dual)
	c := claim(cfg, 1)
	old := acquire(t, h, h.Store, c)
	h.Delete(t, old)
	c = again(c, old)
	for _, share := range old.Shares {
		c.Previous = append(c.Previous, share.Subnet)
	}
	if l := acquire(t, h, h.Store, c); l.ID != old.ID {
		t.Errorf("want %s again, have %s", old.ID, l.ID)
	}
}

func acquireOtherConfig(t *testing.T, h Harness) {
	old := acquire(t, h, h.Store, claim(configure(t, h, single), 1))
	cfg := configure(t, h, dual)
	c := again(claim(cfg, 1), old)
	c.Previous = []netip.Prefix{old.Shares[0].Subnet}
	l := acquire(t, h, h.Store, c)
	if l.Shares[0].Subnet != old.Shares[0].Subnet {
		t.Errorf("the subnet %s still fits, but was given up for %s", old.Shares[0].Subnet, l.Shares[0].Subnet)
	}
	s := watch(t, h.Client(t)).next()
	if diff := cmp.Diff([]subnet.Lease{l}, s.Leases, content()); diff != "" {
		t.Errorf("leases (-want +have):\n%s", diff)
	}
}
