package kube

import (
	"errors"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestPace(t *testing.T) {
	nodes := schema.GroupResource{Resource: "nodes"}
	answer := func(code, retryAfter int) error {
		return apierrors.NewGenericServerResponse(code, "get", nodes, "", "", retryAfter, true)
	}
	refused := error(&url.Error{Op: "Get", URL: "https://10.96.0.1", Err: syscall.ECONNREFUSED})
	for name, c := range map[string]struct {
		err         error
		took        time.Duration
		first, last [2]int // of twenty tries: at least, less than, in milliseconds
	}{
		"not reached":          {refused, 0, [2]int{50, 100}, [2]int{750, 1500}},
		"cut at once":          {errAtOnce, 0, [2]int{50, 100}, [2]int{750, 1500}},
		"a timeout":            {refused, 2 * time.Second, [2]int{50, 100}, [2]int{50, 100}},
		"an error of its own":  {answer(http.StatusInternalServerError, 0), 0, [2]int{50, 100}, [2]int{750, 1500}},
		"asks for time":        {answer(http.StatusServiceUnavailable, 5), 0, [2]int{5000, 10000}, [2]int{5000, 10000}},
		"asks for a day":       {answer(http.StatusServiceUnavailable, 86400), 0, [2]int{60000, 120000}, [2]int{60000, 120000}},
		"too busy":             {answer(http.StatusTooManyRequests, 0), 0, [2]int{500, 1000}, [2]int{5000, 10000}},
		"too busy, and asks":   {answer(http.StatusTooManyRequests, 3), 0, [2]int{3000, 6000}, [2]int{3000, 6000}},
		"refuses us":           {answer(http.StatusForbidden, 0), 0, [2]int{50, 100}, [2]int{5000, 10000}},
		"a watch that expired": {apierrors.NewResourceExpired("too old"), time.Minute, [2]int{50, 100}, [2]int{5000, 10000}},
	} {
		for range 20 { // what is at random
			var p pacer
			for i := range 20 {
				want, have := c.last, int(p.next(c.err, c.took)/time.Millisecond)
				switch {
				case i == 0:
					want = c.first
				case i < 10:
					continue
				}
				if have < want[0] || have >= want[1] {
					t.Fatalf("%s: try %d: waits %d ms, want %d to %d", name, i, have, want[0], want[1])
				}
			}
		}
	}
}

// A server that is back may at first refuse what it will allow when it knows
// its own rules.
func TestPaceBeginsAnewWithAnAnswer(t *testing.T) {
	var p pacer
	for range 20 {
		p.next(&url.Error{Op: "Get", Err: errors.New("no route to host")}, 0)
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("not yet"))
	for i := range 3 {
		if d := p.next(forbidden, 0); d >= waitFirst<<i {
			t.Errorf("try %d waits %s", i, d)
		}
	}
}
