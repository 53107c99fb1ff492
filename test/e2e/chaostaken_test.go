package e2e

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// holder is a time in which a daemon told that somebody else's route stands where one of
// its own belongs. A daemon that didn't see it come, as it was restarted meanwhile, leaves
// it alone; until somebody takes it away packets go where it leads.
type holder struct {
	to netip.Prefix
	window
}

// takenEvery is how often the daemons are asked.
const takenEvery = 200 * time.Millisecond

// watchTaken asks a daemon all the time, and gives what it told when it is stopped.
func watchTaken(d *daemon) (stop func() []holder) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var told []holder
	wg.Go(func() {
		asked := time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(takenEvery):
			}
			if s, err := d.status(); err == nil {
				for entry := range s.Conflicts {
					if p, ok := routeIn(entry); ok {
						told = append(told, holder{p, window{asked, time.Now()}})
					}
				}
				asked = time.Now()
			}
		}
	})
	return func() []holder {
		cancel()
		wg.Wait()
		return told
	}
}

// routeIn gives the prefix of an entry such as "route fd00:42:0:7::/64 metric 1024".
func routeIn(entry string) (p netip.Prefix, ok bool) {
	words := strings.Fields(entry)
	if len(words) < 2 || words[0] != "route" {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(words[1])
	return p, err == nil
}

// onTheWay are the times in which the way to an address was held. Pure.
func onTheWay(told []holder, to netip.Addr) (out []window) {
	for _, h := range told {
		if h.to.Contains(to) {
			out = append(out, h.window)
		}
	}
	return out
}

func TestOnTheWay(t *testing.T) {
	at := func(s int64) window { return window{time.Unix(s, 0), time.Unix(s+1, 0)} }
	var told []holder
	entries := []string{"route 10.42.7.0/24", "route fd00:42:0:7::/64 metric 1024", "link flannel.1", "route x"}
	for i, entry := range entries {
		if p, ok := routeIn(entry); ok {
			told = append(told, holder{p, at(int64(i))})
		}
	}
	for to, want := range map[string][]window{"10.42.7.2": {at(0)}, "fd00:42:0:7::2": {at(1)}, "10.42.8.2": nil} {
		if d := cmp.Diff(want, onTheWay(told, netip.MustParseAddr(to)), cmp.AllowUnexported(window{})); d != "" {
			t.Errorf("%s (-want +have):\n%s", to, d)
		}
	}
}
