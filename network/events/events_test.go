package events

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAfter(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		added int
		after uint64
		want  []string // seq and text
	}{
		"nothing happened":                  {0, 0, nil},
		"all of it":                         {3, 0, []string{"1 repaired 1", "2 repaired 2", "3 repaired 3"}},
		"what is new":                       {3, 2, []string{"3 repaired 3"}},
		"nothing is new":                    {3, 3, nil},
		"a full ring":                       {4, 0, []string{"1 repaired 1", "2 repaired 2", "3 repaired 3", "4 repaired 4"}},
		"what is gone is counted":           {6, 1, []string{"2 missed 1", "3 repaired 3", "4 repaired 4", "5 repaired 5", "6 repaired 6"}},
		"nothing of what is gone is wanted": {6, 2, []string{"3 repaired 3", "4 repaired 4", "5 repaired 5", "6 repaired 6"}},
		"several times around":              {11, 9, []string{"10 repaired 10", "11 repaired 11"}},
		"a number of another run":           {2, 77, []string{"1 repaired 1", "2 repaired 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(4)
			for i := range c.added {
				r.Add(at, Event{Kind: Repaired, Count: i + 1})
			}
			events, _ := r.After(c.after)
			var have []string
			for _, e := range events {
				if !e.Time.Equal(at) {
					t.Errorf("%s at %s", e, e.Time)
				}
				have = append(have, fmt.Sprint(e.Seq, " ", e))
			}
			if d := cmp.Diff(c.want, have); d != "" {
				t.Errorf("(-want +have):\n%s", d)
			}
		})
	}
}

func TestWhoWaitsIsWoken(t *testing.T) {
	r := New(4)
	_, one := r.After(0)
	_, two := r.After(0)
	r.Add(time.Now())
	select {
	case <-one:
		t.Error("woken for nothing")
	default:
	}
	r.Add(time.Now(), Event{Kind: Ready})
	<-one
	<-two
}

func TestFew(t *testing.T) {
	few := Few{Kind: PeerCame}
	for i := range fewAtOnce {
		few.Note(fmt.Sprint(i), "")
	}
	if have := few.Events(); len(have) != fewAtOnce || have[1].String() != "peer-came 1" {
		t.Errorf("%d events: %v", len(have), have)
	}
	few.Note("a", "")
	few.Note("b", "")
	if have := few.Events(); len(have) != fewAtOnce+1 || have[fewAtOnce].String() != "peer-came 2: more at the same time" {
		t.Errorf("%d events: %v", len(have), have)
	}
}

func TestText(t *testing.T) {
	for want, e := range map[string]Event{
		"ready":                             {Kind: Ready},
		"peer-came 10.42.2.0-24":            {Kind: PeerCame, Subject: "10.42.2.0-24"},
		"not-ready: lease: not yet":         {Kind: NotReady, Detail: "lease: not yet"},
		"repaired 3 route: after 2 ms":      {Kind: Repaired, Count: 3, Subject: "route", Detail: "after 2 ms"},
		"fight route 10.42.2.0/24: by dhcp": {Kind: Fight, Subject: "route 10.42.2.0/24", Detail: "by dhcp"},
	} {
		if have := e.String(); have != want {
			t.Errorf("%q, want %q", have, want)
		}
	}
}
