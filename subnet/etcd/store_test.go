package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/etcd/embedded"
	"github.com/weftnet/weft/subnet/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		p := startProxy(t, endpoint)
		s := open(t, Options{Endpoints: []string{p.endpoint()}})
		admin := raw(t, endpoint)
		return storetest.Harness{
			Store:  s,
			Client: func(t *testing.T) subnet.Store { return open(t, Options{Prefix: s.opts.Prefix}) },
			SetConfig: func(t *testing.T, raw string) {
				put(t, admin, s.configKey(), raw)
			},
			Delete: func(t *testing.T, l subnet.Lease) {
				if _, err := admin.Delete(short(t), s.key(l.ID)); err != nil {
					t.Fatal(err)
				}
			},
			Rewrite: func(t *testing.T, l subnet.Lease) {
				value, err := encodeValue(l.Backend, l.Shares)
				if err != nil {
					t.Fatal(err)
				}
				put(t, admin, s.key(l.ID), string(value), clientv3.WithIgnoreLease())
			},
			PutMalformed: func(t *testing.T) string {
				put(t, admin, s.key("10.9.77.0-33"), "{}")
				return "10.9.77.0-33"
			},
			Cut:  func(*testing.T) { p.set(true) },
			Heal: func(*testing.T) { p.set(false) },
		}
	})
}

const (
	config4    = `{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}`
	configDual = `{"Network":"10.42.0.0/16","EnableIPv6":true,"IPv6Network":"fd42::/56","Backend":{"Type":"vxlan"}}`
	// tight has 50 subnets of each family.
	tight = `{"Network":"10.42.0.0/24","SubnetLen":30,"SubnetMin":"10.42.0.4","SubnetMax":"10.42.0.200","EnableIPv6":true,
		"IPv6Network":"fd42::/112","IPv6SubnetLen":120,"IPv6SubnetMin":"fd42::100","IPv6SubnetMax":"fd42::3200",
		"Backend":{"Type":"vxlan"}}`
)

func mustAcquire(t *testing.T, s *Store, c subnet.Claim) subnet.Lease {
	t.Helper()
	l, err := s.Acquire(short(t), c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Fifty nodes start at once in a network that has room for fifty, in dual
// stack, where the keys alone would let two of them win one subnet. Not even
// for a moment may two leases overlap.
func TestFiftyClaimantsInATightDualStackNetwork(t *testing.T) {
	const nodes = 50
	type result struct {
		l   subnet.Lease
		err error
	}
	results := make(chan result, nodes)
	begin := make(chan struct{})
	first := open(t, Options{})
	before, err := raw(t, endpoint).Leases(short(t))
	if err != nil {
		t.Fatal(err)
	}
	for n := range nodes {
		s, c := open(t, Options{}), claim(t, tight, n)
		go func() {
			<-begin
			l, err := s.Acquire(t.Context(), c)
			results <- result{l, err}
		}()
	}
	close(begin)
	seen := map[netip.Prefix]string{}
	for range nodes {
		select {
		case r := <-results:
			if r.err != nil {
				t.Fatal(r.err)
			}
			for _, share := range r.l.Shares {
				if other := seen[share.Subnet]; other != "" {
					t.Errorf("%s is in %s and %s", share.Subnet, other, r.l.ID)
				}
				seen[share.Subnet] = r.l.ID
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d subnets given out", len(seen), 2*nodes)
		}
	}
	if _, err := first.Acquire(short(t), claim(t, tight, nodes)); !errors.Is(err, subnet.ErrExhausted) {
		t.Errorf("the 51st: want ErrExhausted, have %v", err)
	}
	after, err := raw(t, endpoint).Leases(short(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(after.Leases) - len(before.Leases); n != nodes {
		t.Errorf("etcd leases: want one per node, have %d for %d", n, nodes)
	}
	neverOverlapped(t, first)
}

// neverOverlapped replays what was ever written.
func neverOverlapped(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithCancel(short(t))
	defer cancel()
	held := map[netip.Prefix]string{}
	count := 0
	for resp := range raw(t, endpoint).Watch(ctx, s.leasesKey(), clientv3.WithPrefix(), clientv3.WithRev(1)) {
		for _, e := range resp.Events {
			id := strings.TrimPrefix(string(e.Kv.Key), s.leasesKey())
			subnets, err := decodeKey(id)
			if err != nil || e.Type != clientv3.EventTypePut {
				t.Errorf("%s of %s: %v", e.Type, id, err)
			}
			for _, p := range subnets {
				if held[p] != "" {
					t.Errorf("%s was written while %s had %s", id, held[p], p)
				}
				held[p] = id
			}
			count++
		}
		if count >= 50 {
			return
		}
	}
	t.Errorf("history has %d leases: %v", count, ctx.Err())
}

func TestLeaseIsAttachedAndKeepsItsEtcdLease(t *testing.T) {
	s, admin := open(t, Options{}), raw(t, endpoint)
	c := claim(t, config4, 1)
	l := mustAcquire(t, s, c)
	attached := func() clientv3.LeaseID {
		resp, err := admin.Get(short(t), s.key(l.ID))
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
		return clientv3.LeaseID(resp.Kvs[0].Lease)
	}
	id := attached()
	ttl, err := admin.TimeToLive(short(t), id)
	if err != nil || ttl.GrantedTTL != 86400 {
		t.Errorf("want a TTL of 86400 s, have %+v (%v)", ttl, err)
	}
	c.ID, c.Created = l.ID, l.Created
	if again := mustAcquire(t, s, c); again.Revision != l.Revision {
		t.Error("the same claim wrote the lease again")
	}
	c.Shares[0].Data = []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}`)
	changed := mustAcquire(t, s, c)
	if changed.Created != l.Created || changed.Revision <= l.Revision || attached() != id {
		t.Errorf("a changed claim: %+v after %+v, on etcd lease %x after %x", changed, l, attached(), id)
	}
	if _, err := s.Publish(short(t), changed, l); err != nil || attached() != id {
		t.Errorf("publish: %v, on etcd lease %x after %x", err, attached(), id)
	}
}

func TestMalformedLeaseBlocksItsSubnetOnly(t *testing.T) {
	s, admin := open(t, Options{}), raw(t, endpoint)
	// Two subnets; the value of the first can't be read.
	const two = `{"Network":"10.42.0.0/24","SubnetLen":26,"SubnetMin":"10.42.0.64","SubnetMax":"10.42.0.128"}`
	put(t, admin, s.key("10.42.0.64-26"), "junk")
	for range 5 {
		l := mustAcquire(t, s, claim(t, two, 1))
		if l.ID != "10.42.0.128-26" {
			t.Fatalf("have %s", l.ID)
		}
		if _, err := admin.Delete(short(t), s.key(l.ID)); err != nil {
			t.Fatal(err)
		}
	}
	mustAcquire(t, s, claim(t, two, 1))
	if _, err := s.Acquire(short(t), claim(t, two, 2)); !errors.Is(err, subnet.ErrExhausted) {
		t.Errorf("want ErrExhausted, have %v", err)
	}
}

func TestHoldFollowsARenewalInFlannelsWay(t *testing.T) {
	s, admin := open(t, Options{TTL: 2 * time.Second}), raw(t, endpoint)
	l := mustAcquire(t, s, claim(t, config4, 1))
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() { held <- s.Hold(ctx, l) }()
	grant, err := admin.Grant(short(t), 2)
	if err != nil {
		t.Fatal(err)
	}
	value, err := encodeValue(l.Backend, l.Shares)
	if err != nil {
		t.Fatal(err)
	}
	put(t, admin, s.key(l.ID), string(value), clientv3.WithLease(grant.ID))
	// The new grant must be kept alive: it outlives its own TTL.
	outlive := time.NewTimer(4 * time.Second)
	defer outlive.Stop()
	select {
	case err := <-held:
		t.Fatalf("hold ended: %v", err)
	case <-outlive.C:
	}
	if ttl, err := admin.TimeToLive(short(t), grant.ID); err != nil || ttl.TTL <= 0 {
		t.Errorf("the renewed etcd lease: %+v, %v", ttl, err)
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}

func TestHoldSaysLostWhenTheLeaseRanOutWhileEtcdWasAway(t *testing.T) {
	p := startProxy(t, endpoint)
	s := open(t, Options{Endpoints: []string{p.endpoint()}, TTL: time.Second})
	l := mustAcquire(t, s, claim(t, config4, 1))
	held := make(chan error, 1)
	go func() { held <- s.Hold(t.Context(), l) }()
	w := follow(t, open(t, Options{Prefix: s.opts.Prefix}))
	w.until("our lease", hasIDs(l.ID))
	p.set(true)
	w.until("no lease", hasIDs())
	select {
	case err := <-held:
		t.Fatalf("hold ended while etcd was away: %v", err)
	default:
	}
	p.set(false)
	if err := <-held; !errors.Is(err, subnet.ErrLeaseLost) {
		t.Errorf("have %v", err)
	}
}

func TestWatchSurvivesCompaction(t *testing.T) {
	p := startProxy(t, endpoint)
	s, admin := open(t, Options{Endpoints: []string{p.endpoint()}}), raw(t, endpoint)
	w := follow(t, s)
	put(t, admin, s.key("10.42.1.0-24"), `{"PublicIP":"192.0.2.1"}`)
	w.until("the first", hasIDs("10.42.1.0-24"))
	p.set(true)
	put(t, admin, s.key("10.42.2.0-24"), `{"PublicIP":"192.0.2.2"}`)
	if _, err := admin.Delete(short(t), s.key("10.42.1.0-24")); err != nil {
		t.Fatal(err)
	}
	last := put(t, admin, s.key("10.42.3.0-24"), `{"PublicIP":"192.0.2.3"}`)
	if _, err := admin.Compact(short(t), last.Header.Revision); err != nil {
		t.Fatal(err)
	}
	p.set(false)
	w.until("what compaction hid", hasIDs("10.42.2.0-24", "10.42.3.0-24"))
}

// startServer runs one for a test that hurts it.
func startServer(t *testing.T, dir, listen string) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(short(t), embedded.Options{Dir: dir, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestWatchSurvivesARestartOfTheServer(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	dir := t.TempDir()
	server := startServer(t, dir, "127.0.0.1:0")
	s := open(t, Options{Endpoints: []string{server.Endpoint()}, Log: log})
	w := follow(t, s)
	put(t, raw(t, server.Endpoint()), s.key("10.42.1.0-24"), `{"PublicIP":"192.0.2.1"}`)
	before := w.until("the first", hasIDs("10.42.1.0-24"))
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	server = startServer(t, dir, strings.TrimPrefix(server.Endpoint(), "http://"))
	put(t, raw(t, server.Endpoint()), s.key("10.42.2.0-24"), `{"PublicIP":"192.0.2.2"}`)
	after := w.until("the second", hasIDs("10.42.1.0-24", "10.42.2.0-24"))
	if before.Epoch != after.Epoch {
		t.Errorf("epoch %s after %s", after.Epoch, before.Epoch)
	}
	if have := len(hook.AllEntries()); have == 0 || have > 2 {
		t.Errorf("lines in the log: want etcd's going and at most its return, have %d: %v", have, hook.AllEntries())
	}
}

func TestWatchSeesAnotherStoreForWhatItIs(t *testing.T) {
	a := startServer(t, t.TempDir(), "127.0.0.1:0")
	b := startServer(t, t.TempDir(), "127.0.0.1:0")
	p := startProxy(t, a.Endpoint())
	s := open(t, Options{Endpoints: []string{p.endpoint()}})
	w := follow(t, s)
	for n := range 5 {
		put(t, raw(t, a.Endpoint()), s.key("10.42.1.0-24"), fmt.Sprintf(`{"PublicIP":"192.0.2.%d"}`, n+1))
	}
	before := w.until("the last change", func(s subnet.Snapshot) bool {
		return len(s.Leases) == 1 && s.Leases[0].Node == "192.0.2.5"
	})
	p.set(true)
	p.retarget(b.Endpoint())
	p.set(false)
	after := w.until("an empty store", hasIDs())
	if before.Epoch == after.Epoch {
		t.Error("the epoch is the same")
	}
	put(t, raw(t, b.Endpoint()), s.key("10.42.7.0-24"), `{"PublicIP":"192.0.2.7"}`)
	w.until("what is new there", hasIDs("10.42.7.0-24"))
}

func TestStoreThatIsAwayAtTheStart(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	p := startProxy(t, endpoint)
	p.set(true)
	s := open(t, Options{Endpoints: []string{p.endpoint()}, Log: log})
	got := make(chan error, 1)
	go func() {
		_, err := s.Acquire(t.Context(), claim(t, config4, 1))
		got <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Config(ctx)
	if err == nil || !strings.Contains(err.Error(), p.endpoint()) || !strings.Contains(err.Error(), s.configKey()) {
		t.Errorf("want an error that names the endpoint and the key, have %v", err)
	}
	p.set(false)
	if err := <-got; err != nil {
		t.Error(err)
	}
	if n := len(hook.AllEntries()); n > 2 {
		t.Errorf("want two lines in the log at most, have %d", n)
	}
}

func TestConfigIsWrittenAndRead(t *testing.T) {
	s, ctx := open(t, Options{}), short(t)
	if _, err := s.Config(ctx); !errors.Is(err, ErrNoConfig) {
		t.Errorf("want ErrNoConfig, have %v", err)
	}
	if _, err := s.SetConfig(ctx, []byte(`{"Network":"10.42.0.0/31"}`), false); err == nil {
		t.Error("a bad configuration was stored")
	}
	steps := []struct {
		raw          string
		onlyIfAbsent bool
		created      bool
		want         string
	}{
		{config4, true, true, config4},
		{configDual, true, false, config4},
		{configDual, false, false, configDual},
	}
	for i, step := range steps {
		created, err := s.SetConfig(ctx, []byte(step.raw), step.onlyIfAbsent)
		if err != nil || created != step.created {
			t.Errorf("step %d: created %v, %v", i, created, err)
		}
		if have, err := s.Config(ctx); err != nil || string(have) != step.want {
			t.Errorf("step %d: have %s, %v", i, have, err)
		}
	}
	l := mustAcquire(t, s, claim(t, configDual, 1))
	snap, err := s.Leases(ctx)
	if err != nil || !hasIDs(l.ID)(snap) || len(snap.Config.Networks) != 2 {
		t.Errorf("have %+v, %v", snap, err)
	}
	if _, err := raw(t, s.opts.Endpoints[0]).Put(ctx, s.leasesKey()+"10.42.200.0-24", `{}`); err != nil {
		t.Fatal(err)
	}
	lives, err := s.Lives(ctx)
	if err != nil || len(lives) != 1 {
		t.Fatalf("lives %v, %v; want that of %s, and none of a reservation", lives, err, l.ID)
	}
	if age := time.Since(lives[l.ID].Renewed); age < 0 || age > time.Minute {
		t.Errorf("renewed %s ago", age)
	}
	if left := time.Until(lives[l.ID].Expires); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("expires in %s", left)
	}
}

func TestLifeOfTheLeaseThatIsHeld(t *testing.T) {
	s := open(t, Options{})
	if _, expires := s.LeaseLife(); !expires.IsZero() {
		t.Errorf("before there is one it expires at %s", expires)
	}
	l := mustAcquire(t, s, claim(t, config4, 1))
	ctx, stop := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() { held <- s.Hold(ctx, l) }()
	deadline := time.Now().Add(10 * time.Second)
	for {
		renewed, expires := s.LeaseLife()
		if left := time.Until(expires); time.Since(renewed) < time.Minute && left > 23*time.Hour && left <= 24*time.Hour {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("renewed %s, expires %s", renewed, expires)
		}
		runtime.Gosched()
	}
	stop()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("Hold ended by %v", err)
	}
	if _, expires := s.LeaseLife(); !expires.IsZero() {
		t.Errorf("when it is no longer held it expires at %s", expires)
	}
}

func TestCallsAfterClose(t *testing.T) {
	s := open(t, Options{})
	watched := make(chan error, 1)
	to := make(chan subnet.Snapshot)
	go func() { watched <- s.Watch(t.Context(), to) }()
	<-to
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; !errors.Is(err, errClosed) {
		t.Errorf("watch: %v", err)
	}
	if _, err := s.Acquire(t.Context(), claim(t, config4, 1)); !errors.Is(err, errClosed) {
		t.Errorf("acquire: %v", err)
	}
}
