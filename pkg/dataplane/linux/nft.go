package linux

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane"
	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// nftConn is the nfnetlink socket, kept open like the other.
type nftConn struct {
	*nftables.Conn
	port port
}

// transactions is how often a transaction is tried: it fails if somebody else
// removes a chain between our look and our write.
const transactions = 3

// dormant is NFT_TABLE_F_DORMANT: the table's chains are not hooked in. The
// kernel sends it in network order, which google/nftables v0.3.0 does not
// heed; no other flag is in that place either way.
const dormant = 1 | 1<<24

func (k *Kernel) firewall() (*nftConn, error) {
	if k.nft != nil {
		return k.nft, nil
	}
	var id uint32
	err := k.ns.do(func() error {
		c, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdlayher.Conn) (err error) {
			id, err = portOf(c)
			return err
		}))
		k.nft = &nftConn{c, port{unix.NETLINK_NETFILTER, id}}
		return err
	})
	if err != nil {
		k.nft = nil
		return nil, fmt.Errorf("open a netfilter netlink socket: %w", facility(err))
	}
	k.memory.addPort(k.nft.port)
	return k.nft, nil
}

func (k *Kernel) closeNft() {
	if k.nft != nil {
		k.memory.dropPort(k.nft.port)
		_ = k.nft.CloseLasting()
		k.nft = nil
	}
}

// portOf is the port id by which notifications name the writer.
func portOf(c syscall.Conn) (id uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if a, ok := name.(*unix.SockaddrNetlink); ok {
			id = a.Pid
		}
		inner = err
	})
	return id, errors.Join(err, inner)
}

// facility explains the errors of a kernel that lacks a part of nftables.
func facility(err error) error {
	if lacking(err) {
		return fmt.Errorf("%w; does this kernel have nftables with nat and masquerade (modules nf_tables, nft_masq)?", err)
	}
	return err
}

func lacking(err error) bool {
	for _, e := range []error{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// nft runs a request with the socket, and drops the socket after an error: an
// answer may still be under way.
func (k *Kernel) nftDo(f func(*nftConn) error) error {
	c, err := k.firewall()
	if err != nil {
		return err
	}
	if err = f(c); err != nil {
		k.closeNft()
	}
	return err
}

// flannelTables are what flannel leaves in nftables mode: always both.
func flannelTables() [2]ruleset.Key {
	return [...]ruleset.Key{{Table: "flannel-ipv4"}, {IPv6: true, Table: "flannel-ipv6"}}
}

// ourTable tells the tables that are ours, and those that flannel left to us.
func ourTable(key ruleset.Key, tables []string) bool {
	key.Chain = ""
	flannels := flannelTables()
	return slices.Contains(tables, key.Table) || len(tables) > 0 && slices.Contains(flannels[:], key)
}

func keyOf(c *nftables.Chain) ruleset.Key {
	return ruleset.Key{IPv6: c.Table.Family == nftables.TableFamilyIPv6, Table: c.Table.Name, Chain: c.Name}
}

func tableOf(key ruleset.Key) *nftables.Table {
	t := &nftables.Table{Name: key.Table, Family: nftables.TableFamilyIPv4}
	if key.IPv6 {
		t.Family = nftables.TableFamilyIPv6
	}
	return t
}

// chainsWhere lists chains of the two families.
func (c *nftConn) chainsWhere(wanted func(ruleset.Key) bool) (map[ruleset.Key]*nftables.Chain, error) {
	out := map[ruleset.Key]*nftables.Chain{}
	for _, f := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		all, err := c.ListChainsOfTableFamily(f)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		for _, chain := range all {
			if key := keyOf(chain); wanted(key) {
				out[key] = chain
			}
		}
	}
	return out, nil
}

// chains reads the chains of our tables and those that are ours in iptables',
// flannel's included: they are not wanted, so Diff removes them.
func (o *observation) chains(ctx context.Context) error {
	if !o.scope.All && len(o.scope.Keys.Chains) == 0 {
		return nil
	}
	o.legacyChains(ctx)
	owned := o.owned(ruleset.IPTablesNFT)
	if len(o.scope.Domain.Tables)+len(owned) == 0 {
		return nil
	}
	err := o.k.nftDo(func(c *nftConn) error { return o.nftables(ctx, c, owned) })
	if lacking(err) {
		return nil // none are there; who wants one will hear of it
	}
	return err
}

// nftables reads what nf_tables has of ours; owned are the chains in iptables'
// tables.
func (o *observation) nftables(ctx context.Context, c *nftConn, owned []ruleset.Key) error {
	chains, err := c.chainsWhere(func(key ruleset.Key) bool {
		_, named := o.scope.Keys.Chains[key]
		return (o.scope.All || named) && ourTable(key, o.scope.Domain.Tables) || slices.Contains(owned, inIPTables(key))
	})
	if err != nil || len(chains) == 0 {
		return err
	}
	asleep, err := c.dormantTables()
	if err != nil {
		return err
	}
	for key, chain := range chains {
		if alias := inIPTables(key); slices.Contains(owned, alias) {
			v, err := o.nftChain(ctx, alias)
			if err != nil {
				return fmt.Errorf("read the chain %s: %w", alias, err)
			}
			o.put(alias, v)
			continue
		}
		v, drops, err := c.read(chain)
		if err != nil {
			return fmt.Errorf("read the chain %s: %w", key, err)
		}
		if asleep[ruleset.Key{IPv6: key.IPv6, Table: key.Table}] {
			v.Rules = append(v.Rules, ruleset.Rule{Verdict: ruleset.Unknown})
		}
		o.out.Have.Chains[key] = v
		if slices.ContainsFunc(v.Rules, func(r ruleset.Rule) bool { return r.Verdict == ruleset.DropCounted }) {
			o.out.Dropped[key] = drops
		}
	}
	return nil
}

func (c *nftConn) dormantTables() (map[ruleset.Key]bool, error) {
	all, err := c.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	out := map[ruleset.Key]bool{}
	for _, t := range all {
		if t.Flags&dormant != 0 {
			out[ruleset.Key{IPv6: t.Family == nftables.TableFamilyIPv6, Table: t.Name}] = true
		}
	}
	return out, nil
}

// read gives the chain in canonical form. A policy other than accept is
// something that we never write.
func (c *nftConn) read(chain *nftables.Chain) (v ruleset.Chain, drops uint64, err error) {
	v = ruleset.Chain{Type: string(chain.Type)}
	if chain.Hooknum != nil && chain.Priority != nil {
		v.Hook, v.Priority = hookName(*chain.Hooknum), int(*chain.Priority)
	}
	rules, err := c.GetRules(chain.Table, chain)
	if err != nil {
		return v, 0, err
	}
	for _, r := range rules {
		drops += dropped(r)
		v.Rules = append(v.Rules, readRule(chain.Table.Family, r))
	}
	if chain.Policy != nil && *chain.Policy != nftables.ChainPolicyAccept {
		v.Rules = append(v.Rules, ruleset.Rule{Verdict: ruleset.Unknown})
	}
	return v, drops, nil
}

// hooks of the two IP families that weft uses, by their numbers.
func hooks() map[ruleset.Hook]nftables.ChainHook {
	return map[ruleset.Hook]nftables.ChainHook{
		ruleset.Prerouting:  unix.NF_INET_PRE_ROUTING,
		ruleset.Input:       unix.NF_INET_LOCAL_IN,
		ruleset.Output:      unix.NF_INET_LOCAL_OUT,
		ruleset.Forward:     unix.NF_INET_FORWARD,
		ruleset.Postrouting: unix.NF_INET_POST_ROUTING,
	}
}

func hookName(n nftables.ChainHook) ruleset.Hook {
	for name, number := range hooks() {
		if number == n {
			return name
		}
	}
	return ruleset.Hook(fmt.Sprintf("hook %d", n))
}

// applyTables writes all ops in our own tables in one transaction.
func (k *Kernel) applyTables(ops []dataplane.Op) (err error) {
	if err := k.setsFor(ops); err != nil {
		return facility(err)
	}
	for range transactions {
		err = k.nftDo(func(c *nftConn) error {
			there, err := c.chainsWhere(func(key ruleset.Key) bool {
				return slices.ContainsFunc(ops, func(op dataplane.Op) bool {
					k, _ := op.Key.(ruleset.Key)
					return k.IPv6 == key.IPv6 && k.Table == key.Table
				})
			})
			if err != nil {
				return err
			}
			if err := c.queue(ops, there); err != nil {
				return err
			}
			return c.Flush()
		})
		if !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return facility(err)
	}
	return k.dropTables(ops)
}

// setsFor makes the sets that rules look into, where no element did yet.
func (k *Kernel) setsFor(ops []dataplane.Op) error {
	var needed []ofSet
	for _, op := range ops {
		key, _ := op.Key.(ruleset.Key)
		want, _ := op.New.(ruleset.Chain)
		needed = append(needed, setsOf(key, want)...)
	}
	if len(needed) == 0 {
		return nil
	}
	return k.transact(func(e *encoder) { e.makeSets(needed) })
}

// dropTables takes away tables whose last chain was deleted, and before that the sets
// of ours that nothing is in: the kernel refuses others.
func (k *Kernel) dropTables(ops []dataplane.Op) error {
	tried := map[ruleset.Set]bool{}
	for _, op := range ops {
		key, _ := op.Key.(ruleset.Key)
		table := ruleset.Set{IPv6: key.IPv6, Table: key.Table}
		if op.Verb != dataplane.Delete || tried[table] {
			continue
		}
		tried[table] = true
		if err := k.dropEmptySets(table); err != nil {
			return err
		}
		err := k.transact(func(e *encoder) { e.table(unix.NFT_MSG_DELTABLE, unix.NLM_F_NONREC, table) })
		if err = ignoreGone(err); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// queue adds the ops to the transaction, deletions in order, so that it is
// reproducible.
func (c *nftConn) queue(ops []dataplane.Op, there map[ruleset.Key]*nftables.Chain) error {
	var deleted []ruleset.Key
	for _, op := range ops {
		key, _ := op.Key.(ruleset.Key)
		old, exists := there[key]
		if op.Verb != dataplane.Delete {
			want, _ := op.New.(ruleset.Chain)
			if err := c.put(key, want, old); err != nil {
				return err
			}
		} else if exists {
			deleted = append(deleted, key)
		}
	}
	slices.SortFunc(deleted, func(a, b ruleset.Key) int { return cmp.Compare(a.String(), b.String()) })
	for _, key := range deleted { // rules first: they may jump to others of these
		c.FlushChain(&nftables.Chain{Name: key.Chain, Table: tableOf(key)})
	}
	for _, key := range deleted {
		c.DelChain(&nftables.Chain{Name: key.Chain, Table: tableOf(key)})
	}
	return nil
}

// put writes one chain whole. One that stands elsewhere (type, hook, priority)
// is made anew, for the kernel moves none.
func (c *nftConn) put(key ruleset.Key, want ruleset.Chain, old *nftables.Chain) error {
	number, ok := hooks()[want.Hook]
	if !ok {
		return fmt.Errorf("chain %s: unknown hook %q", key, want.Hook)
	}
	accept := nftables.ChainPolicyAccept
	chain := &nftables.Chain{
		Name: key.Chain, Table: tableOf(key), Type: nftables.ChainType(want.Type), Policy: &accept,
		Hooknum: &number, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(want.Priority)),
	}
	c.AddTable(chain.Table)
	if old != nil && (old.Type != chain.Type || old.Hooknum == nil || *old.Hooknum != number ||
		old.Priority == nil || *old.Priority != *chain.Priority) {
		c.DelChain(chain)
	}
	c.AddChain(chain)
	c.FlushChain(chain)
	for _, r := range want.Rules {
		exprs, err := expressions(chain.Table.Family, r)
		if err != nil {
			return err
		}
		data, err := encodeRule(r)
		if err != nil {
			return err
		}
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs, UserData: data})
	}
	return nil
}
