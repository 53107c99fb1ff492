package etcd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/subnet/etcd/embedded"
)

// freeAddrs gives addresses that nobody listens on.
func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, l.Addr().String())
	}
	return out
}

// startThree starts a cluster, and gives its members by their endpoints.
func startThree(t *testing.T) map[string]*embedded.Server {
	t.Helper()
	dir, at, names := t.TempDir(), freeAddrs(t, 3), []string{"a", "b", "c"}
	var peers []string
	for i, name := range names {
		peers = append(peers, fmt.Sprintf("%s=http://%s", name, at[i]))
	}
	members := map[string]*embedded.Server{}
	for _, name := range names {
		s, err := embedded.Start(short(t), embedded.Options{
			Dir: filepath.Join(dir, name), Listen: "127.0.0.1:0", Name: name, Peers: strings.Join(peers, ","),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		members[s.Endpoint()] = s
	}
	return members
}

// The first endpoint is dead from the start; then the member that leads ends.
func TestEndpointsThatDie(t *testing.T) {
	t.Parallel()
	members := startThree(t)
	endpoints := append([]string{"http://" + freeAddrs(t, 1)[0]}, slices.Sorted(maps.Keys(members))...)
	const ttl = 3 * time.Second
	s := open(t, Options{Endpoints: endpoints, TTL: ttl})
	l := mustAcquire(t, s, claim(t, config4, 1))
	ctx, cancel := context.WithCancel(t.Context())
	held := make(chan error, 1)
	go func() { held <- s.Hold(ctx, l) }()
	w := follow(t, s)
	w.until("our lease", hasIDs(l.ID))

	leader, survivor := "", ""
	for endpoint := range members {
		status, err := raw(t, endpoint).Status(short(t), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if status.Leader == status.Header.MemberId {
			leader = endpoint
		} else {
			survivor = endpoint
		}
	}
	begun := time.Now()
	if err := members[leader].Close(); err != nil {
		t.Fatal(err)
	}
	other := mustAcquire(t, open(t, Options{Endpoints: endpoints, Prefix: s.opts.Prefix}), claim(t, config4, 2))
	w.until("a lease that came after", hasIDs(l.ID, other.ID))
	t.Logf("acquired and seen %s after the leader's end", time.Since(begun).Round(time.Millisecond))

	admin, outlive := raw(t, survivor), time.NewTimer(2*ttl)
	defer outlive.Stop()
	select {
	case err := <-held:
		t.Fatalf("hold ended: %v", err)
	case <-outlive.C:
	}
	if alive, err := admin.TimeToLive(short(t), etcdLease(t, admin, s.key(l.ID))); err != nil || alive.TTL <= 0 {
		t.Errorf("our lease is not renewed: %+v, %v", alive, err)
	}
	cancel()
	if err := <-held; !errors.Is(err, context.Canceled) {
		t.Errorf("have %v", err)
	}
}
