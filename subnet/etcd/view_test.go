package etcd

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/weftnet/weft/subnet"
)

// keys is a store in memory, to make events from.
type keys struct {
	revision int64
	kvs      map[string]*mvccpb.KeyValue
}

func (k *keys) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{ClusterId: 0xc1, RaftTerm: 2, Revision: k.revision}
}

func (k *keys) all() []*mvccpb.KeyValue {
	var out []*mvccpb.KeyValue
	for _, kv := range k.kvs {
		out = append(out, kv)
	}
	return out
}

func (k *keys) put(key, value string) *mvccpb.Event {
	k.revision++
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: k.revision, ModRevision: k.revision}
	if old := k.kvs[key]; old != nil {
		kv.CreateRevision = old.CreateRevision
	}
	k.kvs[key] = kv
	return &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv}
}

func (k *keys) remove(key string) *mvccpb.Event {
	k.revision++
	delete(k.kvs, key)
	return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: k.revision}}
}

// reset makes the view anew, by a read in two pages.
func (v *view) reset(h *etcdserverpb.ResponseHeader, all []*mvccpb.KeyValue) {
	next := newView(v.configKey, v.leasesKey)
	next.load(all[:len(all)/2])
	next.load(all[len(all)/2:])
	next.complete(h)
	*v = *next
}

func newKeys() *keys { return &keys{kvs: map[string]*mvccpb.KeyValue{}} }

const (
	testConfig = "/p/config"
	testLeases = "/p/subnets/"
)

func leaseKey(n int) string { return fmt.Sprintf("%s10.%d.%d.0-24", testLeases, n/256, n%256) }

func leaseValue(n int) string {
	return fmt.Sprintf(`{"PublicIP":"192.168.%d.%d","PublicIPv6":null,"BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:%02x:%02x"}}`, n/250, n%250+1, n/256, n%256)
}

// Key by key, a view comes to what reading everything at once gives; and what
// was handed out before never changes.
func TestViewIsWhatAFreshReadGives(t *testing.T) {
	for seed := range uint64(10) {
		r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // wanted: the same each time
		store, v := newKeys(), newView(testConfig, testLeases)
		v.reset(store.header(), nil)
		var lent subnet.Snapshot
		var before string
		for range 300 {
			v.apply(anyEvent(r, store))
			if r.IntN(3) > 0 {
				continue
			}
			if have := fmt.Sprint(lent); before != "" && have != before {
				t.Fatalf("seed %d: a snapshot changed behind the receiver's back", seed)
			}
			fresh := newView(testConfig, testLeases)
			fresh.reset(store.header(), store.all())
			lent = v.snapshot()
			before = fmt.Sprint(lent)
			if want := fmt.Sprint(fresh.snapshot()); want != before {
				t.Fatalf("seed %d, revision %d (-read +followed):\n%s", seed, store.revision, cmp.Diff(want, before))
			}
		}
	}
}

// TestMalformedAmongMany reads 10,000 leases of which one in a hundred can't be read:
// the others are there, in order, and each of the bad is named once.
func TestMalformedAmongMany(t *testing.T) {
	junk := []string{"", "{", "null", `{"PublicIP":"172.16.0.300"}`, `{"PublicIP":7}`, "\xff"}
	store, v := newKeys(), newView(testConfig, testLeases)
	for n := range 10_000 {
		value := leaseValue(n)
		if n%100 == 7 {
			value = junk[n/100%len(junk)]
		}
		store.put(leaseKey(n), value)
	}
	v.reset(store.header(), store.all())
	s := v.snapshot()
	if len(s.Leases) != 9_900 || len(s.Malformed) != 100 {
		t.Fatalf("%d leases and %d that can't be read", len(s.Leases), len(s.Malformed))
	}
	for i, l := range s.Leases {
		if i > 0 && l.Created <= s.Leases[i-1].Created {
			t.Fatalf("lease %s is out of order", l.ID)
		}
		if n := l.Created - 1; n%100 == 7 || testLeases+l.ID != leaseKey(int(n)) {
			t.Fatalf("lease %s stands where %s was written", l.ID, leaseKey(int(n)))
		}
	}
	for i, bad := range s.Malformed {
		if i > 0 && bad.ID == s.Malformed[i-1].ID || bad.Reason == "" {
			t.Fatalf("%s is named twice, or without a reason", bad.ID)
		}
	}
}

func anyEvent(r *rand.Rand, store *keys) *mvccpb.Event {
	n := r.IntN(20)
	switch r.IntN(10) {
	case 0:
		return store.put(testConfig, []string{`{"Network":"10.0.0.0/8"}`, `{"Network":`}[r.IntN(2)])
	case 1:
		return store.remove(testConfig)
	case 2:
		return store.put(leaseKey(n), "junk")
	case 3:
		return store.put(testLeases+"10.0.0.0-33", leaseValue(n))
	case 4:
		return store.put("/p/elsewhere", "x")
	case 5, 6:
		return store.remove(leaseKey(n))
	}
	return store.put(leaseKey(n), leaseValue(r.IntN(1000)))
}

func TestViewTellsAStoreThatWentBack(t *testing.T) {
	v := newView(testConfig, testLeases)
	v.reset(&etcdserverpb.ResponseHeader{ClusterId: 1, RaftTerm: 5, Revision: 100}, nil)
	tests := map[string]struct {
		h    *etcdserverpb.ResponseHeader
		want bool
	}{
		"the same":            {&etcdserverpb.ResponseHeader{ClusterId: 1, RaftTerm: 5, Revision: 100}, false},
		"it went on":          {&etcdserverpb.ResponseHeader{ClusterId: 1, RaftTerm: 6, Revision: 101}, false},
		"another cluster":     {&etcdserverpb.ResponseHeader{ClusterId: 2, RaftTerm: 5, Revision: 100}, true},
		"an older revision":   {&etcdserverpb.ResponseHeader{ClusterId: 1, RaftTerm: 5, Revision: 99}, true},
		"begun from a backup": {&etcdserverpb.ResponseHeader{ClusterId: 1, RaftTerm: 2, Revision: 100}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if have := v.regressed(test.h); have != test.want {
				t.Errorf("want %v, have %v", test.want, have)
			}
		})
	}
}

// One change among 10,000 leases: one key is decoded, the leases are copied.
func BenchmarkOneChangeAt10000Leases(b *testing.B) {
	store, v := newKeys(), newView(testConfig, testLeases)
	for n := range 10_000 {
		store.put(leaseKey(n), leaseValue(n))
	}
	v.reset(store.header(), store.all())
	events := make([]*mvccpb.Event, b.N)
	for i := range events {
		events[i] = store.put(leaseKey(i%10_000), leaseValue(i%60_000))
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, e := range events {
		v.apply(e)
		if s := v.snapshot(); len(s.Leases) != 10_000 {
			b.Fatal(len(s.Leases))
		}
	}
}

// Everything at 10,000 leases: the price of a start, and of a compaction.
func BenchmarkReadAllAt10000Leases(b *testing.B) {
	store, v := newKeys(), newView(testConfig, testLeases)
	for n := range 10_000 {
		store.put(leaseKey(n), leaseValue(n))
	}
	all := store.all() // in no order, as leases are created
	b.ReportAllocs()
	for b.Loop() {
		v.reset(store.header(), all)
	}
}

// A lease that is new goes behind what was lent, which is not copied for it; and
// of two views of one moment neither writes over the other's.
func TestNewLeasesCopyNothing(t *testing.T) {
	store, v := newKeys(), newView(testConfig, testLeases)
	for n := range 100 {
		store.put(leaseKey(n), leaseValue(n))
	}
	v.reset(store.header(), store.all())
	v.apply(store.put(leaseKey(100), leaseValue(100))) // the array has room now
	before := v.snapshot()
	other := v.clone()
	v.apply(store.put(leaseKey(101), leaseValue(101)))
	after := v.snapshot()
	if &before.Leases[0] != &after.Leases[0] {
		t.Error("the leases were copied")
	}
	other.apply(store.put(leaseKey(102), leaseValue(102)))
	if have := after.Leases[101].ID; have != "10.0.101.0-24" {
		t.Errorf("the clone wrote %s over a lease of the view", have)
	}
	if have := other.snapshot().Leases[101].ID; have != "10.0.102.0-24" {
		t.Errorf("the clone has %s", have)
	}
}
