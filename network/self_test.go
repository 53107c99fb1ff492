package network

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/memory"
)

// selfish is a store in which this node has an object.
type selfish struct {
	*memory.Client
	last   subnet.Lease
	public []netip.Addr

	mu     sync.Mutex
	writes []string
	warns  []string
	fails  int
}

func (s *selfish) Self() (subnet.Lease, []netip.Addr) { return s.last, slices.Clone(s.public) }

func (s *selfish) SetNetworkAvailable(_ context.Context, ready bool, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails > 0 {
		s.fails--
		return errors.New("the store is away")
	}
	state := "up"
	if !ready {
		state = "down: " + reason
	}
	if len(s.writes) == 0 || s.writes[len(s.writes)-1] != state {
		s.writes = append(s.writes, state)
	}
	return nil
}

func (s *selfish) Warn(_ context.Context, reason, message string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.warns = append(s.warns, reason+" "+message)
	return nil
}

func (s *selfish) warned() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warns)
}

func (s *selfish) written() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

func withSelf(b *bench) *selfish {
	s := &selfish{Client: b.client}
	b.tune = func(o *Options) { o.Store = s }
	return s
}

func TestTheMACOfOurObjectIsTakenAfterAReboot(t *testing.T) {
	inBubble(t, func(b *bench) {
		const old = "02:00:00:00:00:77"
		s := withSelf(b)
		s.last = subnet.Lease{Shares: []subnet.Share{{
			Public: netip.MustParseAddr("192.168.77.1"), Data: []byte(`{"VNI":1,"VtepMAC":"` + old + `"}`),
		}}}
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		b.ready(true, "")
		if !strings.Contains(b.kernel.Dump(), old) {
			t.Errorf("the device has another MAC than our object says:\n%s", b.kernel.Dump())
		}
	})
}

func TestAUserChoosesTheAddress(t *testing.T) {
	inBubble(t, func(b *bench) {
		s := withSelf(b)
		b.world(dataplane.State{Addrs: map[dataplane.AddrKey]struct{}{
			{Link: "eth0", Prefix: netip.MustParsePrefix("192.168.99.7/24")}: {},
		}})
		s.public = []netip.Addr{netip.MustParseAddr("192.168.99.7")}
		b.server.SetConfig([]byte(config1))
		b.start()
		defer b.stop()
		b.ready(true, "")
		if have := b.node.Status().Node.Public; !slices.Equal(have, []string{"192.168.99.7"}) {
			t.Errorf("public addresses: have %v", have)
		}
	})
}

func TestOurObjectSaysWhetherPodsCanBeServed(t *testing.T) {
	inBubble(t, func(b *bench) {
		s := withSelf(b)
		s.fails = 3
		b.start()
		b.settle(5 * time.Second)
		if have := s.written(); len(have) != 0 {
			t.Errorf("said before anything is known: %v", have)
		}
		b.server.SetConfig([]byte(config1))
		b.settle(10 * time.Second)
		if have := s.written(); !slices.Equal(have, []string{"up"}) {
			t.Errorf("want up after three failures, have %v", have)
		}
		b.kernel.FailOps(func(op dataplane.Op) error {
			if op.Kind == dataplane.KindLink {
				return errors.New("no such luck")
			}
			return nil
		})
		if err := b.kernel.Delete(dataplane.State{Links: map[string]dataplane.Link{"flannel.1": {}}}); err != nil {
			t.Fatal(err)
		}
		b.settle(time.Second)
		if have := s.written(); len(have) < 2 || !strings.Contains(have[1], "no such luck") {
			t.Errorf("want down, have %v", have)
		}
		before := len(s.written())
		b.stop()
		if have := s.written(); len(have) != before {
			t.Errorf("stopping says something: %v", have)
		}
	})
}

// Kubernetes gives the first subnet too, of any length.
func TestGivenSubnetsNeedOnlyLieInside(t *testing.T) {
	cfg, err := subnet.ParseConfig([]byte(config1))
	if err != nil {
		t.Fatal(err)
	}
	lease := func(p string) subnet.Lease {
		return subnet.Lease{Shares: []subnet.Share{{Subnet: netip.MustParsePrefix(p)}}}
	}
	for p, want := range map[string]bool{
		"10.42.0.0/24": true, "10.42.7.128/25": true, "10.42.0.0/16": true, "10.43.0.0/24": false, "10.0.0.0/8": false,
	} {
		given, chosen := Node{self: &selfish{}}, Node{}
		if have := given.fits(cfg, lease(p)); have != want {
			t.Errorf("%s: given: want %v, have %v", p, want, have)
		}
		if chosen.fits(cfg, lease(p)) {
			t.Errorf("%s: no store of ours would choose it", p)
		}
	}
	if (&Node{self: &selfish{}}).fits(cfg, subnet.Lease{}) {
		t.Error("a lease without subnets fits")
	}
}
