package fake

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// builtInRule is a rule of one of iptables' built-in chains: it sends all
// packets to a chain, or is somebody else's.
type builtInRule struct {
	to      ruleset.Key // zero: it accepts
	comment string
}

// SetFirewall is what Facts say from now on of iptables on this host. Nobody is
// told.
func (k *Kernel) SetFirewall(f ruleset.Facts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.host = f
}

// ours are chains in tables of that name, and in iptables those of that name, or
// of another if they are about our networks.
func (k *Kernel) ours(key ruleset.Key) bool {
	if key.Engine == ruleset.NFTables {
		return slices.Contains(k.domain.Tables, key.Table)
	}
	return slices.Contains(k.domain.Chains, key) ||
		slices.Contains(k.domain.Leftovers, key) && k.chains[key].SpeaksOf(k.domain.Networks)
}

func builtInKey(of ruleset.Key, h ruleset.Hook) ruleset.Key {
	of.Chain = strings.ToUpper(string(h))
	return of
}

func isBuiltIn(key ruleset.Key) bool {
	names := []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	return key.Engine != ruleset.NFTables && slices.Contains(names, key.Chain)
}

// jumped says how packets come to a chain of iptables: by exactly one jump, or
// not as they should.
func (k *Kernel) jumped(key ruleset.Key, c ruleset.Chain) ruleset.Chain {
	if key.Engine == ruleset.NFTables {
		return c
	}
	jumps := 0
	for from, rules := range k.builtIn {
		for _, r := range rules {
			if r.to == key {
				jumps++
				c.Hook, c.Jump = ruleset.Hook(strings.ToLower(from.Chain)), r.comment
			}
		}
	}
	if jumps != 1 {
		c.Hook, c.Jump = "", ""
	}
	return c
}

// setJump makes the wanted jump the only one; one that is right stays in its
// place. Without a hook none is wanted.
func (k *Kernel) setJump(key ruleset.Key, want ruleset.Chain) {
	if key.Engine == ruleset.NFTables {
		return
	}
	at, right := builtInKey(key, want.Hook), builtInRule{key, want.Jump}
	missing := want.Hook != ""
	for from, rules := range k.builtIn {
		k.builtIn[from] = slices.DeleteFunc(slices.Clone(rules), func(r builtInRule) bool {
			if missing && from == at && r == right {
				missing = false
				return false
			}
			return r.to == key
		})
	}
	if missing {
		k.builtIn[at] = append(k.builtIn[at], right)
	}
}

// tellAround reports what a change of a chain may concern.
func (k *Kernel) tellAround(key ruleset.Key) {
	if !isBuiltIn(key) {
		k.tellChains(key)
		return
	}
	for other := range k.chains {
		if sameTable(other, key) {
			k.tellChains(other)
		}
	}
}

func sameTable(a, b ruleset.Key) bool {
	a.Chain, b.Chain = "", ""
	return a == b
}

// InsertRule puts a rule that accepts everything at the head of a chain, and
// makes the chain where there is none.
func (k *Kernel) InsertRule(key ruleset.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.tellAround(key)
	if isBuiltIn(key) {
		k.builtIn[key] = slices.Insert(slices.Clone(k.builtIn[key]), 0, builtInRule{})
		return
	}
	c := k.chains[key]
	c.Rules = slices.Insert(slices.Clone(c.Rules), 0, ruleset.Rule{Verdict: ruleset.Accept})
	k.chains[key] = c
}

// InsertJump puts a rule that leads to a chain at the head of a built-in chain
// of iptables.
func (k *Kernel) InsertJump(key ruleset.Key, from ruleset.Hook, comment string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := builtInKey(key, from)
	k.builtIn[at] = slices.Insert(slices.Clone(k.builtIn[at]), 0, builtInRule{key, comment})
	k.tellAround(at)
}

// DropRule deletes one rule of a chain by its position.
func (k *Kernel) DropRule(key ruleset.Key, position int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.tellAround(key)
	if rules := k.builtIn[key]; isBuiltIn(key) && position < len(rules) {
		k.builtIn[key] = slices.Delete(slices.Clone(rules), position, position+1)
		return nil
	}
	c, there := k.chains[key]
	if !there || position >= len(c.Rules) {
		return fmt.Errorf("drop rule %d of %s: %w", position, key, syscall.ENOENT)
	}
	c.Rules = slices.Delete(slices.Clone(c.Rules), position, position+1)
	k.chains[key] = c
	return nil
}

// DeleteTable removes all chains of the key's table; key.Chain doesn't matter.
// Built-in ones stay, without rules.
func (k *Kernel) DeleteTable(key ruleset.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lost []ruleset.Key
	for other := range k.chains {
		if sameTable(other, key) {
			lost = append(lost, other)
			delete(k.chains, other)
		}
	}
	for other := range k.builtIn {
		if sameTable(other, key) {
			delete(k.builtIn, other)
		}
	}
	k.tellChains(lost...)
	gone := maps.Clone(k.elems)
	maps.DeleteFunc(gone, func(el ruleset.Elem, _ struct{}) bool { return !sameTable(el.Set.Key(""), key) })
	for el := range gone {
		delete(k.elems, el)
	}
	k.tellElems(gone)
}

func (k *Kernel) tellElems(elems map[ruleset.Elem]struct{}) {
	ours := maps.Clone(elems)
	maps.DeleteFunc(ours, func(el ruleset.Elem, _ struct{}) bool {
		return !slices.Contains(k.domain.Tables, el.Set.Table)
	})
	k.notify(dataplane.State{Elems: ours})
}
