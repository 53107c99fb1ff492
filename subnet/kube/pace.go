package kube

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	waitFirst = 100 * time.Millisecond
	// waitGone is the longest between two tries while the server can't be
	// reached or isn't well. It costs it nothing then, and whoever waits longer
	// follows it late when it is back.
	waitGone = 1500 * time.Millisecond
	// waitLongest is it while the server is well, and refuses us.
	waitLongest = 10 * time.Second
	waitBusy    = time.Second // at least about, when the server has too much to do
	waitAsked   = time.Minute // the longest that a server may ask us to wait
	// spreadOne is by how much one more Node lengthens the time in which the
	// nodes of a cluster read all Nodes anew, which is what costs a server.
	spreadOne = 200 * time.Microsecond
)

// pacer says how long to wait before a request is tried again.
type pacer struct {
	tries  int // in a row that came to nothing in the same way
	unwell bool
}

// next is how long to wait after a try that took so long. It is at random, so
// that the nodes of a cluster don't come as one.
func (p *pacer) next(err error, took time.Duration) time.Duration {
	if bad := unwell(err); bad != p.unwell {
		p.tries, p.unwell = 0, bad // a server that is back may be worth more tries
	}
	longest := waitLongest
	if p.unwell {
		longest = waitGone
	}
	d := min(waitFirst<<min(p.tries, 16), longest)
	p.tries++
	if seconds, asked := apierrors.SuggestsClientDelay(err); asked {
		d = max(waitBusy, min(time.Duration(seconds)*time.Second, waitAsked))
		return d + rand.N(d) // never sooner than asked
	}
	if apierrors.IsTooManyRequests(err) {
		d = max(d, waitBusy)
	}
	d = d/2 + rand.N(d/2)
	if p.unwell {
		d = max(d-took, waitFirst/2+rand.N(waitFirst/2)) // a timeout was a wait already
	}
	return d
}

// unwell is a server that wasn't reached, or that fails.
func unwell(err error) bool {
	return errors.Is(err, errAtOnce) || passes(err) && !apierrors.IsTooManyRequests(err)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
