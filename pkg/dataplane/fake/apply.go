package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"syscall"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/mac"
)

// faults are what a test has planned.
type faults struct {
	next    int // so many ops fail with err
	err     error
	judge   func(dataplane.Op) error
	answer  func(dataplane.Op) error
	ops     int // left until the crash
	crashed chan struct{}
	reads   int // so many Observes fail with readErr
	readErr error
	dump    func() error
}

// FailReads makes the next n calls of Observe fail with err.
func (k *Kernel) FailReads(n int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.reads, k.faults.readErr = n, err
}

// FailDumps asks judge at every Observe from now on; where it gives an error,
// Observe fails with it, as an interrupted dump does. nil ends that.
func (k *Kernel) FailDumps(judge func() error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.dump = judge
}

// LoseAnswers asks judge about every op that succeeded; where it gives an error,
// the op is reported as failed though it had its effect. nil ends that.
func (k *Kernel) LoseAnswers(judge func(dataplane.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.answer = judge
}

// FailNext makes the next n ops fail with err, without effect.
func (k *Kernel) FailNext(n int, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.next, k.faults.err = n, err
}

// FailOps asks judge about every op from now on; where it gives an error, the
// op fails with it, without effect. nil ends that.
func (k *Kernel) FailOps(judge func(dataplane.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.judge = judge
}

// CrashAfter kills the process after n more ops: Apply writes no more and does
// not return before its context ends. The channel is closed when that happens.
// It happens once; the next Apply works.
func (k *Kernel) CrashAfter(n int) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults.ops, k.faults.crashed = n, make(chan struct{})
	return k.faults.crashed
}

// Apply writes op by op.
func (k *Kernel) Apply(ctx context.Context, p dataplane.Plan) []*dataplane.OpError {
	var failed []*dataplane.OpError
	for _, op := range p.Ops {
		err := ctx.Err()
		if err == nil {
			err = k.applyOne(op)
		}
		if errors.Is(err, errCrash) {
			<-ctx.Done()
			return failed
		}
		if err != nil {
			failed = append(failed, &dataplane.OpError{Op: op, Err: err})
		}
	}
	return failed
}

var errCrash = errors.New("killed")

func (k *Kernel) applyOne(op dataplane.Op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.planned(op); err != nil {
		return err
	}
	k.writes++
	k.applying = true
	defer func() { k.applying = false }()
	err := k.carryOut(op)
	if err == nil && k.faults.answer != nil {
		return k.faults.answer(op)
	}
	return err
}

// carryOut is the op's effect. It needs k.mu.
func (k *Kernel) carryOut(op dataplane.Op) error {
	switch key := op.Key.(type) {
	case dataplane.AddrKey:
		return k.applyAddr(op, key)
	case dataplane.FDBKey:
		return k.applyFDB(op, key)
	case dataplane.NeighKey:
		return k.applyNeigh(op, key)
	case dataplane.RouteKey:
		return k.applyRoute(op, key)
	case ruleset.Key:
		return k.applyChain(op, key)
	case ruleset.Elem:
		if delete(k.elems, key); op.Verb != dataplane.Delete {
			k.elems[key] = struct{}{}
		}
		return nil
	case string:
		if op.Kind == dataplane.KindLink {
			return k.applyLink(op, key)
		}
		k.asked[key] = true
		return k.setSysctl(key, op.New.(string))
	}
	return fmt.Errorf("no such kind of entry: %s", op.Kind)
}

// planned needs k.mu.
func (k *Kernel) planned(op dataplane.Op) error {
	f := &k.faults
	if f.crashed != nil {
		if f.ops == 0 {
			close(f.crashed)
			f.crashed = nil
			return errCrash
		}
		f.ops--
	}
	if f.next > 0 {
		f.next--
		k.writes++
		return f.err
	}
	if f.judge != nil {
		if err := f.judge(op); err != nil {
			k.writes++
			return err
		}
	}
	return nil
}

func (k *Kernel) applyLink(op dataplane.Op, name string) error {
	i := k.ifaces[name]
	if op.Verb != dataplane.Create {
		old := op.Old.(dataplane.Link)
		if old.Actual != "" {
			i = k.ifaces[old.Actual]
		}
		if i == nil || i.vxlan == nil || !sameIdentity(*i.vxlan, old) {
			return unlessDelete(op, syscall.ENODEV) // not what we saw
		}
		if op.Verb == dataplane.Delete {
			maps.DeleteFunc(k.stood, func(_ dataplane.RouteKey, link string) bool { return link == name })
			k.deleteLink(i)
			return nil
		}
	}
	l := op.New.(dataplane.Link)
	switch {
	case i == nil:
		return k.addLink(name, l)
	case op.Verb == dataplane.Create && (i.vxlan == nil || !sameIdentity(*i.vxlan, l)):
		return fmt.Errorf("%s: %w", name, dataplane.ErrOccupied)
	}
	if i.name != name {
		if err := k.renameLink(i, name); err != nil {
			return fmt.Errorf("rename %s: %w: %w", i.name, dataplane.ErrOccupied, err)
		}
	}
	i.vxlan.Learning, i.vxlan.Parent = l.Learning, l.Parent
	return k.setLink(i, l)
}

func (k *Kernel) applyAddr(op dataplane.Op, key dataplane.AddrKey) error {
	i := k.named(key.Link)
	if op.Verb == dataplane.Delete {
		return gone(k.deleteAddr(i, key.Prefix))
	}
	if err := k.putAddr(i, key.Prefix); !errors.Is(err, syscall.EEXIST) {
		return err
	}
	return nil
}

func (k *Kernel) applyFDB(op dataplane.Op, key dataplane.FDBKey) error {
	i := k.named(key.Link)
	if op.Verb == dataplane.Delete {
		return gone(k.deleteFDB(i, key.MAC))
	}
	return k.putFDB(i, key.MAC, forward{dst: op.New.(netip.Addr)})
}

func (k *Kernel) applyNeigh(op dataplane.Op, key dataplane.NeighKey) error {
	i := k.named(key.Link)
	if op.Verb == dataplane.Delete {
		return gone(k.deleteNeigh(i, key.IP))
	}
	return k.putNeigh(i, key.IP, op.New.(mac.Addr))
}

// applyRoute creates exclusively, and deletes only what it means: the kernel
// compares the protocol when a deletion names it.
func (k *Kernel) applyRoute(op dataplane.Op, key dataplane.RouteKey) error {
	there, stored := k.routes[canonical(key)]
	if op.Verb == dataplane.Delete {
		delete(k.stood, key)
		if !stored || there.marked == op.Old.(dataplane.Route).Unmarked {
			return nil
		}
		return gone(k.deleteRoute(key))
	}
	r := route{Route: op.New.(dataplane.Route), marked: true}
	if !r.Blackhole {
		i := k.named(r.Link)
		if i == nil {
			return syscall.ENODEV
		}
		r.Link = i.name
	}
	there.Unmarked = !there.marked
	_, there.Usurps = k.stood[key]
	replace := op.Verb == dataplane.Change || stored && (there.marked || there.LeftFor(r.Route))
	err := k.putRoute(key, r, replace)
	if errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("%w: %w", dataplane.ErrOccupied, err)
	}
	return err
}

func (k *Kernel) applyChain(op dataplane.Op, key ruleset.Key) error {
	if op.Verb == dataplane.Delete {
		delete(k.chains, key)
		k.setJump(key, ruleset.Chain{})
		return nil
	}
	if _, there := k.chains[key]; there && !k.ours(key) {
		return dataplane.ErrOccupied
	}
	want := cloneChain(op.New.(ruleset.Chain))
	k.setJump(key, want)
	k.chains[key] = want
	return nil
}

// gone takes the kernel's words for "there is none" as the success of a delete.
func gone(err error) error {
	for _, absent := range []syscall.Errno{syscall.ESRCH, syscall.ENOENT, syscall.ENODEV, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, absent) {
			return nil
		}
	}
	return err
}

func unlessDelete(op dataplane.Op, err error) error {
	if op.Verb == dataplane.Delete {
		return nil
	}
	return err
}
