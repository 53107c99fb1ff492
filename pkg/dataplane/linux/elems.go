package linux

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

const (
	// maxTransaction is how many elements are written in one transaction: the kernel
	// takes it in one piece, and an element has up to 44 bytes.
	maxTransaction = 40_000
	// elemQueue holds such a piece.
	elemQueue = 4 << 20
)

// setSocket gives the nfnetlink socket for sets, opening it where needed.
func (k *Kernel) setSocket() (*conn, error) {
	if k.elems != nil {
		return k.elems, nil
	}
	c := &conn{answers: make([]byte, receiveBuffer)}
	if err := k.ns.do(func() error { return c.open(unix.NETLINK_NETFILTER, k.answerBytes) }); err != nil {
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", facility(err))
	}
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, elemQueue)
	k.elems = c
	k.memory.addPort(c.port)
	return c, nil
}

func (k *Kernel) closeElems() {
	if k.elems != nil {
		k.memory.dropPort(k.elems.port)
		_ = unix.Close(k.elems.fd)
		k.elems = nil
	}
}

// askSets sends what encode makes, and reads answers until take says that it has the last.
func (k *Kernel) askSets(encode func(*encoder), take func(i int, m message) (last bool)) error {
	c, err := k.setSocket()
	if err != nil {
		return err
	}
	c.request.reset()
	encode(&c.request)
	if err = c.exchange(&c.request, take); err != nil {
		k.closeElems()
	}
	if cap(c.request.buf) > receiveBuffer { // a start's; nothing later is as large
		c.request.buf = nil
	}
	return err
}

// transact writes all or nothing. The last message is acknowledged; the first
// answers for what is wrong with the whole.
func (k *Kernel) transact(encode func(*encoder)) error {
	var failed error
	last := 0
	err := k.askSets(func(e *encoder) {
		e.edge(unix.NFNL_MSG_BATCH_BEGIN)
		encode(e)
		flags := binary.NativeEndian.Uint16(e.buf[e.start+6:])
		binary.NativeEndian.PutUint16(e.buf[e.start+6:], flags|unix.NLM_F_ACK)
		last = len(e.types) - 1
		e.edge(unix.NFNL_MSG_BATCH_END)
	}, func(i int, m message) bool {
		if m.typ != unix.NLMSG_ERROR {
			return false
		}
		failure := m.failure()
		failed = cmp.Or(failed, failure)
		return i == last || i == 0 && failure != nil
	})
	return cmp.Or(err, failed)
}

// applyElems writes ops that follow each other in a plan: together, or where that
// fails set by set, so that one that can't be written does not stop the others.
func (k *Kernel) applyElems(ops []dataplane.Op, fail func(dataplane.Op, error)) {
	for part := range slices.Chunk(ops, maxTransaction) {
		if k.writeElems(part) == nil {
			continue
		}
		own := map[ruleset.Set][]dataplane.Op{}
		for _, op := range part {
			el, _ := op.Key.(ruleset.Elem)
			own[el.Set] = append(own[el.Set], op)
		}
		for set, ops := range own {
			err := facility(k.writeElems(ops))
			if errors.Is(err, unix.EEXIST) {
				err = fmt.Errorf("%w: there is a set of another kind; delete it (nft delete set %s)", err, set)
			}
			for _, op := range ops {
				fail(op, err)
			}
		}
	}
}

func (k *Kernel) writeElems(ops []dataplane.Op) (err error) {
	puts, deletes := bySet(ops)
	k.elemsSeen = max(k.elemsSeen, len(ops)) // to be read back
	k.memory.wroteElems()
	for range transactions {
		err = k.transact(func(e *encoder) {
			e.makeSets(puts)
			for _, g := range puts {
				e.each(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, g.elems)
			}
			for _, g := range deletes {
				e.each(unix.NFT_MSG_DELSETELEM, 0, g.elems)
			}
		})
		if !errors.Is(err, unix.ENOENT) || len(deletes) == 0 {
			break
		}
		// The kernel deletes nothing where one of many is gone already.
		if deletes, err = k.still(deletes); err != nil || len(puts)+len(deletes) == 0 {
			break
		}
	}
	if err != nil {
		return err
	}
	return k.dropEmpty(deletes)
}

// ofSet are elements of one set.
type ofSet struct {
	set   ruleset.Set
	elems []ruleset.Elem
}

// bySet puts ops in order: what is put, and what is deleted, for each set.
func bySet(ops []dataplane.Op) (puts, deletes []ofSet) {
	for i, op := range ops {
		el, _ := op.Key.(ruleset.Elem)
		to := &puts
		if op.Verb == dataplane.Delete {
			to = &deletes
		}
		at := slices.IndexFunc(*to, func(g ofSet) bool { return g.set == el.Set })
		if at < 0 {
			at = len(*to)
			*to = append(*to, ofSet{el.Set, make([]ruleset.Elem, 0, (len(ops)-i+1)/2)}) // nearly always two sets
		}
		(*to)[at].elems = append((*to)[at].elems, el)
	}
	return puts, deletes
}

// makeSets sees to it that sets and their tables are there.
func (e *encoder) makeSets(groups []ofSet) {
	for _, g := range groups {
		e.table(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, g.set)
		e.set(g.set)
	}
}

func (e *encoder) each(kind, flags int, elems []ruleset.Elem) {
	for part := range slices.Chunk(elems, maxElems) {
		e.elements(kind, flags, part)
	}
}

// still is what of the elements is there.
func (k *Kernel) still(groups []ofSet) ([]ofSet, error) {
	var out []ofSet
	for _, g := range groups {
		there := map[ruleset.Elem]struct{}{}
		if err := k.dumpElems(g.set, there); err != nil {
			return nil, err
		}
		g.elems = slices.DeleteFunc(slices.Clone(g.elems), func(el ruleset.Elem) bool {
			_, is := there[el]
			return !is
		})
		if len(g.elems) > 0 {
			out = append(out, g)
		}
	}
	return out, nil
}

// dropEmpty takes away sets that nothing is in and no rule speaks of, and then the
// table if it is empty: the kernel refuses the others.
func (k *Kernel) dropEmpty(groups []ofSet) error {
	for _, g := range groups {
		for _, drop := range []func(*encoder){
			func(e *encoder) { e.deleteSet(g.set) },
			func(e *encoder) { e.table(unix.NFT_MSG_DELTABLE, unix.NLM_F_NONREC, g.set) },
		} {
			err := k.transact(drop)
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// dropEmptySets does that for all sets of a table that are ours: rules that have gone
// looked into them, and there may be no element that goes as well.
func (k *Kernel) dropEmptySets(of ruleset.Set) error {
	sets, err := k.sets(of)
	if err != nil {
		return err
	}
	var groups []ofSet
	for _, s := range sets {
		groups = append(groups, ofSet{set: s})
	}
	return k.dropEmpty(groups)
}

// elements reads elements of sets in our tables.
func (o *observation) elements() (err error) {
	if o.scope.All {
		err = o.allElems()
	} else {
		err = o.someElems()
	}
	if lacking(err) {
		return nil // there are none; who wants one will hear of it
	}
	return err
}

func (o *observation) allElems() error {
	if !o.k.marking.only {
		grow(&o.out.Have.Elems, o.k.elemsSeen)
	}
	for _, table := range o.scope.Domain.Tables {
		for _, ipv6 := range []bool{false, true} {
			sets, err := o.k.sets(ruleset.Set{IPv6: ipv6, Table: table})
			if err != nil {
				return err
			}
			for _, s := range sets {
				if err := o.k.dumpElems(s, o.out.Have.Elems); err != nil {
					return err
				}
			}
		}
	}
	if !o.k.marking.only {
		o.k.elemsSeen = len(o.out.Have.Elems)
	}
	return nil
}

func (o *observation) someElems() error {
	if len(o.scope.Keys.Elems) == 0 {
		return nil
	}
	if len(o.scope.Keys.Elems) <= fewKeys {
		return o.k.getElems(slices.Collect(maps.Keys(o.scope.Keys.Elems)), o.putElem)
	}
	sets := map[ruleset.Set]bool{}
	for el := range o.scope.Keys.Elems {
		sets[el.Set] = true
	}
	there := map[ruleset.Elem]struct{}{}
	for s := range sets {
		if err := o.k.dumpElems(s, there); err != nil {
			return err
		}
	}
	for el := range o.scope.Keys.Elems {
		if _, is := there[el]; is {
			o.putElem(el)
		}
	}
	return nil
}

func (o *observation) putElem(el ruleset.Elem) { o.out.Have.Elems[el] = struct{}{} }

// sets lists those of a table that are ours.
func (k *Kernel) sets(of ruleset.Set) (out []ruleset.Set, err error) {
	err = k.dumpSets(func(e *encoder) {
		e.beginNft(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, of.IPv6)
		e.textAttr(setTable, of.Table)
		e.end()
		out = out[:0]
	}, func(m message) {
		if s, ok := parseSet(m.data); ok && s.Table == of.Table {
			out = append(out, s)
		}
	})
	return out, err
}

// rehashPause is how long a set is left to itself when it changes under a dump.
const rehashPause = time.Millisecond

// dumpElems adds what is in a set, which none of those in to is in. While the kernel
// makes a set's hash table larger or smaller, which it does beside all else after many
// elements came or went, a dump of more than one message may lack some, with no word of
// it; then it has as many others twice (nft_rhash_walk), and is read again.
func (k *Kernel) dumpElems(s ruleset.Set, to map[ruleset.Elem]struct{}) error {
	others, before := len(to), k.marking
	for attempt := 1; ; attempt++ {
		n := 0 // those that come twice count twice
		err := k.dumpSets(func(e *encoder) {
			e.beginNft(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, s.IPv6)
			e.textAttr(unix.NFTA_SET_ELEM_LIST_TABLE, s.Table)
			e.textAttr(unix.NFTA_SET_ELEM_LIST_SET, s.Name())
			e.end()
			k.marking, n = before, 0
			if len(to) > others { // what an earlier attempt read
				maps.DeleteFunc(to, func(el ruleset.Elem, _ struct{}) bool { return el.Set == s })
			}
		}, func(m message) {
			parseElems(m.data, func(el ruleset.Elem) {
				if k.marking.addElem(el); !k.marking.only {
					to[el] = struct{}{}
					n++
				}
			})
		})
		if err != nil || len(to)-others == n || attempt == dumpAttempts {
			return err // what is lacking then is seen by the next look
		}
		<-time.After(rehashPause)
	}
}

// dumpSets reads a list until nobody disturbs it. What is not there has nothing in it.
func (k *Kernel) dumpSets(encode func(*encoder), visit func(message)) error {
	for range dumpAttempts {
		var failed error
		disturbed := false
		err := k.askSets(encode, func(_ int, m message) bool {
			disturbed = disturbed || m.flags&unix.NLM_F_DUMP_INTR != 0
			if m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE {
				failed = m.failure()
				return true
			}
			visit(m)
			return false
		})
		if failed = ignoreGone(failed); err != nil || failed != nil {
			return fmt.Errorf("list nftables sets: %w", cmp.Or(err, failed))
		}
		if !disturbed {
			return nil
		}
	}
	return errDisturbed
}

// getElems asks for one element after another, many in one go.
func (k *Kernel) getElems(keys []ruleset.Elem, visit func(ruleset.Elem)) error {
	for some := range slices.Chunk(keys, getBatch) {
		var failed error
		err := k.askSets(func(e *encoder) {
			for i := range some {
				e.elements(unix.NFT_MSG_GETSETELEM, 0, some[i:i+1])
			}
		}, func(i int, m message) bool {
			if m.typ == unix.NLMSG_ERROR {
				failed = cmp.Or(failed, ignoreGone(m.failure()))
			} else {
				parseElems(m.data, visit)
			}
			return i == len(some)-1
		})
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
	}
	return nil
}
