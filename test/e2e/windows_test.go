package e2e

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// window is a time in which something is so.
type window struct{ from, to time.Time }

func (w window) overlaps(o window) bool { return !w.from.After(o.to) && !o.from.After(w.to) }

func (w window) holds(t time.Time) bool { return !t.Before(w.from) && !t.After(w.to) }

// excused are the times in which packets of a node may be lost: from the moment
// in which something broke its data path until a grace after that is over. Who
// should mend it may be away then, the node's daemon or the store; their return
// counts, too. Pure.
func excused(broken, away []window, grace time.Duration) []window {
	var out []window
	for _, b := range broken {
		w := window{b.from, b.to.Add(grace)}
		for grown := true; grown; {
			grown = false
			for _, a := range away {
				if end := a.to.Add(grace); a.overlaps(w) && end.After(w.to) {
					w.to, grown = end, true
				}
			}
		}
		out = append(out, w)
	}
	return out
}

// inNone are the moments that no window holds. Pure.
func inNone(moments []time.Time, windows []window) (out []time.Time) {
next:
	for _, t := range moments {
		for _, w := range windows {
			if w.holds(t) {
				continue next
			}
		}
		out = append(out, t)
	}
	return out
}

func TestExcused(t *testing.T) {
	begin := time.Unix(0, 0)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	w := func(from, to int) window { return window{at(from), at(to)} }
	for name, c := range map[string]struct {
		broken, away []window
		want         []window
	}{
		"nothing":                             {nil, []window{w(1, 9)}, nil},
		"a moment":                            {[]window{w(5, 5)}, nil, []window{w(5, 7)}},
		"a while":                             {[]window{w(5, 9)}, nil, []window{w(5, 11)}},
		"the daemon was back before":          {[]window{w(5, 5)}, []window{w(1, 4)}, []window{w(5, 7)}},
		"the daemon is away":                  {[]window{w(5, 5)}, []window{w(1, 20)}, []window{w(5, 22)}},
		"the daemon goes before it is mended": {[]window{w(5, 5)}, []window{w(6, 20)}, []window{w(5, 22)}},
		"then the store does":                 {[]window{w(5, 5)}, []window{w(21, 30), w(6, 20)}, []window{w(5, 32)}},
		"two":                                 {[]window{w(5, 5), w(50, 50)}, nil, []window{w(5, 7), w(50, 52)}},
	} {
		t.Run(name, func(t *testing.T) {
			have := excused(c.broken, c.away, 2*time.Second)
			if d := cmp.Diff(c.want, have, cmp.AllowUnexported(window{})); d != "" {
				t.Error(d)
			}
		})
	}
	if have := inNone([]time.Time{at(1), at(5), at(9)}, []window{w(5, 6), w(0, 1)}); !cmp.Equal(have, []time.Time{at(9)}) {
		t.Errorf("moments that nothing excuses: %v", have)
	}
}
