package etcd

import (
	"errors"
	"testing"

	"github.com/weftnet/weft/subnet"
)

func TestReleaseGivesBackOurs(t *testing.T) {
	s, admin := open(t, Options{}), raw(t, endpoint)
	first := mustAcquire(t, s, claim(t, threeSubnets, 1))
	if err := s.Release(short(t), first); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(short(t), first); !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("a second time: %v", err)
	}
	put(t, admin, s.key(first.ID), `{"PublicIP":"192.0.2.7"}`)
	if err := s.Release(short(t), first); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("another node's: %v", err)
	}
	etcdLease(t, admin, s.key(first.ID)) // is there

	owner := claim(t, threeSubnets, 2)
	for _, id := range []string{"10.42.0.64-26", "10.42.0.128-26", "10.42.0.192-26"} {
		put(t, admin, s.key(id), `{"PublicIP":"`+owner.Shares[0].Public.String()+`"}`)
	}
	reserved := mustAcquire(t, s, owner)
	if err := s.Release(short(t), reserved); !errors.Is(err, subnet.ErrLeaseChanged) {
		t.Errorf("a reservation: %v", err)
	}
	etcdLease(t, admin, s.key(reserved.ID))
}
