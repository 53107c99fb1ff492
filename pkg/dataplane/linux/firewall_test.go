package linux_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/weftnet/weft/pkg/dataplane/ruleset"
	"github.com/weftnet/weft/pkg/netnstest"
)

// firewall is kerneltest.Firewall on google/nftables and the programs of
// iptables.
type firewall struct {
	t testing.TB
	*nftables.Conn
	xtables
}

func newFirewall(t testing.TB, n *netnstest.NS) *firewall {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(n.Handle())))
	if err != nil {
		t.Fatal(err)
	}
	return &firewall{t, c, xtables{t, n}}
}

func (f *firewall) flush() {
	f.t.Helper()
	if err := f.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

func tableOf(k ruleset.Key) *nftables.Table {
	t := &nftables.Table{Name: k.Table, Family: nftables.TableFamilyIPv4}
	if k.IPv6 {
		t.Family = nftables.TableFamilyIPv6
	}
	return t
}

func (f *firewall) InsertRule(k ruleset.Key) {
	f.t.Helper()
	if k.Engine != ruleset.NFTables {
		f.insertRule(k)
		return
	}
	table := f.AddTable(tableOf(k))
	chain := f.AddChain(&nftables.Chain{Name: k.Chain, Table: table})
	f.Conn.InsertRule(&nftables.Rule{
		Table: table, Chain: chain, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}},
	})
	f.flush()
}

func (f *firewall) rules(k ruleset.Key) []*nftables.Rule {
	f.t.Helper()
	rules, err := f.GetRules(tableOf(k), &nftables.Chain{Name: k.Chain, Table: tableOf(k)})
	if err != nil {
		f.t.Fatal(err)
	}
	return rules
}

func (f *firewall) DropRule(k ruleset.Key, position int) {
	f.t.Helper()
	if k.Engine != ruleset.NFTables {
		f.iptables(k, "-D", k.Chain, strconv.Itoa(position+1))
		return
	}
	r := f.rules(k)[position]
	r.Table = tableOf(k)
	if err := f.DelRule(r); err != nil {
		f.t.Fatal(err)
	}
	f.flush()
}

func (f *firewall) DeleteTable(k ruleset.Key) {
	f.t.Helper()
	if k.Engine != ruleset.NFTables {
		f.iptables(k, "-F")
		f.iptables(k, "-X")
		return
	}
	f.DelTable(tableOf(k))
	f.flush()
}

// elements writes elements of sets that are there.
func (f *firewall) elements(
	all map[ruleset.Elem]struct{}, write func(*firewall, *nftables.Set, []nftables.SetElement) error,
) {
	f.t.Helper()
	for el := range all {
		set, err := f.GetSetByName(tableOf(el.Set.Key("")), el.Set.Name())
		if err == nil {
			key := append(el.VTEP.AsSlice(), el.Inner.AsSlice()...)
			err = write(f, set, []nftables.SetElement{{Key: key}})
		}
		if err != nil {
			f.t.Fatalf("%s: %v", el, err)
		}
		f.flush()
	}
}

func (f *firewall) dumpElements() (out []string) {
	f.t.Helper()
	tables, err := f.ListTables()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, table := range tables {
		sets, err := f.GetSets(table)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, set := range sets {
			all, err := f.GetSetElements(set)
			if err != nil {
				f.t.Fatal(err)
			}
			for _, el := range all {
				out = append(out, fmt.Sprintf("element of %d %s %s: %x", table.Family, table.Name, set.Name, el.Key))
			}
		}
	}
	return out
}

func dumpChains(t testing.TB, n *netnstest.NS) []string {
	t.Helper()
	f := newFirewall(t, n)
	chains, err := f.ListChains()
	if err != nil {
		t.Fatal(err)
	}
	out := f.dumpElements()
	for _, c := range chains {
		k := ruleset.Key{IPv6: c.Table.Family == nftables.TableFamilyIPv6, Table: c.Table.Name, Chain: c.Name}
		if c.Name == strings.ToUpper(c.Name) && c.Hooknum != nil && len(f.rules(k)) == 0 {
			continue
		}
		line := fmt.Sprintf("chain %s type %q", k, c.Type)
		if c.Hooknum != nil && c.Priority != nil {
			line += fmt.Sprintf(" hook %d priority %d", *c.Hooknum, *c.Priority)
		}
		if c.Policy != nil {
			line += fmt.Sprintf(" policy %d", *c.Policy)
		}
		out = append(out, line)
		for i, r := range f.rules(k) {
			out = append(out, fmt.Sprintf("rule %s %d: %s %q", k, i, exprText(t, byte(c.Table.Family), r.Exprs), r.UserData))
		}
	}
	return out
}

func exprText(t testing.TB, family byte, exprs []expr.Any) string {
	t.Helper()
	var out []string
	for _, e := range exprs {
		if _, counts := e.(*expr.Counter); counts {
			continue
		}
		b, err := expr.Marshal(family, e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%T %x", e, b))
	}
	return strings.Join(out, " ")
}

// addOtherSet makes a set of single addresses.
func (f *firewall) addOtherSet(table, name string) {
	f.t.Helper()
	in := f.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	if err := f.AddSet(&nftables.Set{Table: in, Name: name, KeyType: nftables.TypeIPAddr}, nil); err != nil {
		f.t.Fatal(err)
	}
	f.flush()
}
