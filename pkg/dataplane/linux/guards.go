package linux

import (
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
)

// This file finds chains of others that a packet which conntrack leaves alone might
// not pass, though it would have passed them as one of a known connection.

// foreignChain is a chain in nf_tables, of a family that IP packets pass.
type foreignChain struct {
	family       nftables.TableFamily
	table, chain string
}

func (c foreignChain) String() string {
	family := map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}[c.family]
	return family + " " + c.table + " " + c.chain
}

const (
	dropsByPolicy = " drops by its policy"
	looksAtState  = " looks at the connection state"
	maxVisits     = 256 // chains of others that are read; where there are more, nobody can tell
	maxClauses    = 8
)

func guardHook(h nftables.ChainHook) bool {
	return h == unix.NF_INET_PRE_ROUTING || h == unix.NF_INET_LOCAL_IN || h == unix.NF_INET_LOCAL_OUT ||
		h == unix.NF_INET_POST_ROUTING
}

// kubes tells chains of kube-proxy and kubelet: what they drop is invalid, on its way
// to 127.0.0.0/8, or for a Service without an endpoint. None of it is a tunnel's.
func kubes(table, chain string) bool {
	return table == "kube-proxy" || strings.HasPrefix(chain, "KUBE-")
}

// stateful looks for such chains in nf_tables.
func (k *Kernel) stateful() (clauses []string, visited map[foreignChain]bool, err error) {
	v := visitor{k: k, chains: map[foreignChain]*nftables.Chain{}, seen: map[foreignChain]bool{}}
	err = k.nftDo(v.list)
	for err == nil && len(v.todo) > 0 && len(v.seen) <= maxVisits {
		next := v.todo[0]
		v.todo = v.todo[1:]
		err = v.visit(next)
	}
	if len(v.seen) > maxVisits {
		v.clauses = append(v.clauses, "there are too many chains of others to tell")
	}
	return v.clauses, v.seen, err
}

type visitor struct {
	k       *Kernel
	chains  map[foreignChain]*nftables.Chain
	seen    map[foreignChain]bool
	todo    []foreignChain
	clauses []string
}

// list finds the base chains to begin with.
func (v *visitor) list(c *nftConn) error {
	asleep, err := c.dormantTables()
	if err != nil {
		return err
	}
	for _, f := range []nftables.TableFamily{
		nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet,
	} {
		all, err := c.ListChainsOfTableFamily(f)
		if err != nil {
			return err
		}
		for _, chain := range all {
			id := foreignChain{f, chain.Table.Name, chain.Name}
			key := keyOf(chain)
			key.Chain = ""
			ours := f != nftables.TableFamilyINet && ourTable(key, v.k.memory.territory().Tables)
			if ours || asleep[key] || kubes(id.table, id.chain) {
				continue
			}
			v.chains[id] = chain
			if chain.Hooknum != nil && guardHook(*chain.Hooknum) && chain.Type != nftables.ChainTypeNAT {
				v.meet(id)
			}
		}
	}
	slices.SortFunc(v.todo, func(a, b foreignChain) int { return strings.Compare(a.String(), b.String()) })
	return nil
}

func (v *visitor) meet(id foreignChain) {
	if _, known := v.chains[id]; known && !v.seen[id] {
		v.seen[id] = true
		v.todo = append(v.todo, id)
	}
}

func (v *visitor) visit(id foreignChain) error {
	if p := v.chains[id].Policy; p != nil && *p == nftables.ChainPolicyDrop {
		v.clauses = append(v.clauses, id.String()+dropsByPolicy)
	}
	looks := false
	err := v.k.dumpSets(func(e *encoder) {
		e.begin(nftMessage(unix.NFT_MSG_GETRULE), unix.NLM_F_DUMP)
		e.bytes(byte(id.family), unix.NFNETLINK_V0, 0, 0)
		e.textAttr(unix.NFTA_RULE_TABLE, id.table)
		e.textAttr(unix.NFTA_RULE_CHAIN, id.chain)
		e.end()
	}, func(m message) {
		r := readForeign(m.data)
		for _, to := range r.to {
			v.meet(foreignChain{id.family, id.table, to})
		}
		if r.byMap {
			v.meetTable(id)
		}
		looks = looks || r.looks && !slices.ContainsFunc(r.to, func(to string) bool { return kubes("", to) })
	})
	if looks {
		v.clauses = append(v.clauses, id.String()+looksAtState)
	}
	return err
}

// meetTable is for a rule that jumps by a map: to which chains is not looked at.
func (v *visitor) meetTable(of foreignChain) {
	for id, chain := range v.chains {
		if id.family == of.family && id.table == of.table && chain.Hooknum == nil {
			v.meet(id)
		}
	}
}

// foreignRule is what matters of a rule of somebody else.
type foreignRule struct {
	to    []string // chains that it leads to
	byMap bool     // it leads to one of a map
	looks bool     // at what conntrack says
}

func readForeign(b []byte) (r foreignRule) {
	for a := range attrs(b[min(len(b), sizeofNfgenmsg):]) {
		if a.kind != unix.NFTA_RULE_EXPRESSIONS {
			continue
		}
		for e := range attrs(a.value) {
			r.expression(e.value)
		}
	}
	return r
}

func (r *foreignRule) expression(b []byte) {
	name, data := expressionOf(b)
	r.looks = r.looks || looksAtConnections(name, data)
	if _, chain := verdictIn(data); name == "immediate" && chain != "" {
		r.to = append(r.to, chain)
	}
	for a := range attrs(data) {
		if name == "lookup" && a.kind == unix.NFTA_LOOKUP_DREG && a.big() == unix.NFT_REG_VERDICT {
			r.byMap = true
		}
	}
}

// looksAtConnections tells so of one expression, by its name and what it says.
func looksAtConnections(name string, data []byte) bool {
	for a := range attrs(data) {
		if name == "ct" && a.kind == unix.NFTA_CT_DREG ||
			name == "match" && a.kind == unix.NFTA_MATCH_NAME && stateMatch(a.text()) {
			return true
		}
	}
	return name == "connlimit"
}

// stateMatch tells the extensions of iptables that look at a packet's connection.
func stateMatch(name string) bool {
	return slices.Contains([]string{
		"conntrack", "state", "connmark", "connbytes", "connlabel", "connlimit", "helper", "cluster",
	}, name)
}

// legacyStateful looks for such chains in the older tables.
func (k *Kernel) legacyStateful() (clauses []string, err error) {
	for _, ipv6 := range []bool{false, true} {
		for _, table := range []string{"raw", "mangle", "filter"} {
			t, _, err := k.legacy(ipv6, table)
			if err != nil {
				return nil, err
			}
			key := ruleset.Key{Engine: ruleset.IPTablesLegacy, IPv6: ipv6, Table: table}
			for _, clause := range t.stateful {
				clauses = append(clauses, key.Program()+" "+table+" "+clause)
			}
		}
	}
	return clauses, nil
}

func (k *Kernel) guards() (clauses []string, err error) {
	clauses, visited, err := k.stateful()
	if err != nil && !lacking(err) {
		return nil, err
	}
	legacy, err := k.legacyStateful()
	if err != nil {
		return nil, err
	}
	k.memory.knowGuards(visited, legacy)
	clauses = append(clauses, legacy...)
	slices.Sort(clauses)
	return clauses[:min(len(clauses), maxClauses)], nil
}

func (m *memory) knowGuards(visited map[foreignChain]bool, legacy []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guards = maps.Clone(visited)
	m.legacyGuards = slices.Clone(legacy)
}

// guardChange tells whether what nftables notifies may have made or unmade a guard.
func (m *memory) guardChange(msg syscall.NetlinkMessage) bool {
	b := msg.Data
	if msg.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(b) < sizeofNfgenmsg {
		return false
	}
	kind := msg.Header.Type & 0xff
	id, hooked := foreignIn(b, kind)
	switch kind {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELCHAIN:
		return m.guards[id]
	case unix.NFT_MSG_NEWCHAIN:
		foreign := !slices.Contains(m.domain.Tables, id.table) && !kubes(id.table, id.chain)
		return foreign && hooked || m.guards[id]
	case unix.NFT_MSG_NEWTABLE: // it may be dormant now, or awake: nobody knows its chains then
		return !slices.Contains(m.domain.Tables, id.table)
	case unix.NFT_MSG_DELTABLE:
		for known := range m.guards {
			if known.family == id.family && known.table == id.table {
				return true
			}
		}
	}
	return false
}

// foreignIn names what a notification is about, and tells whether it is a chain that
// packets come to by themselves.
func foreignIn(b []byte, kind uint16) (id foreignChain, hooked bool) {
	id.family = nftables.TableFamily(b[0])
	chain := map[uint16]uint16{
		unix.NFT_MSG_NEWRULE: nftaRuleChain, unix.NFT_MSG_DELRULE: nftaRuleChain,
		unix.NFT_MSG_NEWCHAIN: nftaChainName, unix.NFT_MSG_DELCHAIN: nftaChainName,
	}[kind]
	for a := range attrs(b[sizeofNfgenmsg:]) {
		switch {
		case a.kind == nftaTable:
			id.table = a.text()
		case a.kind == chain:
			id.chain = a.text()
		case a.kind == unix.NFTA_CHAIN_HOOK && kind == unix.NFT_MSG_NEWCHAIN:
			hooked = hooksGuard(a.value)
		}
	}
	return id, hooked
}

func hooksGuard(b []byte) bool {
	for a := range attrs(b) {
		if a.kind == unix.NFTA_HOOK_HOOKNUM && guardHook(nftables.ChainHook(a.big())) {
			return true
		}
	}
	return false
}
