package reconcile

import (
	"testing"
	"time"
)

// An audit comes each minute, and less often where it takes long.
func TestUntilAudit(t *testing.T) {
	l := New(nil, Options{})
	for took, want := range map[time.Duration]time.Duration{
		0: time.Minute, 20 * time.Millisecond: time.Minute, 60 * time.Millisecond: 2 * time.Minute,
		time.Hour: 5 * time.Minute,
	} {
		if have := l.untilAudit(took); have < want*9/10 || have > want*11/10 {
			t.Errorf("after one of %s: %s, want about %s", took, have, want)
		}
	}
}
