package kube_test

import (
	"sync"
	"testing"
	"time"

	"github.com/weftnet/weft/subnet"
	"github.com/weftnet/weft/subnet/kube"
)

func TestRequestsAreTimed(t *testing.T) {
	var mu sync.Mutex
	took, failed := map[string]time.Duration{}, map[string]bool{}
	c := newCluster(t)
	s, door := c.open(t, func(o *kube.Options) {
		o.Took = func(op string, length time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			took[op], failed[op] = length, failed[op] || err != nil
		}
	})
	heard := func(all ...string) bool {
		mu.Lock()
		defer mu.Unlock()
		for _, op := range all {
			if took[op] <= 0 {
				return false
			}
		}
		return true
	}
	claim := claimOf(t, network)
	claim.Node = "node-1"
	c.give(t, claim)
	to := make(chan subnet.Snapshot)
	go func() { _ = s.Watch(t.Context(), to) }()
	<-to
	if _, err := s.Acquire(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	await := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v, failed %v", what, took, failed)
			}
			select {
			case <-to:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	await("what was asked", func() bool { return heard("get", "patch", "watch-start") })
	door.Shut()
	await("a failure", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed["watch-start"] || failed["list"]
	})
}
