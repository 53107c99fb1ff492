package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// putIPTables writes a chain whole and sees that exactly one rule of the hook's
// built-in chain leads to it. A jump that is right stays where it is.
func (k *Kernel) putIPTables(ctx context.Context, key ruleset.Key, want ruleset.Chain) error {
	p, err := k.programFor(key.Engine)
	if err != nil {
		return err
	}
	jumps, err := k.jumpsTo(ctx, key)
	if err != nil {
		return err
	}
	missing, wrong := true, []jump(nil)
	for _, j := range jumps {
		if missing && j.plain && j.from == builtIn(want.Hook) && j.comment == want.Jump {
			missing = false
			continue
		}
		wrong = append(wrong, j)
	}
	lines, err := chainLines(key, want, missing)
	if err != nil {
		return err
	}
	if key.Engine == ruleset.IPTablesLegacy {
		return k.restore(ctx, p, key, append(lines, deleteLines(wrong)...))
	}
	if err := k.restore(ctx, p, key, lines); err != nil || len(wrong) == 0 {
		return err
	}
	return k.nftDo(func(c *nftConn) error { return c.deleteJumps(key, wrong, false) })
}

// chainLines make the chain, or empty the one that is there, and fill it.
func chainLines(key ruleset.Key, want ruleset.Chain, jump bool) ([]string, error) {
	lines := []string{fmt.Sprintf(":%s - [0:0]", key.Chain)}
	for _, r := range want.Rules {
		text, err := ruleText(key.IPv6, r)
		if err != nil {
			return nil, err
		}
		lines = append(lines, fmt.Sprintf("-A %s %s", key.Chain, text))
	}
	if jump {
		text, err := jumpText(key.Chain, want.Jump)
		if err != nil {
			return nil, fmt.Errorf("the jump to %s: %w", key.Chain, err)
		}
		lines = append(lines, fmt.Sprintf("-A %s %s", builtIn(want.Hook), text))
	}
	return lines, nil
}

// deleteLines delete rules by what they say, so that nobody else's is hit.
func deleteLines(jumps []jump) (lines []string) {
	for _, j := range jumps {
		lines = append(lines, fmt.Sprintf("-D %s %s", j.from, j.rule))
	}
	return lines
}

func (k *Kernel) jumpsTo(ctx context.Context, key ruleset.Key) ([]jump, error) {
	if key.Engine == ruleset.IPTablesNFT {
		return k.nftJumps(key)
	}
	if there, err := k.hasLegacy(key); err != nil || !there {
		return nil, err // nothing can jump to it
	}
	_, jumps, err := k.listLegacy(ctx, key)
	return jumps, err
}

// deleteIPTables takes a chain away with all that leads there. In nf_tables that
// needs no program.
func (k *Kernel) deleteIPTables(ctx context.Context, key ruleset.Key) error {
	if key.Engine == ruleset.IPTablesNFT {
		return k.deleteInNft(key)
	}
	if there, err := k.hasLegacy(key); err != nil || !there {
		return err
	}
	_, jumps, err := k.listLegacy(ctx, key)
	if err != nil {
		return err
	}
	p, err := k.programFor(key.Engine)
	if err != nil {
		return err
	}
	return k.restore(ctx, p, key, append(deleteLines(jumps), "-F "+key.Chain, "-X "+key.Chain))
}

func (k *Kernel) deleteInNft(key ruleset.Key) (err error) {
	for range transactions {
		err = k.nftDo(func(c *nftConn) error {
			there, err := c.chainsWhere(func(other ruleset.Key) bool { return inIPTables(other) == key })
			if err != nil || len(there) == 0 {
				return err
			}
			jumps, err := k.nftJumps(key)
			if err != nil {
				return err
			}
			return c.deleteJumps(key, jumps, true)
		})
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: rules of another chain lead to it; see iptables-save -t %s", err, key.Table)
	}
	return facility(err)
}

// deleteJumps deletes rules that lead to a chain, and the chain itself as well.
func (c *nftConn) deleteJumps(key ruleset.Key, jumps []jump, itself bool) error {
	table := tableOf(key)
	for _, j := range jumps {
		r := &nftables.Rule{Table: table, Chain: &nftables.Chain{Name: j.from}, Handle: j.handle}
		if err := c.DelRule(r); err != nil {
			return err
		}
	}
	if itself {
		chain := &nftables.Chain{Name: key.Chain, Table: table}
		c.FlushChain(chain)
		c.DelChain(chain)
	}
	return c.Flush()
}

// errKept is why rules of one engine stay while another's can't be written.
var errKept = errors.New("kept until the rules that take its place stand")

// applyChains writes the chains engine by engine, new ones first. As long as these
// don't stand, those that are to go stay.
func (k *Kernel) applyChains(ctx context.Context, ops []dataplane.Op, fail func(dataplane.Op, error)) {
	short := false // something that was to be made is not there
	note := func(op dataplane.Op, err error) {
		short = short || err != nil && op.Verb != dataplane.Delete
		fail(op, err)
	}
	for _, group := range byEngine(ops) {
		if short {
			group.ops = withoutDeletes(group.ops, fail)
		}
		if group.engine == ruleset.NFTables {
			err := k.applyTables(group.ops)
			for _, op := range group.ops {
				note(op, err)
			}
			continue
		}
		for _, op := range group.ops {
			note(op, k.applyIPTables(ctx, op))
		}
	}
}

// withoutDeletes refuses the deletions.
func withoutDeletes(ops []dataplane.Op, fail func(dataplane.Op, error)) []dataplane.Op {
	var out []dataplane.Op
	for _, op := range ops {
		if op.Verb == dataplane.Delete {
			fail(op, errKept)
			continue
		}
		out = append(out, op)
	}
	return out
}

func (k *Kernel) applyIPTables(ctx context.Context, op dataplane.Op) error {
	key, _ := op.Key.(ruleset.Key)
	if op.Verb == dataplane.Delete {
		return k.deleteIPTables(ctx, key)
	}
	want, _ := op.New.(ruleset.Chain)
	return k.putIPTables(ctx, key, want)
}

type engineOps struct {
	engine ruleset.Engine
	ops    []dataplane.Op
}

// byEngine groups ops in the order in which their engines come first. Where there are
// several, all is made before anything is deleted.
func byEngine(ops []dataplane.Op) []engineOps {
	if groups := grouped(ops); len(groups) <= 1 {
		return groups
	}
	var puts, deletes []dataplane.Op
	for _, op := range ops {
		if op.Verb == dataplane.Delete {
			deletes = append(deletes, op)
		} else {
			puts = append(puts, op)
		}
	}
	return append(grouped(puts), grouped(deletes)...)
}

func grouped(ops []dataplane.Op) []engineOps {
	var out []engineOps
	at := map[ruleset.Engine]int{}
	for _, op := range ops {
		key, _ := op.Key.(ruleset.Key)
		i, seen := at[key.Engine]
		if !seen {
			i = len(out)
			at[key.Engine] = i
			out = append(out, engineOps{engine: key.Engine})
		}
		out[i].ops = append(out[i].ops, op)
	}
	return out
}
