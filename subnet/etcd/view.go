package etcd

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/weftnet/weft/subnet"
)

// view is what stands under the prefix at one revision, kept current key by
// key: a change decodes the one key that changed. Pure, and not safe for
// concurrent use.
type view struct {
	configKey, leasesKey string

	cluster  uint64
	term     uint64
	revision int64

	config    subnet.Config
	leases    []subnet.Lease    // by Created, then ID
	created   map[string]int64  // ID → Created, to find a lease in leases
	malformed map[string]broken // by ID, or by the configuration's key
	reserved  map[string]bool   // IDs whose key is on no etcd lease
	// lent: a snapshot holds leases, which must be copied before a change.
	lent bool
}

// broken is a key whose value, or whose own spelling, can't be read.
type broken struct {
	why               subnet.Skipped
	created, revision int64
}

func newView(configKey, leasesKey string) *view {
	return &view{
		configKey: configKey, leasesKey: leasesKey,
		created: map[string]int64{}, malformed: map[string]broken{}, reserved: map[string]bool{},
	}
}

// load takes in a page of one read of the whole prefix. The view is not in order
// before complete.
func (v *view) load(page []*mvccpb.KeyValue) {
	v.leases = slices.Grow(v.leases, len(page))
	for _, kv := range page {
		if l, isLease, _ := v.read(kv); isLease {
			v.leases = append(v.leases, l)
			v.created[l.ID] = l.Created
		}
	}
}

// complete says when everything was loaded: the header of the first page.
func (v *view) complete(h *etcdserverpb.ResponseHeader) {
	v.cluster, v.term, v.revision = h.ClusterId, h.RaftTerm, h.Revision
	slices.SortFunc(v.leases, func(a, b subnet.Lease) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID))
	})
}

// clone is a view of its own, of this moment. It must not append where v does.
func (v *view) clone() *view {
	v.lent = true
	out := *v
	out.leases = slices.Clip(v.leases)
	out.created, out.malformed, out.reserved = maps.Clone(v.created), maps.Clone(v.malformed), maps.Clone(v.reserved)
	return &out
}

// regressed tells a store that is not the one we know, or one that went back
// in time: restored, or begun anew. The cluster's id alone does not tell, as a
// store that is restored under its old addresses and token gets its old id.
func (v *view) regressed(h *etcdserverpb.ResponseHeader) bool {
	return h.ClusterId != v.cluster || h.Revision < v.revision || h.RaftTerm < v.term
}

// apply takes one event of the watch; one that we have seen changes nothing.
func (v *view) apply(e *mvccpb.Event) (changed bool) {
	if e.Kv.ModRevision < v.revision {
		return false
	}
	v.revision = e.Kv.ModRevision
	if e.Type == mvccpb.Event_DELETE {
		return v.remove(string(e.Kv.Key))
	}
	return v.put(e.Kv)
}

// read takes in what stands on a key, but for the lease that it gives. known is
// false for a key that means nothing to us.
func (v *view) read(kv *mvccpb.KeyValue) (l subnet.Lease, isLease, known bool) {
	key := string(kv.Key)
	if key == v.configKey {
		v.setConfig(kv.Value)
		return l, false, true
	}
	id, ok := strings.CutPrefix(key, v.leasesKey)
	if !ok {
		return l, false, false
	}
	delete(v.reserved, id)
	if kv.Lease == 0 {
		v.reserved[id] = true
	}
	l, err := decodeLease(id, kv.Value)
	if err != nil {
		v.drop(id)
		v.malformed[id] = broken{skipped(id, err), kv.CreateRevision, kv.ModRevision}
		return l, false, true
	}
	delete(v.malformed, id)
	l.Created, l.Revision = kv.CreateRevision, kv.ModRevision
	return l, true, true
}

func (v *view) put(kv *mvccpb.KeyValue) (changed bool) {
	l, isLease, known := v.read(kv)
	if !isLease {
		return known
	}
	id := l.ID
	if have, ok := v.created[id]; ok && have != l.Created {
		v.drop(id)
	}
	i, found := v.find(id, l.Created)
	if i == len(v.leases) { // a new one: nobody who has the others sees behind their end
		v.leases = append(v.leases, l)
		v.created[id] = l.Created
		return true
	}
	v.own()
	if found {
		v.leases[i] = l
	} else {
		v.leases = slices.Insert(v.leases, i, l)
	}
	v.created[id] = l.Created
	return true
}

func (v *view) remove(key string) (changed bool) {
	if key == v.configKey {
		v.config = subnet.Config{}
		delete(v.malformed, key)
		return true
	}
	id, ok := strings.CutPrefix(key, v.leasesKey)
	if !ok {
		return false
	}
	delete(v.malformed, id)
	delete(v.reserved, id)
	v.drop(id)
	return true
}

func (v *view) setConfig(raw []byte) {
	c, err := subnet.ParseConfig(raw)
	if err != nil {
		v.config = subnet.Config{}
		why := subnet.Skipped{ID: v.configKey, Field: "configuration", Reason: err.Error()}
		v.malformed[v.configKey] = broken{why: why}
		return
	}
	delete(v.malformed, v.configKey)
	v.config = c
}

func (v *view) drop(id string) {
	created, ok := v.created[id]
	if !ok {
		return
	}
	v.own()
	if i, found := v.find(id, created); found {
		v.leases = slices.Delete(v.leases, i, i+1)
	}
	delete(v.created, id)
}

// own makes leases ours to change.
func (v *view) own() {
	if v.lent {
		v.leases = slices.Clone(v.leases)
		v.lent = false
	}
}

func (v *view) find(id string, created int64) (int, bool) {
	return slices.BinarySearchFunc(v.leases, created, func(l subnet.Lease, created int64) int {
		return cmp.Or(cmp.Compare(l.Created, created), cmp.Compare(l.ID, id))
	})
}

// snapshot lends the leases out: whoever gets it must not write to them.
func (v *view) snapshot() subnet.Snapshot {
	v.lent = true
	return subnet.Snapshot{
		Epoch:     strconv.FormatUint(v.cluster, 16),
		Revision:  v.revision,
		Config:    v.config,
		Leases:    slices.Clip(v.leases),
		Malformed: v.skipped(),
	}
}

func (v *view) skipped() []subnet.Skipped {
	var out []subnet.Skipped
	for _, b := range v.malformed {
		out = append(out, b.why)
	}
	slices.SortFunc(out, func(a, b subnet.Skipped) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// taken is every lease whose subnets can't be given out. Of a key with a value
// that can't be read the subnets are taken all the same, as the key stands
// there and flannel may well read it; such a lease has no public address.
func (v *view) taken() []subnet.Lease {
	out := slices.Clone(v.leases)
	for id, b := range v.malformed {
		subnets, err := decodeKey(id)
		if err != nil {
			continue
		}
		l := subnet.Lease{ID: id, Created: b.created, Revision: b.revision}
		for _, p := range subnets {
			l.Shares = append(l.Shares, subnet.Share{Subnet: p})
		}
		out = append(out, l)
	}
	return out
}
