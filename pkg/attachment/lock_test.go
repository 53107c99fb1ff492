package attachment_test

import (
	"testing"
	"time"

	"github.com/weftnet/weft/pkg/attachment"
)

const (
	never = time.Nanosecond
	long  = 20 * time.Second
)

func TestHoldAndClaim(t *testing.T) {
	dir := attachment.Dir(t.TempDir())
	a := ptp("pod-1")
	dir.Claim(a.Key, long)() // nothing to wait for
	if _, _, ok := dir.Hold(a.Key); ok {
		t.Error("what is not there is held")
	}
	done, err := dir.Begin(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := dir.Hold(a.Key); ok {
		t.Error("what somebody is at work on is held")
	}
	done()
	have, release, ok := dir.Hold(a.Key)
	if !ok || have.Key != a.Key {
		t.Fatalf("held %v: %v", ok, have)
	}
	if dir.Busy(a.Key) {
		t.Error("held, and busy")
	}
	dir.Claim(a.Key, never)() // a holder that hangs
	claimed := make(chan func())
	go func() { claimed <- dir.Claim(a.Key, long) }()
	select {
	case <-claimed:
		t.Error("claimed what is held")
	case <-time.After(20 * time.Millisecond):
	}
	release()
	free := <-claimed
	if _, _, ok := dir.Hold(a.Key); ok || !dir.Busy(a.Key) {
		t.Error("claimed, and not busy")
	}
	free()
	if _, release, ok := dir.Hold(a.Key); !ok {
		t.Error("free again, and can't be held")
	} else {
		release()
	}
}

// Two take the same away: the second waits, and finds nothing.
func TestClaimOfWhatGoes(t *testing.T) {
	dir := attachment.Dir(t.TempDir())
	a := ptp("pod-1")
	if err := dir.Put(a); err != nil {
		t.Fatal(err)
	}
	free := dir.Claim(a.Key, long)
	second := make(chan func())
	go func() { second <- dir.Claim(a.Key, long) }()
	select {
	case <-second:
		t.Error("claimed twice")
	case <-time.After(20 * time.Millisecond):
	}
	if err := dir.Remove(a.Key); err != nil {
		t.Fatal(err)
	}
	free()
	(<-second)()
	if _, _, ok := dir.Hold(a.Key); ok {
		t.Error("gone, and held")
	}
}
