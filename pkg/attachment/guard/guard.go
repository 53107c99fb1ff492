// Package guard keeps pods from sending as somebody else, in one nftables table
// at the links' ingress, before bridge, routing and connection tracking:
//
//	pod's chain ─▶ bridged: its MAC? ─▶ direct: its address? ─▶ sent4, sent6: no server's or router's word? ─▶ accept
//	            └───────────────────────▶       none, but nothing that needs one? ─────────────────────────▶ accept
//	                                            else ─▶ refused: count, drop
//
// A pod has a chain, which has the name of its link and first of all a rule for
// each of its addresses, and elements of sets; all else is always the same. A packet's way does not grow with the
// number of pods, and packets of others have no way through it at all.
//
// It owns the table. It refuses to decide who is guarded.
package guard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/attachment"
	"github.com/weftnet/weft/pkg/attachment/nft"
)

// Table is the name of the nftables table, in family netdev.
const Table = "weft-guard"

// ErrUnsupported says that this kernel can't: it has no nftables, or none at a
// link's ingress.
var ErrUnsupported = errors.New("this kernel has no nftables at a link's ingress (CONFIG_NF_TABLES_NETDEV)")

// Guard is the table in one network namespace. It is for one goroutine.
type Guard struct{ conn *nftables.Conn }

// Open makes a Guard with a socket in the namespace of the calling thread.
func Open() (*Guard, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, explain("open nftables", err)
	}
	return &Guard{c}, nil
}

// Close closes the socket; after a removal the kernel makes it wait (RCU, some
// 10 ms).
func (g *Guard) Close() { _ = g.conn.CloseLasting() }

// Put guards a link that was not guarded, in the namespace of the calling thread. A
// link that is not there is ENOENT.
func Put(s attachment.Sources) error {
	b, mine := nft.NewBatch(table()), keys(s)
	for _, set := range keySets() {
		b.AddElements(set, elements(mine[set]))
	}
	ch := base(s)
	b.AddDeviceChain(ch)
	for _, r := range rulesOf(ch, entrance(s), own(s)) {
		b.AddRule(r)
	}
	err := b.Commit()
	if !errors.Is(err, unix.ENOENT) {
		return explain("guard "+s.Link, err)
	}
	g, err := Open() // the table is not there, or the link
	if err != nil {
		return err
	}
	defer g.Close()
	return g.Renew(s)
}

// Renew writes all anew that the link needs, shared chains too, in one
// transaction.
func (g *Guard) Renew(s attachment.Sources) error {
	queueShared(g.conn)
	ch := g.conn.AddChain(base(s))
	g.conn.FlushChain(ch)
	queueOwn(g.conn, s)
	return explain("guard "+s.Link, g.conn.Flush())
}

// Remove takes a link's guard away. What is not there is no error.
func (g *Guard) Remove(s attachment.Sources) error {
	g.conn.DelChain(&nftables.Chain{Name: s.Link, Table: table()})
	all, mine := sets(), keys(s)
	for set, k := range mine {
		if err := g.conn.SetDeleteElements(all[set], elements(k)); err != nil {
			return err
		}
	}
	err := g.conn.Flush()
	if errors.Is(err, unix.ENOENT) { // a part: one by one
		err = g.removeParts(s.Link, mine)
	}
	return explain("remove the guard of "+s.Link, unlessAbsent(err))
}

// RemoveLink does so where nothing tells what the link was held to.
func (g *Guard) RemoveLink(link string) error {
	err := g.removeParts(link, nil)
	for _, set := range keySets() {
		have, errSet := read(set)
		have = slices.DeleteFunc(have, func(key []byte) bool { return nameIn(key) != link })
		err = errors.Join(err, errSet, g.removeElements(set, have))
	}
	return explain("remove the guard of "+link, err)
}

func (g *Guard) removeParts(link string, keys map[string][][]byte) error {
	g.conn.DelChain(&nftables.Chain{Name: link, Table: table()})
	err := unlessAbsent(g.conn.Flush())
	for set, k := range keys {
		err = errors.Join(err, g.removeElements(set, k))
	}
	return err
}

func (g *Guard) removeElements(set string, keys [][]byte) error {
	for _, k := range keys {
		if err := g.conn.SetDeleteElements(sets()[set], elements([][]byte{k})); err != nil {
			return err
		}
		if err := unlessAbsent(g.conn.Flush()); err != nil {
			return err
		}
	}
	return nil
}

func unlessAbsent(err error) error {
	if nft.Absent(err) {
		return nil
	}
	return err
}

// Clear takes the table away, in the namespace of the calling thread; with dry
// nothing. there tells whether it was there.
func Clear(dry bool) (there bool, err error) {
	there, err = nft.Drop(table(), dry)
	return there, explain("remove table "+Table, err)
}

// State is what is held to what.
type State struct {
	whole bool              // the shared chains are as they were written
	gates map[string]string // link → where its chain leads
	keys  map[string]bool   // of all sets
}

// Read reads it, in the namespace of the calling thread.
func Read() (State, error) {
	s := State{gates: map[string]string{}, keys: map[string]bool{}}
	rules, err := nft.Rules(table())
	if err != nil {
		return s, unlessAbsent(err)
	}
	chains := nft.Comments(rules)
	s.whole = true
	for _, ch := range shared() {
		s.whole = s.whole && len(chains[ch.name]) == len(ch.rules) && nft.Of(chains[ch.name]) == form
		delete(chains, ch.name)
	}
	for name, all := range chains {
		s.gates[name] = nft.Of(all)
	}
	for _, set := range keySets() {
		have, err := read(set)
		if err != nil {
			return s, explain("list set "+set+" of table "+Table, err)
		}
		for _, k := range have {
			s.keys[set+string(k)] = true
		}
	}
	return s, nil
}

// Holds tells whether a pod's link is held to its sources, and may send as them.
func (s State) Holds(want attachment.Sources) bool {
	for set, all := range keys(want) {
		for _, k := range all {
			if !s.keys[set+string(k)] {
				return false
			}
		}
	}
	return s.whole && s.gates[want.Link] == entrance(want)
}

// Links are those that are held, and those of which a part is left.
func (s State) Links() []string {
	links := maps.Clone(s.gates)
	for k := range s.keys {
		links[nameIn([]byte(k[len(setMAC):]))] = "" // their names are as long
	}
	return slices.Sorted(maps.Keys(links))
}

// read gives the keys of a set. No table is none.
func read(set string) (keys [][]byte, err error) {
	have, err := nft.Elements(sets()[set])
	for _, e := range have {
		keys = append(keys, e.Key)
	}
	return keys, unlessAbsent(err)
}

// nameIn is the link's name in a key.
func nameIn(key []byte) string {
	name, _, _ := strings.Cut(string(key), "\x00")
	return name
}

func explain(tried string, err error) error {
	if err == nil {
		return nil
	}
	if nft.Lacking(err) {
		return fmt.Errorf("%s: %w", tried, ErrUnsupported)
	}
	return fmt.Errorf("%s: %w", tried, err)
}
