package etcd

import (
	"context"
	"errors"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// etcdLease is that of a key, which must be there.
func etcdLease(t *testing.T, c *clientv3.Client, key string) clientv3.LeaseID {
	t.Helper()
	resp, err := c.Get(short(t), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, resp, err)
	}
	return clientv3.LeaseID(resp.Kvs[0].Lease)
}

// threeSubnets has 10.42.0.64/26, .128 and .192 to give.
const threeSubnets = `{"Network":"10.42.0.0/24","SubnetLen":26}`

func TestReservationIsForItsOwner(t *testing.T) {
	s, admin := open(t, Options{}), raw(t, endpoint)
	owner := claim(t, threeSubnets, 1)
	// As flannel's documentation has it: nothing but the address.
	put(t, admin, s.key("10.42.0.128-26"), `{"PublicIP":"`+owner.Shares[0].Public.String()+`"}`)
	put(t, admin, s.key("10.42.0.192-26"), `{}`) // for nobody
	if l := mustAcquire(t, s, claim(t, threeSubnets, 2)); l.ID != "10.42.0.64-26" {
		t.Errorf("another node got %s", l.ID)
	}
	if _, err := s.Acquire(short(t), claim(t, threeSubnets, 3)); !errors.Is(err, subnet.ErrExhausted) {
		t.Errorf("all is given out or reserved: want ErrExhausted, have %v", err)
	}
	l := mustAcquire(t, s, owner)
	if l.ID != "10.42.0.128-26" || string(l.Shares[0].Data) != string(owner.Shares[0].Data) {
		t.Fatalf("the owner got %+v", l)
	}
	next := l
	next.Shares = []subnet.Share{{Subnet: l.Shares[0].Subnet, Public: addr("192.168.9.9"), Data: l.Shares[0].Data}}
	l, err := s.Publish(short(t), l, next)
	if err != nil {
		t.Fatal(err)
	}
	if on := etcdLease(t, admin, s.key(l.ID)); on != clientv3.NoLease {
		t.Errorf("it is on etcd lease %x now", on)
	}
	held := make(chan error, 1)
	go func() { held <- s.Hold(t.Context(), l) }()
	if _, err := admin.Delete(short(t), s.key(l.ID)); err != nil {
		t.Fatal(err)
	}
	if err := <-held; !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("have %v", err)
	}
}

func TestReservationInDualStack(t *testing.T) {
	s, admin := open(t, Options{}), raw(t, endpoint)
	c := claim(t, configDual, 1)
	v4, v6 := c.Shares[0].Public.String(), c.Shares[1].Public.String()
	put(t, admin, s.key("10.42.7.0-24&fd42:0:0:7::-64"), `{"PublicIP":"`+v4+`","PublicIPv6":"fd77::99"}`)
	put(t, admin, s.key("10.42.8.0-24&fd42:0:0:8::-64"), `{"PublicIP":"`+v4+`","PublicIPv6":"`+v6+`"}`)
	if l := mustAcquire(t, s, c); l.ID != "10.42.8.0-24&fd42:0:0:8::-64" {
		t.Errorf("have %s", l.ID)
	}
}

// What an operator reserved is not ours to delete, even if we can't use it.
func TestReservationThatDoesNotFitStays(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	s, admin := open(t, Options{Log: log}), raw(t, endpoint)
	c := claim(t, config4, 1)
	key := s.key("10.99.1.0-24")
	value, err := encodeValue("vxlan", []subnet.Share{{
		Subnet: prefix("10.99.1.0/24"), Public: c.Shares[0].Public, Data: c.Shares[0].Data,
	}})
	if err != nil {
		t.Fatal(err)
	}
	put(t, admin, key, string(value))
	l := mustAcquire(t, s, c)
	if etcdLease(t, admin, key) != clientv3.NoLease || etcdLease(t, admin, s.key(l.ID)) == clientv3.NoLease {
		t.Error("want the reservation as it was, and a lease beside it")
	}
	if e := hook.LastEntry(); e == nil || e.Data["reservations"] != "10.99.1.0-24" {
		t.Errorf("want a warning that names it, have %v", hook.AllEntries())
	}
	if again := mustAcquire(t, s, c); again.ID != l.ID {
		t.Errorf("then %s after %s", again.ID, l.ID)
	}
}

// A lease becomes a reservation when an operator writes it without an etcd
// lease. Its old etcd lease takes nothing along when it ends.
func TestLeaseThatBecomesAReservation(t *testing.T) {
	t.Parallel()
	s, admin := open(t, Options{TTL: 2 * time.Second}), raw(t, endpoint)
	l := mustAcquire(t, s, claim(t, config4, 1))
	on := etcdLease(t, admin, s.key(l.ID))
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() { held <- s.Hold(ctx, l) }()
	value, err := encodeValue(l.Backend, l.Shares)
	if err != nil {
		t.Fatal(err)
	}
	put(t, admin, s.key(l.ID), string(value))
	// It is not renewed any more.
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		ttl, err := admin.TimeToLive(short(t), on)
		if err != nil {
			t.Fatal(err)
		}
		if ttl.TTL == -1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("etcd lease %x is still renewed: %+v", on, ttl)
		}
	}
	if on := etcdLease(t, admin, s.key(l.ID)); on != clientv3.NoLease {
		t.Errorf("it is on etcd lease %x", on)
	}
	select {
	case err := <-held:
		t.Fatalf("hold ended: %v", err)
	default:
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}
