package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// member is the store's side of a daemon, and nothing else: one read, one watch, one
// lease of its own. Thousands of them fit into a process.
type member struct {
	i      int
	client *clientv3.Client
	seen   chan struct{} // closed when it knows all
}

// measureStore is what so many nodes cost etcd, by etcd's own counters.
func measureStore(b *testing.B, _ plan, out *report) {
	sizes := []int{100, 1000}
	if s := os.Getenv("WEFT_BENCH_MEMBERS"); s != "" {
		n, err := strconv.Atoi(s)
		must(b, err)
		sizes = []int{n}
	}
	for _, n := range sizes {
		s := out.section(fmt.Sprintf("What %d nodes cost etcd", n),
			"Only the store's side of the daemons. Start: all at once on a store without leases, until each knows all. Rest: "+
				"half a minute without a change. Restart: all, one after the other, with their leases kept.")
		r := newRig(b, 1)
		add := func(what string, before, after counters) {
			s.add(what+": requests", "", "weft", after.requests-before.requests)
			s.add(what+": sent by etcd", "MB", "weft", (after.sent-before.sent)/1e6)
			s.add(what+": CPU of etcd", "s", "weft", after.cpu-before.cpu)
		}
		before, began := r.counters(), time.Now()
		all := r.members(n)
		s.add("start: time", "s", "weft", time.Since(began).Seconds())
		started := r.counters()
		add("start", before, started)
		<-time.After(30 * time.Second)
		rested := r.counters()
		add("rest", started, rested)
		for i := range all {
			must(b, all[i].client.Close())
			all[i] = r.member(i)
			must(b, all[i].run(b.Context(), n, false))
			<-all[i].seen
		}
		add("restart", rested, r.counters())
		for _, m := range all {
			_ = m.client.Close()
		}
	}
}

func (r *rig) members(n int) []*member {
	all := make([]*member, n)
	var started sync.WaitGroup
	errs := make(chan error, n)
	for i := range all {
		all[i] = r.member(i)
		started.Go(func() { errs <- all[i].run(r.t.Context(), n, true) })
	}
	started.Wait()
	for range all {
		must(r.t, <-errs)
	}
	late := time.After(patience)
	for _, m := range all {
		select {
		case <-m.seen:
		case <-late:
			r.t.Fatalf("member %d does not know all", m.i)
		}
	}
	return all
}

func (r *rig) member(i int) *member {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{r.url}, Logger: zap.NewNop(), Context: r.t.Context(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(r.inside)},
	})
	must(r.t, err)
	return &member{i, c, make(chan struct{})}
}

// run does what subnet/etcd does: read, watch from there, take a lease.
func (m *member) run(ctx context.Context, n int, fresh bool) error {
	var all *clientv3.GetResponse
	if err := again(func() (err error) {
		all, err = m.client.Get(ctx, "/coreos.com/network/", clientv3.WithPrefix(), clientv3.WithLimit(5000))
		return err
	}); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, kv := range all.Kvs {
		if strings.HasPrefix(string(kv.Key), leasesKey) {
			known[string(kv.Key)] = true
		}
	}
	events := m.client.Watch(clientv3.WithRequireLeader(ctx), "/coreos.com/network/", clientv3.WithPrefix(),
		clientv3.WithRev(all.Header.Revision+1), clientv3.WithProgressNotify())
	go func() {
		for len(known) < n {
			resp, open := <-events
			if !open {
				return
			}
			for _, e := range resp.Events {
				known[string(e.Kv.Key)] = true
			}
		}
		close(m.seen)
		for range events { // a watch has to be read
		}
	}()
	if !fresh {
		return again(func() error { _, err := m.client.Get(ctx, peerKey(m.i)); return err })
	}
	var lease *clientv3.LeaseGrantResponse
	if err := again(func() (err error) { lease, err = m.client.Grant(ctx, 86400); return err }); err != nil {
		return err
	}
	return again(func() error {
		_, err := m.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(peerKey(m.i)), "=", 0)).
			Then(clientv3.OpPut(peerKey(m.i), peerValue(m.i, 0), clientv3.WithLease(lease.ID))).Commit()
		return err
	})
}

// again tries what an etcd with very much to do has given up: after a few seconds it
// does not answer to a write any more.
func again(f func() error) error {
	for end := time.Now().Add(patience); ; {
		err := f()
		if !errors.Is(err, rpctypes.ErrTimeout) || time.Now().After(end) {
			return err
		}
	}
}

// counters are etcd's own.
type counters struct{ requests, sent, cpu float64 }

func (r *rig) counters() (c counters) {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return r.inside(ctx, addr) },
	}, Timeout: patience}
	resp, err := client.Get(r.url + "/metrics")
	must(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		v, _ := strconv.ParseFloat(value, 64)
		switch {
		case strings.HasPrefix(name, "grpc_server_started_total"):
			c.requests += v
		case name == "etcd_network_client_grpc_sent_bytes_total":
			c.sent = v
		}
	}
	c.cpu = r.server.cpu()
	return c
}
