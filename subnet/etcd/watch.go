package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/subnet"
)

// errStale ends a watch whose view must be read anew: history was compacted
// away, or the store is another one.
var errStale = errors.New("the watch can't go on from where it was")

// errEnded is for a watch that ends without a reason.
var errEnded = errors.New("the watch ended")

// Watch implements subnet.Store: one read of the prefix (in pages, if it is
// large), one watch from there.
//
//	     ┌──────────── compacted, restored, emptied ────────────┐
//	     ▼                                                      │
//	read all ──→ send ──→ watch from revision+1 ──→ send … ─────┤
//	                              ▲                             │
//	                              └── no leader, stream lost ───┘
//
// Until the first snapshot, an error that waiting can't mend (a wrong
// password) ends it; from then on nothing does but ctx: what works goes on.
func (s *Store) Watch(ctx context.Context, to chan<- subnet.Snapshot) error {
	w := &watching{s: s, v: s.newView(), to: to, out: outage{log: s.log, tell: s.onOutage}, stale: true}
	defer s.follow(w.v, nil)
	for ; ; w.tries++ {
		err := w.round(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errClosed) || !w.begun && hopeless(err) {
			return fmt.Errorf("watch %s in etcd at %s: %w", s.opts.Prefix, s.endpoints(), err)
		}
		if errors.Is(err, errStale) {
			w.stale = true
			s.follow(w.v, nil)
		} else {
			w.out.begin(err)
		}
		if err := pause(ctx, w.tries, waitFirst); err != nil {
			return err
		}
	}
}

// watching is one call of Watch.
type watching struct {
	s     *Store
	v     *view
	to    chan<- subnet.Snapshot
	out   outage
	tries int  // in a row that came to nothing
	stale bool // the view must be read anew
	begun bool // it was read once
	dirty bool // it holds what was not sent yet
}

// round reads everything if the view is stale, else checks that the store is
// still the one of the view; then it follows the changes until that breaks.
func (w *watching) round(ctx context.Context) error {
	cli, err := w.s.dial(ctx)
	if err != nil {
		return err
	}
	if w.stale {
		v, err := w.s.readAll(ctx, cli)
		if err != nil {
			return err
		}
		w.s.follow(w.v, v)
		w.v, w.stale, w.begun, w.dirty = v, false, true, true
	} else if err := w.check(ctx, cli); err != nil {
		return err
	}
	w.out.end()
	return w.follow(ctx, cli)
}

// pageSize is how many keys one answer holds at most. A cluster of thousands is
// still one request; what is larger never stands in memory as a whole beside what
// is made of it.
const pageSize = 5000

// readAll gives what stands under the prefix at one revision.
func (s *Store) readAll(ctx context.Context, cli *clientv3.Client) (*view, error) {
	v := s.newView()
	opts := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.rootKey())), clientv3.WithLimit(pageSize)}
	var first *clientv3.GetResponse
	for from := s.rootKey(); ; {
		var page *clientv3.GetResponse
		err := attempt(ctx, func(ctx context.Context) (err error) {
			page, err = cli.Get(ctx, from, opts...)
			return err
		})
		if err != nil {
			return nil, err
		}
		v.load(page.Kvs)
		if first == nil {
			first = page
			opts = append(opts, clientv3.WithRev(page.Header.Revision))
		}
		if !page.More || len(page.Kvs) == 0 {
			v.complete(first.Header)
			return v, nil
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
}

// check asks which store this is and where it stands. A watch that was
// resumed on a store that went back in time would wait, silent, for a
// revision that lies in a future which never comes.
func (w *watching) check(ctx context.Context, cli *clientv3.Client) error {
	return attempt(ctx, func(ctx context.Context) error {
		resp, err := cli.Get(ctx, w.s.configKey(), clientv3.WithCountOnly())
		if err != nil {
			return err
		}
		if w.v.regressed(resp.Header) {
			return errStale
		}
		w.s.viewing.Lock()
		defer w.s.viewing.Unlock()
		w.v.term = resp.Header.RaftTerm
		return nil
	})
}

func (w *watching) snapshot() subnet.Snapshot {
	w.s.viewing.Lock()
	defer w.s.viewing.Unlock()
	return w.v.snapshot()
}

// follow watches from behind the view's revision on, and sends what is new.
func (w *watching) follow(ctx context.Context, cli *clientv3.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	str := newStreams()
	events, stop := watch(ctx, cli, str, w.s.rootKey(),
		clientv3.WithPrefix(), clientv3.WithRev(w.v.revision+1), clientv3.WithProgressNotify())
	defer stop()
	var (
		next subnet.Snapshot
		to   chan<- subnet.Snapshot // nil while there is nothing to send
		made = false                // next is what the view holds
	)
	for {
		if w.dirty && !made {
			next, to, made = w.snapshot(), w.to, true
		}
		select {
		case to <- next:
			next, to, made, w.dirty = subnet.Snapshot{}, nil, false, false
		case resp, open := <-events:
			if !open {
				return errEnded
			}
			changed, err := w.takeAll(resp, events)
			if changed {
				w.dirty, made = true, false
			}
			if err != nil {
				return err
			}
		case <-str.changed:
			if err := w.streamChanged(ctx, cli, str); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch begins a watch with a watcher, and so with streams, of its own: the
// notices that str gets are about this watch. stop ends it.
func watch(ctx context.Context, cli *clientv3.Client, str *streams, key string,
	opts ...clientv3.OpOption) (events clientv3.WatchChan, stop func()) {
	watcher := clientv3.NewWatcher(cli)
	ctx = clientv3.WithRequireLeader(context.WithValue(ctx, streamsKey{}, str))
	return watcher.Watch(ctx, key, append(opts, clientv3.WithCreatedNotify())...), func() { _ = watcher.Close() }
}

// streamChanged looks at what the client did behind our back: after it has
// resumed the watch on a new stream, the store may be another one.
func (w *watching) streamChanged(ctx context.Context, cli *clientv3.Client, str *streams) error {
	if str.resumed() {
		if err := w.check(ctx, cli); err != nil {
			return err
		}
		w.out.end()
	} else if err := str.lost(); err != nil {
		w.out.begin(err)
	}
	return nil
}

// takeAll takes a response and all that wait behind it, for one snapshot.
func (w *watching) takeAll(resp clientv3.WatchResponse, events clientv3.WatchChan) (bool, error) {
	changed := false
	for {
		also, err := w.take(resp)
		changed = changed || also
		if err != nil {
			return changed, err
		}
		var open bool
		select {
		case resp, open = <-events:
			if !open {
				return changed, errEnded
			}
		default:
			return changed, nil
		}
	}
}

func (w *watching) take(resp clientv3.WatchResponse) (changed bool, err error) {
	if err := resp.Err(); err != nil {
		if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
			return false, errStale
		}
		return false, err
	}
	w.tries = 0
	w.s.viewing.Lock()
	defer w.s.viewing.Unlock()
	for _, e := range resp.Events {
		changed = w.v.apply(e) || changed
	}
	if resp.IsProgressNotify() {
		w.v.revision = max(w.v.revision, resp.Header.Revision)
	}
	return changed, nil
}
