package network

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"github.com/weftnet/weft/network/events"
	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/mend"
)

// PodKernel is the host's side of pods' attachments. One goroutine calls Observe
// and Apply; Watch runs beside it.
type PodKernel interface {
	// Observe reads the named links and routes.
	Observe(ctx context.Context, names mend.Names) (mend.Host, error)
	// Apply writes the steps in order, and gives an error for each that failed.
	// What is done already, or whose link has gone, is a success.
	Apply(ctx context.Context, steps []mend.Step) []error
	// Watch tells when something changed that the last Observe read, and once
	// when it listens. It blocks until ctx ends, and returns ctx.Err() or why it
	// can't go on; telling never blocks.
	Watch(ctx context.Context, changed chan<- struct{}) error
}

const (
	podSettle = 2 * time.Millisecond // more of the same burst may come
	podAudit  = time.Minute
	// podBurst rounds that mend something may follow each other at once, and
	// one each podPace from then on.
	podBurst = 64
	podPace  = 200 * time.Millisecond
	// attachmentKind is that of weftctl status.
	attachmentKind = "attachment"
)

// podMender is the loop over pods' attachments. Records are read when the
// directory tells of a change, the kernel when it does.
type podMender struct {
	kernel PodKernel
	dir    attachment.Dir
	log    logrus.FieldLogger
	mended func(steps int)

	records []attachment.Attachment
	said    map[string]bool // warnings, each once for as long as it holds
	holds   map[string]bool // those of this round
	full    time.Time       // when podBurst rounds will be in hand again
}

// mendPods keeps pods' attachments as the CNI plugin made them, until ctx ends.
func (n *Node) mendPods(ctx context.Context) error {
	m := &podMender{
		kernel: n.opts.Pods, dir: n.opts.Attachments, log: n.opts.Log,
		mended: func(steps int) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.ledger.drift.mend(attachmentKind, steps)
			n.events.Add(time.Now(), events.Event{Kind: events.Repaired, Subject: attachmentKind, Count: steps})
		},
	}
	return m.run(ctx)
}

func (m *podMender) run(ctx context.Context) error {
	kernel, files := make(chan struct{}, 1), make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	again := func(what string, watch func(context.Context, chan<- struct{}) error, to chan<- struct{}) func() error {
		return func() error {
			for attempt := 0; ; attempt++ {
				began := time.Now()
				err := watch(ctx, to)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if attempt == 0 {
					m.log.WithError(err).Warn("watching " + what + " ended; trying again")
				}
				if time.Since(began) > time.Minute {
					attempt = 0
				}
				if !sleep(ctx, backoff(attempt)) {
					return ctx.Err()
				}
			}
		}
	}
	g.Go(again("pods' links", m.kernel.Watch, kernel))
	g.Go(again("the records of pods' attachments", m.dir.Watch, files))
	g.Go(func() error { return m.work(ctx, kernel, files) })
	return g.Wait()
}

func (m *podMender) work(ctx context.Context, kernel, files <-chan struct{}) error {
	timer := time.NewTimer(podAudit)
	defer timer.Stop()
	stale := true
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			stale = true
		case <-files:
			stale = true
		case <-kernel:
		}
		if !sleep(ctx, max(podSettle, m.wait(time.Now()))) {
			return ctx.Err()
		}
		if stale {
			stale = !m.load()
		}
		left, err := m.round(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next := podAudit
		if failures++; err == nil && left == 0 {
			failures = 0
		} else {
			next = backoff(failures - 1)
		}
		m.settled(err)
		timer.Reset(next)
	}
}

// load reads the records anew, as far as they can be read.
func (m *podMender) load() (ok bool) {
	records, err := m.dir.Load()
	if err != nil {
		m.once(err.Error())
	}
	m.records = records
	return err == nil
}

// round mends what is not as it was, and gives how many steps were of no avail.
// What the CNI plugin is at work on is left to it.
func (m *podMender) round(ctx context.Context) (left int, err error) {
	steps, err := m.plan(ctx, m.finished())
	if err != nil || len(steps) == 0 {
		return 0, err
	}
	held, release := m.hold()
	defer release()
	if steps, err = m.plan(ctx, held); err != nil || len(steps) == 0 {
		return 0, err
	}
	failed := m.kernel.Apply(ctx, steps)
	release()
	m.took(time.Now())
	m.mended(len(steps) - len(failed))
	if mended := len(steps) - len(failed); mended > 0 {
		text := make([]string, 0, maxLogged)
		for _, s := range steps[:min(len(steps), maxLogged)] {
			text = append(text, s.String())
		}
		m.log.WithFields(logrus.Fields{"steps": mended, "first": text}).Info("pods' attachments mended")
	}
	for _, err := range failed {
		m.once(err.Error())
	}
	after, err := m.plan(ctx, m.finished())
	return len(after), err
}

// finished are records that nobody is at work on. They are asked for before the links
// are read, so that what is half done is never seen. The directory tells when it is done.
func (m *podMender) finished() []attachment.Attachment {
	return slices.DeleteFunc(slices.Clone(m.records), func(r attachment.Attachment) bool { return m.dir.Busy(r.Key) })
}

// hold gives those of them that are still there, and nobody takes away what they are of
// until release: a guard that were written after its pod's link had gone would stay.
func (m *podMender) hold() (held []attachment.Attachment, release func()) {
	var all []func()
	for i, r := range m.records {
		now, done, ok := m.dir.Hold(r.Key)
		if ok {
			m.records[i] = now
			held, all = append(held, now), append(all, done)
		}
	}
	return held, sync.OnceFunc(func() {
		for _, done := range all {
			done()
		}
	})
}

func (m *podMender) plan(ctx context.Context, finished []attachment.Attachment) ([]mend.Step, error) {
	if len(m.records) == 0 {
		return nil, nil
	}
	host, err := m.kernel.Observe(ctx, mend.Needs(m.records))
	if err != nil {
		return nil, fmt.Errorf("read pods' links: %w", err)
	}
	steps, conflicts := mend.Plan(finished, host)
	for _, c := range conflicts {
		m.once(c)
	}
	return steps, nil
}

func (m *podMender) once(problem string) {
	if !m.said[problem] && !m.holds[problem] {
		m.log.WithField("problem", problem).Warn("a pod's attachment can't be mended; it is left alone")
	}
	if m.holds == nil {
		m.holds = map[string]bool{}
	}
	m.holds[problem] = true
}

// settled ends a round. What no longer holds is said again when it comes back; a
// round that failed has not seen all that does.
func (m *podMender) settled(err error) {
	if err != nil {
		m.once(err.Error())
		maps.Copy(m.holds, m.said)
	}
	m.said, m.holds = m.holds, nil
}

// took counts a round that mended something, and wait says how long the next
// has to, so that a fight with somebody doesn't keep a processor busy.
func (m *podMender) took(now time.Time) {
	if m.full.Before(now) {
		m.full = now
	}
	m.full = m.full.Add(podPace)
}

func (m *podMender) wait(now time.Time) time.Duration {
	return max(0, m.full.Add(-podBurst*podPace).Sub(now))
}
