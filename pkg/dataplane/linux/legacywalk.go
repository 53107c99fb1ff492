package linux

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// legacyWalk finds the chains of an older table that packets to and from the host
// pass. A chain begins behind its head, or where a hook leads into the table, and a
// rule leads to another by the offset of the first rule there.
type legacyWalk struct {
	hooks    map[int]string // where the built-in chains of such packets begin
	policies map[int]bool   // where their policies stand
	chains   []legacyChain
}

type legacyChain struct {
	name    string
	at      int   // of its first rule
	guard   bool  // such packets come here by themselves
	drops   bool  // by its policy
	looks   []int // where rules that look at the state lead to; -1: to no chain
	leadsTo []int // likewise, all rules
}

// Where struct ipt_getinfo has the hooks' offsets, and those of their policies.
const (
	hookEntryAt = legacyNameSize + 4
	underflowAt = hookEntryAt + 4*legacyHooks
	matchName   = 2 // struct xt_entry_match: its size comes first
	matchHeader = 32
	errorTarget = "ERROR"
)

func newLegacyWalk(info []byte) *legacyWalk {
	w := &legacyWalk{hooks: map[int]string{}, policies: map[int]bool{}}
	valid := binary.NativeEndian.Uint32(info[legacyNameSize:])
	for hook, name := range builtIns() { // in the order of the kernel's numbers
		if valid&(1<<hook) == 0 {
			continue
		}
		at := int(binary.NativeEndian.Uint32(info[hookEntryAt+4*hook:]))
		w.hooks[at] = name
		if hook != unix.NF_INET_FORWARD {
			w.policies[int(binary.NativeEndian.Uint32(info[underflowAt+4*hook:]))] = true
		}
	}
	return w
}

// matchesOf are the names of an entry's matches.
func matchesOf(b []byte) (names []string) {
	for len(b) >= matchHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < matchHeader || size > len(b) {
			return names
		}
		names = append(names, cString(b[matchName:matchName+targetNameSize]))
		b = b[size:]
	}
	return names
}

// legacyEntry is a rule, or the head of a chain.
type legacyEntry struct {
	at, next int // offsets: its own, and that of the entry behind it
	matches  []string
	target   string
	data     []byte // of the target
}

// add takes one entry after the other.
func (w *legacyWalk) add(e legacyEntry) {
	if hook, begins := w.hooks[e.at]; begins {
		w.chains = append(w.chains, legacyChain{name: hook, at: e.at, guard: hook != builtIn(ruleset.Forward)})
	}
	switch {
	case e.target == errorTarget && len(e.data) >= errorNameSize:
		w.chains = append(w.chains, legacyChain{name: cString(e.data[:errorNameSize]), at: e.next})
		return
	case len(w.chains) == 0:
		return
	}
	c := &w.chains[len(w.chains)-1]
	to := -1
	if e.target == "" && len(e.data) >= 4 {
		to = int(int32(binary.NativeEndian.Uint32(e.data)))
	}
	c.drops = c.drops || w.policies[e.at] && to == verdictDrop
	c.leadsTo = append(c.leadsTo, to)
	if slices.ContainsFunc(e.matches, stateMatch) {
		c.looks = append(c.looks, to)
	}
}

// stateful gives the clauses.
func (w *legacyWalk) stateful() (clauses []string) {
	at := map[int]*legacyChain{}
	var todo []*legacyChain
	for i := range w.chains {
		c := &w.chains[i]
		if at[c.at] = c; c.guard {
			todo = append(todo, c)
		}
	}
	kube := func(to int) bool { c := at[to]; return c != nil && kubes("", c.name) }
	seen := map[*legacyChain]bool{}
	for ; len(todo) > 0; todo = todo[1:] {
		c := todo[0]
		if seen[c] || kubes("", c.name) {
			continue
		}
		seen[c] = true
		if c.drops {
			clauses = append(clauses, c.name+dropsByPolicy)
		}
		if slices.ContainsFunc(c.looks, func(to int) bool { return !kube(to) }) {
			clauses = append(clauses, c.name+looksAtState)
		}
		for _, to := range c.leadsTo {
			if next := at[to]; next != nil {
				todo = append(todo, next)
			}
		}
	}
	return clauses
}
